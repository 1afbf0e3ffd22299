"""Which convolutions become augmented ones, and how: decided before anything is touched."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from aaconv._checks import expect_int, expect_one_of, expect_ratio
from aaconv.nn.attention import Attention2d
from aaconv.nn.channels import attention_channels
from aaconv.nn.conv import AttentionAugmentedConv2d
from aaconv.nn.convert import augmented
from aaconv.nn.cost import count_flops
from aaconv.nn.position import POSITIONS
from aaconv.surgery.maps import Maps, Size
from aaconv.surgery.report import Replaced, Skipped

Where = Callable[[str, nn.Conv2d], bool] | Sequence[str]
NEW_CHANNELS = ("auto", "zero", "fresh")


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What the user asks for; see ``augment``."""

    where: Where | None
    kernel_sizes: Sequence[int] | None
    key_ratio: float
    value_ratio: float
    num_heads: int
    min_key_channels_per_head: int
    position: str
    impl: str
    max_map: int
    max_pool: int
    extra_gflops: float | None
    extra_memory_mb: float | None
    new_channels: str

    def __post_init__(self) -> None:
        expect_ratio("key_ratio", self.key_ratio)
        expect_ratio("value_ratio", self.value_ratio)
        for name, least in (("num_heads", 1), ("min_key_channels_per_head", 0), ("max_map", 1), ("max_pool", 1)):
            expect_int(name, getattr(self, name), least)
        expect_one_of("position", self.position, POSITIONS)
        expect_one_of("new_channels", self.new_channels, NEW_CHANNELS)
        for name in ("extra_gflops", "extra_memory_mb"):
            budget = getattr(self, name)
            if budget is not None and not budget >= 0:
                raise ValueError(f"{name} must be at least 0, or None for no limit, got {name}={budget}")

    def wants(self, name: str, conv: nn.Conv2d) -> bool:
        """Whether the user means this convolution."""
        if callable(self.where):
            return bool(self.where(name, conv))
        if self.where is not None:
            return any(fnmatchcase(name, pattern) for pattern in self.where)
        if self.kernel_sizes is None:
            return max(conv.kernel_size) > 1
        return set(conv.kernel_size) <= set(self.kernel_sizes)


class Unsuitable(ValueError):
    """A convolution cannot be replaced; the message is the reason that the report gives."""


def check_patterns(where: Where | None, names: Sequence[str]) -> None:
    """Raise ValueError for a pattern that no convolution's name matches."""
    if isinstance(where, str):
        raise TypeError(f"where must be a list of patterns or a function, got the string {where!r}")
    if where is None or callable(where):
        return
    for pattern in where:
        if not any(fnmatchcase(name, pattern) for name in names):
            close = get_close_matches(pattern, names, n=3) or list(names[:3])
            raise ValueError(f"where: no convolution's name matches {pattern!r}; nearest: {', '.join(close)}")


def plan(
    convolutions: dict[str, nn.Conv2d], maps: Maps, wishes: Wishes
) -> tuple[dict[str, AttentionAugmentedConv2d], list[Replaced], list[Skipped]]:
    """New layers by name, and the rows of the report in the order in which the convolutions run."""
    ran = [name for name in maps if name in convolutions]  # others are inside of layers that have attention already
    order = [*ran, *(name for name in convolutions if name not in maps)]
    layers: dict[str, AttentionAugmentedConv2d] = {}
    rows: dict[str, Replaced | Skipped] = {}
    budget = _Budget(wishes)
    for name in reversed(order):  # the paper augments from the last layer towards the front
        try:
            if not wishes.wants(name, convolutions[name]):
                raise Unsuitable("not asked for")
            layer, row = _replacement(name, convolutions[name], maps.get(name, []), wishes)
            budget.spend(row)
        except Unsuitable as reason:
            rows[name] = Skipped(name=name, reason=str(reason))
        else:
            layers[name], rows[name] = layer, row
    found = [rows[name] for name in order]
    return layers, [r for r in found if isinstance(r, Replaced)], [r for r in found if isinstance(r, Skipped)]


class _Budget:
    """What may still be added; the first layer that does not fit ends it, so that none in front of it is taken."""

    def __init__(self, wishes: Wishes):
        self.limits = {"GFLOPs": wishes.extra_gflops, "memory": wishes.extra_memory_mb}
        self.spent = dict.fromkeys(self.limits, 0.0)
        self.ended = ""

    def spend(self, row: Replaced) -> None:
        """Raise Unsuitable unless the layer fits."""
        added = {"GFLOPs": row.gflops, "memory": row.memory_mb}
        total = {what: self.spent[what] + after - before for what, (before, after) in added.items()}
        over = [what for what, limit in self.limits.items() if limit is not None and total[what] > limit]
        if over and not self.ended:
            self.ended = f"the budget of {over[0]} is spent"
        if self.ended:
            raise Unsuitable(self.ended)
        self.spent = total


