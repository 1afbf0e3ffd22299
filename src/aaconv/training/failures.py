"""What goes wrong outside of the program, in plain words instead of a traceback."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from aaconv._errors import Failed, Stopped

GOES_ON = "the same command goes on from the last checkpoint"
# Patterns of messages of torch's, and what they mean.
KNOWN = {
    r"DataLoader worker .*(killed|exited)": f"a process that reads images died, perhaps for lack of memory; {GOES_ON}; "
    "try fewer machine.workers",
    r"Connection (closed|reset) by peer|Broken pipe|Connection refused|Timed out waiting|timeout": "another process "
    f"of the run cannot be reached; {GOES_ON}",
}


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Let mistakes and bugs through as they are, and turn what the machine does into ``Failed``."""
    try:
        yield
    except (Stopped, Failed):
        raise
    except torch.OutOfMemoryError as error:
        advice = "use a smaller batch_size, or a larger accumulate for the same steps"
        raise Failed(f"the device's memory does not suffice ({_first(error)}); {advice}") from error
    except torch.distributed.DistError as error:
        raise Failed(f"processes of the run lost each other ({_first(error)}); {GOES_ON}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise Failed(f"{error.strerror} (in {folder}); make room, then {GOES_ON}") from error
        raise _from_worker(error) from error
    except ValueError as error:
        raise _from_worker(error) from error
    except RuntimeError as error:
        meaning = next((text for pattern, text in KNOWN.items() if re.search(pattern, str(error))), None)
        if meaning is None:
            raise
        raise Failed(f"{meaning} ({_first(error)})") from error


def _from_worker(error: Exception) -> Exception:
    """An error of a loader's process comes with its traceback as text: the same error with its last line alone."""
    if "Original Traceback" not in str(error):
        return error
    last = str(error).strip().splitlines()[-1]
    return type(error)(re.sub(r"^[\w.]+: ", "", last))


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
