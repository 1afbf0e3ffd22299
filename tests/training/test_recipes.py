"""Recipes: those of the package say and do what the paper does; mistakes in files and options are named in a line."""

import re
import shlex
import sys
from dataclasses import asdict, replace

import pytest
import torch

from aaconv.models import create_model
from aaconv.models.registry import check_model_name
from aaconv.paper import FIGURE_4, TABLES
from aaconv.training.config import (
    AugmentConfig,
    DataConfig,
    MachineConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    flat,
)
from aaconv.training.recipes import MAX_BYTES, dump_recipe, list_recipes, load_recipe, locate
from aaconv.training.run import dry_run

NAMES = list(list_recipes(Recipe))
WANTED = {
    *("digits", "clutter", "folder", "files", "cifar10", "cifar100", "cifar100_aa", "imagenet", "imagenet_mnasnet"),
    *("imagenet_shares", "imagenet_positions", "imagenet_modern", "imagenet_shards"),
}
OURS = {"digits", "clutter", "folder", "files"}  # the others follow some paper
ROWS = [row for table in TABLES for row in table.rows]


def header(name):
    """The comment at the top of a recipe, without its marks."""
    text = locate(name).read_text(encoding="utf-8")
    return "\n".join(line[1:].strip() for line in text.splitlines() if line.startswith("#"))


def test_what_the_project_needs_is_there():
    assert set(NAMES) == WANTED


@pytest.mark.parametrize("name", NAMES)
def test_packaged_recipe_is_what_it_dumps(name, tmp_path):
    recipe = load_recipe(name)
    (tmp_path / "again.yaml").write_text(dump_recipe(recipe))
    assert load_recipe(tmp_path / "again.yaml") == recipe
    assert load_recipe(locate(name)) == recipe


@pytest.mark.parametrize("name", NAMES)
def test_header_says_what_to_run_and_on_what(name):
    text = header(name)
    assert list_recipes()[name] == text.partition("\n")[0].strip()
    assert len(list_recipes()[name]) > 20
    assert all(len(line) <= 120 for line in locate(name).read_text().splitlines())
    assert re.search(r"Hardware: \w+", text)
    if name not in OURS:
        assert "Not run here." in text
        assert "emembered, not read" in text


@pytest.mark.parametrize("name", NAMES)
def test_command_of_the_header_names_the_recipe_and_works(name):
    (command,) = re.findall(r"aaconv train (.*)", re.sub(r"\\\n", " ", header(name)))
    first, *overrides = shlex.split(command)
    assert first == name
    assert load_recipe(first, overrides).model == load_recipe(name, overrides).model
    known = [key for key, _ in flat(asdict(Recipe()))]
    for key in re.findall(r"--([a-z_]+(?:\.[a-z_]+)*)(?![-\w])", header(name)):
        assert key in known or key.startswith("model.options."), key


@pytest.mark.parametrize("name", NAMES)
def test_networks_of_the_header_exist_and_take_the_recipe_s_options(name):
    recipe = load_recipe(name)
    found = set(re.findall(r"\b\w*(?:resnet|wrn|mnasnet)\w+", header(name))) | {recipe.model.name}
    for network in found:
        check_model_name(network)
        with torch.device("meta"):
            create_model(network, num_classes=3, img_size=recipe.data.size, **recipe.model.options)


def slow(name):
    """One of ImageNet's is enough for every day."""
    return name.startswith("imagenet_")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.hard] if slow(n) else []) for n in NAMES])
def test_packaged_recipe_trains_a_step(name):
    recipe = load_recipe(name)
    said = dry_run(recipe)
    classes = {"digits": 2, "folder": 2, "clutter": 10, "cifar10": 10, "cifar100": 100}.get(recipe.data.name, 1000)
    assert said.startswith(f"{recipe.model.name}: ")
    assert said.endswith(f" at {recipe.data.size} pixels, {classes} classes; one step on synthetic images works")


def pairs(*names):
    """Model (or what stands before the figures) -> its two figures, out of headers."""
    found = [match for name in names for match in re.findall(r"(\w+) +(\d\d\.\d) / (\d\d\.\d)", header(name))]
    assert len({model for model, _, _ in found}) == len(found)
    return {model: (float(one), float(two)) for model, one, two in found}


