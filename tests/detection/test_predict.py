"""Boxes on any images: drawn where the model finds them, written as COCO has it, mistakes named before any work."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv.data.files import MEAN, STD
from aaconv.data.images import ImageReadError, read_image
from aaconv.detection.predict import BOXES, COLOURS, Detection, draw, predict_files
from aaconv.detection.scores import Found
from aaconv.training.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from tests.data.pictures import KINDS, encoded, noise, seen
from tests.detection.box_files import CATEGORY_IDS, CLASSES, save_detector

PIXELS = torch.full((3, 60, 90), 128, dtype=torch.uint8)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    return save_detector(tmp_path_factory.mktemp("checkpoint") / "model.safetensors")


def directly(checkpoint, pixels):
    """Boxes, scores and labels that the model gives for uint8 [H, W, 3]."""
    model, _ = load_checkpoint(checkpoint, detector=True)
    with torch.no_grad():
        (found,) = model([torch.tensor(pixels).permute(2, 0, 1) / 255])
    return found


def agrees(detections, expected, threshold=0.0):
    kept = expected["scores"] >= threshold
    assert [each.label for each in detections] == [CLASSES[label] for label in expected["labels"][kept].tolist()]
    assert [each.score for each in detections] == pytest.approx(expected["scores"][kept].tolist(), abs=1e-6)
    boxes = torch.tensor([each.box for each in detections]).reshape(-1, 4)
    torch.testing.assert_close(boxes, expected["boxes"][kept], rtol=0, atol=1e-3)


def pixels_of(path):
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def test_boxes_are_the_models_own(checkpoint, tmp_path):
    paths = []
    for number, (width, height) in enumerate(((20, 16), (64, 64), (130, 50))):
        paths.append(tmp_path / f"{number}.png")
        paths[-1].write_bytes(noise(number, width, height))
    found = predict_files(checkpoint, paths, tmp_path / "out", threshold=0)
    assert list(found) == [str(path) for path in paths]
    for path in paths:
        detections = found[str(path)]
        assert len(detections) == 30
        agrees(detections, directly(checkpoint, pixels_of(path)))
        scores = [each.score for each in detections]
        assert scores == sorted(scores, reverse=True)


def test_drawings_differ_from_the_image_where_a_box_is(checkpoint, tmp_path):
    (tmp_path / "a.png").write_bytes(noise(0, 150, 100))
    (detections,) = predict_files(checkpoint, [tmp_path / "a.png"], tmp_path / "out", threshold=0.7).values()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.png", BOXES}
    before, after = pixels_of(tmp_path / "a.png"), pixels_of(tmp_path / "out" / "a.png")
    assert before.shape == after.shape == (100, 150, 3)
    changed = (before != after).any(axis=2)
    assert 0 < changed.mean() < 1
    for each in detections:
        left, top, right, bottom = (int(edge) for edge in each.box)
        sides = [changed[top:bottom, x] for x in (left, right) if x < 150]
        sides += [changed[y, left:right] for y in (top, bottom) if y < 100]
        assert all(side.mean() > 0.9 for side in sides if len(side))


def test_frames_stand_where_boxes_are():
    """One box drawn, pixel by pixel: nothing is changed but its frame and what is written at it."""
    one = Found(0, torch.tensor([[10.0, 10, 70, 50]]), torch.tensor([0.75]), torch.tensor([2]))
    drawn = np.asarray(draw(PIXELS, one, CLASSES))
    assert drawn.shape == (60, 90, 3)
    colour = tuple(int(COLOURS[2][i : i + 2], 16) for i in (1, 3, 5))
    for y, x in ((40, 10), (40, 70), (50, 30), (50, 70)):
        assert tuple(drawn[y, x].tolist()) == colour, (y, x)
    for y, x in ((40, 9), (40, 71), (51, 30), (40, 30), (55, 80)):
        assert drawn[y, x].tolist() == [128] * 3, (y, x)
    empty = Found(0, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))
    assert (np.asarray(draw(PIXELS, empty, CLASSES)) == 128).all()


def test_more_classes_than_colours():
    classes = [str(number) for number in range(20)]
    boxes = torch.tensor([[5.0, 5, 20, 20]] * 20) + torch.arange(20)[:, None]
    many = Found(0, boxes, torch.rand(20), torch.arange(20))
    assert draw(PIXELS, many, classes).size == (90, 60)


def test_coco_json(checkpoint, tmp_path):
    """pycocotools reads it, and it holds what was returned."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO

    paths = [tmp_path / name for name in ("a.png", "사진.png")]
    paths[0].write_bytes(noise(0, 40, 30))
    paths[1].write_bytes(noise(1, 30, 50))
    found = predict_files(checkpoint, paths, tmp_path / "out", threshold=0.7)
    held = COCO(str(tmp_path / "out" / BOXES))
    assert {each["name"]: number for number, each in held.cats.items()} == dict(zip(CLASSES, CATEGORY_IDS, strict=True))
    assert [(each["file_name"], each["width"], each["height"]) for each in held.imgs.values()] == [
        (str(paths[0]), 40, 30),
        (str(paths[1]), 30, 50),
    ]
    assert len({each["id"] for each in held.anns.values()}) == len(held.anns) > 4
    for number, path in zip(held.imgs, paths, strict=True):
        entries = held.loadAnns(held.getAnnIds(imgIds=[number]))
        assert len(entries) == len(found[str(path)]) > 0
        for entry, each in zip(entries, found[str(path)], strict=True):
            x, y, width, height = entry["bbox"]
            assert (x, y, x + width, y + height) == pytest.approx(each.box, abs=1e-4)
            assert entry["area"] == pytest.approx(width * height)
            assert (entry["score"], entry["iscrowd"]) == (each.score, 0)
            assert held.cats[entry["category_id"]]["name"] == each.label


