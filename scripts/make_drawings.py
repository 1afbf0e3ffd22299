"""Draw the guide's figures as SVG files that are readable on light and on dark pages.

Run: python scripts/make_drawings.py [--out docs/images]
"""

import argparse
import sys
from html import escape
from pathlib import Path

# Every drawing lies on a card of its own, so that it stays readable where page and system disagree on dark mode.
STYLE = """
.card { fill: #ffffff; stroke: #d0d7de }
text { font: 14px system-ui, "Helvetica Neue", Arial, sans-serif; fill: #1f2328 }
.soft { fill: #59636e; font-size: 13px }
.head { font-weight: 600 }
.cell { fill: #1f2328; font-size: 13px }
.line { stroke: #59636e; fill: none; stroke-width: 1.5 }
.tip { fill: #59636e }
.box { stroke: #59636e; stroke-width: 1 }
.way { stroke: #57606a; fill: none; stroke-width: 1.5 }
.end { fill: #57606a }
.mark { stroke: #cf222e; fill: none; stroke-width: 3 }
@media (prefers-color-scheme: dark) {
  .card { fill: #1a1d21; stroke: #3d444d }
  text { fill: #e6edf3 }
  .soft { fill: #9ea7b1 }
  .cell { fill: #1f2328 }
  .line { stroke: #9ea7b1 }
  .tip { fill: #9ea7b1 }
  .box { stroke: #9ea7b1 }
  .mark { stroke: #ff7b72 }
}
"""
MARKER = (
    '<marker id="{0}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
    '<path d="M0 0 L8 4 L0 8 z" class="{0}"/></marker>'
)
COLD, WARM, PLAIN, MIDDLE = (120, 170, 230), (244, 162, 89), (232, 236, 240), (246, 246, 246)


