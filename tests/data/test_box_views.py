"""Images with boxes: boxes stay on what they frame through resizing, cutting and mirroring."""

import io
import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv.data.box_views import FILL, SEEN, BoxImages, BoxView
from aaconv.data.coco import load_coco
from aaconv.data.images import ImageReadError
from aaconv.data.splits import Draw
from tests.data.pictures import KINDS, encoded, noise, saved, seen

NONE = torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)


def framed(height, width, box):
    """White in the box, black elsewhere."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x1, y1, x2, y2 = box
    pixels[y1:y2, x1:x2] = 255
    return Image.fromarray(pixels)


def bright(pixels):
    """x1 y1 x2 y2 of what is white of uint8 [3, S, S], None if nothing is."""
    rows, columns = ((pixels[0] > 127).any(axis).nonzero()[:, 0].tolist() for axis in (1, 0))
    return torch.tensor([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float() if rows else None


def area(box):
    return float((box[2] - box[0]) * (box[3] - box[1]))


@pytest.mark.parametrize(
    "height, width, box", [(90, 60, (8, 20, 33, 51)), (60, 90, (50, 2, 90, 40)), (20, 31, (0, 3, 16, 20))]
)
@pytest.mark.parametrize("factor", [0.4, 1.0, 1.7])
def test_boxes_frame_what_they_framed(height, width, box, factor):
    image, view = framed(height, width, box), BoxView(64, (factor, factor), flip=True)
    whole = area(box) * (factor * 64 / max(height, width)) ** 2
    kept, seen_boxes = 0, set()
    for i in range(60):
        pixels, boxes, labels = view.training(
            image, torch.tensor([box]).float(), torch.tensor([7]), Draw(0, 0).generator(i)
        )
        assert (pixels.shape, pixels.dtype) == ((3, 64, 64), torch.uint8)
        found = bright(pixels)
        if len(boxes):
            assert labels.tolist() == [7]
            assert (boxes[0] - found).abs().max() <= 1
            assert boxes.min() >= 0
            assert boxes.max() <= 64
            assert area(boxes[0]) >= SEEN * whole * 0.99
            kept += 1
        else:
            assert found is None or area(found) < SEEN * whole * 1.3
        seen_boxes.add(tuple(boxes.flatten().tolist()))
    assert kept > 30
    assert len(seen_boxes) >= (2 if factor <= 1 else 10)  # mirrored or not, and cut anywhere


def test_jitter_covers_its_range_and_fills_up_on_the_right_and_below():
    image, view = Image.new("RGB", (50, 40), "white"), BoxView(100, (0.5, 1.5))
    widths = []
    for i in range(200):
        pixels, boxes, _ = view.training(
            image, torch.tensor([[0.0, 0, 50, 40]]), torch.tensor([0]), Draw(1, 0).generator(i)
        )
        found = bright(pixels)
        assert found[:2].tolist() == [0, 0]
        assert torch.equal(found, boxes[0].round())
        assert pixels.sum() == 3 * 255 * area(found) + sum(FILL) * (100**2 - area(found))
        widths.append(float(found[2]))
    assert min(widths) < 54
    assert 0.4 < np.mean(np.array(widths) == 100) < 0.6


def test_without_jitter_and_flip_the_whole_image_is_resized():
    image = Image.open(io.BytesIO(noise(3, 80, 60)))
    pixels, *_ = BoxView(40).training(image, *NONE, Draw(0, 0).generator(0))
    wanted = np.asarray(image.resize((40, 30), Image.Resampling.BILINEAR), int)
    assert np.abs(pixels[:, :30].permute(1, 2, 0).numpy() - wanted).max() <= 1
    assert (pixels[:, 30:] == torch.tensor(FILL)[:, None, None]).all()


def test_boxes_below_a_pixel_and_below_a_quarter_are_left_out():
    image = Image.new("RGB", (100, 100))
    boxes = torch.tensor([[10.0, 10, 60, 15], [0, 0, 9.9, 50], [0, 0, 10.5, 50], [20, 20, 99, 99]])
    _, left, labels = BoxView(10).training(image, boxes, torch.arange(4), Draw(0, 0).generator(0))
    assert labels.tolist() == [2, 3]
    assert left.flatten().tolist() == pytest.approx([0, 0, 1.05, 5, 2, 2, 9.9, 9.9])
    halves = torch.tensor([[0.0, 0, 100, 50], [0, 50, 100, 100]])
    for i in range(50):
        pixels, left, labels = BoxView(50, (2, 2)).training(
            framed(100, 100, (0, 0, 100, 50)), halves, torch.arange(2), Draw(0, 0).generator(i)
        )
        share = float((pixels[0] > 127).float().mean()) / 2  # of the upper half
        wanted = [label for label, part in ((0, share), (1, 0.5 - share)) if part >= SEEN]
        assert labels.tolist() == wanted
        assert len(left) == len(wanted)


def test_views_depend_on_the_generator_alone():
    image, view = Image.open(io.BytesIO(noise(1, 70, 50))), BoxView(48, (0.5, 2), flip=True)
    boxes, labels = torch.tensor([[5.0, 5, 40, 45], [30, 10, 60, 30]]), torch.tensor([1, 0])
    state = torch.get_rng_state()
    first = view.training(image, boxes, labels, Draw(3, 4).generator(5))
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(3)
    again = view.training(image, boxes, labels, Draw(3, 4).generator(5))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for draw, index in ((Draw(3, 5), 5), (Draw(4, 4), 5), (Draw(3, 4), 6)):
        assert not torch.equal(view.training(image, boxes, labels, draw.generator(index))[0], first[0])
    assert boxes.tolist() == [[5, 5, 40, 45], [30, 10, 60, 30]]


def test_no_boxes_and_thin_images():
    for size in ((70, 50), (300, 1), (1, 1)):
        pixels, boxes, labels = BoxView(32, (0.1, 2), True).training(
            Image.new("RGB", size), *NONE, Draw(0, 0).generator(0)
        )
        assert (pixels.shape, boxes.shape, labels.shape) == ((3, 32, 32), (0, 4), (0,))
        assert (boxes.dtype, labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize("kind", KINDS)
def test_evaluation_has_the_pixels_where_the_file_has_them(kind, tmp_path):
    (tmp_path / "image").write_bytes(encoded(kind))
    pixels = BoxView(8).evaluation(Image.open(tmp_path / "image"))
    assert (pixels.shape, pixels.dtype) == ((3, 32, 32), torch.uint8)
    wanted = np.rot90(seen(kind)) if "turned" in kind else seen(kind)
    got = pixels[:, 8::16, 8::16].permute(1, 2, 0).numpy().astype(int)  # the middle of each quarter
    assert np.abs(got - wanted).max() <= (48 if kind == "palette" else 6)  # dots of few colours


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "size must be at least 1"),
        ({"scale": (0, 1)}, "scale must be above 0"),
        ({"scale": (1, 0.5)}, r"scale must be the least factor and the largest, got scale=\(1, 0.5\)"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        BoxView(**{"size": 8, **options})


COUNT = 5


@pytest.fixture
def coco(tmp_path):
    """Images of other sizes and pixels, a box each less the last."""
    images, boxes = [], []
    for i in range(COUNT):
        (tmp_path / f"{i}.png").write_bytes(noise(i, 30 + i, 20 + i))
        images.append({"id": 10 * i, "file_name": f"{i}.png", "width": 30 + i, "height": 20 + i})
        boxes.append({"image_id": 10 * i, "category_id": 5, "bbox": [i, 2, 9, 8]})
    content = {"images": images, "annotations": boxes[:-1], "categories": [{"id": 5, "name": "thing"}]}
    (tmp_path / "set.json").write_text(json.dumps(content))
    return load_coco(tmp_path / "set.json", tmp_path)


def test_reading(coco):
    files, draw = BoxImages(coco, BoxView(16, (0.5, 1.5), True)), Draw(2, 1)
    assert len(files) == COUNT
    assert files.fingerprint() == coco.fingerprint()
    for i in range(COUNT):
        image = Image.open(coco.root / f"{i}.png")
        pixels, boxes, labels = files.read(i, None)
        assert np.array_equal(pixels.permute(1, 2, 0), np.asarray(image))
        assert boxes.tolist() == ([[i, 2, i + 9, 10]] if i < COUNT - 1 else [])
        assert labels.tolist() == [0] * len(boxes)
        wanted = files.view.training(image, *coco.target(i), draw.generator(i))
        got = pickle.loads(pickle.dumps(files)).read(i, draw)
        assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def break_file(path, kind):
    if kind == "gone":
        return path.unlink()
    whole = path.read_bytes()
    turned = Image.Exif()
    turned[0x0112] = 6
    other = saved(Image.new("RGB", (24, 34)), exif=turned)
    return path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "size": other}[kind])


@pytest.mark.parametrize("kind", ["empty", "cut", "gone", "size"])
def test_broken_files_fail_or_are_skipped_in_training(coco, kind):
    break_file(coco.root / "4.png", kind)
    error = FileNotFoundError if kind == "gone" else ImageReadError
    message = r"4\.png: 24x34 pixels, its boxes are of 34x24" if kind == "size" else r"4\.png"
    view, draw = BoxView(16, (0.5, 1.5), True), Draw(0, 0)
    for on_broken, read in (("fail", draw), ("fail", None), ("skip", None)):
        with pytest.raises(error, match=message):
            BoxImages(coco, view, on_broken).read(4, read)
    files = BoxImages(coco, view, "skip")
    with pytest.warns(RuntimeWarning, match=r"left out, the next image takes its place: .*4\.png") as warned:
        got = [files.read(4, draw) for _ in range(2)][1]
    assert len(warned) == 1
    wanted = view.training(Image.open(coco.root / "0.png"), *coco.target(0), draw.generator(4))
    assert all(torch.equal(a, b) for a, b in zip(got, wanted, strict=True))


def test_nothing_readable_comes_to_an_end(coco):
    for path in coco.root.glob("*.png"):
        path.write_bytes(b"")
    with (
        pytest.warns(RuntimeWarning),
        pytest.raises(ImageReadError, match=r"none of the 5 images can be read"),
    ):
        BoxImages(coco, BoxView(8), "skip").read(2, Draw(0, 0))
    with pytest.raises(ValueError, match=r"on_broken must be one of"):
        BoxImages(coco, BoxView(8), "skp")
