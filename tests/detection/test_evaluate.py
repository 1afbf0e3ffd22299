"""Evaluation of detectors equals COCO's rules on what the model finds, and what does not fit is refused."""

import json
from itertools import count

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("faster_coco_eval")
from aaconv.data.coco import as_coco, load_coco
from aaconv.data.files import MEAN, STD
from aaconv.data.images import ImageReadError
from aaconv.data.scenes import digit_scenes
from aaconv.detection.evaluate import CURVES, RESULTS, SCORES, evaluate
from aaconv.detection.scores import FIGURES, Found, score
from aaconv.training.checkpoint import ModelCard, load_checkpoint, save_checkpoint
from aaconv.training.predict import predict_files as classify_files
from tests.detection.box_files import CATEGORIES, SIZES, box, change_boxes, lay_part, save_detector, write_boxes


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    return save_detector(tmp_path_factory.mktemp("checkpoint") / "model.safetensors")


def directly(checkpoint, annotations, images):
    """What the model finds in each file by itself."""
    model, _ = load_checkpoint(checkpoint, detector=True)
    truth = load_coco(annotations, images)
    found = []
    for index, name in enumerate(truth.names):
        pixels = np.asarray(Image.open(images / name).convert("RGB"), np.float32) / 255
        with torch.no_grad():
            (detections,) = model([torch.from_numpy(pixels).permute(2, 0, 1)])
        found.append(Found(index, **detections))
    return truth, found


@pytest.fixture
def files(tmp_path, checkpoint):
    """Annotations and images: what the model is sure of in every image but one, moved by a pixel, counts as true."""
    annotations, images = lay_part(tmp_path, "part", crowds=(2,))
    truth, found = directly(checkpoint, annotations, images)
    boxes = []
    for one in found:
        for number in [] if one.image == 1 else range(0, 12, 2):
            x1, y1, x2, y2 = one.boxes[number].tolist()
            corner_and_size = [x1 + 1, y1, x2 - x1, y2 - y1]
            label = int(one.labels[number]) if number else 0  # of this one the model is wrong
            boxes.append(box(int(truth.image_ids[one.image]), corner_and_size, truth.category_ids[label]))
    content = json.loads(annotations.read_text())
    crowds = [each for each in content["annotations"] if each.get("iscrowd")]
    return write_boxes(tmp_path, "part", {**content, "annotations": [*boxes, *crowds]})


def figures(scores):
    return [getattr(scores, name) for name in FIGURES]


def test_equals_the_scores_of_what_the_model_finds(checkpoint, files):
    expected = score(*directly(checkpoint, *files))
    assert 0.1 < expected.map < 0.9
    assert expected.detections == 30 * 6
    for options in ({}, {"batch_size": 1}, {"batch_size": 2, "workers": 1}):
        found = evaluate(checkpoint, *files, **options)
        assert figures(found) == pytest.approx(figures(expected), abs=1e-6)
        assert found.classes == {name: pytest.approx(each, abs=1e-6) for name, each in expected.classes.items()}
        assert (found.images, found.boxes, found.detections) == (6, 30, 180)


def test_images_are_seen_in_their_own_size_whoever_stands_beside_them(checkpoint, files):
    annotations, images = files
    assert len(set(SIZES)) > 2
    whole = evaluate(checkpoint, annotations, images, batch_size=16)
    content = json.loads(annotations.read_text())
    content["images"] = content["images"][::-1]
    annotations.write_text(json.dumps(content))
    assert figures(evaluate(checkpoint, annotations, images, batch_size=16)) == pytest.approx(figures(whole), abs=1e-6)


def test_writes_its_three_files(checkpoint, files, tmp_path):
    out = tmp_path / "deep" / "out"
    scores = evaluate(checkpoint, *files, out=out)
    assert {path.name for path in out.iterdir()} == {SCORES, RESULTS, CURVES}
    written = json.loads((out / SCORES).read_text())
    assert {name: written[name] for name in FIGURES} == dict(zip(FIGURES, figures(scores), strict=True))
    assert (written["images"], written["boxes"], written["detections"]) == (6, 30, 180)
    with Image.open(out / CURVES) as picture:
        assert (picture.format, len(np.unique(np.asarray(picture.convert("L")))) > 20) == ("PNG", True)


