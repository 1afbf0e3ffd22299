"""Recipes of detection: those of the package work, mistakes are named in a line, and other tasks' are turned away."""

import re
import shlex
from dataclasses import asdict, replace

import pytest

from aaconv.detection.config import BoxAugmentConfig, BoxDataConfig, DetectionRecipe, DetectorConfig
from aaconv.detection.run import dry_run, train
from aaconv.models import is_detector
from aaconv.training.config import Recipe, flat
from aaconv.training.recipes import dump_recipe, list_recipes, load_recipe, locate
from aaconv.training.run import dry_run as try_classifier
from aaconv.training.run import train as train_classifier

pytest.importorskip("faster_coco_eval")
NAMES = list(list_recipes(DetectionRecipe))


def header(name):
    """The comment at the top of a recipe, without its marks."""
    text = locate(name).read_text(encoding="utf-8")
    return "\n".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))


def test_what_the_project_needs_is_there():
    assert set(NAMES) >= {"detect_coco", "detect_digits"}
    assert not set(NAMES) & set(list_recipes(Recipe))


@pytest.mark.parametrize("name", NAMES)
def test_packaged_recipe_is_what_it_dumps(name, tmp_path):
    recipe = load_recipe(name, (), DetectionRecipe)
    assert is_detector(recipe.model.name)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml", (), DetectionRecipe) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_header_names_keys_and_networks_that_there_are(name):
    text = re.sub(r"\\\n", " ", header(name))
    (command,) = re.findall(r"^.*aaconv detect train (.*)$", text, re.MULTILINE)
    first, *overrides = shlex.split(command)
    assert first == name
    load_recipe(first, overrides, DetectionRecipe)
    known = [key for key, _ in flat(asdict(DetectionRecipe()))]
    for key in re.findall(r"--([a-z_]+(?:\.[a-z_]+)*)(?![-\w])", text):
        assert key in known or key.startswith("model.options."), key
    for network in re.findall(r"\b\w*retinanet\w+", text):
        assert is_detector(network), network


def slow(name):
    """One of COCO's is enough for every day."""
    return name.startswith("detect_coco_")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.hard] if slow(n) else []) for n in NAMES])
def test_packaged_recipe_trains_a_step(name, tmp_path, monkeypatch):
    """At 96 pixels: below, a map of one cell meets a convolution with a stride, and the gradient that oneDNN gives for
    that in bfloat16 is whatever was in memory.
    """
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(name, ["--data.size=96"], DetectionRecipe)
    said = dry_run(recipe)
    classes = 10 if recipe.data.name == "scenes" else 80
    assert said.startswith(f"{recipe.model.name}: ")
    assert said.endswith(f" at 96 pixels, {classes} classes; one step on synthetic images works")
    assert not list(tmp_path.iterdir())


def test_steps_of_several_batches_are_tried_too():
    recipe = load_recipe(
        "detect_digits", ["--data.size=32", "--accumulate=2", "--machine.precision=16"], DetectionRecipe
    )
    assert "10 classes; one step on synthetic images works" in dry_run(recipe)


def test_everything_at_once_comes_back(tmp_path):
    recipe = DetectionRecipe(
        model=DetectorConfig(name="retinanet_resnet50_fpn", backbone="한글.safetensors", options={"norm": "frozen"}),
        data=BoxDataConfig(
            name="coco", path="a", train_images="b", train_boxes="c.json", val_images="d", val_boxes="e.json", size=96
        ),
        augment=BoxAugmentConfig(smallest=0.1, largest=2.0, flip=True),
        batch_size=7,
    )
    recipe = replace(recipe, data=replace(recipe.data, on_broken="skip"), ema_decay=0.9)
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml", (), DetectionRecipe) == recipe


