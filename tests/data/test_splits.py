"""Images in memory: their random numbers, statistics and fingerprints, and what is held out."""

import numpy as np
import pytest
import torch

from aaconv.data.splits import Draw, ImageData, Split, channel_statistics, draw_share, hold_out


def split_of(count, classes=3):
    images = torch.randint(0, 256, (count, 3, 4, 5), dtype=torch.uint8)
    return Split(images, torch.arange(count) % classes)


def test_draws_are_independent():
    draws = [(seed, epoch, index) for seed in range(3) for epoch in range(12) for index in (-2, -1, 0, 1, 2, 11)]
    numbers = {own: torch.rand((), generator=Draw(*own[:2]).generator(own[2])).item() for own in draws}
    assert len(set(numbers.values())) == len(draws)
    torch.rand(3)
    for own in reversed(draws):
        assert torch.rand((), generator=Draw(*own[:2]).generator(own[2])).item() == numbers[own]
    assert np.mean([*numbers.values()]) == pytest.approx(0.5, abs=0.1)


def test_a_draw_is_the_same_for_ever():
    assert Draw(0, 0).generator(0).initial_seed() == 35692333706951837  # else runs begun earlier go on otherwise


def test_reading():
    split = split_of(10)
    images, labels = split.read([7, 2, 2])
    assert torch.equal(images, split.images[[7, 2, 2]])
    assert labels.tolist() == [1, 2, 2]
    assert len(split) == 10


def test_fingerprints_change_with_every_pixel_and_label():
    split = split_of(6)
    images, labels = split.images.clone(), split.labels.clone()
    assert Split(images, labels).fingerprint() == split.fingerprint()
    assert Split(images.transpose(2, 3).contiguous().transpose(2, 3), labels).fingerprint() == split.fingerprint()
    images[5, 2, 3, 4] += 1
    labels[5] = 0
    variants = [Split(images, split.labels), Split(split.images, labels), Split(split.images[:5], split.labels[:5])]
    assert len({part.fingerprint() for part in (split, *variants)}) == 4
    data = [ImageData.in_memory(*parts, "abc").fingerprint() for parts in ((split, split), (split, variants[0]))]
    assert data[0] != data[1]


@pytest.mark.parametrize("chunk", [1, 7, 4096])
def test_statistics_are_numpys(chunk):
    images = torch.randint(0, 256, (50, 3, 6, 5), dtype=torch.uint8) // torch.tensor([1, 2, 40]).view(3, 1, 1)
    values = images.numpy().astype(np.float64) / 255
    mean, std = channel_statistics(images, chunk)
    np.testing.assert_allclose(mean, values.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(std, values.std(axis=(0, 2, 3)), rtol=1e-5)


def test_statistics_of_one_level():
    mean, std = channel_statistics(torch.full((4, 1, 3, 3), 51, dtype=torch.uint8))
    assert mean == pytest.approx((0.2,))
    assert std == (1e-3,)


def test_in_memory_measures_the_training_images():
    train, val = split_of(9), split_of(3)
    data = ImageData.in_memory(train, val, ["a", "b", "c"], skipped=("x",))
    assert (data.classes, data.channels, data.size, data.skipped) == (("a", "b", "c"), 3, (4, 5), ("x",))
    assert (data.mean, data.std) == channel_statistics(train.images)


@pytest.mark.parametrize("share, held", [(0.2, [4, 2, 1]), (0.01, [1, 1, 1]), (1.0, [19, 9, 1])])
def test_held_out_is_a_share_of_each_class(share, held):
    labels = torch.tensor([0] * 20 + [1] * 10 + [2] * 2)[torch.randperm(32)]
    images = torch.arange(32, dtype=torch.uint8).view(32, 1, 1, 1)
    rest, chosen = hold_out(Split(images, labels), share, seed=1)
    assert chosen.labels.bincount().tolist() == held
    places = torch.cat([rest.images, chosen.images]).flatten()
    assert places.sort().values.tolist() == list(range(32))
    assert torch.equal(torch.cat([rest.labels, chosen.labels]), labels[places.long()])
    again, other = (hold_out(Split(images, labels), share, seed)[1].images for seed in (1, 2))
    assert torch.equal(again, chosen.images)
    assert len(other) == len(again)
    assert not torch.equal(other, again)


def test_one_image_cannot_be_held_out():
    with pytest.raises(ValueError, match="class 2 needs at least 2 images to hold one out, got 1"):
        hold_out(Split(torch.zeros(5, 1, 2, 2), torch.tensor([0, 0, 1, 1, 2])), 0.5, seed=0)
    with pytest.raises(ValueError, match="class 'cat' needs at least 2 images to hold one out, got 0"):
        draw_share(0, 0.5, "cat", torch.Generator())
