"""The paper's tables with our counts beside the printed figures."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch

from aaconv._checks import expect_file, expect_one_of
from aaconv.models import check_model_name, create_model
from aaconv.models.complexity import measure_complexity
from aaconv.paper import SURE, TABLES, Row, Table

RESULTS_BYTES = 1_000_000  # of a file of results
CONVENTION = (
    "GFLOPs of one image: two for each multiply-accumulate of convolutions and linear layers; of attention's products "
    "q k^T and weights v one each, the position terms left out. That is the counting which the printed figures fit; "
    "those of table 1 fit better with two each and the position terms, which is how ours are counted there."
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table, counted: figures as shown, empty where there is none."""

    table: int
    network: str
    model: str
    parameters: str  # millions, ours
    printed_parameters: str
    parameters_differ: str
    gflops: str
    printed_gflops: str
    gflops_differ: str
    counts_are: str  # how sure the printed counts are
    printed_top1: str  # percent
    our_top1: str
    note: str


def paper_tables(results: Mapping[str, float] | None = None) -> Iterator[tuple[Table, list[Line]]]:
    """Each table of the paper with our parameters and GFLOPs, counted on the meta device.

    Args:
        results: Top-1 accuracy in percent of networks that have been trained, by name.
    """
    for table in TABLES:
        lines = [_line(row, results or {}) for row in table.rows]
        yield (
            table,
            [replace(line, note=f"{line.note} (closest)") if line in _closest(lines) else line for line in lines],
        )


def _closest(lines: list[Line]) -> list[Line]:
    """Of several readings of one printed row, the one whose counts come nearest in sum of shares of the printed."""
    readings = {line.network: [other for other in lines if other.network == line.network] for line in lines}
    return [min(group, key=_distance) for group in readings.values() if len(group) > 1 and group[0].parameters_differ]


def _distance(line: Line) -> float:
    printed = {line.printed_parameters: line.parameters_differ, line.printed_gflops: line.gflops_differ}
    return sum(abs(float(differ)) / float(figure) for figure, differ in printed.items() if differ)


def _line(row: Row, results: Mapping[str, float]) -> Line:
    parameters, gflops = (
        (None, None)
        if row.model is None
        else _counted(row.model, tuple(row.changes.items()), row.image_size, row.convention)
    )
    usual = row.changes.get("position", "relative") == "relative"
    return Line(
        table=row.table,
        network=row.label,
        model=row.model or "",
        parameters=_text(parameters, 3),
        printed_parameters=_text(row.parameters),
        parameters_differ=_difference(parameters, row.parameters, 3),
        gflops=_text(gflops, 3),
        printed_gflops=_text(row.gflops),
        gflops_differ=_difference(gflops, row.gflops, 3),
        counts_are=row.sure if row.parameters or row.gflops else "",
        printed_top1=_text(row.top1),
        our_top1=_text(results.get(row.model or ""), 1) if usual else "",
        note=row.note,
    )


@cache
def _counted(name: str, changes: tuple[tuple[str, Any], ...], image_size: int, convention: str) -> tuple[float, float]:
    """Millions of parameters and GFLOPs; some networks stand in several tables."""
    with torch.device("meta"):
        model = create_model(name, **dict(changes))
    counted = measure_complexity(model, 3, image_size, convention)
    return counted.parameters / 1e6, counted.flops / 1e9


def _text(value: float | None, digits: int | None = None) -> str:
    if value is None:
        return ""
    return f"{value:g}" if digits is None else f"{value:.{digits}f}"


def _difference(ours: float | None, printed: float | None, digits: int) -> str:
    return "" if ours is None or printed is None else f"{ours - printed:+.{digits}f}"


def read_results(path: Path) -> dict[str, float]:
    """Top-1 accuracy in percent by network from a CSV file with the columns ``model`` and ``top1``.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: No CSV in UTF-8, a column is missing, a network unknown or given twice, an accuracy no percentage.
    """
    expect_file("results", path, RESULTS_BYTES)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        try:
            if not {"model", "top1"} <= set(reader.fieldnames or ()):
                raise ValueError(f"it must have the columns model and top1, got {reader.fieldnames}")
            rows = [(row["model"], _percentage(row)) for row in reader]
        except (csv.Error, ValueError) as error:
            raise ValueError(f"{path}: {error}") from error
    twice = [name for name, count in Counter(name for name, _ in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{path}: {twice[0]} is given twice; give it once")
    return dict(rows)


def _percentage(row: dict[str, str]) -> float:
    check_model_name(row["model"])
    try:
        value = float(row["top1"])
    except (TypeError, ValueError):
        value = -1.0
    if not 0 <= value <= 100:
        raise ValueError(f"top1 of {row['model']} must be a percentage, got {row['top1']!r}")
    return value


def as_csv(tables: Iterator[tuple[Table, list[Line]]]) -> str:
    """All rows in one table with a header."""
    lines = [asdict(line) for _, found in tables for line in found]
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return out.getvalue()


HEADERS = {
    "network": "network",
    "model": "name here",
    "parameters": "M params",
    "printed_parameters": "printed",
    "parameters_differ": "differ",
    "gflops": "GFLOPs",
    "printed_gflops": "printed",
    "gflops_differ": "differ",
    "counts_are": "counts are",
    "printed_top1": "printed top-1",
    "our_top1": "our top-1",
    "note": "note",
}


def as_text(tables: Iterator[tuple[Table, list[Line]]]) -> str:
    """Columns for a terminal."""
    return _document(tables, lambda cells, widths: "  ".join(map(str.ljust, cells, widths)).rstrip(), "{}", rule="-")


def as_markdown(tables: Iterator[tuple[Table, list[Line]]]) -> str:
    """Tables of GitHub's Markdown."""
    return _document(
        tables, lambda cells, widths: f"| {' | '.join(map(str.ljust, cells, widths))} |", "## {}", rule="-"
    )


def _document(
    tables: Iterator[tuple[Table, list[Line]]],
    join: Callable[[list[str], list[int]], str],
    heading: str,
    rule: str,
) -> str:
    parts = []
    for table, found in tables:
        rows = [list(HEADERS.values())] + [[str(getattr(line, name)) for name in HEADERS] for line in found]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        rows.insert(1, [rule * width for width in widths])
        title = heading.format(f"Table {table.number}: {table.title}")
        parts.append("\n".join([title, "", *(join(row, widths) for row in rows)]))
    sure = "; ".join(f"{name}: {meaning}" for name, meaning in SURE.items())
    return "\n\n".join([*parts, CONVENTION, f"Counts are {sure}. Accuracies are the paper's."]) + "\n"


FORMATS: dict[str, Callable[[Iterator[tuple[Table, list[Line]]]], str]] = {
    "text": as_text,
    "csv": as_csv,
    "markdown": as_markdown,
}


def format_tables(form: str, results: Mapping[str, float] | None = None) -> str:
    """The paper's tables as "text", "csv" or "markdown"."""
    return FORMATS[expect_one_of("form", form, FORMATS)](paper_tables(results))
