"""The Triton kernels: on CPU tensors in Triton's interpreter if TRITON_INTERPRET=1, else on a GPU.

``test_cuda.py`` runs this file in a process of its own, because a kernel is interpreted or not from its import on.

Letters: B batch, N heads, H W grid, L = H*W positions (row-major), K key and V value channels a head.
"""

import math
import os

import pytest
import torch

from aaconv.ops import cuda
from tests.ops.cases import SHAPES as SHARED
from tests.ops.cases import assert_as_good_as

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
# The interpreter multiplies the bits of bfloat16 as if they were integers.
DTYPES = [torch.float32, torch.float16, *([] if INTERPRETED else [torch.bfloat16])]
SHAPES = [  # several blocks of queries and tiles of keys; rows cut into parts; the widest, not a power of two
    *SHARED,
    (1, 2, (9, 9), 20, 3),
    (1, 1, (2, 70), 20, 3),
    (2, 1, (70, 1), 17, 33),
]
NAMES = ("out", "lse", "dq", "dk", "dv", "dbias_h", "dbias_w")
SCALE = 0.3


@pytest.fixture(autouse=True)
def _poisoned(monkeypatch):
    """Fill every fresh floating-point ``torch.empty`` with NaN, so that an unwritten number cannot pass."""
    make = torch.empty

    def poisoned(*size, **options):
        fresh = make(*size, **options)
        return fresh.fill_(math.nan) if fresh.is_floating_point() else fresh

    monkeypatch.setattr(torch, "empty", poisoned)


@pytest.fixture(autouse=True)
def use_blocks(monkeypatch):
    """Sets the sizes of blocks to choose from; to begin with one, as timing several for every shape takes minutes."""
    from aaconv.ops import cuda_kernels

    def use(indices):
        for kernel in (cuda_kernels.forward, cuda_kernels.backward_queries, cuda_kernels.backward_keys):
            monkeypatch.setattr(kernel, "configs", cuda_kernels.CONFIGS[indices])

    use(slice(-1, None))
    return use


def inputs(shape, dtype=torch.float32):
    """q, k, v, bias_h, bias_w and the gradient of the output."""
    batch, heads, (height, width), key, value = shape
    channels = key, key, value, height, width, value
    return [torch.randn(batch, heads, height * width, c).to(DEVICE, dtype) for c in channels]


def run(q, k, v, bias_h, bias_w, grad, scale=SCALE):
    """Output, log-sum-exp and the five gradients, by the kernels."""
    out, lse = cuda.forward(q, k, v, bias_h, bias_w, scale)
    return [out, lse, *cuda.backward(grad, q, k, v, bias_h, bias_w, out, lse, scale)]


def plain(q, k, v, bias_h, bias_w, grad, scale=SCALE):
    """The same by the formula in the inputs' dtype, with every logit stored."""
    tensors = [t.detach().requires_grad_() for t in (q, k, v, bias_h, bias_w)]
    q, k, v, bias_h, bias_w = tensors
    logits = scale * (q @ k.mT + (bias_h[..., :, None] + bias_w[..., None, :]).flatten(-2))
    out = logits.softmax(dim=-1) @ v
    return [out.detach(), logits.detach().logsumexp(-1), *torch.autograd.grad(out, tensors, grad)]


def assert_parity(got, low, scale=SCALE):
    """Output, log-sum-exp and gradients of the inputs ``low`` are as near to float64 as plain PyTorch's."""
    for name, *results in zip(NAMES, got, plain(*low, scale), plain(*(t.double() for t in low), scale), strict=True):
        assert_as_good_as(*results, name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_as_exact_as_plain_pytorch(shape, dtype):
    low = inputs(shape, dtype)
    got = run(*low)
    assert [x.dtype for x in got] == [dtype, torch.float32, *[dtype] * 5]
    assert_parity(got, low)


@pytest.mark.parametrize("index", range(7))
def test_blocks_of_every_size(index, use_blocks):
    use_blocks(slice(index, index + 1))
    for shape in ((1, 2, (9, 9), 20, 3), (1, 1, (3, 45), 20, 3)):
        low = inputs(shape)
        assert_parity(run(*low), low)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter has nothing to choose")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_blocks_chosen_by_timing(dtype, use_blocks):
    use_blocks(slice(None))
    for shape in ((2, 2, (14, 14), 20, 6), (1, 1, (3, 7), 200, 70)):
        low = inputs(shape, dtype)
        assert_parity(run(*low), low)


@pytest.mark.skipif(INTERPRETED, reason="the interpreter multiplies in float32")
def test_tensorfloat(monkeypatch):
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", True)
    tensors = inputs((1, 2, (9, 9), 20, 3))
    for name, got, wanted in zip(NAMES, run(*tensors), plain(*(t.double() for t in tensors)), strict=True):
        assert torch.allclose(got.double(), wanted, rtol=1e-2, atol=1e-2), name


@pytest.mark.parametrize("scale", [-0.7, 0.0, 1.0])
def test_any_scale(scale):
    tensors = inputs((1, 2, (3, 5), 6, 4))
    assert_parity(run(*tensors, scale), tensors, scale)


def test_terms_may_be_wider_than_the_rest():
    """Half precision with terms in float32, as they would overflow: their gradients are float32 as well."""
    q, k, v, bias_h, bias_w, grad = inputs((1, 2, (5, 6), 8, 4), torch.float16)
    wide = q, k, v, bias_h.float(), bias_w.float(), grad
    same = run(q, k, v, bias_h, bias_w, grad)
    for name, got, wanted in zip(NAMES, run(*wide), same, strict=True):
        assert got.dtype == (torch.float32 if name.startswith(("lse", "dbias")) else torch.float16)
        assert torch.equal(got.to(wanted.dtype), wanted), name


def test_memory_layout_does_not_matter():
    tensors = inputs((2, 3, (3, 4), 5, 5))
    wanted = run(*tensors)
    layouts = (
        [t.mT.contiguous().mT for t in tensors],
        [t.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2) for t in tensors],
        [t.repeat_interleave(2, dim=3)[..., ::2] for t in tensors],
    )
    for strided in layouts:
        assert not any(t.is_contiguous() for t in strided)
        assert all(torch.equal(a, b) for a, b in zip(run(*strided), wanted, strict=True))
    expanded = [t[:1, :1].expand(2, 3, -1, -1) for t in tensors]  # stride 0
    whole = [t.contiguous() for t in expanded]
    assert all(torch.equal(a, b) for a, b in zip(run(*expanded), run(*whole), strict=True))


