"""The page of looks: the viewer with every map inside, and each network's overview."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup
from torch import Tensor
from tqdm import tqdm

from aaconv.explain import packing
from aaconv.explain.look import Look
from aaconv.explain.overview import Overview
from aaconv.explain.report import Section, write_report

PAGE_BYTES = 9_900_000  # no page is larger; maps are coarsened until it is not
REST = 1_000_000  # bytes kept for all but pictures and maps
COARSEST = 4  # cells an edge, below which maps tell nothing
PARTS = {"both": "", "content": " of content alone", "position": " of position alone"}


@cache
def source(name: str) -> str:
    """The text of a file beside this one, such as ``viewer.js``."""
    return resources.files("aaconv.explain").joinpath(name).read_text(encoding="utf-8")


def page_edge(looks: Sequence[Sequence[Look]]) -> int:
    """The most cells an edge with which the maps of all looks, by image and network, fit into one page.

    Raises:
        ValueError: Not even maps of ``COARSEST`` cells an edge do.
    """
    every = [look for of_image in looks for look in of_image]
    grids = [
        (look.recording.layers[name].num_heads, *look.recording.grid(name)) for look in every for name in look.layers
    ]
    room = PAGE_BYTES - REST - sum(len(packing.picture_address(look.picture)) for look in every) - 300 * len(grids)
    for edge in range(packing.FINEST, COARSEST - 1, -1):
        if packing.bytes_of(grids, edge) <= room:
            return edge
    raise ValueError(f"images must be fewer for one page of {PAGE_BYTES / 1e6:.0f} MB, got {len(looks)}")


def write_page(
    path: Path,
    seen: Mapping[str, Sequence[Look]],
    evidence: Mapping[str, Sequence[Tensor | None]],
    overviews: Sequence[Overview],
    edge: int,
    part: str,
) -> None:
    """Write it whole.

    Args:
        path: Of the page.
        seen: By image, the looks of each network.
        evidence: Likewise, class activation or None.
        overviews: Of each network.
        edge: The most cells an edge that maps are kept with.
        part: Of the logits.
    """
    rows = tqdm(seen.items(), desc="packing maps", disable=None if len(seen) > 1 else True)
    scenes = [_scene(name, looks, evidence[name], edge, part) for name, looks in rows]
    lead = (
        "Click or drag on an image, or move with the arrow keys: orange is where each head looks from the blue frame"
        f"{PARTS[part]}, each map on its own scale. A picture is what the network was given."
    )
    coarse = {
        f"{layer['name']} ({layer['full'][0]}x{layer['full'][1]} kept as {layer['grid'][0]}x{layer['grid'][1]})"
        for scene in scenes
        for network in scene["networks"]
        for layer in network["layers"]
        if layer["grid"] != layer["full"]
    }
    if coarse:
        lead += f" Coarsened to fit into the page: {', '.join(sorted(coarse))}."
    write_report(
        path,
        f"Where {' and '.join(repr(one.title) for one in overviews)} look{'s' if len(overviews) == 1 else ''}",
        lead,
        [section for one in overviews for section in _sections(one)],
        "looks.html.j2",
        scenes=Markup(json.dumps(scenes).replace("<", "\\u003c")),
        script=Markup(source("viewer.js")),
        css=Markup(source("viewer.css")),
    )


def _scene(name: str, looks: Sequence[Look], evidence: Sequence[Tensor | None], edge: int, part: str) -> dict[str, Any]:
    networks = []
    for look, found in zip(looks, evidence, strict=True):
        network = packing.describe(look, edge)
        for layer in network["layers"]:
            layer.update(packing.pack_all(look, layer["name"], edge, part))
        if found is not None:
            network["fixed"].append(packing.fixed_map(f"evidence for {look.answers[0].label} (Grad-CAM)", found))
        networks.append(network)
    return {"name": name, "networks": networks}


def _sections(one: Overview) -> list[Section]:
    images = f"{one.images} image{'s' * (one.images > 1)}"
    header = ("layer", "head", "mean distance, cells", "entropy, share of uniform", "inside the window")
    rows = [
        (row.layer, str(row.head + 1), f"{row.distance:.2f}", f"{row.entropy:.0%}", f"{row.inside:.0%}")
        for row in one.heads
    ]
    text = [
        f"Means over the points of {images}. The window is that of the convolution beside the attention, in cells of "
        "the attention map; what lies outside of it no single convolution of that layer could have seen."
    ]
    found = [
        Section(
            f"{one.title}: the heads",
            text,
            header,
            rows,
            one.figures["heads"],
            "Distance, entropy and share of each head",
        )
    ]
    if "contributions" in one.figures:
        words = [
            f"Gradient times value of each augmented layer's channels for the likeliest class, mean over {images}."
        ]
        figure = one.figures["contributions"]
        found.append(Section(f"{one.title}: what the channels give", words, figure=figure, alt="Bars by layer"))
    last = [name for name in one.figures if name.startswith("positions-")][-1:]
    if last:
        words = [
            "What relative positions add to the logits of a key by its offset from the query, and the learned tables."
        ]
        if one.changed:
            words.append(
                "Without positions in all layers the likeliest class's probability falls by "
                f"{fmean(one.changed):.3f} in the mean over {images}, {min(one.changed):.3f} to {max(one.changed):.3f}."
            )
        layer = last[0].removeprefix("positions-")
        title = f"{one.title}: learned positions of {layer}"
        found.append(Section(title, words, figure=one.figures[last[0]], alt="Tables and their sums by offset"))
    return found
