"""The kernels of the CPU, compiled for a dtype and kept on the disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from zlib import crc32

from numba import njit, types

from aaconv.ops.cpu_backward import backward, backward_parts
from aaconv.ops.cpu_common import OPTIONS
from aaconv.ops.cpu_forward import forward, forward_parts

__all__ = ["backward", "backward_parts", "compiled", "forward", "forward_parts"]


@cache
def compiled(kernel: Callable[..., None], bits: int) -> Callable[..., None]:
    """``forward`` or ``backward`` for float32 or float64, taken from the disk if it is there."""
    number = types.float32 if bits == 32 else types.float64
    array4, array3, work = (types.Array(number, dimensions, "C") for dimensions in (4, 3, 1))
    lse = types.Array(types.float64, 3, "C")
    tiles, ends, integer = types.Array(types.int64, 2, "C"), types.Array(types.int64, 1, "C"), types.int64
    scratch = tiles, work, ends, types.Array(types.int64, 2, "C")
    if kernel is forward:
        signature = types.void(*(array4,) * 5, array3, number, *scratch, array4, lse, integer, integer)
    else:
        results = *(array4,) * 5, *(integer,) * 3
        signature = types.void(*(array4,) * 5, number, *scratch, lse, array4, array3, *results)
    # Numba looks at the kernel's own file to tell whether what it kept is old; the name that it keeps it by covers all.
    sources = sorted(Path(__file__).parent.glob("cpu_*.py"))
    name = f"{kernel.__name__}_{crc32(b''.join(path.read_bytes() for path in sources)):08x}"

    def kept_as(name: str) -> Callable[..., None]:
        kernel.__qualname__ = name
        return njit(signature, nogil=True, cache=True, **OPTIONS)(kernel)

    try:
        return kept_as(name)
    except (OSError, RuntimeError):  # no folder to keep compiled code in, or no room
        return njit(signature, nogil=True, **OPTIONS)(kernel)
    except Exception:  # what is kept is damaged; an error of the kernel itself comes again
        return kept_as(f"{name}_again")
