"""Reading image files of any size and mode into small uint8 tensors.

Letters: C channels (1 grey or 3 colour), E edge in pixels.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

Made = TypeVar("Made")
SUFFIXES = (".png", ".jpg", ".jpeg")
FORMATS = ("PNG", "JPEG")  # whatever a file is called: Pillow has others whose reading starts programs
MAX_PIXELS = 64_000_000  # a decoded file above this is refused; Pillow alone would only warn
MAX_BYTES = 8 * MAX_PIXELS  # of a file; no pixel takes more
BROKEN = (OSError, SyntaxError, ValueError)  # what Pillow raises for broken notes of the camera
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")


class ImageReadError(ValueError):
    """A file that is no readable image; the message names the file and the reason."""


def read_image(path: str | Path, channels: int, edge: int, crop_pct: float = 1.0) -> Tensor:
    """One image file as ``fit_image`` makes it.

    Raises:
        FileNotFoundError: No such file.
        ImageReadError: The file is no image, is cut short, or has more than ``MAX_PIXELS`` pixels.
    """
    return decode(path, lambda image: fit_image(image, channels, edge, crop_pct))


def decode(path: str | Path, make: Callable[[Image.Image], Made], content: bytes | None = None) -> Made:
    """What ``make`` makes of the image that ``open_image`` opens; same errors as ``read_image``."""
    name = printable(path)
    with open_image(path, _content_of(Path(path), name) if content is None else content) as image:
        try:
            image.load()  # from memory: of a file Pillow allocates whatever lengths are written there
        except MemoryError:
            raise
        except Exception as error:  # damaged files make Pillow fail in any way
            raise ImageReadError(f"{name}: {_reason(error)}") from error
        try:
            return make(image)
        except BROKEN as error:  # what is noted of the camera is read as late as here
            raise ImageReadError(f"{name}: {_reason(error)}") from error


def fit_image(image: Image.Image, channels: int, edge: int, crop_pct: float = 1.0) -> Tensor:
    """Shorter side resized to E / crop_pct, then the middle E x E: uint8 [C, E, E]."""
    whole = upright(image, channels)
    return resized(whole, edge, middle_of(whole.size, edge, crop_pct))


def middle_of(size: tuple[int, int], edge: int, crop_pct: float = 1.0) -> tuple[float, float, float, float]:
    """What ``fit_image`` keeps of an upright image of (width, height): left, top, right, bottom."""
    reach = min(size) * edge / math.floor(edge / crop_pct) / 2
    x, y = size[0] / 2, size[1] / 2
    return x - reach, y - reach, x + reach, y + reach


def resized(image: Image.Image, edge: int, box: tuple[float, float, float, float]) -> Tensor:
    """The part (left, top, right, bottom) of an image at E x E: uint8 [C, E, E]."""
    pixels = np.array(image.resize((edge, edge), Image.Resampling.BILINEAR, box=box))
    return torch.from_numpy(pixels.reshape(edge, edge, -1)).permute(2, 0, 1).contiguous()


def upright(image: Image.Image, channels: int, *, turn: bool = True) -> Image.Image:
    """The image as the camera was held, grey or in colour: transparency laid on white, 16-bit grey scaled to 8.

    Without ``turn`` its pixels stay where the file has them, however the camera was held.
    """
    turned = ImageOps.exif_transpose(image) if turn else image  # first: new images know nothing of the camera
    return _to_eight_bit(turned).convert("L" if channels == 1 else "RGB")


def open_image(path: str | Path, content: bytes | None = None) -> Image.Image:
    """An open image, its pixels not decoded yet; same errors as ``read_image``.

    ``content`` is the file's, where it was read already; ``path`` then only names it.
    """
    name = printable(path)
    if content is None:
        _expect_file(Path(path), name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path if content is None else io.BytesIO(content), formats=FORMATS)
    except MemoryError:
        raise
    except Exception as error:
        raise ImageReadError(f"{name}: {_reason(error)}") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ImageReadError(f"{name}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
    return image


def _expect_file(path: Path, name: str) -> int:
    """Bytes of a file; raises where it is none: reading a device may never end, and reading a pipe not even begin."""
    if not path.exists():
        raise FileNotFoundError(f"no image file {name}")
    if not path.is_file():
        raise ImageReadError(f"{name}: {'Is a directory' if path.is_dir() else 'a device or pipe'}, not a file")
    return path.stat().st_size


def _content_of(path: Path, name: str) -> bytes:
    """The bytes of an image file."""
    if (size := _expect_file(path, name)) > MAX_BYTES:
        raise ImageReadError(f"{name}: {size:,} bytes, more than {MAX_BYTES:,}")
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImageReadError(f"{name}: {error.strerror}") from error


def _reason(error: Exception) -> str:
    """Why Pillow cannot read a file, in words."""
    if isinstance(error, Image.UnidentifiedImageError):
        return f"not an image that can be read ({' or '.join(FORMATS)})"
    return printable(str(error) or type(error).__name__)


def printable(path: str | Path) -> str:
    """A path for messages: bytes of names that are no UTF-8 are written out, and what would steer a terminal."""
    text = str(path).encode(errors="backslashreplace").decode()
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def is_grey(path: str | Path) -> bool:
    """Whether the file's mode has no colour."""
    with open_image(path) as image:
        return image.mode in GREY_MODES


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """A mode that ``convert`` keeps the picture of: Pillow clips 16-bit grey and drops transparency."""
    if image.mode.startswith("I"):
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray((wide // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        pixels = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", pixels.size, "white"), pixels)
    return image
