"""Attention with a bias decomposed by axis, as operators that autograd, torch.compile, vmap and the FLOP counter know.

The core is ``softmax_j(scale * (q_i . k_j + bias_h[i, row of j] + bias_w[i, column of j])) @ v``. Relative positions
are one source of such terms; others that decompose can call it as well.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from aaconv.ops import cpu, cuda
from aaconv.ops.autocast import cast_arguments
from aaconv.ops.position_terms import dense_terms

HALF = (torch.float16, torch.bfloat16)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    grid: tuple[int, int],
    scale: float,
) -> Tensor:
    """The contract of ``relative_attention_2d`` on checked arguments: [B, N, L, V]."""
    dtype = v.dtype
    if q.device.type == "cpu" and dtype in HALF:  # the kernels compute in float32
        q, k, v = q.float(), k.float(), v.float()
    if scale <= 0:  # which would turn the -inf of what is no key around
        q, scale = q * math.copysign(bool(scale), scale), abs(scale) or 1.0
    tensors = q, k, v, rel_h, rel_w
    wants_gradients = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    operator = relative_attention if q.device.type in ("cpu", "meta") and not wants_gradients else _through_terms
    return operator(*tensors, *grid, scale).to(dtype)


def _through_terms(
    q: Tensor, k: Tensor, v: Tensor, rel_h: Tensor | None, rel_w: Tensor | None, height: int, width: int, scale: float
) -> Tensor:
    # In float32 the terms neither lose bits nor, in float16, overflow before they are scaled.
    terms = dense_terms(q.float() if q.dtype in HALF else q, rel_h, rel_w, (height, width))
    # Older compilers cannot trace a function of autograd inside the backward of another; they know the operator.
    operator = decomposed_attention if torch.compiler.is_compiling() else _Attend.apply
    return operator(q, k, v, *terms, scale)[0]


def extra_bytes(q: Tensor, v: Tensor, grid: tuple[int, int]) -> int:
    """Memory of output, terms and their gradients, in bytes; inference on the CPU has no terms."""
    batch, heads, length, channels = q.shape
    terms = 2 * sum(grid) if torch.is_grad_enabled() or q.device.type == "cuda" else 0
    return batch * heads * length * (channels + v.shape[-1] + terms) * max(q.element_size(), 4)


@torch.library.custom_op("aaconv::relative_attention", mutates_args=(), device_types="cpu")
def relative_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rel_h: Tensor | None,
    rel_w: Tensor | None,
    height: int,
    width: int,
    scale: float,
) -> Tensor:
    """``relative_attention_2d`` for inference, [B, N, L, V]: no terms in memory, and no derivative."""
    return cpu.forward_from_tables(q, k, v, rel_h, rel_w, (height, width), scale)


@torch.library.custom_op("aaconv::decomposed_attention", mutates_args=(), device_types="cpu")
def decomposed_attention(
    q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Attended values [B, N, L, V] and log-sum-exp of the logits [B, N, L], the latter not differentiable.

    Args:
        q, k, v: [B, N, L, K], [B, N, L, K], [B, N, L, V].
        bias_h, bias_w: What each query adds for each key row [B, N, L, H] and each key column [B, N, L, W].
        scale: Factor on the sum of product and terms, above 0.
    """
    return cpu.forward(q, k, v, bias_h, bias_w, scale)


