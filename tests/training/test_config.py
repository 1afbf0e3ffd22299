"""Configurations: what they refuse, and what makes a run another one."""

import re
import subprocess
import sys
from dataclasses import asdict, fields

import pytest

from aaconv.training.config import (
    AugmentConfig,
    DataConfig,
    MachineConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    changes,
    flat,
)

REFUSED = [
    (DataConfig, {"size": 0}, "data.size must be at least 1, got data.size=0"),
    (DataConfig, {"crop_pct": 0.0}, "data.crop_pct must lie in (0, 1], got data.crop_pct=0.0"),
    (DataConfig, {"crop_pct": 1.1}, "data.crop_pct must lie in (0, 1], got data.crop_pct=1.1"),
    (DataConfig, {"held_out": -0.1}, "data.held_out must lie in [0, 1], got data.held_out=-0.1"),
    (DataConfig, {"held_out": 1.5}, "data.held_out must lie in [0, 1], got data.held_out=1.5"),
    (DataConfig, {"held_out": float("nan")}, "data.held_out must lie in [0, 1], got data.held_out=nan"),
    (DataConfig, {"samples": 0}, "data.samples must be at least 1, got data.samples=0"),
    (DataConfig, {"classes": 1}, "data.classes must be at least 2, got data.classes=1"),
    (AugmentConfig, {"padding": -1}, "augment.padding must be at least 0, got augment.padding=-1"),
    (AugmentConfig, {"rand_augment": -1}, "augment.rand_augment must be at least 0, got augment.rand_augment=-1"),
    (AugmentConfig, {"rand_augment": 31}, "augment.rand_augment must be at most 30, got 31"),
    (AugmentConfig, {"mixup": -0.1}, "augment.mixup must be at least 0 and finite, got augment.mixup=-0.1"),
    (AugmentConfig, {"cutmix": float("inf")}, "augment.cutmix must be at least 0 and finite, got augment.cutmix=inf"),
    (OptimizerConfig, {"lr": 0.0}, "optimizer.lr must be above 0 and finite, got optimizer.lr=0.0"),
    (OptimizerConfig, {"lr": float("nan")}, "optimizer.lr must be above 0 and finite, got optimizer.lr=nan"),
    (OptimizerConfig, {"lr_batch": -1}, "optimizer.lr_batch must be at least 0, got optimizer.lr_batch=-1"),
    (OptimizerConfig, {"momentum": -0.9}, "optimizer.momentum must be at least 0 and finite"),
    (OptimizerConfig, {"weight_decay": -1e-4}, "optimizer.weight_decay must be at least 0 and finite"),
    (OptimizerConfig, {"clip_norm": -1.0}, "optimizer.clip_norm must be at least 0 and finite"),
    (ScheduleConfig, {"warmup": 1.01}, "schedule.warmup must lie in [0, 1], got schedule.warmup=1.01"),
    (ScheduleConfig, {"gamma": 0.0}, "schedule.gamma must be above 0 and finite, got schedule.gamma=0.0"),
    (ScheduleConfig, {"decay_epochs": 0.0}, "schedule.decay_epochs must be above 0 and finite"),
    (ScheduleConfig, {"name": "step"}, "schedule.milestones must list epochs for the schedule step, got none"),
    (MachineConfig, {"devices": 0}, "machine.devices must be at least 1, got machine.devices=0"),
    (MachineConfig, {"nodes": 0}, "machine.nodes must be at least 1, got machine.nodes=0"),
    (MachineConfig, {"workers": -1}, "machine.workers must be at least 0, got machine.workers=-1"),
    (MachineConfig, {"save_steps": -1}, "machine.save_steps must be at least 0, got machine.save_steps=-1"),
    (MachineConfig, {"save_minutes": -1.0}, "machine.save_minutes must be at least 0 and finite"),
    (Recipe, {"epochs": 0}, "epochs must be at least 1, got epochs=0"),
    (Recipe, {"batch_size": 0}, "batch_size must be at least 1, got batch_size=0"),
    (Recipe, {"accumulate": 0}, "accumulate must be at least 1, got accumulate=0"),
    (Recipe, {"label_smoothing": 1.1}, "label_smoothing must lie in [0, 1], got label_smoothing=1.1"),
    (Recipe, {"ema_decay": -0.1}, "ema_decay must lie in [0, 1], got ema_decay=-0.1"),
    (Recipe, {"seed": -1}, "seed must be at least 0, got seed=-1"),
    (Recipe, {"seed": 2**64}, "seed must be at most"),
]
WRONG_TYPES = [
    (DataConfig, {"size": 32.0}, "data.size must be an int, got float 32.0"),
    (DataConfig, {"crop_pct": "1"}, "data.crop_pct must be a number, got str '1'"),
    (OptimizerConfig, {"lr": "1e-4"}, "optimizer.lr must be a number, got str '1e-4'"),
    (OptimizerConfig, {"lr": None}, "optimizer.lr must be a number, got NoneType None"),
    (MachineConfig, {"devices": True}, "machine.devices must be an int, got bool True"),
    (Recipe, {"epochs": None}, "epochs must be an int, got NoneType None"),
]
EDGES = [
    (DataConfig, {"size": 1, "crop_pct": 1, "held_out": 0, "samples": 1, "classes": 2}),
    (AugmentConfig, {"padding": 0, "rand_augment": 30, "mixup": 0.0, "cutmix": 0.0}),
    (OptimizerConfig, {"lr": 1e-9, "lr_batch": 0, "momentum": 0.0, "weight_decay": 0.0, "clip_norm": 0.0}),
    (ScheduleConfig, {"name": "step", "warmup": 0.0, "milestones": (1,)}),
    (ScheduleConfig, {"warmup": 1.0}),
    (MachineConfig, {"devices": 1, "nodes": 1, "workers": 0, "save_steps": 0, "save_minutes": 0.0}),
    (Recipe, {"epochs": 1, "batch_size": 1, "accumulate": 1, "label_smoothing": 0.0, "ema_decay": 0.0, "seed": 0}),
]
MEMORY, DISK = ("digits", "clutter", "cifar10", "cifar100", "folder"), ("files", "shards")
FREE = {"devices": 2, "nodes": 3, "workers": 4, "loggers": (), "save_steps": 5, "save_minutes": 0.0}


