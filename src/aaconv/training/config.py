"""What a run is made of, in plain values: read from YAML and the command line, written into the run's folder.

Nothing here needs torch, so that a wrong key is refused at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

from aaconv._checks import expect_int, expect_number, expect_ratio

SMALL = ("digits", "clutter", "cifar10", "cifar100", "folder")  # data sets that are held in memory


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network.

    Args:
        name: One that ``aaconv models`` lists.
        options: Cells of its row and arguments to change: position, drop_path_rate, drop_rate, impl, ...
    """

    name: str = "aa_resnet10s"
    options: dict[str, Any] = field(default_factory=dict)

    DECIDED: ClassVar[tuple[str, ...]] = ("num_classes", "in_chans")  # by the images

    def __post_init__(self) -> None:
        for name in self.DECIDED:
            if name in self.options:
                raise ValueError(f"model.options.{name} must be left out: the images and data.size decide")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The images.

    Args:
        name: digits and clutter are embedded; cifar10 and cifar100 are read from the official archives; folder holds a
            folder a class, small images, decoded into memory once; files is the same for images that do not fit, read
            in every epoch; shards are WebDataset tar files.
        path: Archive or folder; for shards, of training, a file, pattern or URL such as train-{0000..1023}.tar.
        val_path: Of shards, those to evaluate on.
        size: Pixels of the square that the network sees.
        crop_pct: Share of the resized image's edge that evaluation cuts out of its middle (files and shards).
        held_out: Share of each class to evaluate on where the data set has no such part, or CIFAR's is left alone.
        on_broken: What to do about images that cannot be read: fail, or skip them and count.
        check: Open every file's header before training (files): headers or none.
        samples: Images an epoch (shards; needed for remote ones).
        classes: Classes (shards).
    """

    name: Literal["digits", "clutter", "cifar10", "cifar100", "folder", "files", "shards"] = "digits"
    path: str | None = None
    val_path: str | None = None
    size: int = 32
    crop_pct: float = 1.0
    held_out: float = 0.0
    on_broken: Literal["fail", "skip"] = "fail"
    check: Literal["headers", "none"] = "headers"
    samples: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        expect_int("data.size", self.size)
        expect_ratio("data.crop_pct", self.crop_pct)
        expect_ratio("data.held_out", self.held_out, zero=True)
        for name, minimum in (("samples", 1), ("classes", 2)):
            if getattr(self, name) is not None:
                expect_int(f"data.{name}", getattr(self, name), minimum)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What happens to training images.

    Args:
        crop: none; pad: a square of the image's size out of the image with ``padding`` zeros around it; inception:
            a part of 8% to 100% of its area, resized (files and shards alone).
        padding: Pixels of zeros on each side.
        flip: Left and right swapped in half of the images.
        rand_augment: Magnitude of RandAugment with two operations, 0 for none.
        mixup: Alpha of mixup, 0 for none.
        cutmix: Alpha of cutmix, 0 for none; with both, each batch gets one of the two.
    """

    crop: Literal["none", "pad", "inception"] = "none"
    padding: int = 4
    flip: bool = False
    rand_augment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    def __post_init__(self) -> None:
        expect_int("augment.padding", self.padding, minimum=0)
        expect_int("augment.rand_augment", self.rand_augment, minimum=0)
        if self.rand_augment > 30:
            raise ValueError(f"augment.rand_augment must be at most 30, got {self.rand_augment}")
        expect_number("augment.mixup", self.mixup)
        expect_number("augment.cutmix", self.cutmix)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimiser.

    Args:
        name: sgd, adamw or rmsprop (TensorFlow's form, from timm).
        lr: Peak learning rate.
        lr_batch: Images that ``lr`` is for; it is scaled in proportion to ``batch_size``. 0 takes it as it is.
        momentum: Of sgd and rmsprop.
        nesterov: Of sgd.
        weight_decay: Of weights; norms, biases and position tables have none.
        clip_norm: Largest norm of the gradient, 0 for no limit.
    """

    name: Literal["sgd", "adamw", "rmsprop"] = "adamw"
    lr: float = 3e-3
    lr_batch: int = 0
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.05
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        expect_number("optimizer.lr", self.lr, zero=False)
        expect_int("optimizer.lr_batch", self.lr_batch, minimum=0)
        for name in ("momentum", "weight_decay", "clip_norm"):
            expect_number(f"optimizer.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves: linearly up from near 0 at first, then as ``name`` says.

    Args:
        name: cosine, down to 0; step, times ``gamma`` at each milestone; exponential, times ``gamma`` every
            ``decay_epochs``; constant.
        warmup: Share of the run that the way up takes.
        milestones: Epochs.
        gamma: Factor.
        decay_epochs: Epochs between factors.
    """

    name: Literal["cosine", "step", "exponential", "constant"] = "cosine"
    warmup: float = 0.05
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    decay_epochs: float = 2.4

    def __post_init__(self) -> None:
        expect_ratio("schedule.warmup", self.warmup, zero=True)
        expect_number("schedule.gamma", self.gamma, zero=False)
        expect_number("schedule.decay_epochs", self.decay_epochs, zero=False)
        for milestone in self.milestones:
            expect_int("schedule.milestones", milestone)
        if self.name == "step" and not self.milestones:
            raise ValueError("schedule.milestones must list epochs for the schedule step, got none")


@dataclass(frozen=True, kw_only=True)
class MachineConfig:
    """Where and how the run is computed.

    Args:
        accelerator: auto, cpu, gpu, ...
        devices: Processes on this machine, one a device; auto takes torchrun's, SLURM's or all GPUs.
        nodes: Machines.
        precision: 32, bf16 or 16, the last two mixed.
        channels_last: Keep maps with channels innermost in memory.
        compile: torch.compile the network.
        sync_batch_norm: Batch norm over all devices (GPUs).
        workers: Processes that read images, for each device.
        loggers: Beside metrics.csv, any of tensorboard, wandb, mlflow, comet, neptune.
        save_steps: Optimiser steps between checkpoints inside an epoch, 0 for none.
        save_minutes: Minutes between checkpoints inside an epoch, 0 for none.
    """

    accelerator: str = "auto"
    devices: int | Literal["auto"] = "auto"
    nodes: int = 1
    precision: Literal["32", "bf16", "16"] = "32"
    channels_last: bool = False
    compile: bool = False
    sync_batch_norm: bool = False
    workers: int = 0
    loggers: tuple[Literal["tensorboard", "wandb", "mlflow", "comet", "neptune"], ...] = ("tensorboard",)
    save_steps: int = 0
    save_minutes: float = 10.0

    def __post_init__(self) -> None:
        for name in ("workers", "save_steps"):
            expect_int(f"machine.{name}", getattr(self, name), minimum=0)
        expect_int("machine.nodes", self.nodes)
        if self.devices != "auto":
            expect_int("machine.devices", self.devices)
        expect_number("machine.save_minutes", self.save_minutes)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What runs of every task have; ``data`` and ``augment`` are each task's own.

    Args:
        model: The network.
        optimizer: The optimiser.
        schedule: How its learning rate moves.
        machine: Where and how it is computed.
        epochs: Passes over the training images.
        batch_size: Images of an optimiser step, over all devices and accumulated batches.
        accumulate: Batches whose gradients are added up for a step.
        ema_decay: Of the moving average of weights that is evaluated and kept, 0 for none.
        seed: Of weights, order, augmentation and images held out.
    """

    PREFIX: ClassVar[str] = ""  # of the names of the task's recipes

    model: ModelConfig = field(default_factory=ModelConfig)
    data: Any = None
    augment: Any = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    machine: MachineConfig = field(default_factory=MachineConfig)
    epochs: int = 20
    batch_size: int = 128
    accumulate: int = 1
    ema_decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulate"):
            expect_int(name, getattr(self, name))
        if expect_int("seed", self.seed, minimum=0) >= 2**32:  # canvases multiply it
            raise ValueError(f"seed must be at most {2**32 - 1}, got {self.seed}")
        expect_ratio("ema_decay", self.ema_decay, zero=True)

    @property
    def workers_matter(self) -> bool:
        """Whether the number of reading processes decides which images make a batch."""
        return False


@dataclass(frozen=True, kw_only=True)
class Recipe(RunConfig):
    """A run of classification.

    Args:
        data: The images.
        augment: What happens to training images.
        label_smoothing: Share of the target given to all classes alike.
    """

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_ratio("label_smoothing", self.label_smoothing, zero=True)
        if self.data.name in SMALL and self.augment.crop == "inception":
            raise ValueError(f"augment.crop must be none or pad for {self.data.name}, got inception (files, shards)")
        if self.data.name in SMALL and self.data.crop_pct != 1:
            raise ValueError(f"data.crop_pct must be 1 for {self.data.name}, got {self.data.crop_pct} (files, shards)")
        if self.data.name not in SMALL and self.augment.crop == "pad":
            raise ValueError(f"augment.crop must be inception or none for {self.data.name}, got pad")

    @property
    def workers_matter(self) -> bool:
        return self.data.name == "shards"  # each worker reads shards of its own


# What may differ when a run goes on: it does not change what is computed.
FREE = (
    "machine.devices",
    "machine.nodes",
    "machine.loggers",
    "machine.save_steps",
    "machine.save_minutes",
    "data.check",
)


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested dictionaries."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", list(value) if isinstance(value, tuple) else value


def changes(held: dict[str, Any], recipe: RunConfig) -> list[str]:
    """How ``recipe`` differs from a run's configuration ``held`` in what decides its outcome: "epochs 1 -> 2"."""
    before, now = dict(flat(held)), dict(flat(asdict(recipe)))
    free = FREE if recipe.workers_matter else (*FREE, "machine.workers")
    names = [name for name in {**now, **before} if name not in free and before.get(name) != now.get(name)]
    return [f"{name} {before.get(name)!r} -> {now.get(name)!r}" for name in names]
