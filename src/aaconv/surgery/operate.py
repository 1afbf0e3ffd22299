"""Surgery: put attention into a network, do the same to another copy, and take it out again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from aaconv._checks import expect_int, expect_pair
from aaconv.nn.conv import AttentionAugmentedConv2d
from aaconv.nn.convert import kept_filters
from aaconv.surgery.maps import trace_maps
from aaconv.surgery.plan import Where, Wishes, build, check_patterns, plan
from aaconv.surgery.report import Report


def augment(
    model: nn.Module,
    *,
    img_size: int | Sequence[int] | None = None,
    in_chans: int | None = None,
    where: Where | None = None,
    kernel_sizes: Sequence[int] | None = None,
    key_ratio: float = 0.2,
    value_ratio: float = 0.1,
    num_heads: int = 8,
    min_key_channels_per_head: int = 20,
    position: str = "relative",
    impl: str = "auto",
    max_map: int = 14,
    max_pool: int = 2,
    extra_gflops: float | None = None,
    extra_memory_mb: float | None = None,
    new_channels: str = "auto",
) -> tuple[nn.Module, Report]:
    """Replace convolutions of any network by augmented ones, in place.

    Args:
        model: Any module with ``nn.Conv2d`` in it, subclasses with their own padding too; it is changed and returned.
        img_size: Pixels of an edge, or (height, width), of the images it will see, from which position tables get
            their size; None takes the size in the ``default_cfg`` of timm's models, or 224.
        in_chans: Channels of these images; None takes those of the first convolution.
        where: Which convolutions: shell patterns of names, or a function of name and convolution. None means those
            with a kernel above 1, or of ``kernel_sizes``.
        kernel_sizes: Edges of kernels to take where there is no ``where``.
        key_ratio, value_ratio, num_heads, min_key_channels_per_head: Attention's shares of the output channels, see
            ``attention_channels``. With groups the value channels are a multiple of their number too.
        position, impl: See ``AttentionAugmentedConv2d``.
        max_map: Largest edge of an attention map, in cells. Larger maps are average-pooled for attention.
        max_pool: Pool at most by this; convolutions on maps that are larger still stay. The paper's rule is 14 and 2.
        extra_gflops: Operations to add for one image at most, in 10^9, two for each multiply-accumulate. They are spent
            from the last convolution towards the front, as the paper does under a limit.
        extra_memory_mb: Activations to add for one image at most, in 10^6 bytes of float32; spent likewise.
        new_channels: "zero": the new layers begin with zeros in attention's channels, so that the network computes what
            it did with the replaced filters (the last of each group) set to zero. "fresh": they are drawn. "auto":
            zero, but fresh where no batch norm has seen an image: behind a new batch norm and a ReLU zeros have no
            gradient and would stay. Behind a trained one that holds for channels which it shifts below zero; draw them
            where what is learned counts more than the beginning.

    Returns:
        The model, and a report of every convolution. Its batch norms and what follows them keep what they learned.

    Raises:
        TypeError, ValueError: An argument is wrong, the model has no convolution or does not run, or none can be
            replaced. The model is then as it was.
    """
    wishes = Wishes(
        where=where,
        kernel_sizes=kernel_sizes,
        key_ratio=key_ratio,
        value_ratio=value_ratio,
        num_heads=num_heads,
        min_key_channels_per_head=min_key_channels_per_head,
        position=position,
        impl=impl,
        max_map=max_map,
        max_pool=max_pool,
        extra_gflops=extra_gflops,
        extra_memory_mb=extra_memory_mb,
        new_channels=_resolved(model, new_channels),
    )
    convolutions = _convolutions(model)
    check_patterns(where, list(convolutions))
    size = _image_size(model, img_size)
    channels = expect_int("in_chans", in_chans) if in_chans is not None else _channels(model, convolutions)
    layers, replaced, skipped = plan(convolutions, trace_maps(model, (channels, *size)), wishes)
    if not layers:
        reasons = Counter(row.reason for row in skipped).most_common()
        raise ValueError("nothing to replace: " + "; ".join(f"{count} {reason}" for reason, count in reasons))
    _swap(model, {id(convolutions[name]): layer for name, layer in layers.items()})
    return model, Report(image_size=size, position=position, replaced=tuple(replaced), skipped=tuple(skipped))


def reapply(model: nn.Module, report: Report, impl: str = "auto") -> nn.Module:
    """Do to another copy of the network what ``report`` says, so that checkpoints of the augmented one load into it.

    Raises:
        ValueError: A convolution that the report names is missing; the model is then as it was.
    """
    convolutions = _convolutions(model)
    missing = [row.name for row in report.replaced if row.name not in convolutions]
    if missing:
        raise ValueError(f"the model has no convolutions {missing}; the report is of another network")
    layers = {}
    for row in report.replaced:
        conv = convolutions[row.name]
        shape = (row.key_channels, row.value_channels, row.num_heads)
        layers[id(conv)] = build(conv, *shape, report.position, row.grid, row.pool, impl)
    _swap(model, layers)
    return model


@torch.no_grad()
def unaugment(model: nn.Module) -> nn.Module:
    """Put plain convolutions in the place of augmented ones, in place: kept filters as they are, zeros in the others.

    Attention and what it learned are lost, and layers without any filter left become zeros.
    """
    found = [m for m in model.modules() if isinstance(m, AttentionAugmentedConv2d) and m.attention is not None]
    if not found:
        raise ValueError("model has no augmented convolutions to take out")
    _swap(model, {id(layer): _plain(layer) for layer in found})
    return model


def _resolved(model: nn.Module, new_channels: str) -> str:
    """What "auto" means for this network."""
    if new_channels != "auto" or not isinstance(model, nn.Module):
        return new_channels
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    seen = [m.running_mean for m in norms if m.running_mean is not None and not m.running_mean.is_meta]
    return "fresh" if seen and not any(bool(mean.any()) for mean in seen) else "zero"


def _plain(layer: AttentionAugmentedConv2d) -> nn.Conv2d:
    like = next(layer.parameters())
    if layer.conv is None or type(layer.conv) is nn.Conv2d:
        conv = nn.Conv2d(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.symmetric_padding(),
            layer.dilation,
            layer.groups,
            layer.conv is not None and layer.conv.bias is not None,
            layer.padding_mode,  # type: ignore[arg-type]  # checked when the layer was built
            device=like.device,
            dtype=like.dtype,
        )
    else:
        conv = deepcopy(layer.conv)
        conv.out_channels = layer.out_channels
    kept = kept_filters(conv, layer.value_channels)
    for name, shape in (("weight", conv.weight.shape[1:]), ("bias", ())):
        if getattr(conv, name) is None:
            continue
        full = like.new_zeros(layer.out_channels, *shape)
        if layer.conv is not None:
            full[kept.to(full.device)] = getattr(layer.conv, name)
        setattr(conv, name, nn.Parameter(full))
    return conv.train(layer.training)


def _convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """By the first of their names; those inside augmented layers are no convolutions of the network any more."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    inside = tuple(f"{n}." for n, m in model.named_modules() if isinstance(m, AttentionAugmentedConv2d))
    found = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d) and not n.startswith(inside)}
    if not found:
        raise ValueError("model must have a convolution (nn.Conv2d) inside, found none")
    if "" in found:
        raise ValueError("model is a convolution itself; use aaconv.nn.convert.augmented, which returns its successor")
    return found


def _swap(model: nn.Module, successors: Mapping[int, nn.Module]) -> None:
    """Put each successor wherever its module is registered; ``successors`` by the module's id."""
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in successors:
                setattr(parent, name, successors[id(child)])


def _image_size(model: nn.Module, img_size: int | Sequence[int] | None) -> tuple[int, int]:
    if img_size is not None:
        return expect_pair("img_size", img_size)
    config = getattr(model, "default_cfg", None) or getattr(model, "pretrained_cfg", None) or {}
    _, height, width = config.get("input_size") or (3, 224, 224)
    return height, width


def _channels(model: nn.Module, convolutions: dict[str, nn.Conv2d]) -> int:
    chosen = getattr(model, "in_chans", None)
    return chosen if isinstance(chosen, int) else next(iter(convolutions.values())).in_channels