def of_table(number):
    return {row.model: (row.top1, row.top5) for row in ROWS if row.table == number}


def test_figures_of_cifar100_are_the_printed_ones():
    assert pairs("cifar100", "cifar100_aa") == of_table(1)
    assert "(printed)" in header("cifar100")
    assert "(printed)" in header("cifar100_aa")


def test_figures_of_imagenet_are_the_printed_ones():
    assert pairs("imagenet") == of_table(3)
    assert "(printed)" in header("imagenet")
    (line,) = (line for line in header("imagenet").splitlines() if "cbam" in line)
    assert "remembered, not read" in line
    for model in ("cbam_resnet50", "bam_resnet50"):
        (row,) = (row for row in ROWS if row.model == model)
        assert row.sure == "remembered"
        assert re.search(rf"\b{model} {row.top1}\b", line)


def test_figures_of_mnasnet_are_said_to_be_remembered():
    text = header("imagenet_mnasnet")
    figures = {model: (float(top1), None) for model, top1 in re.findall(r"(\w*mnasnet\w+) (\d\d\.\d)", text)}
    assert figures == of_table(4)
    assert "top-1, percent (remembered, not read)" in text


def test_figures_of_the_ablations_are_the_printed_ones():
    assert pairs("imagenet_shares") == {f"aa_resnet50_r{share}": figures for share, figures in FIGURE_4.items()}
    assert f"resnet50 {of_table(3)['resnet50'][0]} (no attention)" in header("imagenet_shares")
    rows = {(row.model, row.changes["position"]): row.top1 for row in ROWS if row.table == 7}
    positions = {position for _, position in rows}
    assert pairs("imagenet_positions") == {
        position: (rows["aa_resnet34", position], rows["aa_resnet50", position]) for position in positions
    }


def test_set_up_of_cifar100():
    plain, augmented = load_recipe("cifar100"), load_recipe("cifar100_aa")
    assert (plain.batch_size, plain.optimizer.weight_decay) == (1024, 2e-4)
    assert (augmented.batch_size, augmented.optimizer.weight_decay) == (256, 5e-4)
    for recipe in (plain, augmented):
        assert recipe.optimizer == OptimizerConfig(
            name="sgd", lr=0.2, lr_batch=256, momentum=0.9, weight_decay=recipe.optimizer.weight_decay
        )
        assert recipe.schedule == ScheduleConfig(name="cosine", warmup=0.05)
        assert recipe.augment == AugmentConfig(crop="pad", padding=4, flip=True)
        assert recipe.data == DataConfig(name="cifar100", size=32)
        assert (recipe.epochs, recipe.label_smoothing, recipe.ema_decay) == (500, 0, 0)
    cifar10 = load_recipe("cifar10")
    assert replace(cifar10, data=augmented.data, epochs=500) == augmented


def test_set_up_of_imagenet():
    recipe = load_recipe("imagenet")
    assert recipe.optimizer == OptimizerConfig(name="sgd", lr=0.128, lr_batch=256, momentum=0.9, weight_decay=1e-4)
    assert recipe.schedule == ScheduleConfig(name="step", warmup=0.05, milestones=(30, 60, 80, 90), gamma=0.1)
    assert recipe.augment == AugmentConfig(crop="inception", flip=True)
    assert (recipe.data.name, recipe.data.size, recipe.epochs) == ("files", 224, 100)
    for other in ("imagenet_positions", "imagenet_shares", "imagenet_shards"):
        found = load_recipe(other)
        assert replace(found, model=recipe.model, data=recipe.data) == recipe, other
    assert load_recipe("imagenet_shards").data.name == "shards"


def test_set_up_of_mnasnet():
    recipe = load_recipe("imagenet_mnasnet")
    assert (recipe.optimizer.name, recipe.schedule.name, recipe.epochs) == ("rmsprop", "exponential", 350)
    half = re.search(r"half the rate\s+\(--optimizer\.lr ([\d.]+)\)", header("imagenet_mnasnet"))
    assert float(half[1]) == recipe.optimizer.lr / 2


