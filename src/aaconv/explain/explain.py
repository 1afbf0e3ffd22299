"""Where networks look on images: pictures as files, and one page that shows the maps from any point."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from aaconv._checks import expect_one_of
from aaconv._files import write_whole
from aaconv.data.images import decode
from aaconv.detection.predict import distinct_stems
from aaconv.explain.look import Look, Network, Share
from aaconv.explain.overview import overview
from aaconv.explain.page import page_edge, write_page
from aaconv.explain.pictures import maps_from, plot_beside, plot_layers, plot_points
from aaconv.explain.samples import samples
from aaconv.nn.attention import PARTS

PAGE = "report.html"
SPREAD = 4  # points an edge of the grid of points
See = Callable[[Network], Look]
Row = TypeVar("Row")


def explain_files(
    checkpoints: Sequence[str | Path],
    images: Sequence[str | Path],
    out: str | Path,
    *,
    queries: Sequence[tuple[float, float]] = (),
    layers: Sequence[str] = ("*",),
    part: str = "both",
) -> Path:
    """Write pictures of where networks look on images, and a page; return the page.

    Args:
        checkpoints: Of ``aaconv train`` or ``aaconv detect train``, or names of those in the package.
        images: PNG or JPEG files; none takes samples, test images of the first network's data or photographs.
        out: Folder that gets ``report.html``, and PNGs in a folder for each network.
        queries: Points (x, y) to look from in the pictures, in pixels of the images; none takes the middle.
        layers: Shell patterns of the attention layers to show.
        part: Of the logits: "both", "content" or "position".

    Raises:
        FileNotFoundError: A checkpoint or image is missing.
        ValueError: A checkpoint or image cannot be read, no attention layer fits the patterns or has that part, a query
            lies outside of what a network sees, or the images are too many for one page.
    """
    expect_one_of("part", part, PARTS)
    networks = [Network.load(checkpoint, layers) for checkpoint in checkpoints]
    for path in images:  # before any work
        decode(path, lambda image: image.load())
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    seen: dict[str, list[Look]] = {}
    sources = _sources(images) if images else _samples(networks[0])
    for name, see in _bar("looking", sources):
        seen[name] = [see(network) for network in networks]
    points = {name: [_points(look, queries) for look in looks] for name, looks in seen.items()}
    edge = page_edge(list(seen.values()))
    evidence: dict[str, list[Tensor | None]] = {name: [] for name in seen}
    overviews = []
    for index, (network, stem) in enumerate(
        zip(networks, distinct_stems([f"{one.title}.x" for one in networks]), strict=True)
    ):
        files = distinct_stems([f"{_file_name(name)}.png" for name in seen])
        for file, (name, looks) in zip(files, _bar(f"drawing {network.title}", seen), strict=True):
            look = looks[index]
            evidence[name].append(network.evidence(look))
            figures = _pictures(look, points[name][index], evidence[name][-1], part)
            _save(folder / stem, {f"{file}-{title}": figure for title, figure in figures.items()})
        overviews.append(overview(network, [looks[index] for looks in seen.values()]))
        _save(folder / stem, overviews[-1].figures)
    write_page(folder / PAGE, seen, evidence, overviews, edge, part)
    return folder / PAGE


def _sources(images: Sequence[str | Path]) -> dict[str, See]:
    """By distinct names, what makes a network look at each file."""
    names = distinct_stems(images)
    return {name: partial(_look_at, path) for name, path in zip(names, images, strict=True)}


def _look_at(path: str | Path, network: Network) -> Look:
    return decode(path, network.look)


def _samples(first: Network) -> dict[str, See]:
    return {name: partial(Network.look, image=image) for name, image in samples(first.card).items()}


def _points(look: Look, queries: Sequence[tuple[float, float]]) -> list[Share]:
    return [look.share_of(x, y) for x, y in queries] or [(0.5, 0.5)]


def _pictures(look: Look, shares: Sequence[Share], evidence: Tensor | None, part: str) -> dict[str, Figure]:
    """The layers from each point, a grid of points, and class activation beside attention."""
    points = [_pixel(look, share) for share in shares]
    maps = [maps_from(look.recording, point, look.size, part, look.layers) for point in points]
    found = {
        f"from-{number}": plot_layers(look.picture, of_point, point)
        for number, (of_point, point) in enumerate(zip(maps, points, strict=True), start=1)
    }
    found["points"] = _grid_of_points(look, part)
    if evidence is not None:
        last = look.layers[-1]
        beside = {f"evidence for {look.answers[0].label}": evidence, f"{last}, mean": maps[0][last].mean(dim=0)}
        found["activation"] = plot_beside(look.picture, beside)
    return found


def _grid_of_points(look: Look, part: str) -> Figure:
    """The last layer's heads, averaged, from points spread evenly."""
    spread = [(index + 0.5) / SPREAD for index in range(SPREAD)]
    points = [_pixel(look, (x, y)) for y in spread for x in spread]
    last = look.layers[-1:]
    maps = [maps_from(look.recording, point, look.size, part, last)[last[0]].mean(dim=0) for point in points]
    return plot_points(look.picture, torch.stack(maps), points, columns=SPREAD)


def _pixel(look: Look, share: Share) -> tuple[float, float]:
    return share[0] * look.size[1], share[1] * look.size[0]


def _file_name(name: str) -> str:
    """A name of an image as a file's."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)


def _save(folder: Path, figures: Mapping[str, Figure]) -> None:
    for name, figure in figures.items():
        write_whole(folder / f"{name}.png", partial(figure.savefig, format="png", dpi=130))


def _bar(title: str, rows: Mapping[str, Row]) -> Iterable[tuple[str, Row]]:
    return tqdm(rows.items(), desc=title, disable=None if len(rows) > 1 else True)
