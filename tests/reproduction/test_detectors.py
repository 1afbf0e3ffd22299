"""Detectors compared: the page says what the runs say, and finished runs are not made again."""

import csv

import pytest
from scipy import stats

from aaconv.detection.config import DetectionRecipe
from aaconv.reproduction import detectors
from aaconv.reproduction.detectors import PAGE, RESULTS, Outcome, compare, perform
from aaconv.training.callbacks import METRICS
from aaconv.training.checkpoint import ModelCard, save_checkpoint
from aaconv.training.fit import WEIGHTS
from aaconv.training.recipes import dump_recipe, load_recipe
from aaconv.training.records import CONFIG

PAIR = ("aa_retinanet_resnet10_fpn", "retinanet_resnet10_fpn")
SCORES = {PAIR[0]: (0.5, 0.62, 0.56), PAIR[1]: (0.4, 0.5, 0.45)}


@pytest.fixture
def performed(monkeypatch):
    """Runs that are not made; what was asked for."""
    asked = []

    def perform(folder, recipe):
        asked.append((folder, recipe))
        score = SCORES[recipe.model.name][recipe.seed]
        return Outcome(recipe.model.name, recipe.seed, score, score + 0.2, score + 0.1, 1_234_567, 99, 600.0)

    monkeypatch.setattr(detectors, "perform", perform)
    return asked


def test_page_states_the_difference(performed, tmp_path):
    page = compare(tmp_path, "detect_digits", PAIR, seeds=3, overrides=["--epochs=2"]).read_text()
    assert [(str(folder.relative_to(tmp_path)), made.seed, made.epochs) for folder, made in performed] == [
        (f"{model}/{seed}", seed, 2) for seed in range(3) for model in PAIR
    ]
    gaps = [a - b for a, b in zip(*SCORES.values(), strict=True)]
    low, high = stats.t.interval(0.95, 2, loc=sum(gaps) / 3, scale=stats.sem(gaps))
    assert (
        f"**{100 * sum(gaps) / 3:+.1f} points** (95% interval {100 * low:+.1f} to {100 * high:+.1f}, 3 seeds)" in page
    )
    assert f"`{PAIR[0]}` is better." in page
    assert f"| {PAIR[1]} | 1,234,567 | 45.0 ± " in page
    assert f"| {PAIR[0]} | 1 | 62.0 | 82.0 | 72.0 | 10.0 |" in page
    with (tmp_path / RESULTS).open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["map"]) for row in rows] == [0.5, 0.4, 0.62, 0.5, 0.56, 0.45]
    turned = compare(tmp_path, "detect_digits", PAIR[::-1], seeds=3).read_text()
    assert f"`{PAIR[1]}` is worse." in turned
    undecided = compare(tmp_path, "detect_digits", PAIR, seeds=2).read_text()
    assert f"`{PAIR[0]}` differs by less than seeds do: undecided." in undecided  # of two seeds little is known
    assert (tmp_path / PAGE).read_text() == undecided


def test_a_finished_run_is_read_not_made(tmp_path, monkeypatch):
    recipe = load_recipe("detect_digits", ["--seed=4"], DetectionRecipe)
    trained = []
    monkeypatch.setattr(detectors, "train", lambda recipe, folder, title: trained.append(folder))
    card = ModelCard(recipe.model.name, ("a", "b"), 3, 128, (0.5,) * 3, (0.5,) * 3, category_ids=(1, 5))
    model = card.build()
    save_checkpoint(tmp_path / WEIGHTS, model, card)
    (tmp_path / CONFIG).write_text(dump_recipe(recipe))
    rows = "epoch,step,val_map,val_map50,val_map75,seconds\n1,10,0.1,0.2,0.05,30\n2,20,0.3,0.5,0.25,31.5\n"
    (tmp_path / METRICS).write_text(rows)
    found = perform(tmp_path, recipe)
    assert trained == []
    assert (found.model, found.seed, found.map, found.map50, found.map75) == (recipe.model.name, 4, 0.3, 0.5, 0.25)
    assert (found.steps, found.seconds) == (20, 61.5)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    perform(tmp_path, load_recipe("detect_digits", ["--seed=5"], DetectionRecipe))
    assert trained == [tmp_path]


@pytest.mark.parametrize(
    "models, seeds, message",
    [
        (PAIR[:1], 3, "models must be at least two different detectors"),
        ((PAIR[0], PAIR[0]), 3, "models must be at least two different detectors"),
        (PAIR, 1, "seeds must be at least 2"),
        ((PAIR[0], "resnet50"), 2, "model.name must be a detector, got resnet50"),
        ((PAIR[0], "retinanet_resnet11"), 2, "no model 'retinanet_resnet11'"),
    ],
)
def test_refusals(performed, models, seeds, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        compare(tmp_path, "detect_digits", models, seeds=seeds)
    assert performed == []