@torch.library.custom_op("aaconv::decomposed_attention_backward", mutates_args=(), device_types="cpu")
def decomposed_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias_h: Tensor,
    bias_w: Tensor,
    out: Tensor,
    lse: Tensor,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, bias_h and bias_w. It has no derivative itself; impl='reference' has."""
    return cpu.backward(grad, q, k, v, bias_h, bias_w, out, lse, scale)


decomposed_attention.register_kernel("cuda")(cuda.forward)
decomposed_attention_backward.register_kernel("cuda")(cuda.backward)


_LIBRARY = torch.library.Library("aaconv", "FRAGMENT")


def _register_autocast(name: str, operator: Callable[..., Any]) -> None:
    """Under autocast q, k and v take its dtype; terms and tables stay as they are.

    ``register_autocast`` of the operator itself knows one fixed dtype only.
    """
    for device, key in (("cpu", torch._C.DispatchKey.AutocastCPU), ("cuda", torch._C.DispatchKey.AutocastCUDA)):

        def run(*arguments: Any, device: str = device, key: Any = key) -> Any:
            cast = cast_arguments(device, *arguments[:3])  # asks whether autocast is on, which the guard denies
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(key)):
                return operator(*cast, *arguments[3:])

        _LIBRARY.impl(name, run, key.name)


_register_autocast("decomposed_attention", decomposed_attention)
_register_autocast("relative_attention", relative_attention)


@decomposed_attention.register_fake
def _fake(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    lse = torch.float64 if q.device.type == "cpu" else torch.float32
    return _like_kernels(v), q.new_empty(q.shape[:3], dtype=lse)


@decomposed_attention_backward.register_fake
def _fake_backward(grad: Tensor, *saved: Any) -> tuple[Tensor, ...]:
    q, k, v, bias_h, bias_w = saved[:5]
    return *map(_like_kernels, (q, k, v)), bias_h.new_empty(bias_h.shape), bias_w.new_empty(bias_w.shape)


@relative_attention.register_fake
def _fake_from_tables(q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> Tensor:
    return _like_kernels(v)


def _like_kernels(x: Tensor) -> Tensor:
    """An empty tensor like ``x`` [B, N, L, channels] in the layout of results; those of the CPU keep L innermost."""
    return x.new_empty(x.mT.shape).mT if x.device.type == "cpu" else x.new_empty(x.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    return *decomposed_attention_backward(grad, *ctx.saved_tensors, ctx.scale), None


class _Differentiate(torch.autograd.Function):
    """The backward operator for torch.func, which differentiates it in passing."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*arguments: Any) -> tuple[Tensor, ...]:
        return decomposed_attention_backward(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError("the kernels have no second derivative; use impl='reference', which has")


decomposed_attention.register_autograd(_differentiate, setup_context=_save)


class _Attend(torch.autograd.Function):
    """The operator for torch.func, whose transforms do not see ``register_autograd``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(q: Tensor, k: Tensor, v: Tensor, bias_h: Tensor, bias_w: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        return decomposed_attention(q, k, v, bias_h, bias_w, scale)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        _save(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
        return *_Differentiate.apply(grad, *ctx.saved_tensors, ctx.scale), None


def _fold_into_batch(operator: Callable[..., tuple[Tensor, ...]]) -> Callable[..., Any]:
    """The rule for vmap: the mapped dimension becomes a part of the batch."""

    def rule(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> Any:
        count = info.batch_size
        folded = []
        for argument, dim in zip(arguments, in_dims, strict=True):
            if isinstance(argument, Tensor):
                front = argument.expand(count, *argument.shape) if dim is None else argument.movedim(dim, 0)
                argument = front.flatten(0, 1)
            folded.append(argument)
        results = operator(*folded)
        return tuple(x.unflatten(0, (count, -1)) for x in results), (0,) * len(results)

    return rule


decomposed_attention.register_vmap(_fold_into_batch(decomposed_attention))
decomposed_attention_backward.register_vmap(_fold_into_batch(decomposed_attention_backward))


@relative_attention.register_vmap
def _vmap_from_tables(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
    """One call after the other: tables may be mapped too, so that nothing can be folded."""
    pairs = list(zip(arguments, in_dims, strict=True))
    calls = ([x if dim is None else x.select(dim, i) for x, dim in pairs] for i in range(info.batch_size))
    return torch.stack([relative_attention(*call) for call in calls]), 0


@register_flop_formula(torch.ops.aaconv.decomposed_attention)
def _flops(q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    """Two for each multiply-accumulate of q k^T and weights v."""
    batch, heads, length, channels = q
    return 2 * batch * heads * length**2 * (channels + v[-1])


@register_flop_formula(torch.ops.aaconv.relative_attention)
def _flops_from_tables(q: Any, k: Any, v: Any, rel_h: Any, rel_w: Any, *rest: Any, **options: Any) -> int:
    """The same and the position terms: q times one row of a table for each key row and each key column."""
    edges = sum((table[0] + 1) // 2 for table in (rel_h, rel_w) if table is not None)
    return _flops(q, k, v) + 2 * math.prod(q) * edges


@register_flop_formula(torch.ops.aaconv.decomposed_attention_backward)
def _flops_backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
    """The logits again, the weights' gradient, and the products for q, k and v."""
    batch, heads, length, channels = q
    return 2 * batch * heads * length**2 * (3 * channels + 2 * v[-1])
