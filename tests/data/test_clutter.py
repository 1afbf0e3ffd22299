"""Cluttered digits: whole digits, pieces of others, scans of one split alone."""

import pytest
import torch

from aaconv.data.clutter import CLASSES, PIECE_EDGE, PIECES, cluttered_digits, compose_clutter
from aaconv.data.digit_pairs import SCAN_EDGE, load_scans


def slowly(split, count, seed, edge):
    """The canvases, one pixel at a time, from the same random numbers."""
    random = torch.Generator().manual_seed(seed)
    pixels, _ = load_scans(split)
    images = torch.zeros(count, edge, edge, dtype=torch.uint8)
    for layer in range(PIECES + 1):
        scans = torch.randint(len(pixels), (count,), generator=random)
        size = PIECE_EDGE if layer < PIECES else SCAN_EDGE
        starts = torch.zeros(count, 2, dtype=torch.long)
        if layer < PIECES:
            starts = torch.randint(SCAN_EDGE - PIECE_EDGE + 1, (count, 2), generator=random)
        corners = torch.randint(edge - size + 1, (count, 2), generator=random)
        for i in range(count):
            for y in range(size):
                for x in range(size):
                    row, column = corners[i] + torch.tensor([y, x])
                    images[i, row, column] = pixels[scans[i], starts[i, 0] + y, starts[i, 1] + x]
    return images


@pytest.mark.parametrize("split, edge", [("train", 20), ("test", 11)])
def test_canvases_are_the_obvious_loop(split, edge):
    made = compose_clutter(split, 4, seed=5, edge=edge)
    assert made.images.shape == (4, 1, edge, edge)
    assert torch.equal(made.images[:, 0], slowly(split, 4, 5, edge))


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_digit_is_whole_and_of_its_split(split):
    made = compose_clutter(split, 300, seed=3)
    pixels, digits = load_scans(split)
    of_scan = {scan.numpy().tobytes(): digit for scan, digit in zip(pixels, digits.tolist(), strict=True)}
    windows = made.images[:, 0].unfold(1, SCAN_EDGE, 1).unfold(2, SCAN_EDGE, 1).flatten(1, 2)
    for own, label in zip(windows, made.labels.tolist(), strict=True):
        assert label in {of_scan.get(window.numpy().tobytes()) for window in own}
    assert made.labels.unique().tolist() == list(range(len(CLASSES)))
    inked = (made.images > 0).sum(dim=(1, 2, 3)).float().mean()
    assert inked > 1.5 * (pixels > 0).sum(dim=(1, 2)).float().mean()  # there is clutter


def test_the_smallest_canvas_is_the_digit_alone():
    made = compose_clutter("train", 20, seed=0, edge=SCAN_EDGE)
    pixels, digits = load_scans("train")
    for image, label in zip(made.images[:, 0], made.labels, strict=True):
        assert label in digits[(pixels == image).flatten(1).all(dim=1)]


def test_seeds():
    one, two, other = (compose_clutter("train", 20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)
    data = cluttered_digits(30, 20, seed=0)
    assert data.classes == CLASSES
    assert torch.equal(data.renew(0).images, data.train.images)
    assert not torch.equal(data.renew(1).images, data.train.images)
    assert torch.equal(data.val.images, cluttered_digits(30, 20, seed=5).val.images)  # one test set for every run
    assert torch.equal(data.val.images, compose_clutter("test", 20, seed=0).images)
    assert not torch.equal(data.train.images, cluttered_digits(30, 20, seed=5).train.images)


def test_bad_arguments():
    with pytest.raises(ValueError, match="edge must be at least 8, got edge=7"):
        compose_clutter("train", 2, seed=0, edge=7)
    with pytest.raises(ValueError, match="split must be one of"):
        compose_clutter("tests", 2, seed=0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        compose_clutter("train", 0, seed=0)
