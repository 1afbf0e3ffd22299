"""Batches of images with boxes: of one size where images are whole, every image once, broken ones as asked."""

import warnings
from itertools import chain

import pytest
import torch

from aaconv.data.box_views import BoxImages, BoxView
from aaconv.data.coco import load_coco
from aaconv.data.images import ImageReadError
from aaconv.data.splits import Draw
from aaconv.detection.loaders import EpochBoxes, whole_loader
from aaconv.training.loaders import EpochOrder, Plan, Share, ordered_loader
from tests.detection.box_files import lay_part

SIZES = [(20, 30), (30, 20), (20, 30), (16, 16), (20, 30), (30, 20), (20, 30), (20, 31)]
VIEW = BoxView(24, (0.5, 1.5), flip=True)


@pytest.fixture
def images_of(tmp_path):
    lay_part(tmp_path, "part", SIZES, empty=(1, 4))

    def images_of(on_broken="fail"):
        coco = load_coco(tmp_path / "annotations" / "instances_part.json", tmp_path / "part")
        return BoxImages(coco, VIEW, on_broken)

    return images_of


def alike(one, other):
    """Whether two batches hold the same images, boxes and labels."""
    pairs = [*zip(one.images, other.images, strict=True)]
    for ours, theirs in zip(one.targets, other.targets, strict=True):
        pairs += [(ours[key], theirs[key]) for key in ("boxes", "labels")]
    return one.indices == other.indices and all(torch.equal(*pair) for pair in pairs)


def test_whole_images_share_a_batch_with_those_of_their_size(images_of):
    images = images_of()
    batches = list(whole_loader(images, 3, Share(), 0))
    assert [[SIZES[index] for index in batch.indices] for batch in batches] == [
        [(16, 16)],
        [(20, 30)] * 3,
        [(20, 30)],
        [(20, 31)],
        [(30, 20)] * 2,
    ]
    for batch in batches:
        for index, pixels, target in zip(batch.indices, batch.images, batch.targets, strict=True):
            expected, boxes, labels = images.read(index, None)
            assert (pixels.dtype, pixels.shape) == (torch.uint8, (3, *SIZES[index]))
            assert torch.equal(pixels, expected)
            assert torch.equal(target["boxes"], boxes)
            assert torch.equal(target["labels"], labels)
            assert (len(boxes) == 0) == (index in (1, 4))


@pytest.mark.parametrize("size", [1, 2, 9])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_every_whole_image_once_over_all_devices(images_of, world, size):
    images = images_of()
    shares = [list(whole_loader(images, size, Share(rank, world), 0)) for rank in range(world)]
    seen = [[index for batch in share for index in batch.indices] for share in shares]
    assert sorted(chain(*seen)) == list(range(len(SIZES)))
    assert max(map(len, seen)) - min(map(len, seen)) <= 1
    for batch in chain(*shares):
        assert 1 <= len(batch.indices) <= size
        assert len({SIZES[index] for index in batch.indices}) == 1


@pytest.mark.parametrize("world", [1, 2])
def test_training_shows_every_image_once_an_epoch_over_all_devices(images_of, world):
    images, draw = images_of(), Draw(3, 1)
    plan = Plan(len(images), 4, 1, world)
    loaders = [
        ordered_loader(EpochBoxes(images, draw), EpochOrder(plan, draw, Share(rank, world)), 0) for rank in range(world)
    ]
    batches = [list(loader) for loader in loaders]
    assert sorted(index for share in batches for batch in share for index in batch.indices) == list(range(8))
    for batch in chain(*batches):
        assert (batch.images.dtype, batch.images.shape) == (torch.uint8, (4 // world, 3, 24, 24))
        for index, pixels, target in zip(batch.indices, batch.images, batch.targets, strict=True):
            expected, boxes, labels = images.read(index, draw)
            assert torch.equal(pixels, expected)
            assert torch.equal(target["boxes"], boxes)
            assert torch.equal(target["labels"], labels)


def test_processes_that_read_give_the_same_batches(images_of):
    images, draw = images_of(), Draw(0, 2)
    for start in (0, 2):
        order = EpochOrder(Plan(8, 2, 1, 1), draw, Share(), start)
        own, others = (list(ordered_loader(EpochBoxes(images, draw), order, workers)) for workers in (0, 1))
        assert len(own) == 4 - start
        assert all(map(alike, own, others))
    own, others = (list(whole_loader(images, 3, Share(), workers)) for workers in (0, 1))
    assert len(own) == len(others) == 5
    assert all(map(alike, own, others))


def spoil(images):
    """A file that is none, and one that is gone; of the (20, 30) only one is left in its batch of two, or none."""
    (images.coco.root / "3.png").write_bytes(b"no image")
    (images.coco.root / "6.png").unlink()


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:counts as")
def test_broken_whole_images_are_left_out(images_of, workers):
    images = images_of("skip")
    before = {index: batch for batch in whole_loader(images, 1, Share(), 0) for index in batch.indices}
    spoil(images)
    batches = list(whole_loader(images, 2, Share(), workers))
    assert sorted(index for batch in batches for index in batch.indices) == [0, 1, 2, 4, 5, 7]
    assert [len(batch.indices) for batch in batches] == [0, 2, 1, 1, 2]
    for batch in batches:
        assert len(batch.images) == len(batch.targets) == len(batch.indices)
        for index, pixels in zip(batch.indices, batch.images, strict=True):
            assert torch.equal(pixels, before[index].images[0])


def test_warnings_name_what_was_left_out(images_of):
    images = images_of("skip")
    spoil(images)
    with pytest.warns(RuntimeWarning, match="counts as an image in which nothing was found: ") as caught:
        list(whole_loader(images, 2, Share(), 0))
    assert sorted(name for name in ("3.png", "6.png") for each in caught if name in str(each.message)) == [
        "3.png",
        "6.png",
    ]


def test_next_image_stands_in_for_a_broken_one_in_training(images_of):
    images, draw = images_of("skip"), Draw(0, 0)
    spoil(images)
    with pytest.warns(RuntimeWarning, match=r"left out, the next image takes its place: .*3\.png"):
        batch = EpochBoxes(images, draw).__getitems__([2, 3])
    expected, boxes, _ = images._read(4, draw.generator(3))
    assert torch.equal(batch.images[1], expected)
    assert torch.equal(batch.targets[1]["boxes"], boxes)


def test_broken_images_stop_it(images_of):
    images = images_of()
    spoil(images)
    with pytest.raises(ImageReadError, match=r"3\.png: not an image that can be read"):
        list(whole_loader(images, 2, Share(), 0))
    with pytest.raises(ImageReadError, match=r"3\.png: not an image that can be read"):
        EpochBoxes(images, Draw(0, 0)).__getitems__([2, 3])
    with pytest.raises(FileNotFoundError, match=r"no image file .*6\.png"):
        EpochBoxes(images, Draw(0, 0)).__getitems__([6])


def test_whole_images_give_no_warning(images_of):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(whole_loader(images_of("skip"), 2, Share(), 0))) == 5
