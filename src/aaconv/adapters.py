"""Networks of timm on our kernels: their attention modules keep their weights and get our forward.

Letters: B batch, C channels, H W grid, L = H*W positions (row-major), N heads, K key channels a head.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn import functional

from aaconv.ops import relative_attention_2d

ModuleType = TypeVar("ModuleType", bound=nn.Module)


def adapt(model: ModuleType) -> tuple[ModuleType, list[str]]:
    """Make every module inside ``model`` that ``adapt_*`` below knows run on our kernels.

    All are checked before the first is changed: where one is refused, the model stays as it was. Modules of the same
    classes that attend without relative positions (SAM's with ``use_rel_pos=False``) are passed over.

    Args:
        model: Any network, for instance timm's ``botnet26t_256`` or ``samvit_base_patch16``; changed in place.

    Returns:
        The same model, and the names of what was adapted as in ``model.named_modules()``.

    Raises:
        ImportError: timm is not installed.
        TypeError: ``model`` is no module.
        ValueError: Nothing was found, or a module cannot be adapted; the message has the reason.

    Example::

        model, names = adapt(timm.create_model("botnet26t_256", pretrained=True))
    """
    _expect_module("model", model)
    found = [(name, module, kind) for name, module in model.named_modules() if (kind := _kind_of(module))]
    waiting = [(name, module, kind) for name, module, kind in found if type(module) is not _adapted(kind)]
    if not waiting:
        state = f"all {len(found)} of its modules are adapted already" if found else "it holds none"
        known = "timm's BottleneckAttn, or its segment-anything Attention with use_rel_pos"
        raise ValueError(f"model must hold {known}, not adapted yet; got {type(model).__name__}: {state}")
    for name, module, kind in waiting:
        _expect_adaptable(f"model.{name}" if name else "model", module, kind)
    for _, module, kind in waiting:
        _switch(module, kind)
    return model, [name for name, _, _ in waiting]


def adapt_bottleneck_attention(module: ModuleType) -> ModuleType:
    """Make timm's ``BottleneckAttn`` run on our kernels: the same function of [B, C, H, W], by the same weights.

    Only the class of the object changes, to a subclass with another ``forward``: parameters, buffers, hooks, names in
    the state dict and every reference to the module stay, and ``isinstance`` still holds. What is new: no logits in
    memory, and ``module.pos_embed`` is read but not called, so that its hooks do not run.

    Args:
        module: A ``timm.layers.bottleneck_attn.BottleneckAttn``, with either ``scale_pos_embed``; changed in place.

    Returns:
        ``module``; one that was adapted before comes back as it is.

    Raises:
        ImportError: timm is not installed.
        TypeError: ``module`` is no module.
        ValueError: It is of another class, or its ``forward`` was replaced.

    Source:
        Srinivas et al. 2021, arXiv:2101.11605; offsets are key minus query, as ours.
    """
    return _adapt_one(module, "bottleneck")


def adapt_decomposed_attention(module: ModuleType) -> ModuleType:
    """Make the attention of timm's segment-anything backbone run on our kernels, [B, H, W, C] to the same.

    As ``adapt_bottleneck_attention`` does it, by the class alone. Tables of another size than the map are interpolated
    as timm does.

    Args:
        module: A ``timm.models.vision_transformer_sam.Attention`` with ``use_rel_pos``; changed in place.

    Returns:
        ``module``; one that was adapted before comes back as it is.

    Raises:
        ImportError: timm is not installed.
        TypeError: ``module`` is no module.
        ValueError: It is of another class, has no relative positions, drops attention weights (``attn_drop``), or its
            ``forward`` was replaced. ``forward`` raises it if ``attn_drop`` is set later and would act.

    Source:
        Li et al. 2022, arXiv:2112.01526, equation 4, without its pooling; Kirillov et al. 2023, arXiv:2304.02643.
        Their offsets are query minus key, the reverse of ours.
    """
    return _adapt_one(module, "decomposed")


def _bottleneck_forward(self: Any, x: Tensor) -> Tensor:
    """``BottleneckAttn.forward``, [B, C, H, W] to [B, N*V, H, W], or half that map with stride 2."""
    grid = x.shape[-2:]
    q, k, v = (
        part.unflatten(1, (self.num_heads, -1)).flatten(3).mT
        for part in self.qkv(x).split([self.dim_out_qk, self.dim_out_qk, self.dim_out_v], dim=1)
    )
    rel_h, rel_w = self.pos_embed.height_rel, self.pos_embed.width_rel
    if not self.scale_pos_embed:
        rel_h, rel_w = rel_h / self.scale, rel_w / self.scale  # ours multiplies the whole logit
    out = relative_attention_2d(q, k, v, rel_h, rel_w, grid=grid, scale=self.scale)
    return self.pool(out.mT.flatten(1, 2).unflatten(2, grid))


def _decomposed_forward(self: Any, x: Tensor) -> Tensor:
    """``Attention.forward`` with relative positions, [B, H, W, C] to [B, H, W, C]."""
    if self.training and self.attn_drop.p:
        raise ValueError(f"attn_drop.p must be 0 in training after adapting, got {self.attn_drop.p}")
    height, width = grid = x.shape[1:3]
    qkv = self.qkv(x.flatten(1, 2)).unflatten(2, (3, self.num_heads, -1))
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = self.q_norm(q).type_as(v), self.k_norm(k).type_as(v)  # under autocast a norm returns float32
    scale = q.shape[-1] ** -0.5 if self.fused_attn else self.scale
    # Only the product of q and k is scaled there; ours multiplies the whole logit.
    rel_h = _offset_table(self.rel_pos_h, height) / scale
    rel_w = _offset_table(self.rel_pos_w, width) / scale
    out = relative_attention_2d(q, k, v, rel_h, rel_w, grid=grid, scale=scale)
    out = out.transpose(1, 2).flatten(2)
    return self.proj_drop(self.proj(out)).unflatten(1, grid)


def _offset_table(table: Tensor, size: int) -> Tensor:
    """Rows of offsets query minus key, [any, K], as ours: key minus query, [2*size-1, K]."""
    rows = 2 * size - 1
    if table.shape[0] != rows:
        table = functional.interpolate(table.mT[None], size=rows, mode="linear")[0].mT
    return table.flip(0)


KINDS: dict[str, tuple[str, str, Callable[..., Tensor]]] = {  # kind -> module of timm, class there, our forward
    "bottleneck": ("timm.layers.bottleneck_attn", "BottleneckAttn", _bottleneck_forward),
    "decomposed": ("timm.models.vision_transformer_sam", "Attention", _decomposed_forward),
}


@cache
def _original(kind: str) -> type[nn.Module]:
    """timm's class of this kind."""
    home, name, _ = KINDS[kind]
    return getattr(import_module(home), name)


@cache
def _adapted(kind: str) -> type[nn.Module]:
    """The subclass with our forward. It is made when first asked for, since timm is needed only by those who adapt."""
    original = _original(kind)
    body = {"forward": KINDS[kind][2], "__module__": __name__, "__doc__": f"timm's {original.__name__} on our kernels."}
    return type(f"Adapted{original.__name__}", (original,), body)


def __getattr__(name: str) -> type[nn.Module]:
    """The adapted classes by name, for pickle: ``AdaptedBottleneckAttn`` and ``AdaptedAttention``."""
    for kind, (_, original, _) in KINDS.items():
        if name == f"Adapted{original}":
            return _adapted(kind)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _adapt_one(module: ModuleType, kind: str) -> ModuleType:
    _expect_module("module", module)
    if type(module) is not _adapted(kind):
        _expect_adaptable("module", module, kind)
        _switch(module, kind)
    return module


def _switch(module: nn.Module, kind: str) -> None:
    module.__class__ = _adapted(kind)


def _kind_of(module: nn.Module) -> str | None:
    """The kind of what attends to relative positions, None for everything else."""
    kind = next((kind for kind in KINDS if isinstance(module, _original(kind))), None)
    return None if kind == "decomposed" and not module.use_rel_pos else kind


def _expect_module(name: str, value: Any) -> None:
    if not isinstance(value, nn.Module):
        raise TypeError(f"{name} must be a torch.nn.Module, got {type(value).__name__}")


def _expect_adaptable(name: str, module: Any, kind: str) -> None:
    """Raise unless our forward computes on ``module`` what its own does."""
    original: Any = _original(kind)
    if type(module) is not original:
        raise ValueError(f"{name} must be a {original.__module__}.{original.__name__} itself, got {type(module)}")
    if "forward" in vars(module):
        raise ValueError(f"{name} must have the forward of its class, got one set on the object; remove that first")
    if kind == "decomposed" and _kind_of(module) is None:
        raise ValueError(f"{name} must have relative positions, got use_rel_pos={module.use_rel_pos}")
    if kind == "decomposed" and module.attn_drop.p:
        rule = "must not drop attention weights, which are never in memory here"
        raise ValueError(f"{name} {rule}, got attn_drop.p={module.attn_drop.p}; set it to 0, or do not adapt")
