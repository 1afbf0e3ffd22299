"""Reading what cannot be trusted under guard: what it raises, writes, starts, takes of memory and how long it hangs."""

import faulthandler
import os
import resource
import signal
import sys
import traceback
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

ROOM = 2**30  # bytes of address space beside what is in use
PATIENCE = 60.0  # seconds for a single file; a good one takes milliseconds
MOST_FAULTS = 12  # that are told
DEADLY = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "socket.bind")
CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_watched: list | None = None


class Hangs(BaseException):
    """No reader may take it for an error of its own."""


def fuzz(count, make, read, allowed, *, room=ROOM):
    """Read ``count`` damaged files; how often it was accepted or refused, and by which error.

    Args:
        count: Of files.
        make: Gives the content of a number.
        read: Is given it, outside of what is watched only for what ``make`` does.
        allowed: The errors that the reader documents.
        room: Bytes of address space that reading may take.

    Raises:
        AssertionError: Another error came, memory ran out, or something was written, started or connected; the numbers
            are named.
    """
    found, faults = Counter(), []
    with _bounded(room), _awaited(PATIENCE + count):  # together, so that nothing piles up either
        for number in range(count):
            content = make(number)
            try:
                with _timed(number), _watched_for(number):
                    found[_outcome(read, content, allowed)] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                faults.append(f"file {number}: {type(error).__name__} {error} ({where.filename}:{where.lineno})")
                if len(faults) == MOST_FAULTS:
                    break
    print(f"\n{count} files: {dict(found.most_common())}")
    assert not faults, "\n".join(faults)
    return found


def _outcome(read, content, allowed):
    """ "accepted", or the name of the documented error, whose message is a line of text and hides no want of memory."""
    try:
        read(content)
    except allowed as error:
        _expect_told(error)
        return type(error).__name__
    return "accepted"


def _expect_told(error):
    text = str(error)
    assert text.strip(), f"{type(error).__name__} without a message"
    while error is not None:
        short = isinstance(error, MemoryError) or "allocate memory" in str(error)
        assert not short, f"memory ran out: {text}"
        error = error.__cause__


@contextmanager
def guarded(name, *, room=ROOM):
    """Fail where the block hangs, writes, starts a program or connects; memory ends ``room`` above what is in use."""
    with _bounded(room), _awaited(PATIENCE), _timed(name), _watched_for(name):
        yield


@contextmanager
def _bounded(room):
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@contextmanager
def _awaited(seconds):
    """End the process where nothing else ends it."""
    faulthandler.dump_traceback_later(10 * seconds, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def _timed(name):
    def give_up(*_):
        raise Hangs(f"{name}: reading it takes more than {PATIENCE:g} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def _watched_for(name):
    global _watched
    _watched = seen = []
    try:
        yield
    finally:
        _watched = None
    assert not seen, f"{name}: reading did {seen[:3]}"


def _hook(event, arguments):
    """Told by Python of all that is opened, started or connected."""
    if _watched is None:
        return
    if event == "open":
        path, mode, flags = arguments
        writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if writes and path != os.devnull:
            _watched.append((event, path, mode))
    elif event in DEADLY or event in CHANGING:
        _watched.append((event, *arguments[:2]))


sys.addaudithook(_hook)
