"""From a recipe's data to images: each kind, with the recipe's settings, and what is missing."""

from functools import partial

import pytest
import torch
from PIL import Image

from aaconv.data.cifar import load_cifar
from aaconv.data.clutter import cluttered_digits
from aaconv.data.digit_pairs import CLASSES, compose_pairs, digit_pairs
from aaconv.data.splits import ImageData
from aaconv.training.config import AugmentConfig, DataConfig, Recipe
from aaconv.training.sources import load_data, synthetic_data
from tests.data.cifar_archives import make_cifar
from tests.training.test_loaders import lay_shards


@pytest.fixture
def photographs(tmp_path):
    """Ten pictures a class, 20 pixels wide and 16 high, each of one colour."""
    for label, name in enumerate(("dark", "light")):
        (tmp_path / name).mkdir()
        for i in range(10):
            colour = (20 + 10 * i + 100 * label, 50 + 3 * i, 90)
            Image.new("RGB", (20, 16), colour).save(tmp_path / name / f"{i}.png")
    return tmp_path


def loaded(seed=0, augment=None, **data):
    return load_data(Recipe(data=DataConfig(**data), augment=augment or AugmentConfig(), seed=seed))


@pytest.fixture
def few(monkeypatch):
    """Forty canvases to train on and twenty to test."""
    for made in (digit_pairs, cluttered_digits):
        monkeypatch.setattr(f"aaconv.training.sources.{made.__name__}", partial(made, 40, 20))


def test_digits(few):
    data, other = (loaded(name="digits", size=20, seed=seed) for seed in (2, 3))
    assert data.classes == CLASSES
    assert data.train.images.shape == (40, 1, 20, 20)
    assert torch.equal(data.train.images, compose_pairs("train", 40, seed=1 + 2 * 1_000_003, edge=20).images)
    assert not torch.equal(data.renew(1).images, data.train.images)
    assert not torch.equal(other.train.images, data.train.images)
    assert torch.equal(other.val.images, data.val.images)


def test_clutter(few):
    data, other = (loaded(name="clutter", size=20, seed=seed) for seed in (0, 1))
    assert data.classes == tuple("0123456789")
    assert data.train.images.shape == (40, 1, 20, 20)
    assert not torch.equal(other.train.images, data.train.images)
    assert torch.equal(other.val.images, data.val.images)


@pytest.mark.parametrize("name, classes", [("cifar10", 10), ("cifar100", 100)])
def test_cifar(tmp_path, monkeypatch, name, classes):
    path, archives = make_cifar(tmp_path, name, train=2 * classes, test=10)
    monkeypatch.setattr("aaconv.data.cifar.load_cifar", partial(load_cifar, archives=archives))
    data = loaded(name=name, path=str(path))
    assert (data.channels, data.size, len(data.classes)) == (3, (32, 32), classes)
    assert (len(data.train), len(data.val)) == (2 * classes, 10)
    held = [loaded(name=name, path=str(path), held_out=0.5, seed=seed) for seed in (0, 0, 1)]
    assert [len(data.val) for data in held] == [classes] * 3
    assert torch.equal(held[0].val.images, held[1].val.images)
    assert not torch.equal(held[0].val.images, held[2].val.images)
    with pytest.raises(ValueError, match=rf"data\.size must be 32 for {name}, got 24"):
        loaded(name=name, path=str(path), size=24)


@pytest.mark.parametrize("held_out, count", [(0.0, 4), (0.5, 10)])
@pytest.mark.parametrize("name", ["folder", "files"])
def test_share_held_out_of_folders(photographs, name, held_out, count):
    """A fifth where the recipe does not say."""
    data, again, other = (
        loaded(name=name, path=str(photographs), size=8, held_out=held_out, seed=seed) for seed in (0, 0, 1)
    )
    assert (len(data.train), len(data.val), data.size) == (20 - count, count, (8, 8))
    images, labels = data.val.read(range(count), None)
    assert images.shape == (count, 3, 8, 8)
    assert torch.equal(images[:, 0, 0, 0] >= 120, labels == 1)
    assert torch.equal(again.val.read(range(count), None)[0], images)
    assert not torch.equal(other.val.read(range(count), None)[0], images)


