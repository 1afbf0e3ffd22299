"""Make docs/gallery: what the packaged networks look at, on their first test images, which nobody chose."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from matplotlib.figure import Figure
from tqdm import tqdm

from aaconv._files import write_text, write_whole
from aaconv.explain.look import Look, Network
from aaconv.explain.overview import Overview, overview
from aaconv.explain.pictures import maps_from, plot_beside, plot_layers, plot_points
from aaconv.explain.samples import samples
from aaconv.zoo import checkpoints

LOOKED_AT = 3  # samples of each network
SPREAD = 3  # points an edge of the grid of points


def layers(network: Network, looks: list[Look], found: Overview) -> Figure:
    """The first image, all layers and heads, from its middle."""
    look = looks[0]
    point = look.size[1] / 2, look.size[0] / 2
    return plot_layers(look.picture, maps_from(look.recording, point, look.size, layers=look.layers), point)


def points(network: Network, looks: list[Look], found: Overview) -> Figure:
    """The second image, the last layer's heads averaged, from points spread evenly."""
    look, shares = looks[1], [(index + 0.5) / SPREAD for index in range(SPREAD)]
    spread = [(x * look.size[1], y * look.size[0]) for y in shares for x in shares]
    last = look.layers[-1]
    maps = [maps_from(look.recording, point, look.size, layers=[last])[last].mean(dim=0) for point in spread]
    return plot_points(look.picture, torch.stack(maps), spread, columns=SPREAD)


def activation(network: Network, looks: list[Look], found: Overview) -> Figure | None:
    """The third image: class activation beside attention from the middle."""
    look = looks[2]
    evidence = network.evidence(look)
    if evidence is None:
        return None
    middle = look.size[1] / 2, look.size[0] / 2
    last = maps_from(look.recording, middle, look.size, layers=look.layers[-1:])[look.layers[-1]]
    return plot_beside(look.picture, {f"evidence for {look.answers[0].label}": evidence, "attention": last.mean(dim=0)})


def heads(network: Network, looks: list[Look], found: Overview) -> Figure:
    """How far, how sharply, how much inside the window heads look."""
    return found.figures["heads"]


def positions(network: Network, looks: list[Look], found: Overview) -> Figure | None:
    """The last layer's learned positions."""
    names = [name for name in found.figures if name.startswith("positions-")]
    return found.figures[names[-1]] if names else None


Draw = Callable[[Network, list[Look], Overview], Figure | None]
PICTURES: dict[str, tuple[Draw, str]] = {
    "layers": (layers, "Every head of every layer, from the middle of the first test image (blue frame)."),
    "points": (points, "The last layer, mean of its heads, from nine points of the second test image."),
    "activation": (activation, "The third test image: Grad-CAM beside the last layer's attention from the middle."),
    "heads": (heads, f"Each head, means over all points of the first {LOOKED_AT} test images."),
    "positions": (positions, "The last layer's position tables, and what they add to logits by offset."),
}


def main() -> None:
    """Write pages and pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/gallery"))
    out = parser.parse_args().out
    parts = [
        "# Gallery",
        "",
        "What the packaged checkpoints look at, on test images in their order, none chosen. Made by",
        "`python scripts/make_gallery.py`. Orange is attention, each map on its own scale; blue frames the point that",
        "looks.",
        "",
    ]
    for name, title in tqdm(checkpoints().items(), desc="networks"):
        parts.append(_section(name, title, out))
    write_text(out / "index.md", "\n".join(parts))


def _section(name: str, title: str, out: Path) -> str:
    network = Network.load(name)
    looks = [network.look(image) for image in list(samples(network.card).values())[:LOOKED_AT]]
    found = overview(network, looks)
    lines = [f"## {name}: {title.lower()}", ""]
    for kind, (draw, words) in PICTURES.items():
        figure = draw(network, looks, found)
        if figure is not None:
            write_whole(out / f"{name}-{kind}.png", partial(figure.savefig, format="png", dpi=90))
            lines += [f"![{words}]({name}-{kind}.png)", "", f"*{words}*", ""]
    if found.changed:
        mean = sum(found.changed) / len(found.changed)
        lines += [f"Without positions the likeliest class's probability falls by {mean:.3f} in the mean over them.", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