FIXED = r"model\.options\.{} must be {} without model\.backbone or model\.weights, got {}: what was never trained"
MISTAKES = {
    "misspelt": (["--data.sise=64"], "no key --data.sise of a recipe takes a value; try --data.size"),
    "of classification": (["--label_smoothing=0.1"], "no key --label_smoothing of a recipe takes a value"),
    "of classification, nested": (["--augment.mixup=0.1"], "no key --augment.mixup of a recipe takes a value"),
    "other images": (["--data.name=cifar10"], r"command line.*data\.name.*'scenes'.*cifar10"),
    "text for a number": (["--data.size=big"], r"command line.*data\.size.*int.*big"),
    "no size": (["--data.size=0"], r"data\.size must be at least 1, got data\.size=0"),
    "no scale": (["--augment.smallest=0"], r"augment\.smallest must be above 0 and finite, got augment\.smallest=0"),
    "scale without end": (["--augment.largest=inf"], r"augment\.largest"),
    "scales the wrong way round": (
        ["--augment.smallest=2", "--augment.largest=1"],
        r"augment\.smallest must be at most augment\.largest, got 2\.0 > 1\.0",
    ),
    "frozen norms from scratch": (["--model.options.norm=frozen"], FIXED.format("norm", "batch", "frozen")),
    "layers fixed from scratch": (["--model.options.trained_layers=3"], FIXED.format("trained_layers", 5, 3)),
    "two beginnings": (
        ["--model.backbone=a.safetensors", "--model.weights=b.safetensors"],
        r"model\.backbone and model\.weights are both given; give one of the two",
    ),
    "size as an option": (
        ["--model.options.img_size=64"],
        r"model\.options\.img_size must be left out: the images and",
    ),
    "neither": (["--data.on_broken=ignore"], r"command line.*data\.on_broken.*'skip'.*ignore"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_on_the_command_line(case):
    overrides, message = MISTAKES[case]
    with pytest.raises(ValueError, match=message) as error:
        load_recipe("detect_digits", overrides, DetectionRecipe)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text, message",
    [
        ("data: {sise: 64}", r"mine\.yaml.*'sise'"),
        ("label_smoothing: 0.1", r"mine\.yaml: no key 'label_smoothing'"),
        ("data: {name: digits}", r"mine\.yaml.*data\.name.*'coco'.*digits"),
        ("model: {options: {norm: frozen}}", FIXED.format("norm", "batch", "frozen")),
        ("augment: {smallest: 3}", r"augment\.smallest must be at most augment\.largest, got 3\.0 > 1\.0"),
    ],
)
def test_mistakes_in_a_file(tmp_path, text, message):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_recipe(tmp_path / "mine.yaml", (), DetectionRecipe)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("start", ["backbone", "weights"])
def test_what_was_trained_may_stay_as_it_is(start):
    overrides = ["--model.options={norm: frozen, trained_layers: 3}", f"--model.{start}=a.safetensors"]
    model = load_recipe("detect_digits", overrides, DetectionRecipe).model
    assert (model.options, getattr(model, start)) == ({"norm": "frozen", "trained_layers": 3}, "a.safetensors")


def test_recipes_of_the_other_task_are_turned_away():
    with pytest.raises(ValueError, match=r"^recipe digits is of another task; use 'aaconv train digits'$"):
        load_recipe("digits", (), DetectionRecipe)
    with pytest.raises(ValueError, match=r"^recipe detect_digits is of another task; use 'aaconv detect train detect_"):
        load_recipe("detect_digits")


def test_networks_of_the_other_task_are_turned_away(tmp_path):
    classifier = load_recipe("cifar10", ["--model.name=aa_retinanet_resnet10_fpn"])
    for attempt in (try_classifier, lambda recipe: train_classifier(recipe, tmp_path / "run")):
        with pytest.raises(
            ValueError, match=r"^model\.name must be a classifier, got aa_retinanet_resnet10_fpn; 'aacon"
        ):
            attempt(classifier)
    recipe = load_recipe("detect_digits", ["--model.name=aa_resnet10s"], DetectionRecipe)
    for attempt in (dry_run, lambda recipe: train(recipe, tmp_path / "run")):
        with pytest.raises(
            ValueError, match=r"^model\.name must be a detector, got aa_resnet10s; there are .*aa_retin"
        ):
            attempt(recipe)
    with pytest.raises(ValueError, match=r"^no model 'aa_retinanet_resnet1O_fpn'; nearest: aa_retinanet_resnet10_fpn"):
        dry_run(load_recipe("detect_digits", ["--model.name=aa_retinanet_resnet1O_fpn"], DetectionRecipe))
    assert not list(tmp_path.iterdir())