def test_files_of_one_name_are_numbered(checkpoint, tmp_path):
    paths = [
        tmp_path / folder / name for folder, name in (("a", "x.png"), ("b", "x.jpg"), ("c", "x_2.png"), ("d", "x.png"))
    ]
    for path in paths:
        path.parent.mkdir()
        path.write_bytes(encoded("jpeg" if path.suffix == ".jpg" else "colour"))
    predict_files(checkpoint, paths, tmp_path / "out")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"x.png", "x_2.png", "x_2_2.png", "x_3.png", BOXES}


@pytest.mark.parametrize("kind", KINDS)
def test_images_of_every_kind(checkpoint, tmp_path, kind):
    """Turned as the camera was held, transparency on white, 16 bits scaled to 8."""
    content = encoded(kind)
    path = tmp_path / ("a.jpg" if content[:2] == b"\xff\xd8" else "a.png")
    path.write_bytes(content)
    (detections,) = predict_files(checkpoint, [path], tmp_path / "out", threshold=0).values()
    expected = seen(kind).repeat(16, axis=0).repeat(16, axis=1)
    if kind not in ("jpeg", "cmyk", "palette"):  # whose pixels are about these
        agrees(detections, directly(checkpoint, expected))
    agrees(detections, directly(checkpoint, read_image(path, 3, 32).permute(1, 2, 0).numpy()))
    predict_files(checkpoint, [path], tmp_path / "plain", threshold=1)
    drawn = pixels_of(tmp_path / "plain" / "a.png").astype(int)
    assert drawn.shape == (32, 32, 3)
    for y, x in ((4, 4), (4, 20), (20, 4), (20, 20)):
        apart = (drawn - expected)[y : y + 8, x : x + 8].mean(axis=(0, 1))
        assert np.abs(apart).max() < 12, (y, x)


@pytest.mark.parametrize("threshold", [0, 0.7, 1])
def test_threshold(checkpoint, tmp_path, threshold):
    (tmp_path / "a.png").write_bytes(noise(3, 50, 40))
    (detections,) = predict_files(checkpoint, [tmp_path / "a.png"], tmp_path / "out", threshold=threshold).values()
    agrees(detections, directly(checkpoint, pixels_of(tmp_path / "a.png")), threshold)
    assert all(each.score >= threshold for each in detections)
    assert len(detections) == (30 if threshold == 0 else 0) or threshold == 0.7
    assert len(json.loads((tmp_path / "out" / BOXES).read_text())["annotations"]) == len(detections)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_is_a_share(checkpoint, tmp_path, threshold):
    (tmp_path / "a.png").write_bytes(noise(0))
    with pytest.raises(ValueError, match=r"threshold must lie in \[0, 1\], got threshold="):
        predict_files(checkpoint, [tmp_path / "a.png"], tmp_path / "out", threshold=threshold)


