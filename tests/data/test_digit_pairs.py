"""The embedded task: real digits, honest labels, disjoint splits."""

import pytest
import torch

from aaconv.data.digit_pairs import SCAN_EDGE, compose_pairs, digit_pairs, load_scans


def test_splits_share_no_scan():
    (train, train_digits), (test, test_digits) = load_scans("train"), load_scans("test")
    assert len(train) + len(test) == 1797
    assert len(test) == 449
    seen = {tuple(scan.flatten().tolist()) for scan in train}
    repeated = sum(tuple(scan.flatten().tolist()) in seen for scan in test)
    assert repeated == 0
    assert train_digits.unique().tolist() == test_digits.unique().tolist() == list(range(10))


@pytest.mark.parametrize("split", ["train", "test"])
def test_canvases_show_what_they_say(split):
    pairs = compose_pairs(split, 200, seed=3, edge=32, gap=2)
    scans, digits = load_scans(split)
    assert pairs.images.shape == (200, 1, 32, 32)
    assert pairs.labels.float().mean() == 0.5
    assert (pairs.scans[:, 0] != pairs.scans[:, 1]).all()
    kinds = digits[pairs.scans]
    assert torch.equal((kinds[:, 0] == kinds[:, 1]).long(), pairs.labels)
    apart = (pairs.corners[:, 0] - pairs.corners[:, 1]).abs().amax(dim=1)
    assert apart.min() >= SCAN_EDGE + 2
    for image, chosen, corners in zip(pairs.images[:, 0], pairs.scans, pairs.corners, strict=True):
        left = image.clone()
        for scan, (row, column) in zip(chosen, corners, strict=True):
            window = (slice(row, row + SCAN_EDGE), slice(column, column + SCAN_EDGE))
            assert torch.equal(image[window], scans[scan])
            left[window] = 0
        assert not left.any()


def test_seeds():
    one, two, other = (compose_pairs("train", 20, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, two.images)
    assert not torch.equal(one.images, other.images)
    data = digit_pairs(30, 20, seed=0)
    assert torch.equal(data.renew(0).images, data.train.images)
    assert not torch.equal(data.renew(1).images, data.train.images)
    assert torch.equal(data.val.images, digit_pairs(30, 20, seed=5).val.images)  # one test set for every run
    assert not torch.equal(data.train.images, digit_pairs(30, 20, seed=5).train.images)


def test_bad_arguments():
    with pytest.raises(ValueError, match="edge must be at least 17 for gap=1, got edge=16"):
        compose_pairs("train", 2, seed=0, edge=16)
    with pytest.raises(ValueError, match="split must be one of"):
        compose_pairs("tests", 2, seed=0)
    with pytest.raises(ValueError, match="count must be at least 1"):
        compose_pairs("train", 0, seed=0)
