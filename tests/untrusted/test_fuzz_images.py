"""Ten thousand damaged images: each is read or refused as an image that cannot be."""

import zlib

import numpy as np
import pytest
from PIL import Image

from aaconv.data.images import ImageReadError, is_grey, read_image
from tests.data.pictures import KINDS, encoded, saved
from tests.untrusted.damage import damaged
from tests.untrusted.guard import fuzz

WORDS = (
    b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"acTL", b"fcTL", b"\xff\xd8",
    b"\xff\xe1", b"\xff\xc0", b"\xff\xc4", b"\xff\xdb", b"\xff\xda", b"\xff\xd9", b"Exif\0\0", b"II*\0", b"MM\0*",
)  # fmt: skip


def every_kind():
    """Of what we read and of what Pillow could read too."""
    picture = Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3))
    others = [saved(picture, form) for form in ("GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "PCX", "ICO", "EPS", "MPO")]
    text = saved(picture, "JPEG", progressive=True, quality=95)
    return [*(encoded(kind, 16) for kind in KINDS), text, *others]


def with_sums(content):
    """A PNG file with the checksums that its chunks should have."""
    if not content.startswith(b"\x89PNG"):
        return content
    out, at = content[:8], 8
    while at + 12 <= len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        body = content[at + 4 : at + 8 + size]
        out += content[at : at + 4] + body + zlib.crc32(body).to_bytes(4, "big")
        at += 12 + size
    return out


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.hard)])
def test_images(inside, seed, count):
    path, good = inside / "a.png", every_kind()

    def make(number):
        path.write_bytes(damaged(good, number, words=WORDS, reseal=with_sums, seed=seed))

    def read(_):
        is_grey(path)
        read_image(path, 3, 8)

    found = fuzz(count, make, read, (ImageReadError,))
    assert min(found["accepted"], found["ImageReadError"]) > count / 10
