"""Attention for any network: convolutions replaced, a report of what changed, and the way back."""

from aaconv.surgery.operate import augment, reapply, unaugment
from aaconv.surgery.report import Replaced, Report, Skipped

__all__ = ["Replaced", "Report", "Skipped", "augment", "reapply", "unaugment"]
