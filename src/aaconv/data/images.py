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
MAX_PIXELS = 64_000_000  # a decoded file above this is refused; Pillow alone would only warn
BROKEN = (OSError, SyntaxError, ValueError)  # what Pillow raises for broken files
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
    with open_image(path, content) as image:
        try:
            return make(image)
        except BROKEN as error:  # pixels are read as late as here
            raise ImageReadError(f"{printable(path)}: {error}") from error


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
    if content is None and not Path(path).exists():
        raise FileNotFoundError(f"no image file {name}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path if content is None else io.BytesIO(content))
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"{name}: {error}") from error
    except BROKEN as error:
        reason = "not an image that can be read" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ImageReadError(f"{name}: {reason}") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ImageReadError(f"{name}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
    return image


def printable(path: str | Path) -> str:
    """A path for messages: bytes of names that are no UTF-8 are written out."""
    return str(path).encode(errors="backslashreplace").decode()


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
