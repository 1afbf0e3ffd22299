"""Files and folders of ours: each appears whole or not at all."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

MARK = "aaconv-unfinished"  # in the names of what is not whole yet
SHOWN = 40  # letters of the final name in them: the longest names leave no room for more


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, flush it to the disk, then give it the name.

    What processes that were killed left beside it is removed. A link stays one; a device or pipe, which no file may
    replace, is written to as it is.

    Raises:
        OSError: It cannot be written; names ``path``.
    """
    target = Path(path)
    if target.is_symlink() and target.is_file():
        target = target.resolve()
    try:
        if target.exists() and not (target.is_file() or target.is_dir()):
            write(target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _clean_once(target.parent)
        _write_beside(target, write)
    except OSError as error:
        if error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all; what no text may hold, as odd bytes of a name, is escaped."""
    write_whole(path, lambda beside: beside.write_bytes(text.encode("utf-8", "backslashreplace")))


def beside(target: Path) -> Path:
    """A name in the folder of ``target`` for what is to become it, which tells of this process."""
    token = secrets.token_hex(4)
    return target.with_name(f".{target.name[:SHOWN]}.{MARK}.{socket.gethostname()}.{os.getpid()}.{token}")


def remove_unfinished(folder: Path, *, all_processes: bool = False) -> None:
    """Remove what processes of this machine began in ``folder`` and did not live to finish.

    Args:
        all_processes: Also what is of other machines, or might still be written: the caller knows that it is not.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            if (found := _NAME.search(entry.name)) and (all_processes or _is_dead(*found.groups())):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)


_NAME = re.compile(rf"^\..*\.{MARK}\.(.+)\.(\d+)\.[0-9a-f]{{8}}$", re.DOTALL)
_clean_once = cache(remove_unfinished)


def _write_beside(target: Path, write: Callable[[Path], object]) -> None:
    unfinished = beside(target)
    try:
        write(unfinished)
        with unfinished.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        os.replace(unfinished, target)
    finally:
        unfinished.unlink(missing_ok=True)


def _is_dead(host: str, process: str) -> bool:
    return host == socket.gethostname() and not _alive(int(process))


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
