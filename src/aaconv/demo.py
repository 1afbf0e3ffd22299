"""The demonstration: a network with attention against one without, on a task that needs long range.

Letters: n test canvases, N heads, H W attention grid, E image edge in pixels.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from aaconv import __version__
from aaconv.data.digit_pairs import CLASSES, SCAN_EDGE, DigitPairs, digit_pairs
from aaconv.data.splits import ImageData
from aaconv.explain.plots import plot_attention
from aaconv.explain.record import record
from aaconv.explain.report import Section, write_report
from aaconv.models.complexity import Complexity, measure_complexity
from aaconv.training.curves import plot_curves
from aaconv.training.fit import TrainedRun
from aaconv.training.intervals import paired_bootstrap
from aaconv.training.predict import probabilities
from aaconv.training.recipes import load_recipe
from aaconv.training.run import train

NETWORKS = {"plain": "resnet10s", "augmented": "aa_resnet10s"}
LAYER = "blocks.3.conv1.attention"  # that the report shows
PICTURED = 5  # test canvases in the report: the first ones, not chosen
Say = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """A trained network and how it does on the test canvases."""

    run: TrainedRun
    complexity: Complexity
    correct: Tensor  # [n], bool
    interval: tuple[float, float]  # 95% of the accuracy

    @property
    def accuracy(self) -> float:
        """Share of test canvases told right."""
        return self.correct.float().mean().item()


def run_demo(folder: str | Path, *, epochs: int = 10, seed: int = 0, say: Say = print) -> Path:
    """Train both networks, write ``report.html`` with everything beside it, and return its path."""
    folder = Path(folder)
    changes = [f"--epochs={epochs}", f"--seed={seed}"]
    recipes = {title: load_recipe("digits", [f"--model.name={name}", *changes]) for title, name in NETWORKS.items()}
    data = digit_pairs(seed=seed)
    test = data.val
    if not isinstance(test, DigitPairs):
        raise TypeError("the demonstration needs to know which digits a canvas is made of")
    say(f"{len(data.train):,} canvases an epoch, {len(test):,} test canvases of digits never trained on")
    results = {}
    for title, recipe in recipes.items():
        run = train(recipe, folder / recipe.model.name, data=data, title=title)
        results[title] = _evaluate(run, data, test)
        low, high = results[title].interval
        say(f"{title}: {results[title].accuracy:.1%} of the test canvases right (95% interval {low:.1%} to {high:.1%})")
    report = folder / "report.html"
    lead, sections = _tell(results, test, seed)
    write_report(report, "Same digit or not? Convolution with and without attention", lead, sections)
    return report


def _evaluate(run: TrainedRun, data: ImageData, test: DigitPairs) -> Result:
    run.model.cpu()
    correct = probabilities(run.model, run.card, test.images).argmax(dim=1) == test.labels
    complexity = measure_complexity(run.model, data.channels, data.size)
    return Result(run, complexity, correct, paired_bootstrap(correct, test.scans))


def _tell(results: dict[str, Result], test: DigitPairs, seed: int) -> tuple[str, list[Section]]:
    """The report's first sentence and its sections, from what was measured."""
    plain, augmented = results["plain"], results["augmented"]
    apart = augmented.interval[0] > plain.interval[1]
    lead = (
        f"With attention beside two of its convolutions the network tells {augmented.accuracy:.1%} of the test "
        f"canvases right; the plain network of equal size tells {plain.accuracy:.1%}. "
        + ("The 95% intervals do not overlap." if apart else "The 95% intervals overlap: this run shows no difference.")
    )
    return lead, [
        _task_section(len(test)),
        _table_section(results, seed),
        Section(
            "Learning curves",
            ["Both networks see the same canvases in the same order."],
            figure=plot_curves({title: result.run.history for title, result in results.items()}, chance=0.5),
            alt="Accuracy and loss of both networks against optimiser steps",
        ),
        _attention_section(augmented.run, test),
    ]


