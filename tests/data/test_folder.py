"""Class folders: what is read, how it is split, and what is refused before any training."""

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv.data import folder as module
from aaconv.data.folder import load_folder


@pytest.fixture
def root(tmp_path):
    """Ten grey squares a class, dark and bright, of several sizes and formats."""
    for name, level in (("dark", 40), ("light", 220)):
        (tmp_path / name).mkdir()
        for i in range(10):
            suffix = ("png", "jpg", "JPEG")[i % 3]
            Image.fromarray(np.full((9 + i, 20), level + i, np.uint8)).save(tmp_path / name / f"{i}.{suffix}")
    return tmp_path


def test_reads_every_image_once(root):
    data = load_folder(root, edge=8, held_out=0.2)
    assert data.classes == ("dark", "light")
    assert (data.channels, data.size) == (1, (8, 8))
    assert len(data.train) == 16
    assert len(data.val) == 4
    assert data.val.labels.tolist() == [0, 0, 1, 1]
    levels = torch.cat([data.train.images, data.val.images])[:, 0, 0, 0]
    assert levels.sort().values.tolist() == [*range(40, 50), *range(220, 230)]
    for split in (data.train, data.val):
        assert torch.equal(split.images.float().mean(dim=(1, 2, 3)) > 128, split.labels == 1)


def test_seed_draws_the_images_held_out(root):
    one, two, other = (load_folder(root, edge=4, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.val.images, two.val.images)
    assert not torch.equal(one.val.images, other.val.images)


def test_one_colour_image_makes_all_colour(root):
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / "dark" / "colour.png")
    assert load_folder(root, edge=8).channels == 3


def test_given_split_and_deeper_folders(root, tmp_path_factory):
    other = tmp_path_factory.mktemp("split")
    for part in ("train", "val"):
        (other / part).mkdir()
        for name in ("dark", "light"):
            deep = other / part / name / "deep"
            deep.mkdir(parents=True)
            for i in range(3 if part == "train" else 2):
                (deep / f"{i}.png").write_bytes((root / name / "0.png").read_bytes())
    data = load_folder(other, edge=8)
    assert (len(data.train), len(data.val)) == (6, 4)
    (other / "val" / "dark").rename(other / "val" / "darker")
    with pytest.raises(
        ValueError, match=r"must hold the classes of training \['dark', 'light'\], got \['darker', 'light'"
    ):
        load_folder(other, edge=8)


def test_broken_images_are_counted_and_named(root):
    for i in range(4):
        (root / "dark" / f"bad{i}.png").write_bytes(b"")
    whole = (root / "light" / "1.jpg").read_bytes()
    (root / "light" / "cut.jpg").write_bytes(whole[: len(whole) - 40])
    with pytest.raises(
        ValueError, match=r"5 of 25 images cannot be read: .*bad0\.png: .*; .* and 2 more; .*on_broken=skip"
    ):
        load_folder(root, edge=8)
    data = load_folder(root, edge=8, skip_broken=True)
    assert len(data.train) + len(data.val) == 20
    assert len(data.skipped) == 5
    for i in range(4):
        (root / "dark" / f"bad{i}.png").unlink()
    with pytest.raises(ValueError, match=r"1 of 21 images cannot be read: .*cut\.jpg"):
        load_folder(root, edge=8)


def test_symbolic_loops_do_no_harm(root):
    (root / "dark" / "again").symlink_to(root)
    (root / "light" / "self.png").symlink_to(root / "light" / "self.png")
    with pytest.raises(ValueError, match=r"self\.png"):
        load_folder(root, edge=8)
    assert len(load_folder(root, edge=8, skip_broken=True).train) == 16


def test_refusals(root, tmp_path_factory, monkeypatch):
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(FileNotFoundError, match=r"no folder .*/none"):
        load_folder(empty / "none")
    with pytest.raises(FileNotFoundError, match="is a file, not a folder"):
        load_folder(root / "dark" / "0.png")
    with pytest.raises(ValueError, match=r"must hold a folder for each of at least two classes, got \[\]"):
        load_folder(empty)
    with pytest.raises(ValueError, match="edge must be at least 1, got edge=0"):
        load_folder(root, edge=0)
    with pytest.raises(ValueError, match=r"held_out must lie in \(0, 1\], got held_out=0"):
        load_folder(root, held_out=0)
    monkeypatch.setattr(module, "MAX_BYTES", 1000)
    with pytest.raises(ValueError, match=r"20 images of 8x8 take .* GiB, the limit is .* use a smaller edge"):
        load_folder(root, edge=8)
    (root / "vacant").mkdir()
    with pytest.raises(ValueError, match=r"class 'vacant' has no .png, .jpg, .jpeg image in"):
        load_folder(root)
    (root / "vacant" / "one.png").write_bytes((root / "dark" / "0.png").read_bytes())
    monkeypatch.undo()
    with pytest.raises(ValueError, match="class 'vacant' needs at least 2 images to hold one out, got 1"):
        load_folder(root)
