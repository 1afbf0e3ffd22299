"""Seeing attention: recording, plots, the report."""

from aaconv.explain.record import Recording, record

__all__ = ["Recording", "record"]