class Drawing:
    """SVG elements, collected."""

    def __init__(self, width: int, height: int, title: str):
        self.size, self.title, self.parts = (width, height), title, []

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> None:
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{kind}" text-anchor="{anchor}">{escape(words)}</text>')

    def cell(self, x: float, y: float, wide: float, high: float, colour: tuple[int, ...], label: str = "") -> None:
        fill = "#{:02x}{:02x}{:02x}".format(*colour)
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" fill="{fill}" class="box" rx="2"/>'
        )
        for i, line in enumerate(lines := label.split("\n") if label else []):
            self.text(x + wide / 2, y + high / 2 + 5 + 17 * (i - (len(lines) - 1) / 2), line, "cell", "middle")

    def mark(self, x: float, y: float, wide: float, high: float) -> None:
        self.parts.append(f'<rect x="{x:g}" y="{y:g}" width="{wide:g}" height="{high:g}" class="mark" rx="3"/>')

    def arrow(self, *points: tuple[float, float], inside: bool = False) -> None:
        """A path with a tip; ``inside`` a cell it is dark in both modes."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        kind, tip = ("way", "end") if inside else ("line", "tip")
        self.parts.append(f'<polyline points="{path}" class="{kind}" marker-end="url(#{tip})"/>')

    def line(self, *points: tuple[float, float]) -> None:
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="line" stroke-dasharray="3 3"/>')

    def __str__(self) -> str:
        width, height = self.size
        return "\n".join(
            [
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
                f'height="{height}" role="img">',
                f"<title>{escape(self.title)}</title>",
                f"<style>{STYLE}</style>",
                *map(MARKER.format, ("tip", "end")),
                f'<rect x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="10" class="card"/>',
                *self.parts,
                "</svg>\n",
            ]
        )


def shade(place: float) -> tuple[int, ...]:
    """Blue at -1, nearly white at 0, orange at 1."""
    end, share = (COLD, -place) if place < 0 else (WARM, place)
    return tuple(round(m + (e - m) * share) for m, e in zip(MIDDLE, end, strict=True))


def signed(offset: int) -> str:
    """With a true minus sign."""
    return "0" if offset == 0 else f"+{offset}" if offset > 0 else f"\u2212{-offset}"


def layer() -> Drawing:
    """Convolution and attention side by side."""
    d = Drawing(780, 262, "The layer: convolution and attention on the same input, concatenated along channels")
    d.cell(20, 100, 92, 62, PLAIN, "input\n[B, C, H, W]")
    d.cell(160, 36, 420, 52, COLD, "convolution k \u00d7 k, O \u2212 d_v filters")
    d.cell(160, 150, 118, 76, WARM, "1 \u00d7 1\nqueries, keys,\nvalues")
    d.cell(300, 150, 160, 76, WARM, "N heads: every cell\nlooks at every cell,\ncontent + position")
    d.cell(482, 150, 98, 76, WARM, "1 \u00d7 1\nd_v to d_v")
    d.arrow((112, 120), (136, 120), (136, 62), (158, 62))
    d.arrow((112, 142), (136, 142), (136, 188), (158, 188))
    for x in (278, 460):
        d.arrow((x, 188), (x + 20, 188))
    d.cell(628, 50, 40, 110, COLD, "O \u2212\nd_v")
    d.cell(628, 160, 40, 34, WARM, "d_v")
    d.arrow((580, 62), (604, 62), (604, 104), (626, 104))
    d.arrow((580, 188), (604, 188), (604, 177), (626, 177))
    for i, words in enumerate(("O channels;", "batch norm", "follows")):
        d.text(678, 104 + 18 * i, words, "soft")
    d.text(160, 248, "The convolution sees a window of k \u00d7 k cells, attention the whole map.", "soft")
    return d


def skew(size: int = 4) -> Drawing:
    """Products with every offset's vector, and the window that each query takes from them."""
    side, left, top, far = 44, 92, 92, 540
    d = Drawing(760, 366, "From relative to absolute positions: query x takes W of the 2W-1 products, shifted by x")
    d.text(20, 30, f"One row of W = {size} cells: 2W \u2212 1 = {2 * size - 1} vectors, one for each offset.", "head")
    d.text(left + 3.5 * side, 58, "offset, key minus query", "soft", "middle")
    d.text(far + 2 * side, 58, "column of the key", "soft", "middle")
    offsets = range(1 - size, size)
    for t, offset in enumerate(offsets):
        d.text(left + (t + 0.5) * side, top - 12, signed(offset), "", "middle")
    for x in range(size):
        d.text(left - 12, top + (x + 0.6) * side, f"x = {x}", "", "end")
        d.text(far - 12, top + (x + 0.6) * side, f"x = {x}", "", "end")
        d.text(far + (x + 0.5) * side, top - 12, str(x), "", "middle")
        for t, offset in enumerate(offsets):
            used = 0 <= x + offset < size
            colour = shade(offset / (size - 1)) if used else PLAIN
            d.cell(left + t * side, top + x * side, side, side, colour, signed(offset) if used else "")
        d.mark(left + (size - 1 - x) * side, top + x * side, size * side, side)
        for key in range(size):
            place = (key - x) / (size - 1)
            d.cell(far + key * side, top + x * side, side, side, shade(place), signed(key - x))
    d.arrow((left + 7 * side + 12, top + 2 * side), (far - 62, top + 2 * side))
    d.text((left + 7 * side + far - 50) / 2, top + 2 * side - 10, "shift", "soft", "middle")
    d.text(20, 300, "Left: the query's product with every vector, q_x \u00b7 r[offset]. Framed: the W offsets", "soft")
    d.text(
        20,
        320,
        f"that lead to a key of the row, from \u2212x to {size - 1} \u2212 x; the other cells lead outside.",
        "soft",
    )
    d.text(
        20,
        340,
        "Right: the same products by key: cells at one offset share a vector, wherever they stand.",
        "soft",
    )
    return d


