"""Reading image files of any size and mode into small uint8 tensors.

Letters: C channels (1 grey or 3 colour), E edge in pixels.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg")
MAX_PIXELS = 64_000_000  # a decoded file above this is refused; Pillow alone would only warn
GREY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16B", "I;16L")


class ImageReadError(ValueError):
    """A file that is no readable image; the message names the file and the reason."""


def read_image(path: str | Path, channels: int, edge: int) -> Tensor:
    """One image as uint8 [C, E, E]: shorter side resized to E, then the centre cut out.

    Transparent pixels are laid on white, 16-bit grey is scaled to 8, and the camera's orientation is applied.

    Raises:
        FileNotFoundError: No such file.
        ImageReadError: The file is no image, is cut short, or has more than ``MAX_PIXELS`` pixels.
    """
    with open_image(path) as image:
        try:
            upright = ImageOps.exif_transpose(_to_eight_bit(image))
            plain = upright.convert("L" if channels == 1 else "RGB")
            fitted = ImageOps.fit(plain, (edge, edge), Image.Resampling.BILINEAR)
        except (OSError, SyntaxError, ValueError) as error:
            raise ImageReadError(f"{path}: {error}") from error
    return torch.from_numpy(np.array(fitted)).reshape(edge, edge, channels).permute(2, 0, 1)


def open_image(path: str | Path) -> Image.Image:
    """An open image, its pixels not decoded yet; same errors as ``read_image``."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no image file {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
    except Image.DecompressionBombError as error:
        raise ImageReadError(f"{path}: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:
        reason = "not an image that can be read" if isinstance(error, Image.UnidentifiedImageError) else error
        raise ImageReadError(f"{path}: {reason}") from error
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise ImageReadError(f"{path}: {image.width}x{image.height} pixels, more than {MAX_PIXELS:,}")
    return image


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