def test_everything_at_once_comes_back(tmp_path):
    recipe = Recipe(
        model=ModelConfig(name="aa_wrn10_2", options={"position": "sine", "img_size": [32, 16], "deep": {"a": 1e-4}}),
        data=DataConfig(
            name="shards", path="a-{0..3}.tar", val_path="한글.tar", size=48, crop_pct=0.9, on_broken="skip"
        ),
        augment=AugmentConfig(crop="inception", flip=True, rand_augment=9, mixup=0.1, cutmix=1.0),
        optimizer=OptimizerConfig(name="sgd", lr=1e-7, lr_batch=256, nesterov=True, clip_norm=0.5),
        schedule=ScheduleConfig(name="step", milestones=(3, 5), gamma=0.2),
        machine=MachineConfig(devices=2, precision="16", loggers=("tensorboard", "wandb"), save_minutes=0.5),
        epochs=7,
        ema_decay=0.999,
        seed=3,
    )
    (tmp_path / "r.yaml").write_text(dump_recipe(recipe), encoding="utf-8")
    assert load_recipe(tmp_path / "r.yaml") == recipe


def test_recipe_beside_a_folder_of_its_name(tmp_path, monkeypatch):
    """Images often lie in a folder ``imagenet``."""
    (tmp_path / "imagenet").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("imagenet", ["--data.path=imagenet"]).data.path == "imagenet"


@pytest.fixture
def load(tmp_path):
    """A recipe out of the text of a file ``mine.yaml``."""

    def load(text, *overrides):
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / "mine.yaml").write_bytes(content)
        return load_recipe(tmp_path / "mine.yaml", overrides)

    return load


@pytest.mark.parametrize("number", ["1e-4", "1E-4", "1.0e-4", "0.0001", ".0001"])
def test_numbers_with_an_exponent_are_numbers(load, number):
    assert load(f"optimizer: {{lr: {number}}}").optimizer.lr == 1e-4
    assert load("epochs: 3", f"--optimizer.lr={number}", "--optimizer.weight_decay", number).optimizer == (
        OptimizerConfig(lr=1e-4, weight_decay=1e-4)
    )
    assert load(f"model: {{options: {{drop_rate: {number}}}}}").model.options == {"drop_rate": 1e-4}
    assert load("epochs: 3", f"--model.options.drop_rate={number}").model.options == {"drop_rate": 1e-4}


def test_command_line_goes_over_the_file(load):
    text = "model: {name: resnet10s, options: {drop_rate: 0.1}}\nschedule: {name: step, milestones: [3]}\nepochs: 9"
    made = load(text, "--epochs", "3", "--model.options.position=sine", "--schedule.milestones=[1, 2]")
    assert made.model == ModelConfig(name="resnet10s", options={"drop_rate": 0.1, "position": "sine"})
    assert (made.schedule.milestones, made.epochs) == ((1, 2), 3)
    assert load("augment: {flip: yes}").augment.flip is True
    assert load("epochs: 3", "--augment.flip=no").augment.flip is False
    assert load("data: {path: null}", "--data.path=2024").data.path == "2024"
    assert load("data: {path: 2024-12-31}").data.path == "2024-12-31"
    assert load("optimizer: {}") == Recipe()


