"""Small image files of every kind, and shards of them."""

import io
import tarfile

import numpy as np
from PIL import Image

KINDS = ("colour", "jpeg", "palette", "cmyk", "clear", "turned", "turned clear", "grey", "deep", "turned deep")
CORNERS = np.array([[[200, 30, 30], [30, 200, 30]], [[30, 30, 200], [220, 220, 220]]], np.uint8)  # [2, 2, RGB]
LEVELS = np.array([[0, 85], [170, 255]], np.uint8)
SIDEWAYS = 6  # EXIF: to be turned clockwise


def seen(kind):
    """The four quarters of a picture of ``kind`` as they should be seen, uint8 [2, 2, 3]."""
    return LEVELS[..., None].repeat(3, axis=2) if kind in ("grey", "deep", "turned deep") else CORNERS


def encoded(kind, edge=32):
    """A file of four quarters, E x E pixels."""
    quarters = seen(kind).repeat(edge // 2, axis=0).repeat(edge // 2, axis=1)
    if "turned" in kind:
        quarters = np.rot90(quarters).copy()
    image = Image.fromarray(quarters)
    if "clear" in kind:
        image = Image.merge("RGBA", (*image.split(), Image.new("L", image.size, 255)))
    if kind == "grey":
        image = image.convert("L")
    if "deep" in kind:
        image = Image.fromarray(quarters[..., 0].astype(np.uint16) * 257)
    image = image.convert({"palette": "P", "cmyk": "CMYK"}.get(kind, image.mode))
    exif = Image.Exif()
    if "turned" in kind:
        exif[0x0112] = SIDEWAYS
    return saved(image, "JPEG" if kind in ("jpeg", "cmyk") else "PNG", exif=exif)


def saved(image, form="PNG", **options):
    """The bytes of an image file."""
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def noise(seed, width=20, height=16):
    """A PNG that is like no other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels))


def flat(level, edge=8):
    """A grey PNG of one level."""
    return saved(Image.new("L", (edge, edge), level))


def make_tar(path, members, mode="w"):
    """Write (name, bytes) as a tar file."""
    with tarfile.open(path, mode, format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def pair(key, image, label, suffix="png"):
    """The members of a sample."""
    return [(f"{key}.{suffix}", image), (f"{key}.cls", str(label).encode())]
