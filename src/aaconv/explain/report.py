"""A self-contained HTML page: tables and figures inside, no file or address outside."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure

from aaconv._files import write_text


@dataclass(frozen=True)
class Section:
    """A heading with paragraphs, then a table or a figure or neither."""

    title: str
    text: Sequence[str] = ()
    header: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    figure: Figure | None = None
    alt: str = ""  # what the figure shows, for readers who cannot see it

    @property
    def picture(self) -> str | None:
        """The figure as a data address."""
        if self.figure is None:
            return None
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=130)
        return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def write_report(
    path: str | Path,
    title: str,
    lead: str,
    sections: Sequence[Section],
    template: str = "report.html.j2",
    **values: object,
) -> None:
    """Render the page and write it whole; ``values`` are what a ``template`` of its own needs beside."""
    environment = Environment(
        loader=PackageLoader("aaconv.explain"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(title=title, lead=lead, sections=sections, **values)
    write_text(path, page)