def test_same_bits_on_every_run():
    tensors = inputs((1, 1, (3, 40), 8, 4))
    first = run(*tensors)
    assert all(torch.equal(a, b) for a, b in zip(run(*tensors), first, strict=True))


@pytest.mark.parametrize("batch,heads", [(0, 2), (2, 0)])
def test_empty_batch(batch, heads):
    tensors = inputs((batch, heads, (3, 4), 5, 2))
    out, lse, *grads = run(*tensors)
    assert out.shape == (batch, heads, 12, 2)
    assert lse.shape == (batch, heads, 12)
    assert [g.shape for g in grads] == [t.shape for t in tensors[:5]]


def test_nan_stays_where_it_belongs():
    """A query's NaN spoils that query; a key's spoils every query of the head; nothing else."""
    tensors = inputs((1, 2, (5, 7), 6, 3))
    for spoiled, channel in ((0, 2), (1, 2), (2, 1), (3, 4), (4, 6)):
        broken = [t.clone() for t in tensors]
        broken[spoiled][0, 0, 3, channel] = math.nan
        for name, got, wanted in zip(NAMES, run(*broken), plain(*broken), strict=True):
            assert torch.equal(got.isnan(), wanted.isnan()), (NAMES[2 + spoiled], name)


@pytest.mark.parametrize("value", [math.inf, -math.inf])
def test_infinite_inputs_stay_visible(value):
    tensors = inputs((1, 1, (8, 8), 4, 2))
    for spoiled in range(3):
        broken = [t.clone() for t in tensors]
        broken[spoiled].view(-1)[0] = value
        assert not run(*broken)[0].isfinite().all(), spoiled


def test_terms_of_minus_infinity_mask_keys():
    tensors = inputs((1, 2, (40, 3), 6, 3))
    tensors[3][..., :30] = -math.inf  # whole tiles, the first among them
    tensors[4][..., 1] = -math.inf
    tensors[3][0, 0, 5] = -math.inf  # a query without any key
    got, low, high = run(*tensors), plain(*tensors), plain(*(t.double() for t in tensors))
    for name, *results in zip(NAMES, got, low, high, strict=True):
        assert torch.equal(results[0].isfinite(), results[2].isfinite()), name
        assert_as_good_as(*(x.nan_to_num(0, 0, 0) for x in results), name)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_logits_of_ten_thousand(dtype):
    q, k, v, bias_h, bias_w, grad = inputs((1, 2, (4, 5), 64, 3), dtype)
    q, k = (t.sign() * 35 for t in (q, k))
    bias_h, bias_w = (t.sign() * 4e4 for t in (bias_h, bias_w))
    for name, got in zip(NAMES, run(q, k, v, bias_h, bias_w, grad, 0.125), strict=True):
        assert got.isfinite().all(), name
    same = torch.full_like(q, 35), torch.full_like(k, 35), v, bias_h.abs(), bias_w.abs(), grad
    out, lse, *_ = run(*same, 0.125)
    assert ((lse > 1.9e4) & (lse < 2.1e4)).all()
    torch.testing.assert_close(out, v.float().mean(2, keepdim=True).expand_as(v).to(dtype), rtol=0.02, atol=0.02)


def test_what_the_kernels_refuse():
    q = torch.zeros(1, 1, 1, 2, device=DEVICE)
    assert cuda.unsupported_reason(q, q) is None
    assert "got dtype=torch.float64" in cuda.unsupported_reason(q.double(), q)
    wide = q.new_zeros(1, 1, 1, 257)
    for pair in ((wide, q), (q, wide)):
        assert "up to 256 channels a head, got 257" in cuda.unsupported_reason(*pair)