BOMB = "a: &a [x, x]\n" + "".join(
    f"{name}: &{name} [*{below}, *{below}]\n" for below, name in zip("abcd", "bcde", strict=True)
)
WRONG = {
    "misspelt": ("epoch: 1", "mine.yaml.*'epoch'"),
    "misspelt, nested": ("optimizer: {lrr: 1}", "mine.yaml.*'lrr'"),
    "of the parser's own": ("__path__: 1", "mine.yaml.*'__path__'"),
    "dotted": ("optimizer.lr: 0.5\noptimizer: {lr: 1}", "mine.yaml.*'optimizer.lr'"),
    "no text as key": ("1: 2", "mine.yaml.*1"),
    "list as key": ("[a]: 1", "mine.yaml.*key"),
    "given twice": ("epochs: 1\nepochs: 2", "mine.yaml.*key 'epochs' is given twice"),
    "given twice, nested": ("optimizer: {lr: 1, momentum: 0, lr: 2}", "mine.yaml.*key 'lr' is given twice"),
    "given twice, deep": ("model: {options: {a: 1, a: 1}}", "mine.yaml.*key 'a' is given twice"),
    "group given twice": ("model: {name: a}\nmodel: {name: b}", "mine.yaml.*key 'model' is given twice"),
    "text for a number": ("epochs: many", "mine.yaml.*epochs.*int.*many"),
    "fraction for an int": ("epochs: 1.5", "mine.yaml.*epochs.*int.*1.5"),
    "truth for a number": ("epochs: yes", "mine.yaml.*epochs.*int.*True"),
    "no rate": ("optimizer: {lr: no}", r"mine.yaml.*optimizer\.lr.*float.*False"),
    "no name": ("data: {name: no}", r"mine.yaml.*data\.name.*'digits'.*False"),
    "on as a name": ("model: {name: on}", r"mine.yaml.*model\.name.*str.*True"),
    "no path": ("data: {path: no}", r"mine.yaml.*data\.path.*False"),
    "number for a truth": ("augment: {flip: 3}", r"mine.yaml.*augment\.flip.*bool.*3"),
    "nothing for an int": ("epochs:", "mine.yaml.*epochs"),
    "nothing for a rate": ("optimizer: {lr: }", r"mine.yaml.*optimizer\.lr"),
    "nothing for a name": ("model: {name: }", r"mine.yaml.*model\.name"),
    "nothing for options": ("model: {options: }", r"mine.yaml.*model\.options"),
    "unknown choice": ("optimizer: {name: adam}", r"mine.yaml.*optimizer\.name.*'sgd'.*adam"),
    "list for a group": ("optimizer: [1]", r"mine.yaml: optimizer must hold keys and values, got \[1\]"),
    "nothing for a group": ("optimizer:", "mine.yaml: optimizer must hold keys and values, got None"),
    "number for a list": ("schedule: {milestones: 30}", r"mine.yaml.*schedule\.milestones.*30"),
    "text in a list": ("schedule: {milestones: [30, x]}", r"mine.yaml.*schedule\.milestones.*int.*x"),
    "out of range": ("seed: -1", "seed must be at least 0, got seed=-1"),
    "alias": ("model: &a {name: x}\ndata: *a", "mine.yaml.*aliases are not allowed"),
    "merged": ("model: &a {name: x}\ndata: {<<: *a}", "mine.yaml.*aliases are not allowed"),
    "billion laughs": (BOMB, "mine.yaml.*aliases are not allowed"),
    "merged in place": ("optimizer: {<<: {lr: 1}, lr: 2}", "mine.yaml.*merge"),
    "call": ("model: !!python/object/apply:os.system ['exit 1']", "mine.yaml.*python/object/apply:os.system"),
    "function": ("epochs: !!python/name:os.system", "mine.yaml.*python/name:os.system"),
    "no truth": ("augment: {flip: !!bool maybe}", "mine.yaml"),
    "no date": ("model: {options: {a: !!timestamp never}}", "mine.yaml"),
    "Latin-1": ("data: {path: f\xfcr}".encode("latin-1"), "mine.yaml is not YAML in UTF-8"),
    "UTF-16": ("epochs: 1".encode("utf-16"), "mine.yaml is not YAML in UTF-8"),
    "binary": (b"\x00\x01epochs: 1", "mine.yaml is not YAML in UTF-8"),
    "broken": ("epochs: [1", "mine.yaml is not YAML in UTF-8.*line 1"),
    "tab": ("optimizer:\n\tlr: 1", "mine.yaml is not YAML in UTF-8.*line 2"),
    "two documents": ("epochs: 1\n---\nepochs: 2", "mine.yaml is not YAML in UTF-8"),
    "deep": ("model: {options: {a: " + "[" * 1500 + "]" * 1500 + "}}", "mine.yaml"),
    "too large": ("#" * (MAX_BYTES + 1), f"mine.yaml must be at most {MAX_BYTES} bytes, got {MAX_BYTES + 1}"),
    "list": ("- epochs: 1", "mine.yaml must hold keys and values, got list"),
    "text": ("epochs 1", "mine.yaml must hold keys and values, got str"),
    "empty": ("", "mine.yaml must hold keys and values, got NoneType"),
    "comments alone": ("# epochs: 1\n", "mine.yaml must hold keys and values, got NoneType"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_in_a_file(load, case):
    text, message = WRONG[case]
    with pytest.raises(ValueError, match=message) as error:
        load(text)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


CALLS = {
    "group": "model: {class_path: calls.Made, init_args: {a: 3}}",
    "option": "model: {options: {a: {class_path: calls.Made, init_args: {a: 3}}}}",
    "list": "model: {options: {a: [{class_path: calls.Made}]}}",
    "path": "data: {path: {class_path: calls.Made}}",
    "whole": "class_path: calls.Made",
}


@pytest.mark.parametrize("case", CALLS)
def test_a_recipe_imports_and_calls_nothing(load, tmp_path, monkeypatch, case):
    """jsonargparse makes objects of any class where a type is Any."""
    (tmp_path / "calls.py").write_text("class Made:\n    def __init__(self, a: int = 1): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"mine\.yaml.*class_path"):
        load(CALLS[case])
    for override in ("--model.options={a: {class_path: calls.Made}}", "--model.options.a={class_path: calls.Made}"):
        with pytest.raises(ValueError, match="class_path"):
            load("epochs: 3", override)
    assert "calls" not in sys.modules


WRONG_OPTIONS = {
    "misspelt": (["--epoch=1"], "--epoch"),
    "misspelt, nested": (["--optimizer.lrr", "1"], "--optimizer.lrr"),
    "shortened": (["--optimizer.mom", "1"], "--optimizer.mom"),
    "given twice": (["--epochs=1", "--epochs=2"], "--epochs is given twice; give it once"),
    "given twice, apart": (["--epochs", "1", "--seed", "0", "--epochs", "2"], "--epochs is given twice; give it once"),
    "given twice, mixed": (["--epochs", "1", "--epochs=1"], "--epochs is given twice; give it once"),
    "given twice, nested": (["--optimizer.lr=1", "--optimizer.lr", "2"], "--optimizer.lr is given twice"),
    "given twice, options": (["--model.options.a=1", "--model.options.a=2"], "--model.options.a is given twice"),
    "options and one of them": (["--model.options.a=1", "--model.options={b: 2}"], "--model.options.*twice"),
    "whole group": (["--optimizer={lr: 1}"], "--optimizer"),
    "file for a group": (["--optimizer", "optimizer.yaml"], "--optimizer"),
    "no value": (["--epochs"], "--epochs"),
    "no key": (["3"], "command line.*3"),
    "wrong type": (["--epochs", "three"], "command line.*epochs.*int.*three"),
    "null": (["--epochs=null"], "command line.*epochs.*int.*None"),
    "no rate": (["--optimizer.lr=no"], r"command line.*optimizer\.lr.*float"),
    "rate of nan": (["--optimizer.lr=nan"], r"optimizer\.lr"),
    "unknown choice": (["--data.name=mnist"], r"command line.*data\.name.*'digits'.*mnist"),
    "out of range": (["--batch_size=0"], "batch_size must be at least 1, got batch_size=0"),
}


@pytest.mark.parametrize("case", WRONG_OPTIONS)
def test_mistakes_on_the_command_line(load, case):
    overrides, message = WRONG_OPTIONS[case]
    with pytest.raises(ValueError, match=message) as error:
        load("epochs: 3", *overrides)
    assert "\n" not in str(error.value)


def test_names_and_paths_that_hold_no_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^recipe none\.yaml does not exist$"):
        load_recipe("none.yaml")
    with pytest.raises(FileNotFoundError, match=r"^recipe deep/none does not exist$"):
        load_recipe("deep/none")
    with pytest.raises(FileNotFoundError, match=r"^recipe /.* is a folder, not a file$"):
        load_recipe(tmp_path)
    with pytest.raises(ValueError, match=r"^recipe must be one of .*, got 'imagenett'; did you mean 'imagenet'\?$"):
        load_recipe("imagenett")