def ids(case):
    return " ".join(f"{name}={value}" for name, value in case.items()) if isinstance(case, dict) else None


@pytest.mark.parametrize("group, values, message", REFUSED, ids=ids)
def test_ranges(group, values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        group(**values)


@pytest.mark.parametrize("group, values, message", WRONG_TYPES, ids=ids)
def test_types_that_no_parser_looked_at(group, values, message):
    with pytest.raises(TypeError, match=re.escape(message)):
        group(**values)


@pytest.mark.parametrize("group, values", EDGES, ids=ids)
def test_ends_of_the_ranges_are_allowed(group, values):
    made = group(**values)
    assert {name: getattr(made, name) for name in values} == values


def test_every_number_has_a_range():
    tried = {(group, name) for group, values, _ in REFUSED for name in values}
    for group in (ModelConfig, DataConfig, AugmentConfig, OptimizerConfig, ScheduleConfig, MachineConfig, Recipe):
        numbers = [entry.name for entry in fields(group) if entry.type.startswith(("int", "float"))]
        assert [name for name in numbers if (group, name) not in tried] == [], group


def test_milestones_are_epochs():
    with pytest.raises(ValueError, match=r"schedule\.milestones must be at least 1"):
        ScheduleConfig(name="step", milestones=(30, -60))


@pytest.mark.parametrize("name", MEMORY + DISK)
@pytest.mark.parametrize("crop", ["none", "pad", "inception"])
def test_crops_of_each_data_set(name, crop):
    values = {"data": DataConfig(name=name), "augment": AugmentConfig(crop=crop)}
    if crop == "none" or (crop == "pad") == (name in MEMORY):
        assert Recipe(**values).augment.crop == crop
        return
    allowed = r"none or pad for \w+, got inception" if name in MEMORY else r"inception or none for \w+, got pad"
    with pytest.raises(ValueError, match=rf"augment\.crop must be {allowed}"):
        Recipe(**values)


@pytest.mark.parametrize("name", MEMORY)
def test_images_in_memory_are_not_cut(name):
    """The card of a network tells predictions what to cut, so it must not say what training did not do."""
    with pytest.raises(ValueError, match=rf"data\.crop_pct must be 1 for {name}, got 0\.9 \(files, shards\)"):
        Recipe(data=DataConfig(name=name, crop_pct=0.9))


def held(recipe):
    """As it is read back from a file: lists, no tuples."""
    return {
        name: {key: list(item) if isinstance(item, tuple) else item for key, item in value.items()}
        if isinstance(value, dict)
        else value
        for name, value in asdict(recipe).items()
    }


def test_the_same_run_has_no_changes():
    recipe = Recipe(
        model=ModelConfig(options={"img_size": (32, 16), "nested": {"deep": (1, 2)}}),
        schedule=ScheduleConfig(name="step", milestones=(3, 5)),
    )
    assert changes(held(recipe), recipe) == []
    assert changes(asdict(recipe), recipe) == []


def test_changes_are_named():
    old = Recipe(schedule=ScheduleConfig(name="step", milestones=(3,)), model=ModelConfig(options={"drop_rate": 0.1}))
    new = Recipe(
        schedule=ScheduleConfig(name="step", milestones=(3, 5)),
        model=ModelConfig(options={"position": "sine"}),
        optimizer=OptimizerConfig(lr=0.1),
        epochs=21,
    )
    assert changes(held(old), new) == [
        "model.options.position None -> 'sine'",
        "optimizer.lr 0.003 -> 0.1",
        "schedule.milestones [3] -> [3, 5]",
        "epochs 20 -> 21",
        "model.options.drop_rate 0.1 -> None",
    ]


@pytest.mark.parametrize("name", FREE)
def test_keys_that_change_no_result_are_free(name):
    assert changes(held(Recipe()), Recipe(machine=MachineConfig(**{name: FREE[name]}))) == []
    assert changes(held(Recipe()), Recipe(data=DataConfig(check="none"))) == []


def test_workers_of_shards_are_not_free():
    """Each reads shards of its own."""
    old, new = (
        Recipe(data=DataConfig(name="shards"), machine=MachineConfig(workers=workers), augment=AugmentConfig())
        for workers in (0, 2)
    )
    assert changes(held(old), new) == ["machine.workers 0 -> 2"]


def test_every_other_key_counts():
    free = {f"machine.{name}" for name in FREE} | {"data.check"}
    names = [name for name, _ in flat(asdict(Recipe()))]
    assert len(names) > 40
    for name in names:
        values = held(Recipe())
        *group, last = name.split(".")
        (values[group[0]] if group else values)[last] = "something else"
        found = changes(values, Recipe())
        assert [change.partition(" ")[0] for change in found] == ([] if name in free else [name])


def test_keys_of_another_version_count():
    assert changes({**held(Recipe()), "older": 1}, Recipe()) == ["older 1 -> None"]


def test_needs_no_torch():
    code = "import sys; from aaconv.training.config import Recipe; Recipe(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