def _task_section(count: int) -> Section:
    return Section(
        "The task",
        [
            "Two real handwritten digits (8x8 scans that ship with scikit-learn) stand at random places of a 32x32 "
            'canvas, at least a pixel apart and often at opposite ends. The network answers "same digit" or '
            '"different". Half of the canvases are of each kind.',
            f"The {count:,} test canvases are made of a quarter of the scans, none of which is in training.",
            "The task was chosen to need long range: a convolution sees 3x3 cells, attention sees the whole map. It "
            "shows what the layer can do, not how it ranks on natural images; a plain network trained for much longer "
            "or built deeper may learn it too.",
        ],
    )


def _table_section(results: dict[str, Result], seed: int) -> Section:
    rows = [
        (
            f"{title} ({result.run.card.model})",
            f"{result.accuracy:.1%}",
            f"{result.interval[0]:.1%} to {result.interval[1]:.1%}",
            f"{result.complexity.parameters:,}",
            f"{result.complexity.flops / 1e9:.4f}",
            f"{result.run.seconds:.0f} s",
        )
        for title, result in results.items()
    ]
    return Section(
        "Result",
        [
            "The interval is a bootstrap over the held-out scans, since canvases that share a scan are not "
            "independent; it does not cover the chance of another training run. GFLOPs are of one forward pass of one "
            "image, two for each multiply-accumulate of convolutions and matrix products.",
            f"Seed {seed}; aaconv {__version__}, torch {torch.__version__}, Python {platform.python_version()}, "
            f"{platform.machine()}, {torch.get_num_threads()} threads.",
        ],
        header=("network", "test accuracy", "95% interval", "parameters", "GFLOPs", "training time"),
        rows=rows,
    )


def _attention_section(run: TrainedRun, test: DigitPairs) -> Section:
    """Pictures of the first test canvases, and the share of attention on the other digit over all of them."""
    centres, maps = _maps_from_first_digit(run, test)
    grid, edge = maps.shape[-1], test.images.shape[-1]
    touched = (avg_pool2d(_other_digit(test), edge // grid) > 0).float()  # [n, H, W]
    shares = (maps * touched[:, None]).sum(dim=(2, 3)).mean(dim=0).tolist()
    rows = [
        (test.images[i, 0], maps[i], (int(centres[i, 0]), int(centres[i, 1])), CLASSES[int(test.labels[i])])
        for i in range(PICTURED)
    ]
    return Section(
        "Where a digit looks",
        [
            f"The first {PICTURED} test canvases, not chosen. The blue frame marks the cell in the middle of one "
            "digit; the more orange a cell, the more of its attention it receives, each head on its own scale. A cell "
            "has seen its neighbours by then, so a head may look beside a digit "
            f"(layer {LAYER}, {grid}x{grid} cells).",
            f"Share of that cell's attention on cells that touch the other digit, mean over all {len(test):,} test "
            "canvases: "
            + ", ".join(f"head {i + 1} {share:.0%}" for i, share in enumerate(shares))
            + f". Attention spread evenly would put {touched.mean():.0%} there.",
        ],
        figure=plot_attention(rows),
        alt="Test canvases with a marked cell on one digit and the attention map of each head over them",
    )


@torch.inference_mode()
def _maps_from_first_digit(run: TrainedRun, test: DigitPairs) -> tuple[Tensor, Tensor]:
    """The cell in the middle of each canvas's first digit, (row, column) [n, 2], and its maps [n, N, H, W]."""
    parts = []
    for chunk in torch.arange(len(test)).split(250):
        with record(run.model) as recording:
            run.model(run.card.normalize(test.images[chunk]))
        grid = recording.inputs[LAYER].shape[-1]
        cells = (test.corners[chunk, 0] + SCAN_EDGE // 2) * grid // run.card.edge
        every = recording.maps(LAYER, torch.arange(grid * grid))
        parts.append((cells, every[torch.arange(len(chunk)), :, cells[:, 0] * grid + cells[:, 1]]))
    return torch.cat([cells for cells, _ in parts]), torch.cat([maps for _, maps in parts])


def _other_digit(test: DigitPairs) -> Tensor:
    """1 on the pixels of each canvas's second scan, else 0: [n, E, E]."""
    pixel = torch.arange(test.images.shape[-1])
    first = test.corners[:, 1, :, None]
    inside = (pixel >= first) & (pixel < first + SCAN_EDGE)  # [n, 2, E], by row and by column
    return (inside[:, 0, :, None] & inside[:, 1, None, :]).float()
