"""Numbers as the page shows them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aaconv.reproduction.plan import Claim, Printed
from aaconv.reproduction.statistics import Accuracies, difference, interval, verdict

MISSING = "missing"  # of a cell whose runs are not finished


def judged(claim: Claim, found: Accuracies) -> tuple[str, str]:
    """Verdict and difference in points; ``MISSING`` and nothing where there are not two seeds of all its arms."""
    gap = difference(claim, found)
    if gap is None:
        return MISSING, ""
    fewer = f" ({gap.count} seeds)" if gap.count < max(map(len, found.values())) else ""
    return verdict(gap), f"{100 * gap.mean:+.2f} ± {100 * gap.reach:.2f}{fewer}"


def percent(values: Iterable[float]) -> str:
    """Mean and reach of its interval."""
    known = list(values)
    if len(known) < 2:
        return f"{100 * known[0]:.1f} (1 seed)" if known else MISSING
    found = interval(known)
    return f"{100 * found.mean:.1f} ± {100 * found.reach:.1f}"


def span(values: Iterable[float]) -> str:
    """Lowest and highest."""
    known = sorted(values)
    return f"{100 * known[0]:.1f} to {100 * known[-1]:.1f}" if known else MISSING


def printed(figure: Printed | None) -> str:
    """A figure of the paper."""
    return "" if figure is None else f"{figure.value:.1f}{_doubt(figure)}"


def printed_gaps(claim: Claim) -> str:
    """The differences that the paper has for a claim, by experiment."""
    return ", ".join(f"{gap.value:+.1f} {name}{_doubt(gap)}" for name, gap in claim.printed().items())


def _doubt(figure: Printed) -> str:
    return " (remembered)" if figure.remembered else ""


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """In Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
