"""Learning curves as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")  # Okabe and Ito: told apart by colour-blind readers


def plot_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]], score: str = "accuracy", chance: float | None = None
) -> Figure:
    """``score`` and loss against optimiser steps, a colour a run; training dashed, held-out data solid.

    What the rows do not have, such as the score of training images, is left out.
    """
    from matplotlib.figure import Figure  # here: the first step of a run should not wait for it

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, rows) in zip(cycle(COLOURS), histories.items(), strict=False):
        steps = [row["step"] for row in rows]
        for axes, metric in ((left, score), (right, "loss")):
            for part, said, style in (("train", "training", "--"), ("val", "held out", "-")):
                if all(f"{part}_{metric}" in row for row in rows):
                    values = [row[f"{part}_{metric}"] for row in rows]
                    axes.plot(steps, values, style, color=colour, label=f"{name}, {said}")
    if chance is not None:
        left.axhline(chance, color="0.5", linewidth=0.8, linestyle=":", label="chance")
    left.set(xlabel="optimiser step", ylabel=score, ylim=(None, 1))
    right.set(xlabel="optimiser step", ylabel="loss")
    left.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
