"""The tables: networks, tasks, claims and the paper's figures beside them."""

import pytest
import torch

from aaconv.models import create_model
from aaconv.reproduction.plan import (
    ARMS,
    CIFAR,
    CLAIMS,
    COCO,
    EXPERIMENTS,
    FIGURE,
    HELD_OUT,
    IMAGENET,
    IMAGES,
    MECHANISMS,
    POSITIONS,
    SHARES,
    TASKS,
    Claim,
    Printed,
)
from aaconv.reproduction.runs import Job, recipe_of
from aaconv.training.sources import load_data

COUNTS = {"plain": 42_674, "aa25": 48_290, "aa100-none": 40_114}  # of some, for two classes
R34, R50 = "AA-ResNet-34", "AA-ResNet-50"
# What folders of finished runs are called, and what is in them: a change would give old results a new meaning.
NETWORKS = {
    "plain": ("resnet10xs", {}),
    "se": ("se_resnet10xs", {}),
    "ge": ("ge_resnet10xs", {}),
    "bam": ("bam_resnet10xs", {}),
    "cbam": ("cbam_resnet10xs", {}),
    **{f"aa{share}": (f"aa_resnet10xs_r{share}", {}) for share in (25, 50, 75, 100)},
    **{f"aa{share}-none": (f"aa_resnet10xs_r{share}", {"position": "none"}) for share in (25, 50, 75, 100)},
    "aa25-sine": ("aa_resnet10xs_r25", {"position": "sine"}),
    "aa25-coordconv": ("aa_resnet10xs_r25", {"position": "coordconv"}),
}
# The paper's tables 1, 2 and 7, figure 4 and COCO's positions.
FIGURES = {
    "plain": {CIFAR: 80.3, IMAGENET: 76.4, FIGURE: 76.4},
    "se": {CIFAR: 81.0, IMAGENET: 77.5},
    "ge": {CIFAR: 79.8},
    "bam": {IMAGENET: 77.3},
    "cbam": {IMAGENET: 77.4},
    "aa25": {CIFAR: 81.6, IMAGENET: 77.7, FIGURE: 77.7, R34: 74.7, R50: 77.7, COCO: 38.2},
    "aa25-none": {FIGURE: 77.5, R34: 74.4, R50: 77.5, COCO: 37.7},
    "aa25-sine": {R34: 74.4, R50: 77.5},
    "aa25-coordconv": {R34: 74.4, R50: 77.5, COCO: 37.4},
    "aa50": {FIGURE: 77.3},
    "aa50-none": {FIGURE: 76.6},
    "aa75": {FIGURE: 76.7},
    "aa75-none": {FIGURE: 75.4},
    "aa100": {FIGURE: 73.9},
    "aa100-none": {FIGURE: 71.1},
}


def test_arms_are_what_finished_runs_were_made_with():
    assert {name: (arm.model, arm.options) for name, arm in ARMS.items()} == NETWORKS
    assert len({arm.label for arm in ARMS.values()}) == len(ARMS)


@pytest.mark.parametrize("name", ARMS)
def test_arms_are_alike_in_size(name):
    model = create_model(ARMS[name].model, num_classes=2, in_chans=1, img_size=24, **ARMS[name].options)
    assert model(torch.zeros(2, 1, 24, 24)).shape == (2, 2)
    count = sum(value.numel() for value in model.parameters())
    assert 40_000 <= count <= 48_300
    assert count == COUNTS.get(name, count)


@pytest.mark.parametrize("name", ARMS)
def test_figures_are_the_papers(name):
    paper = ARMS[name].paper
    assert {experiment: figure.value for experiment, figure in paper.items()} == FIGURES[name]
    assert all(figure.remembered == (name in ("bam", "cbam")) for figure in paper.values())
    assert set(paper) <= set(EXPERIMENTS)


def test_groups_name_arms():
    assert set(MECHANISMS) | set(POSITIONS.values()) <= set(ARMS)
    assert set(POSITIONS) == {"none", "sine", "coordconv", "relative"}
    for position, arm in POSITIONS.items():
        assert ARMS[arm].options.get("position", "relative") == position
    assert all({f"aa{share}", f"aa{share}-none"} <= set(ARMS) for share in SHARES)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.text)
def test_the_paper_has_every_claim(claim):
    assert set(claim.arms) <= set(ARMS)
    gaps = claim.printed()
    assert gaps
    assert all(gap.value > 0 for gap in gaps.values())


def test_claims_differ():
    assert len({claim.text for claim in CLAIMS}) == len({(claim.more, claim.less) for claim in CLAIMS}) == len(CLAIMS)


def test_differences_in_the_paper():
    assert Claim("", ("aa25",), ("plain",)).printed() == {
        CIFAR: Printed(1.3),
        IMAGENET: Printed(1.3),
        FIGURE: Printed(1.3),
    }
    assert Claim("", ("aa25",), ("bam",)).printed() == {IMAGENET: Printed(0.4, remembered=True)}
    assert Claim("", ("aa100", "aa25-none"), ("aa100-none", "aa25")).printed() == {FIGURE: Printed(2.6)}
    assert Claim("", ("ge",), ("bam",)).printed() == {}


@pytest.mark.parametrize("task", TASKS)
def test_a_run_as_a_recipe(task):
    recipe = recipe_of(Job(task, "aa25-sine", 3))
    assert (recipe.data.name, recipe.data.size, recipe.epochs, recipe.batch_size) == (task, 24, 5, 64)
    assert (recipe.model.name, recipe.model.options) == ("aa_resnet10xs_r25", {"position": "sine"})
    assert (recipe.seed, recipe.optimizer.name, recipe.optimizer.lr) == (3, "adamw", 5e-3)
    assert recipe_of(Job(task, "plain", 0), ["--epochs=2", "--data.size=17"]).epochs == 2


def test_counts_of_canvases():
    data = load_data(recipe_of(Job("clutter", "plain", 0), ["--data.size=9"]))
    assert (len(data.train), len(data.val)) == (IMAGES, HELD_OUT)
    assert len(data.classes) * TASKS["clutter"].chance == 1