def walk(height: int = 4, width: int = 6) -> Drawing:
    """What the kernels do for one query."""
    side, left, top, at = 40, 104, 116, 1
    d = Drawing(760, 388, "The kernels' walk over the keys of one query, row by row, with linear memory")
    d.text(20, 30, "One query, all keys: the logits are never stored together.", "head")
    d.text(left + width * side / 2, 58, "width terms: W numbers, the same for every row", "soft", "middle")
    for x in range(width):
        d.cell(left + x * side, 68, side, 28, shade((x - 2) / 4), f"w{x}")
    d.text(20, 106, "height terms", "soft")
    for y in range(height):
        d.cell(left - 52, top + y * side, 40, side, shade((y - 2) / 3), f"h{y}")
        for x in range(width):
            d.cell(left + x * side, top + y * side, side, side, (255, 222, 150) if y == at else PLAIN)
        d.arrow((left + 8, top + (y + 0.5) * side), (left + width * side - 8, top + (y + 0.5) * side), inside=True)
    d.mark(left + 2 * side, top + 2 * side, side, side)
    d.text(
        left + width * side / 2, top + height * side + 24, "keys [H, W]; framed: the query's own cell", "soft", "middle"
    )
    words = [
        ("The row of the map that is at hand:", "head"),
        ("logits = K^\u2212\u00bd ( q \u00b7 k + [w0 \u2026 w5] + h1 )", ""),
        ("weights = exp( logits \u2212 shift )", ""),
        ("sum  +=  all weights", ""),
        ("out  +=  weights \u00b7 v", ""),
        ("", ""),
        ("After the last row:  out / sum", ""),
    ]
    for i, (line, kind) in enumerate(words):
        d.text(390, 110 + 28 * i, line, kind)
    d.text(
        20,
        336,
        "Held for a query: H + W terms, one tile of logits, one sum and V totals, not H \u00d7 W weights.",
        "soft",
    )
    d.text(
        20,
        356,
        "Any shift gives the same result; it only keeps exp in range. The GPU kernels use the largest logit so far",
        "soft",
    )
    d.text(
        20, 374, "and rescale sum and out when a larger one comes; the CPU kernels take it from the first keys.", "soft"
    )
    return d


def sizes(size: int = 4, smaller: int = 3, larger: int = 6) -> Drawing:
    """A table at a smaller and a larger map."""
    side, middle = 46, 400
    d = Drawing(760, 286, "Tables at other sizes: the middle rows for smaller maps, interpolation for larger ones")

    def strip(cells: int, y: float, wide: float, values: list[float], words: str) -> None:
        start = middle - (2 * cells - 1) * wide / 2
        for t, value in enumerate(values):
            d.cell(start + t * wide, y, wide, 34, shade(value), signed(t - cells + 1))
        d.text(24, y + 15, f"{cells} cells", "head")
        d.text(24, y + 33, words, "soft")

    learned = [offset / (size - 1) for offset in range(1 - size, size)]
    for cells, wide, y in ((smaller, side, 44), (larger, 7 * side / 11, 200)):
        for edge in (-1, 1):
            near = 162 if y > 122 else 122
            d.line(
                (middle + edge * (2 * cells - 1) * wide / 2, y if y > 122 else y + 34),
                (middle + edge * (size - 0.5 if y > 122 else smaller - 0.5) * side, near),
            )
    strip(smaller, 44, side, learned[1:-1], "exact")
    strip(size, 125, side, learned, "as learned")
    stretched = [offset / (larger - 1) for offset in range(1 - larger, larger)]
    strip(larger, 200, 7 * side / 11, stretched, "interpolated")
    d.text(middle, 24, "the middle rows: the same offsets, the same vectors", "soft", "middle")
    d.text(middle, 262, "as many rows as offsets, between the learned ones, end on end; 0 stays 0", "soft", "middle")
    return d


DRAWINGS = {"layer": layer, "skew": skew, "walk": walk, "sizes": sizes}


def main() -> int:
    """Write every drawing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        (out / f"{name}.svg").write_text(str(draw()), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
