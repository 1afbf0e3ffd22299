"""What happens to whole batches of training images, on the device that trains.

Random numbers of an image come with it (``noise``), so that they depend on run, epoch and image alone.

Letters: b batch, C channels, H W image, p padding in pixels, c classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from aaconv.data.splits import Draw

NOISE = 3  # uniform numbers an image: vertical shift, horizontal shift, flip


def epoch_noise(count: int, draw: Draw) -> Tensor:
    """The numbers of all images of an epoch: float32 [count, NOISE] in [0, 1)."""
    return torch.rand(count, NOISE, generator=draw.generator(-1))


def crop_and_flip(images: Tensor, noise: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Each image shifted by up to ``padding`` pixels over zeros and, half of them, mirrored: [b, C, H, W] -> the same.

    Args:
        images: Any dtype; stays.
        noise: [b, NOISE].
        padding: p; 0 shifts nothing.
        flip: Whether to mirror.
    """
    if flip:
        images = torch.where((noise[:, 2] < 0.5).view(-1, 1, 1, 1), images.flip(3), images)
    if not padding:
        return images
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding,) * 4)
    top, left = (noise[:, :2] * (2 * padding + 1)).long().unbind(1)
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [b, C, 2p+1, 2p+1, H, W], a view
    return windows[torch.arange(batch, device=images.device), :, top, left]


def rand_augment(images: Tensor, generators: Sequence[torch.Generator], magnitude: int) -> Tensor:
    """torchvision's RandAugment, two operations an image: uint8 [b, C, H, W] -> the same."""
    from torchvision.transforms import v2

    change = v2.RandAugment(num_ops=2, magnitude=magnitude)
    changed = torch.empty_like(images)
    with torch.random.fork_rng(devices=[]):  # torchvision draws from the global numbers
        for place, generator in enumerate(generators):
            _seed(int(torch.randint(2**62, (), generator=generator)))
            changed[place] = change(images[place])
    return changed


def _seed(seed: int) -> None:
    """Seed the CPU's global numbers alone: ``torch.manual_seed`` would seed those of every GPU too."""
    torch.default_generator.manual_seed(seed)


class Mixer:
    """Mixup and cutmix of float images, and the targets that go with them.

    Args:
        classes: c.
        mixup: Alpha of mixup, 0 for none.
        cutmix: Alpha of cutmix, 0 for none; with both, a batch gets either.

    Source: Zhang et al. 2018, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899, as torchvision has them. Every image
    is mixed with the one before it in the batch, by one share a batch.
    """

    def __init__(self, classes: int, *, mixup: float, cutmix: float):
        from torchvision.transforms import v2

        self.kinds = [v2.MixUp(alpha=mixup, num_classes=classes)] if mixup else []
        self.kinds += [v2.CutMix(alpha=cutmix, num_classes=classes)] if cutmix else []

    def __call__(self, images: Tensor, labels: Tensor, draw: Draw, batch: int) -> tuple[Tensor, Tensor]:
        """[b, C, H, W] and [b] -> the same and [b, c]; ``batch`` numbers the batches of all devices and epochs."""
        if not self.kinds:
            return images, labels
        seed = draw.generator(-2 - batch).initial_seed()
        with torch.random.fork_rng(devices=[]):  # torchvision draws the share on the CPU
            _seed(seed)
            return self.kinds[seed % len(self.kinds)](images, labels)
