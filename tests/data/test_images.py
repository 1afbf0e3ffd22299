"""Image files of every kind, and files that are none."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv.data import images
from aaconv.data.images import ImageReadError, is_grey, printable, read_image
from tests.data.pictures import encoded, seen


def save(path, array, mode=None, **options):
    Image.fromarray(array, mode).save(path, **options) if mode else Image.fromarray(array).save(path, **options)
    return path


def test_colour_and_grey(tmp_path):
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[:, :4, 0] = 200
    path = save(tmp_path / "a.png", colour)
    got = read_image(path, 3, 8)
    assert got.dtype == torch.uint8
    assert torch.equal(got, torch.from_numpy(colour).permute(2, 0, 1))
    assert read_image(path, 1, 8).shape == (1, 8, 8)
    assert not is_grey(path)
    assert is_grey(save(tmp_path / "b.png", colour[:, :, 0]))


def test_shorter_side_then_centre(tmp_path):
    wide = np.zeros((10, 30), np.uint8)
    wide[:, 10:20] = 255
    assert (read_image(save(tmp_path / "a.png", wide), 1, 10) == 255).all()
    assert read_image(tmp_path / "a.png", 3, 4).shape == (3, 4, 4)


def test_sixteen_bit_grey_is_scaled_not_clipped(tmp_path):
    ramp = np.linspace(0, 65535, 64).astype(np.uint16).reshape(8, 8)
    got = read_image(save(tmp_path / "a.png", ramp), 1, 8)[0].numpy()
    np.testing.assert_array_equal(got, ramp // 257)


def test_transparency_becomes_white(tmp_path):
    clear = np.zeros((4, 4, 4), np.uint8)
    clear[:2, :, 3] = 255  # upper half opaque black
    got = read_image(save(tmp_path / "a.png", clear), 3, 4)
    assert (got[:, :2] == 0).all()
    assert (got[:, 2:] == 255).all()
    palette = Image.fromarray(np.zeros((4, 4), np.uint8), "P")
    palette.putpalette([255, 0, 0] + [0] * 765)
    palette.save(tmp_path / "p.png", transparency=0)
    assert (read_image(tmp_path / "p.png", 3, 4) == 255).all()


def test_camera_orientation_is_applied(tmp_path):
    picture = Image.fromarray(np.array([[0, 255]], np.uint8).repeat(2, 0).repeat(2, 1).repeat(2, 0))
    exif = picture.getexif()
    exif[0x0112] = 3  # upside down
    picture.save(tmp_path / "a.png", exif=exif)
    upright = read_image(tmp_path / "a.png", 1, 4)[0]
    assert upright[0, 0] == 255
    assert upright[0, 3] == 0


@pytest.mark.parametrize("kind", ["turned", "turned clear", "turned deep"])
def test_camera_orientation_is_applied_to_every_mode(tmp_path, kind):
    (tmp_path / "a.png").write_bytes(encoded(kind, 2))
    got = read_image(tmp_path / "a.png", 3, 2).permute(1, 2, 0)
    np.testing.assert_array_equal(got, seen(kind))


def broken(tmp_path, kind):
    path = tmp_path / "a.jpg"
    save(path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"not an image", "truncated": whole[: len(whole) // 2]}[kind])
    return path


@pytest.mark.parametrize("kind", ["empty", "text", "truncated"])
def test_broken_files_are_named(tmp_path, kind):
    path = broken(tmp_path, kind)
    with pytest.raises(ImageReadError, match=r"a\.jpg: (not an image that can be read|.*truncated)"):
        read_image(path, 3, 8)


def test_missing_folder_and_huge(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no image file"):
        read_image(tmp_path / "none.png", 3, 8)
    with pytest.raises(ImageReadError, match="Is a directory"):
        read_image(tmp_path, 3, 8)
    path = save(tmp_path / "a.png", np.zeros((20, 20), np.uint8))
    monkeypatch.setattr(images, "MAX_PIXELS", 399)
    with pytest.raises(ImageReadError, match="20x20 pixels, more than 399"):
        read_image(path, 1, 8)


def test_bomb_is_refused(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "bomb.png")
    with pytest.raises(ImageReadError, match=r"bomb\.png"):
        read_image(tmp_path / "bomb.png", 1, 8)


def test_names_in_messages_can_be_printed():
    assert printable(os.fsdecode(b"a/\xff\xc3\xbc.png")) == "a/\\udcffü.png"
    assert printable(Path("a/b c.png")) == "a/b c.png"
