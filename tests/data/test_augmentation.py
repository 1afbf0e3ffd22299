"""Augmentation of batches: what is done to each image, and where its random numbers come from."""

import pytest
import torch

from aaconv.data.augmentation import NOISE, Mixer, crop_and_flip, epoch_noise, rand_augment
from aaconv.data.splits import Draw

ALMOST_ONE = 1 - 2**-24  # the largest that torch.rand gives


def slowly(image, noise, padding, flip):
    """``crop_and_flip`` of one image, pixel by pixel."""
    down, right = (int(number * (2 * padding + 1)) - padding for number in noise[:2].tolist())
    _, height, width = image.shape
    out = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            row, column = y + down, x + right
            if 0 <= row < height and 0 <= column < width:
                out[:, y, x] = image[:, row, width - 1 - column if flip and noise[2] < 0.5 else column]
    return out


@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("channels, dtype", [(1, torch.uint8), (3, torch.float32)])
def test_crop_and_flip_is_the_obvious_loop(padding, flip, channels, dtype):
    images = torch.randint(1, 256, (12, channels, 5, 7)).to(dtype)
    noise, before = torch.rand(12, NOISE), images.clone()
    got = crop_and_flip(images, noise, padding=padding, flip=flip)
    wanted = torch.stack([slowly(image, own, padding, flip) for image, own in zip(images, noise, strict=True)])
    assert got.dtype == dtype
    assert torch.equal(got, wanted)
    assert torch.equal(images, before)


def test_shifts_cover_the_whole_range_and_half_are_flipped():
    padding, count = 2, 2000
    noise = epoch_noise(count, Draw(0, 0))
    noise[0, :2], noise[1, :2] = 0, ALMOST_ONE
    image = torch.zeros(1, 1, 5, 5, dtype=torch.uint8)
    image[0, 0, 2, 2] = 1
    moved = crop_and_flip(image.expand(count, 1, 5, 5), noise, padding=padding, flip=False)
    places = moved.flatten(1).argmax(dim=1)
    assert moved.sum(dim=(1, 2, 3)).eq(1).all()
    counts = places.bincount(minlength=25)
    assert len(counts) == 25
    assert counts.min() > 0.5 * count / 25
    assert places[:2].tolist() == [24, 0]
    sides = torch.tensor([[[[1, 0]]]], dtype=torch.uint8).expand(count, 1, 1, 2)
    flipped = crop_and_flip(sides, noise, padding=0, flip=True)[:, 0, 0, 1]
    assert 0.45 < flipped.float().mean() < 0.55


def test_noise_depends_on_seed_and_epoch_alone():
    noise = epoch_noise(1000, Draw(1, 2))
    torch.rand(5)
    assert noise.shape == (1000, NOISE)
    assert noise.min() >= 0
    assert noise.max() < 1
    assert noise.mean(dim=0).sub(0.5).abs().max() < 0.05
    assert torch.equal(noise, epoch_noise(1000, Draw(1, 2)))
    for other in (Draw(1, 3), Draw(2, 2)):
        assert not torch.equal(noise, epoch_noise(1000, other))


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@pytest.mark.parametrize("channels", [1, 3])
def test_rand_augment_depends_on_the_generator_alone(channels, monkeypatch):
    images = torch.randint(0, 256, (6, channels, 16, 16), dtype=torch.uint8)
    before = images.clone()
    got = rand_augment(images, generators(*range(6)), 9)
    assert got.dtype == torch.uint8
    assert got.shape == images.shape
    assert torch.equal(images, before)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    monkeypatch.setattr(torch, "manual_seed", lambda _: pytest.fail("seeds the GPUs too"))
    order = [4, 1, 0]
    assert torch.equal(rand_augment(images[order], generators(*order), 9), got[order])
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(rand_augment(images, generators(*range(1, 7)), 9), got)
    same = rand_augment(images[:1].expand(30, -1, -1, -1), generators(*range(30)), 9)
    assert len(same.flatten(1).unique(dim=0)) > 10


@pytest.fixture
def batch():
    """Float images and the labels of four classes."""
    return torch.rand(8, 3, 8, 10), torch.arange(8) % 4


@pytest.mark.parametrize("alphas", [{"mixup": 0.4, "cutmix": 0}, {"mixup": 0, "cutmix": 1.0}])
def test_targets_follow_the_images(batch, alphas):
    images, labels = batch
    for number in range(20):
        mixed, targets = Mixer(4, **alphas)(images, labels, Draw(0, 0), number)
        assert mixed.shape == images.shape
        torch.testing.assert_close(targets.sum(dim=1), torch.ones(8))
        share = targets[0, 0]  # of the own class; the neighbour before has another
        torch.testing.assert_close(targets[torch.arange(8), labels], share.expand(8))
        torch.testing.assert_close(targets[torch.arange(8), labels.roll(1)], (1 - share).expand(8))
        neighbour = images.roll(1, 0)
        if alphas["mixup"]:
            torch.testing.assert_close(mixed, share * images + (1 - share) * neighbour)
        else:
            own, other = mixed == images, mixed == neighbour
            assert (own | other).all()
            torch.testing.assert_close(own[0, 0].float().mean(), share)


def test_mixing_depends_on_the_draw_and_the_batch_alone(batch, monkeypatch):
    mixer = Mixer(4, mixup=0.2, cutmix=1.0)
    mixed, targets = mixer(*batch, Draw(3, 1), 7)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    monkeypatch.setattr(torch, "manual_seed", lambda _: pytest.fail("seeds the GPUs too"))
    again, same = mixer(*batch, Draw(3, 1), 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(mixed, again)
    assert torch.equal(targets, same)
    for draw, number in ((Draw(3, 1), 8), (Draw(3, 2), 7), (Draw(4, 1), 7)):
        assert not torch.equal(mixer(*batch, draw, number)[0], mixed)


def test_with_both_a_batch_gets_either(batch):
    mixer, cut = Mixer(4, mixup=0.4, cutmix=1.0), 0
    for number in range(40):
        mixed, _ = mixer(*batch, Draw(0, 0), number)
        cut += ((mixed == batch[0]) | (mixed == batch[0].roll(1, 0))).all().item()
    assert 10 < cut < 30


def test_without_mixing_all_comes_back_untouched(batch):
    images, labels = Mixer(4, mixup=0, cutmix=0)(*batch, Draw(0, 0), 0)
    assert images is batch[0]
    assert labels is batch[1]
