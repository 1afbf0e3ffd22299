"""Time and memory of work on the CPU or on a GPU, and the least that a GPU could take."""

import time
from collections.abc import Callable
from typing import Any

import torch

Work = Callable[..., object]


def milliseconds(device: torch.device, work: Work, *arguments: Any) -> float:
    """What ``work(*arguments)`` takes, until the device has finished it."""
    if device.type != "cuda":
        started = time.perf_counter()
        work(*arguments)
        return 1e3 * (time.perf_counter() - started)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    work(*arguments)
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def peak_on_gpu(work: Work, *arguments: Any) -> float:
    """MiB that ``work(*arguments)`` takes at its peak beside what is there already."""
    work(*arguments)  # what is compiled and kept for good is no part of it
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work(*arguments)
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def floors(shape: tuple[int, ...], dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Milliseconds, by mode, that moving each tensor once and the products alone would take on this GPU."""
    batch, heads, height, width, key, value = shape
    length = height * width
    numbers = batch * heads * length * 2 * (key + value)
    products = 2 * batch * heads * length**2 * (key + value)
    backward = 2 * batch * heads * length**2 * (3 * key + 2 * value)  # the logits once more, and five gradients
    rate, bandwidth = _matrix_rate(dtype), _bandwidth()
    moved = numbers * torch.finfo(dtype).bits / 8
    return {
        "floor, bytes": {"inference": 1e3 * moved / bandwidth, "training": 3e3 * moved / bandwidth},
        "floor, operations": {"inference": 1e3 * products / rate, "training": 1e3 * (products + backward) / rate},
    }


def _matrix_rate(dtype: torch.dtype) -> float:
    """Operations a second of a large product."""
    a = torch.randn(8192, 8192, device="cuda", dtype=dtype)
    return 2 * 8192**3 / (1e-3 * _best(lambda: a @ a))


def _bandwidth() -> float:
    """Bytes a second of a large copy, read and written."""
    a = torch.empty(2**28, device="cuda")
    b = torch.empty_like(a)
    return 2 * 4 * 2**28 / (1e-3 * _best(lambda: b.copy_(a)))


def _best(work: Work) -> float:
    return min(milliseconds(torch.device("cuda"), work) for _ in range(10))