@pytest.mark.parametrize("name", ["folder", "files"])
def test_what_to_do_about_broken_images(photographs, name):
    (photographs / "dark" / "bad.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 of 21 images cannot be read: .*bad\.png"):
        loaded(name=name, path=str(photographs), size=8)
    data = loaded(name=name, path=str(photographs), size=8, on_broken="skip")
    assert len(data.skipped) == 1
    assert len(data.train) + len(data.val) == 20


def test_headers_are_looked_at_where_wanted(photographs):
    (photographs / "dark" / "bad.png").write_bytes(b"")
    data = loaded(name="files", path=str(photographs), size=8, check="none")
    assert (len(data.train) + len(data.val), data.skipped) == (21, ())


@pytest.mark.parametrize("crop, made", [("none", "resize"), ("inception", "inception")])
@pytest.mark.parametrize("name", ["files", "shards"])
def test_settings_reach_images_that_are_read_anew(photographs, tmp_path_factory, name, crop, made):
    augment = AugmentConfig(crop=crop, flip=crop == "none", rand_augment=7)
    path = str(photographs)
    if name == "shards":
        path = lay_shards(tmp_path_factory.mktemp("shards"), (3, 2))
    data = loaded(name=name, path=path, val_path=path, classes=5, size=24, crop_pct=0.75, augment=augment)
    view = data.train.view
    assert (view.size, view.channels, view.crop_pct, view.crop) == (24, 3, 0.75, made)
    assert (view.flip, view.rand_augment) == (crop == "none", 7)


def test_shards(tmp_path):
    path, val_path = lay_shards(tmp_path, (3, 2)), lay_shards(tmp_path, (4,), name="v")
    data = loaded(name="shards", path=path, val_path=val_path, classes=5, size=8)
    assert (data.train.samples, data.classes) == (5, tuple("01234"))
    assert len(list(data.val.once(0, 1))) == 4
    assert loaded(name="shards", path=path, val_path=val_path, classes=5, samples=4).train.samples == 4
    assert loaded(name="shards", path=path, val_path=val_path, classes=5, on_broken="skip").train.on_broken == "skip"
    with pytest.raises(ValueError, match=r"data\.val_path must say where the shards to evaluate on lie, got none"):
        loaded(name="shards", path=path, classes=5)
    with pytest.raises(ValueError, match=r"data\.classes must say how many classes the shards have, got none"):
        loaded(name="shards", path=path, val_path=val_path)
    with pytest.raises(FileNotFoundError, match=r"no shard .*a-2\.tar"):
        loaded(name="shards", path=path.replace("..1", "..2"), val_path=val_path, classes=5)


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "folder", "files", "shards"])
def test_path_has_to_be_given_and_to_be_there(tmp_path, name):
    with pytest.raises(ValueError, match=rf"^data\.path must say where {name} lies, got none; give --data\.path$"):
        loaded(name=name)
    missing = str(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=f"{missing}"):
        loaded(name=name, path=missing, val_path=missing, classes=2)


SYNTHETIC = {"digits": (1, 2), "clutter": (1, 10), "cifar10": (3, 10), "cifar100": (3, 100), "folder": (3, 2)}
SYNTHETIC |= {"files": (3, 1000), "shards": (3, 1000)}


@pytest.mark.parametrize("name", SYNTHETIC)
def test_synthetic_images_have_the_shape_of_the_real_ones(name):
    channels, classes = SYNTHETIC[name]
    data = synthetic_data(DataConfig(name=name, size=20), 6)
    assert isinstance(data, ImageData)
    assert data.train.images.shape == (6, channels, 20, 20)
    assert (data.channels, data.size, len(data.classes)) == (channels, (20, 20), classes)
    assert data.train.images.dtype == torch.uint8
    assert data.train.images.float().std() > 50
    assert data.train.labels.max() < classes
    if name == "digits":
        assert data.classes == CLASSES
    again = synthetic_data(DataConfig(name=name, size=20), 6)
    assert again.fingerprint() == data.fingerprint()


def test_synthetic_images_have_the_classes_of_the_shards():
    assert len(synthetic_data(DataConfig(name="shards", classes=7), 3).classes) == 7
