"""Refuse work that cannot fit before anything is allocated."""

from __future__ import annotations

import os

import torch


def expect_memory(wanted: int, device: torch.device, what: str) -> None:
    """Raise ValueError when ``wanted`` bytes exceed all the memory that ``device`` has."""
    total = total_memory(device)
    if total is not None and wanted > total:
        raise ValueError(
            f"{what} would take about {wanted / 2**30:,.0f} GiB of memory beside its inputs, {device.type} has "
            f"{total / 2**30:,.0f} GiB; use a smaller map (pool=2), a smaller batch or, for 'reference', impl='folded'"
        )


def total_memory(device: torch.device) -> int | None:
    """All memory of the device in bytes, used or not; None where that is not known."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
