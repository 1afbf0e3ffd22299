"""Weights of other people's layers in ours: where both are the same function the outputs are equal, else it is refused.

Letters: C input channels, O output channels, N heads, K and V key and value channels a head, H W attention grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from aaconv._checks import expect_divisible, expect_int, expect_one_of
from aaconv.foreign.kinds import KINDS, TABLES, Kind
from aaconv.nn import AttentionAugmentedConv2d

LISTED = 4  # names of each sort in a message
_ABSENT = object()


def from_state_dict(
    weights: Mapping[str, Any],
    kind: str,
    *,
    num_heads: int,
    prefix: str = "",
    relative: bool | None = None,
    scale_pos_embed: bool | None = None,
    impl: str = "auto",
) -> AttentionAugmentedConv2d:
    """Our layer with the weights of another implementation's, of stride 1: outputs are equal up to rounding.

    Attention alone (lucidrains', timm's, segment-anything's) becomes a fully attentional layer, ``conv`` None; where
    they do not mix the heads' channels afterwards, ``attention.out`` is the identity.

    Args:
        weights: Their state dict, or a whole network's with ``prefix``. Of Keras ("titu1994"), which numbers its
            layers anew in every program, arrays under the names ``conv.kernel``, ``conv.bias``, ``qkv.kernel``,
            ``qkv.bias``, ``out.kernel``, ``out.bias``, ``key_rel_h``, ``key_rel_w``.
        kind: A row of ``KINDS``, which says where each is from.
        num_heads: N, which weights do not tell.
        prefix: What the layer's names begin with in ``weights``, "layer1.0.conv1." for instance.
        relative: Whether positions were used; None if the weights have tables. False leaves them out.
        scale_pos_embed: As the module was made, for "timm_bottleneck" alone, which has no default here.
        impl: Of the new layer.

    Raises:
        ValueError: Unknown kind, one that is another function than ours (the message says why), or weights that are
            missing, unknown, misshapen or not finite.
        TypeError: ``num_heads`` is no int.

    Source: Bello et al. 2019, arXiv:1904.09925; Srinivas et al. 2021, arXiv:2101.11605; Li et al. 2022,
        arXiv:2112.01526, equation 4. Ours multiplies the sum of content and positions by K ** -0.5 and counts offsets
        key minus query; tables of others are multiplied by K ** 0.5 or turned round where theirs differ.
    """
    row = KINDS[expect_one_of("kind", kind, KINDS)]
    expect_int("num_heads", num_heads)
    if row.wrong:
        raise ValueError(f"weights of {kind} ({row.source}) cannot be ours: {row.wrong}")
    scaled = _scaling(row, kind, scale_pos_embed)
    ours = _renamed(weights, row, kind, prefix, relative)
    if reason := _reason_against(row, ours, num_heads):
        raise ValueError(f"these weights of {kind} ({row.source}) cannot be ours: {reason}")
    return _layer(ours, kind, num_heads, row.flipped, scaled, impl)


def from_module(module: nn.Module, kind: str, *, impl: str = "auto") -> AttentionAugmentedConv2d:
    """As ``from_state_dict``, with heads and options read from their module.

    Raises:
        TypeError, ValueError: As ``from_state_dict``; or the module has not what modules of that kind have.
    """
    row = KINDS[expect_one_of("kind", kind, KINDS)]
    if not isinstance(module, nn.Module):
        raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
    for name, wanted, why in (("pool.stride", _ABSENT, "it averages its result, which ours does not"), *row.needs):
        if (value := _attribute(module, name)) not in (wanted, _ABSENT):
            raise ValueError(f"module cannot be ours with {name}={value}: {why}")
    heads = _attribute(module, row.heads)
    if heads is _ABSENT and not row.wrong:
        raise ValueError(f"module must be a {row.source}, which has {row.heads!r}; got {type(module).__name__}")
    options: dict[str, Any] = {"num_heads": 1 if row.wrong else heads, "impl": impl}
    if _attribute(module, "relative_encoding") is False or _attribute(module, "use_rel_pos") is False:
        options["relative"] = False
    if row.scaled is None:
        options["scale_pos_embed"] = bool(module.scale_pos_embed)
    return from_state_dict(module.state_dict(), kind, **options).train(module.training)


def _attribute(module: Any, path: str) -> Any:
    for name in path.split("."):
        module = getattr(module, name, _ABSENT)
    return module


def _scaling(row: Kind, kind: str, scale_pos_embed: bool | None) -> bool:
    """Whether their positions are scaled."""
    if row.scaled is None:
        if scale_pos_embed is None:
            raise ValueError(f"scale_pos_embed must say how the module of {kind} was made: timm's default is False")
        return scale_pos_embed
    if scale_pos_embed is not None:
        raise ValueError(f"scale_pos_embed must be left out for {kind}, got {scale_pos_embed}")
    return row.scaled


def _renamed(weights: Mapping[str, Any], row: Kind, kind: str, prefix: str, relative: bool | None) -> dict[str, Tensor]:
    """Their tensors by our names, filters as [O, C, h, w]; ValueError with all names that are too few or too many."""
    theirs = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    if not theirs:
        raise ValueError(f"weights must hold names that begin with {prefix!r}, got {_listed(list(weights))}")
    for name in row.refused.keys() & theirs.keys():
        raise ValueError(f"these weights of {kind} ({row.source}) cannot be ours: {row.refused[name]}")
    needed = {name for name in row.names if name not in TABLES and not name.endswith("bias")}
    if relative or any(row.names[name] in theirs for name in TABLES):
        needed |= set(TABLES)
    missing = sorted(row.names[name] for name in needed if row.names[name] not in theirs)
    unknown = sorted(set(theirs) - set(row.names.values()))
    if missing or unknown:
        faults = f"missing: {_listed(missing)}; unknown: {_listed(unknown)}"
        raise ValueError(f"weights must be those of a layer of {kind} ({row.source}); {faults}")
    dropped = TABLES if relative is False else ()
    taken = {ours: name for ours, name in row.names.items() if name in theirs and ours not in dropped}
    return {ours: _tensor(name, theirs[name], ours, row.layout) for ours, name in taken.items()}


def _reason_against(row: Kind, ours: dict[str, Tensor], num_heads: int) -> str | None:
    """Why a layer of these weights is another function than ours."""
    if tuple(ours["attention.qkv.weight"].shape[2:]) != (1, 1):
        return "queries, keys and values come from a convolution larger than 1x1; the paper's and ours are 1x1"
    if row.one_value_channel and len(ours["attention.out.weight"]) > num_heads:
        return row.one_value_channel
    return None


def _tensor(name: str, value: Any, ours: str, layout: str) -> Tensor:
    tensor = torch.as_tensor(value).detach()
    if not tensor.is_floating_point() or not tensor.isfinite().all():
        raise ValueError(f"weights must be finite floats, {name} is not ({tensor.dtype})")
    dims = 2 if ours in TABLES or (ours.endswith("weight") and layout == "OI") else 4 if ours.endswith("weight") else 1
    if tensor.dim() != dims or not tensor.numel() or (ours in TABLES and len(tensor) % 2 == 0):
        rule = "[2*size - 1, K]" if ours in TABLES else f"{dims} dimensions"
        raise ValueError(f"weights must have {name} of {rule}, got {list(tensor.shape)}")
    if ours.endswith("weight"):
        tensor = tensor.permute(3, 2, 0, 1) if layout == "HWIO" else tensor[..., None, None] if dims == 2 else tensor
    return tensor


def _layer(
    ours: dict[str, Tensor], kind: str, num_heads: int, flipped: bool, scaled: bool, impl: str
) -> AttentionAugmentedConv2d:
    """The layer that fits the shapes, with the weights in it."""
    qkv, conv = ours["attention.qkv.weight"], ours.get("conv.weight")
    keys, values = _channels(ours, num_heads)
    grid = None
    if relative := TABLES[0] in ours:
        tables = [ours[name].flip(0) if flipped else ours[name] for name in TABLES]
        tables = tables if scaled else [table * table.shape[1] ** 0.5 for table in tables]
        ours = ours | dict(zip(TABLES, tables, strict=True))
        grid = [(len(table) + 1) // 2 for table in tables]
    filters, kernel = (0, (1, 1)) if conv is None else (len(conv), tuple(conv.shape[2:]))
    layer = AttentionAugmentedConv2d(
        qkv.shape[1],
        filters + values,
        kernel,
        bias=any(name.endswith("bias") for name in ours),
        key_channels=keys,
        value_channels=values,
        num_heads=num_heads,
        position="relative" if relative else "none",
        grid=grid,
        impl=impl,
        device=qkv.device,
        dtype=qkv.dtype,
    )
    absent = {name: torch.zeros_like(value) for name, value in layer.state_dict().items() if name not in ours}
    if "attention.out.weight" in absent:
        absent["attention.out.weight"] = torch.eye(values, device=qkv.device, dtype=qkv.dtype)[..., None, None]
    try:
        layer.load_state_dict({**absent, **ours})
    except RuntimeError as error:
        raise ValueError(f"weights of {kind} do not fit together: {' '.join(str(error).split())}") from error
    return layer


def _channels(ours: dict[str, Tensor], num_heads: int) -> tuple[int, int]:
    """Key and value channels of all heads together, from the shapes."""
    rows = len(ours["attention.qkv.weight"])
    table = ours.get(TABLES[0])
    if "attention.out.weight" in ours:
        values = len(ours["attention.out.weight"])
        keys = (rows - values) // 2
    else:
        keys = rows // 3 if table is None else num_heads * table.shape[1]
        values = rows - 2 * keys
    for name, channels in (("key channels", keys), ("value channels", values)):
        if channels < 1:
            raise ValueError(f"weights leave no {name}: {rows} of queries, keys and values, {num_heads=}")
        expect_divisible(name, channels, "num_heads", num_heads)
    if 2 * keys + values != rows or (table is not None and table.shape[1] * num_heads != keys):
        width = "" if table is None else f", tables of {table.shape[1]} channels"
        raise ValueError(f"num_heads={num_heads} does not fit {keys} key and {values} value channels of {rows}{width}")
    return keys, values


def _listed(names: list[str]) -> str:
    shown = ", ".join(name if len(name) < 80 else f"{name[:77]}..." for name in names[:LISTED])
    return (shown or "none") + (f" and {len(names) - LISTED} more" if len(names) > LISTED else "")