def test_results_are_cocos(checkpoint, files, tmp_path):
    """pycocotools reads them, and gives the same figures."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    annotations, images = files
    scores = evaluate(checkpoint, annotations, images, out=tmp_path / "out")
    results = json.loads((tmp_path / "out" / RESULTS).read_text())
    assert len(results) == 180
    assert {each["image_id"] for each in results} == {1000 - 7 * index for index in range(6)}
    assert {each["category_id"] for each in results} == {4, 9, 30}
    (tmp_path / "truth.json").write_text(json.dumps(as_coco(load_coco(annotations, images))))
    sought = COCO(str(tmp_path / "truth.json"))
    evaluation = COCOeval(sought, sought.loadRes(str(tmp_path / "out" / RESULTS)), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = [-1 if value is None else value for value in figures(scores)]
    assert ours == pytest.approx(evaluation.stats.tolist(), abs=1e-9)


@pytest.mark.parametrize("number", range(3))
def test_files_are_whole_or_not_there(checkpoint, files, tmp_path, monkeypatch, number):
    """The disk is full when the first, the second or the third one is written."""
    calls = count()

    def fsync(_):
        if next(calls) == number:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("aaconv._files.os.fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        evaluate(checkpoint, *files, out=tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {*(SCORES, RESULTS, CURVES)[:number]}


def test_embedded_scenes(tmp_path, monkeypatch):
    root = digit_scenes(tmp_path, train_count=1, test_count=4, edge=72)
    monkeypatch.setattr("aaconv.detection.evaluate.digit_scenes", lambda: root)
    path = save_detector(tmp_path / "m.safetensors", tuple("0123456789"), tuple(range(1, 20, 2)))
    found = evaluate(path, "scenes")
    expected = score(*directly(path, root / "annotations" / "instances_test.json", root / "test"))
    assert found.images == 4
    assert figures(found) == pytest.approx(figures(expected), abs=1e-6)


def test_categories_of_the_checkpoint_that_the_file_lacks_do_no_harm(checkpoint, files):
    annotations, images = files
    content = json.loads(annotations.read_text())
    kept = [each for each in content["annotations"] if each["category_id"] != 30]
    content |= {"annotations": kept, "categories": [each for each in CATEGORIES if each["id"] != 30]}
    annotations.write_text(json.dumps(content))
    found = evaluate(checkpoint, annotations, images)
    assert found.classes["never"] == {"map": None, "map50": None, "truths": 0}
    assert found.boxes == len(kept) - 1  # a crowd


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["categories"].append({"id": 5, "name": "round"}),
        lambda content: content["categories"][0].update(name="broad"),
        lambda content: content["categories"][0].update(id=8),
    ],
)
def test_other_categories_are_refused(checkpoint, files, tmp_path, change):
    change_boxes(tmp_path, "part", change)
    with pytest.raises(ValueError, match=r"category '\w+' with id \d is none of training's; give it the id") as error:
        evaluate(checkpoint, *files)
    assert "\n" not in str(error.value)


def test_missing_images_stop_it_or_are_left_out(checkpoint, files, capsys):
    annotations, images = files
    (images / "3.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 6 images of \S+ are not in \S+, the first is '3\.png'"):
        evaluate(checkpoint, annotations, images)
    assert capsys.readouterr().err == ""
    found = evaluate(checkpoint, annotations, images, on_broken="skip")
    assert capsys.readouterr().err.startswith("left out: 6 boxes of missing images, 1 image missing from the folder, 1")
    assert (found.images, found.boxes, found.detections) == (5, 24, 150)


@pytest.mark.filterwarnings("ignore:counts as an image")
def test_unreadable_images_stop_it_or_count_as_empty(checkpoint, files):
    annotations, images = files
    whole = (images / "3.png").read_bytes()
    (images / "3.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageReadError, match=r"3\.png: image file is truncated"):
        evaluate(checkpoint, annotations, images)
    found = evaluate(checkpoint, annotations, images, on_broken="skip", batch_size=1)
    assert (found.images, found.boxes, found.detections) == (6, 30, 150)
    (images / "3.png").write_bytes(whole)
    truth, detections = directly(checkpoint, annotations, images)
    assert found == score(truth, [one for one in detections if one.image != 3])


def test_unreadable_image_of_another_process_is_named_in_a_line(checkpoint, files):
    (files[1] / "3.png").write_bytes(b"no image")
    with pytest.raises(ImageReadError, match=r"^\S+3\.png: not an image that can be read \(PNG or JPEG\)$"):
        evaluate(checkpoint, *files, workers=1)


def test_nothing_but_unreadable_images(checkpoint, files):
    for path in files[1].iterdir():
        path.write_bytes(b"no image")
    with pytest.warns(RuntimeWarning, match="counts as an image in which nothing was found"):
        found = evaluate(checkpoint, *files, on_broken="skip")
    assert (found.map, found.detections, found.images) == (0, 0, 6)


def test_checkpoints_of_the_other_task_are_refused(checkpoint, files, tmp_path):
    card = ModelCard("resnet10xs", ("a", "b"), 3, 32, MEAN, STD)
    save_checkpoint(tmp_path / "classifier.safetensors", card.build(), card)
    with pytest.raises(
        ValueError, match=r"is a classifier's \(resnet10xs\), a detector's is needed; without 'detect' i"
    ):
        evaluate(tmp_path / "classifier.safetensors", *files)
    with pytest.raises(ValueError, match=r"is a detector's \(aa_retinanet_resnet10_fpn\), a classifier's is needed; w"):
        classify_files(checkpoint, [files[1] / "0.png"])


def test_refusals(checkpoint, files, tmp_path):
    annotations, images = files
    with pytest.raises(ValueError, match="batch_size must be at least 1, got batch_size=0"):
        evaluate(checkpoint, *files, batch_size=0)
    with pytest.raises(ValueError, match="on_broken must be one of"):
        evaluate(checkpoint, *files, on_broken="ignore")
    with pytest.raises(ValueError, match=r"--images must say which folder the images of \S+part\.json are in"):
        evaluate(checkpoint, annotations)
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        evaluate(tmp_path / "none.safetensors", *files)
    with pytest.raises(FileNotFoundError, match="no annotation file"):
        evaluate(checkpoint, tmp_path / "none.json", images)
    with pytest.raises(FileNotFoundError, match="no folder of images"):
        evaluate(checkpoint, annotations, tmp_path / "none")
    with pytest.raises(ValueError, match=r"--boxes must name the annotations of the images in \S+, got none"):
        evaluate(checkpoint, images=images)
    with pytest.raises(ValueError, match=r"--out must be a folder, \S+part\.json is a file"):
        evaluate(checkpoint, *files, out=annotations)
    change_boxes(tmp_path, "part", lambda content: [each.update(iscrowd=1) for each in content["annotations"]])
    with pytest.raises(ValueError, match="truth must hold a box to be found, got 6 images and nothing but 31 crowds"):
        evaluate(checkpoint, *files)
