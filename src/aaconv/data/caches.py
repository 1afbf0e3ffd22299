"""Folders of files made once and used by every process: each appears whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from aaconv._files import beside, remove_unfinished

VARIABLE = "AACONV_CACHE"


def cache_folder() -> Path:
    """``$AACONV_CACHE``, or the folder ``aaconv`` beside torch's own, by default ``~/.cache/torch/aaconv``."""
    import torch

    given = os.environ.get(VARIABLE)
    return Path(given).expanduser() if given else Path(torch.hub.get_dir()).parent / "aaconv"


def make_folder(target: Path, fill: Callable[[Path], object]) -> Path:
    """``target``, which ``fill`` fills unless it is there: beside it first, under another name until it is whole.

    Of processes that make it at once, all use the first that is ready.

    Raises:
        OSError: It cannot be written.
    """
    unfinished = beside(target)
    try:
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_unfinished(target.parent)
        unfinished.mkdir()
        fill(unfinished)
        _rename(unfinished, target)
    except OSError as error:
        raise OSError(
            f"{target} cannot be made: {error}; another folder can be named as argument or in ${VARIABLE}"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _rename(unfinished: Path, target: Path) -> None:
    try:
        unfinished.rename(target)
    except OSError:
        if not target.is_dir():
            raise