def test_images_without_boxes(checkpoint, tmp_path):
    (tmp_path / "a.png").write_bytes(noise(0, 40, 30))
    assert predict_files(checkpoint, [tmp_path / "a.png"], tmp_path / "out", threshold=1) == {
        str(tmp_path / "a.png"): []
    }
    assert (pixels_of(tmp_path / "out" / "a.png") == pixels_of(tmp_path / "a.png")).all()
    held = json.loads((tmp_path / "out" / BOXES).read_text())
    assert (held["annotations"], len(held["images"]), len(held["categories"])) == ([], 1, 3)


def test_nothing_is_written_when_an_image_is_missing_or_broken(checkpoint, tmp_path):
    (tmp_path / "a.png").write_bytes(noise(0))
    (tmp_path / "bad.png").write_bytes(b"no image")
    (tmp_path / "cut.png").write_bytes(noise(0)[:-200])
    with pytest.raises(FileNotFoundError, match=r"no image file \S+none\.png"):
        predict_files(checkpoint, [tmp_path / "a.png", tmp_path / "none.png"], tmp_path / "out")
    with pytest.raises(ImageReadError, match=r"bad\.png: not an image that can be read"):
        predict_files(checkpoint, [tmp_path / "a.png", tmp_path / "bad.png"], tmp_path / "out")
    with pytest.raises(ImageReadError, match=r"cut\.png: image file is truncated"):
        predict_files(checkpoint, [tmp_path / "a.png", tmp_path / "cut.png"], tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        predict_files(tmp_path / "none", [tmp_path / "a.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=r"--out must be a folder, \S+bad\.png is a file"):
        predict_files(checkpoint, [tmp_path / "a.png"], tmp_path / "bad.png")


def test_images_are_never_written_over(checkpoint, tmp_path):
    """Drawings would take the name of an image that lies in the folder they go to."""
    (tmp_path / "a.png").write_bytes(noise(0))
    (tmp_path / "link").symlink_to(tmp_path)
    for out in (tmp_path, tmp_path / "link"):
        with pytest.raises(
            ValueError, match=r"--out must be another folder than that of the images: \S+a\.png would be"
        ):
            predict_files(checkpoint, [tmp_path / "a.png"], out)
    assert (tmp_path / "a.png").read_bytes() == noise(0)
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "link"}


@pytest.mark.parametrize("width, height", [(1, 200), (200, 1), (3, 500), (1, 1)])
def test_thin_images(checkpoint, tmp_path, width, height):
    """Resized as they are they would have no pixels left."""
    (tmp_path / "a.png").write_bytes(noise(0, width, height))
    (detections,) = predict_files(checkpoint, [tmp_path / "a.png"], tmp_path / "out").values()
    assert pixels_of(tmp_path / "out" / "a.png").shape == (height, width, 3)
    for each in detections:
        assert 0 <= each.box[0] <= each.box[2] <= width
        assert 0 <= each.box[1] <= each.box[3] <= height


def test_classifiers_are_refused(tmp_path):
    card = ModelCard("resnet10xs", ("a", "b"), 3, 32, MEAN, STD)
    save_checkpoint(tmp_path / "classifier.safetensors", card.build(), card)
    (tmp_path / "a.png").write_bytes(noise(0))
    with pytest.raises(ValueError, match=r"is a classifier's \(resnet10xs\), a detector's is needed"):
        predict_files(tmp_path / "classifier.safetensors", [tmp_path / "a.png"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_detection_in_words():
    assert str(Detection("dog", 0.876, (1.4, 2.6, 30.0, 40.5))) == "dog 0.88 at (1, 3) to (30, 40)"