def _replacement(
    name: str, conv: nn.Conv2d, calls: list[tuple[Size, Size]], wishes: Wishes
) -> tuple[AttentionAugmentedConv2d, Replaced]:
    source, target = _one_map(conv, calls)
    pool = -(-max(target) // wishes.max_map)
    if pool > wishes.max_pool:
        raise Unsuitable(f"maps larger than max_map * max_pool = {wishes.max_map * wishes.max_pool}")
    grid = -(-target[0] // pool), -(-target[1] // pool)
    keys, values = _channels(conv, wishes)
    try:
        layer = build(conv, keys, values, wishes.num_heads, wishes.position, grid, pool, wishes.impl)
    except ValueError as error:
        raise Unsuitable(str(error)) from error
    assert layer.attention is not None  # there are value channels
    if wishes.new_channels == "zero":
        for parameter in layer.attention.out.parameters():
            nn.init.zeros_(parameter)
    shape = (1, conv.in_channels, *source)
    kept = conv.out_channels * target[0] * target[1] * 4e-6
    return layer, Replaced(
        name=name,
        grid=grid,
        pool=pool,
        key_channels=keys,
        value_channels=values,
        num_heads=wishes.num_heads,
        parameters=(_parameters(conv), _parameters(layer)),
        gflops=(count_flops(conv, shape) / 1e9, count_flops(layer, shape) / 1e9),
        memory_mb=(kept, kept + _activations(layer.attention, grid, target)),
    )


def build(
    conv: nn.Conv2d, keys: int, values: int, heads: int, position: str, grid: Size, pool: int, impl: str
) -> AttentionAugmentedConv2d:
    """The layer for the place of ``conv``, in its mode, its kept filters frozen if they were."""
    layer = augmented(
        conv,
        key_channels=keys,
        value_channels=values,
        num_heads=heads,
        position=position,
        grid=grid,
        pool=pool,
        impl=impl,
    )
    if layer.conv is not None:
        layer.conv.requires_grad_(conv.weight.requires_grad)
    return layer.train(conv.training)


def _one_map(conv: nn.Conv2d, calls: list[tuple[Size, Size]]) -> tuple[Size, Size]:
    """Input and output map of a convolution that can be replaced."""
    if not isinstance(conv._parameters.get("weight"), nn.Parameter):
        raise Unsuitable("its weight is computed from others (parametrised)")
    if not calls:
        raise Unsuitable("it was not called")
    if len(set(calls)) > 1:
        raise Unsuitable("it is called with maps of different sizes")
    source, target = calls[0]
    if target != tuple(-(-edge // step) for edge, step in zip(source, conv.stride, strict=True)):
        raise Unsuitable("its output map is not ceil(input / stride)")
    return source, target


def _channels(conv: nn.Conv2d, wishes: Wishes) -> tuple[int, int]:
    """Key and value channels by the paper's rule, the latter a multiple of the groups too."""
    if conv.groups > 1 and conv.groups == conv.out_channels:
        raise Unsuitable("depthwise: every filter is a group of its own")
    try:
        keys, values = attention_channels(
            conv.out_channels,
            key_ratio=wishes.key_ratio,
            value_ratio=wishes.value_ratio,
            num_heads=wishes.num_heads,
            min_key_channels_per_head=wishes.min_key_channels_per_head,
        )
    except ValueError as error:
        raise Unsuitable("its channels are too few for a value or key channel a head") from error
    unit = math.lcm(conv.groups, wishes.num_heads)
    values = max(unit, values // unit * unit)
    if values > conv.out_channels or (values == conv.out_channels and wishes.value_ratio < 1):
        raise Unsuitable(f"value channels have to be a multiple of {unit} (groups and heads): all there are")
    return keys, values


def _parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _activations(attention: Attention2d, grid: Size, target: Size) -> float:
    """MB of queries, keys, values, attended values and projected values, and of the latter enlarged."""
    cells = grid[0] * grid[1]
    channels = 2 * attention.key_channels + 3 * attention.value_channels
    enlarged = attention.value_channels * target[0] * target[1] if grid != target else 0
    return 4e-6 * (channels * cells + enlarged)
