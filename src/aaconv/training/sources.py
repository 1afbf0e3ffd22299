"""From a recipe's data to images, and synthetic ones of the same shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from aaconv.data.clutter import CLASSES as DIGITS
from aaconv.data.clutter import cluttered_digits
from aaconv.data.digit_pairs import CLASSES as PAIRS
from aaconv.data.digit_pairs import digit_pairs
from aaconv.data.splits import ImageData, Split
from aaconv.training.config import DataConfig, Recipe

if TYPE_CHECKING:
    from aaconv.data.shards import ShardData

HELD_OUT = 0.2  # of class folders without a part to evaluate on, where the recipe does not say


def load_data(recipe: Recipe) -> ImageData | ShardData:
    """The images of ``recipe.data``, checked as far as can be done before training.

    Raises:
        FileNotFoundError: No such archive, folder or shard.
        ValueError: Images, labels or archives that cannot be used; the message says why.
    """
    data = recipe.data
    if data.name == "digits":
        return digit_pairs(seed=recipe.seed, edge=data.size)
    if data.name == "clutter":
        return cluttered_digits(seed=recipe.seed, edge=data.size)
    if data.path is None:
        raise ValueError(f"data.path must say where {data.name} lies, got none; give --data.path")
    if data.name in ("cifar10", "cifar100"):
        from aaconv.data.cifar import load_cifar

        if data.size != 32:
            raise ValueError(f"data.size must be 32 for {data.name}, got {data.size}")
        return load_cifar(data.name, data.path, held_out=data.held_out, seed=recipe.seed)
    return _load_files(recipe, data.path)


def _load_files(recipe: Recipe, path: str) -> ImageData | ShardData:
    data, view = recipe.data, _view(recipe)
    share = data.held_out or HELD_OUT
    if data.name == "folder":
        from aaconv.data.folder import load_folder

        skip = data.on_broken == "skip"
        return load_folder(path, edge=data.size, held_out=share, seed=recipe.seed, skip_broken=skip)
    if data.name == "files":
        from aaconv.data.files import load_files

        return load_files(
            path, size=data.size, crop_pct=data.crop_pct, held_out=share, seed=recipe.seed,
            on_broken=data.on_broken, check=data.check, **view,
        )  # fmt: skip
    from aaconv.data.shards import load_shards

    if data.val_path is None:
        raise ValueError("data.val_path must say where the shards to evaluate on lie, got none; give --data.val_path")
    return load_shards(
        path, data.val_path, samples=data.samples, classes=data.classes, size=data.size, crop_pct=data.crop_pct,
        on_broken=data.on_broken, **view,
    )  # fmt: skip


def synthetic_data(data: DataConfig, count: int) -> ImageData:
    """Noise of the shape and with the classes that ``data`` has, or is taken to have where it lies elsewhere."""
    classes = {"digits": PAIRS, "clutter": DIGITS, "cifar10": range(10), "cifar100": range(100), "folder": range(2)}
    names = [str(name) for name in classes.get(data.name, range(data.classes or 1000))]
    channels = 1 if data.name in ("digits", "clutter") else 3
    random = torch.Generator().manual_seed(0)
    shape = (count, channels, data.size, data.size)
    images = torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)
    split = Split(images, torch.randint(0, len(names), (count,), generator=random))
    return ImageData.in_memory(split, split, names)


def _view(recipe: Recipe) -> dict[str, Any]:
    """How files become training images."""
    augment = recipe.augment
    crop = "inception" if augment.crop == "inception" else "resize"
    return {"crop": crop, "flip": augment.flip, "rand_augment": augment.rand_augment}
