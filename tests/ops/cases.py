"""Inputs and yardsticks that the tests of every implementation share.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

import torch

from aaconv.ops.relative_attention import IMPLEMENTATIONS, relative_attention_2d

_HERE = torch.empty(1, 1)
IMPLS = sorted(name for name, found in IMPLEMENTATIONS.items() if found.unsupported_reason(_HERE, _HERE) is None)
SHAPES = [  # (B, N, (H, W), K, V): square, wide, tall, one row, one column, one cell, V > K + H + W, one value channel
    (2, 2, (4, 4), 8, 8),
    (1, 3, (3, 7), 5, 4),
    (2, 2, (7, 3), 16, 12),
    (1, 2, (1, 9), 4, 20),
    (2, 1, (6, 1), 3, 2),
    (2, 2, (1, 1), 4, 3),
    (1, 2, (2, 3), 2, 11),
    (1, 2, (5, 6), 20, 1),
]
NAMES = ("out", "dq", "dk", "dv", "drel_h", "drel_w")


def inputs(shape, dtype=torch.float32, seed=0, positions=True):
    """q, k, v and random tables (zeros would hide index errors), all wanting gradients."""
    batch, heads, (height, width), key, value = shape
    random = torch.Generator().manual_seed(seed)
    sizes = [(batch, heads, height * width, channels) for channels in (key, key, value)]
    sizes += [(2 * height - 1, key), (2 * width - 1, key)] if positions else []
    tensors = [torch.randn(size, generator=random).to(dtype).requires_grad_() for size in sizes]
    return tensors if positions else [*tensors, None, None]


def run(attend, tensors, grid, seed=1):
    """The result and the gradient of every input, for a fixed random upstream gradient."""
    out = attend(*tensors, grid=grid)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed)).to(out.dtype)
    wanted = [t for t in tensors if t is not None]
    return [out.detach(), *torch.autograd.grad(out, wanted, upstream)]


def via(impl):
    """The public operation with its implementation fixed."""
    return lambda *tensors, grid: relative_attention_2d(*tensors, grid=grid, impl=impl)


def plain(q, k, v, rel_h, rel_w, *, grid):
    """What one would write in plain PyTorch: every step in the inputs' dtype, every logit stored."""
    height, width = grid
    position = torch.arange(height * width)
    rows, columns = position // width, position % width
    logits = q @ k.transpose(-1, -2)
    if rel_h is not None:
        by_pair = rel_h[rows[None] - rows[:, None] + height - 1] + rel_w[columns[None] - columns[:, None] + width - 1]
        logits = logits + torch.einsum("bnik,ijk->bnij", q, by_pair)
    return torch.softmax(logits * q.shape[-1] ** -0.5, dim=-1) @ v


def assert_as_good_as(got, low, high, name, slack=2.0):
    """The error against float64 may be at most ``slack`` times that of plain PyTorch in the same dtype.

    Errors are root mean squares: the largest of a handful of roundings is luck.
    """
    assert torch.isfinite(got).all(), f"{name}: not finite"
    # A rounding of a number of the size in play: gradients that are exactly 0 are sums of some twenty terms about 1.
    largest = high.abs().max().item()
    floor = torch.finfo(got.dtype).eps * (max(1.0, largest) if largest > 1e-9 else 4.0)
    budget = slack * max(_rms(low.double() - high), floor)
    error = _rms(got.double() - high)
    assert error <= budget, f"{name}: error {error:.3e} > {budget:.3e}"


def _rms(x):
    return x.square().mean().sqrt().item() if x.numel() else 0.0
