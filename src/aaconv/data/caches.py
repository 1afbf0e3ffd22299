"""Folders of files made once and used by every process: each appears whole or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

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
    mine = f".{target.name}.{socket.gethostname()}."
    beside = target.with_name(f"{mine}{os.getpid()}.{secrets.token_hex(4)}")
    try:
        if target.is_dir():
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent, mine)
        beside.mkdir()
        fill(beside)
        _rename(beside, target)
    except OSError as error:
        raise OSError(
            f"{target} cannot be made: {error}; another folder can be named as argument or in ${VARIABLE}"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return target


def _rename(beside: Path, target: Path) -> None:
    try:
        beside.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def _remove_abandoned(folder: Path, prefix: str) -> None:
    """Remove what processes of this machine began and did not live to finish."""
    for path in folder.glob(f"{prefix}*"):
        process = path.name[len(prefix) :].split(".")[0]
        if process.isdecimal() and not _alive(int(process)):
            shutil.rmtree(path, ignore_errors=True)


def _alive(process: int) -> bool:
    """Whether there is such a process; on Windows, where asking would end it, always."""
    if sys.platform == "win32":
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # another user's
        return True
    return True
