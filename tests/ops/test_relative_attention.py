"""The operation: the definition against scalars, every implementation against the definition, bad arguments."""

import math
from dataclasses import replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aaconv.ops import folded, reference, relative_attention_2d
from aaconv.ops.relative_attention import IMPLEMENTATIONS
from tests.ops.cases import IMPLS, NAMES, SHAPES, assert_as_good_as, inputs, plain, run, via

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def scalar_attention(q, k, v, rel_h, rel_w, grid, scale):
    """The paper's formula with Python floats: nothing of the library in it."""
    height, width = grid
    cells = [(y, x) for y in range(height) for x in range(width)]
    out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=torch.float64)
    q, k, v, rel_h, rel_w = (t.tolist() for t in (q, k, v, rel_h, rel_w))
    for b in range(len(q)):
        for n in range(len(q[0])):
            for i, (iy, ix) in enumerate(cells):
                logits = []
                for j, (jy, jx) in enumerate(cells):
                    row_h, row_w = rel_h[jy - iy + height - 1], rel_w[jx - ix + width - 1]
                    terms = zip(q[b][n][i], k[b][n][j], row_h, row_w, strict=True)
                    logits.append(scale * sum(query * (key + h + w) for query, key, h, w in terms))
                top = max(logits)
                weights = [math.exp(logit - top) for logit in logits]
                for c in range(out.shape[-1]):
                    mixed = sum(weight * v[b][n][j][c] for j, weight in enumerate(weights))
                    out[b, n, i, c] = mixed / sum(weights)
    return out


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("grid", [(2, 3), (3, 2), (1, 4), (1, 1)], ids=str)
def test_equals_the_formula(impl, grid):
    tensors = [t.detach() for t in inputs((2, 2, grid, 3, 2), torch.float64)]
    wanted = scalar_attention(*tensors, grid, 0.7)
    got = relative_attention_2d(*tensors, grid=grid, scale=0.7, impl=impl)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize("positions", [True, False], ids=["relative", "no positions"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_as_exact_as_plain_pytorch(impl, shape, dtype, positions, poisoned_empty):
    low = inputs(shape, dtype, positions=positions)
    high = [t if t is None else t.detach().double().requires_grad_() for t in low]
    grid = shape[2]
    results = run(via(impl), low, grid), run(plain, low, grid), run(plain, high, grid)
    for name, got, naive, exact in zip(NAMES, *results, strict=False):
        assert got.dtype == dtype
        assert_as_good_as(got, naive, exact, name)


@given(
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    key=st.integers(1, 17),
    value=st.integers(1, 17),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_random_shapes_agree(batch, heads, height, width, key, value, seed):
    tensors = inputs((batch, heads, (height, width), key, value), torch.float64, seed)
    expected = run(via("reference"), tensors, (height, width))
    for impl in IMPLS:
        for name, got, wanted in zip(NAMES, run(via(impl), tensors, (height, width)), expected, strict=True):
            assert torch.allclose(got, wanted, rtol=1e-10, atol=1e-11), (impl, name)


@pytest.mark.parametrize("impl", IMPLS)
def test_gradients_are_derivatives(impl):
    tensors = inputs((2, 2, (2, 3), 3, 2), torch.float64)
    assert torch.autograd.gradcheck(lambda *t: via(impl)(*t, grid=(2, 3)), tensors)


@pytest.mark.parametrize("wanted", range(5), ids=["q", "k", "v", "rel_h", "rel_w"])
@pytest.mark.parametrize("impl", IMPLS)
def test_one_argument_alone_wants_a_gradient(impl, wanted):
    tensors = inputs((1, 2, (2, 3), 3, 2), torch.float64)
    expected = run(via("reference"), tensors, (2, 3))[1 + wanted]
    alone = [t.detach().requires_grad_(place == wanted) for place, t in enumerate(tensors)]
    out = via(impl)(*alone, grid=(2, 3))
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.dtype)  # as ``run`` has it
    torch.testing.assert_close(torch.autograd.grad(out, alone[wanted], upstream)[0], expected)


def test_reference_has_second_derivatives():
    tensors = inputs((1, 2, (2, 2), 2, 2), torch.float64)
    assert torch.autograd.gradgradcheck(lambda *t: via("reference")(*t, grid=(2, 2)), tensors)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_logits_of_ten_thousand(impl, dtype):
    q, k, v, rel_h, rel_w = inputs((1, 2, (4, 5), 64, 3), dtype)
    with torch.no_grad():  # every logit near 1e4, from content in one head and from positions in both
        size = (1e4 * 64**0.5 / 64) ** 0.5
        for t in (q, k, rel_h, rel_w):
            t.copy_(t.sign() * size)
    tensors = [q, k, v, rel_h, rel_w]
    logits = (q.double() @ k.double().transpose(-1, -2)).abs().max() / 8
    assert logits > 2e3
    for name, value in zip(NAMES, run(via(impl), tensors, (4, 5)), strict=True):
        assert torch.isfinite(value).all(), name
    with torch.no_grad():
        q.fill_(size), k.fill_(size), rel_h.fill_(size), rel_w.fill_(size)
        assert 9e3 < float(q[0, 0, 0].double() @ k[0, 0, 0].double()) / 8 < 1.1e4
        even = relative_attention_2d(*tensors, grid=(4, 5), impl=impl)
    torch.testing.assert_close(even, v.float().mean(2, keepdim=True).expand_as(v).to(dtype), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("impl", IMPLS)
def test_one_table_alone(impl):
    q, k, v, rel_h, rel_w = inputs((1, 2, (3, 4), 5, 2), torch.float64)
    for tables, zeroed in (
        ((rel_h, None), (rel_h, torch.zeros_like(rel_w))),
        ((None, rel_w), (torch.zeros_like(rel_h), rel_w)),
    ):
        got = relative_attention_2d(q, k, v, *tables, grid=(3, 4), impl=impl)
        torch.testing.assert_close(got, relative_attention_2d(q, k, v, *zeroed, grid=(3, 4), impl="reference"))


@pytest.mark.parametrize("impl", IMPLS)
def test_empty_batch(impl):
    tensors = inputs((0, 2, (3, 4), 5, 2))
    results = run(via(impl), tensors, (3, 4))
    assert results[0].shape == (0, 2, 12, 2)
    assert all(float(grad.abs().sum()) == 0 for grad in results[1:])


@pytest.mark.parametrize("impl", IMPLS)
def test_memory_layout_does_not_matter(impl):
    tensors = [t.detach() for t in inputs((2, 3, (3, 4), 5, 5), torch.float64)]
    wanted = relative_attention_2d(*tensors, grid=(3, 4), impl=impl)
    strided = [t.mT.contiguous().mT for t in tensors]
    assert not any(t.is_contiguous() for t in strided)
    torch.testing.assert_close(relative_attention_2d(*strided, grid=(3, 4), impl=impl), wanted)
    q, k, v, *tables = tensors
    expanded = [t[:1, :1].expand(2, 3, -1, -1) for t in (q, k, v)]  # stride 0
    whole = [t.contiguous() for t in expanded]
    got = relative_attention_2d(*expanded, *tables, grid=(3, 4), impl=impl)
    torch.testing.assert_close(got, relative_attention_2d(*whole, *tables, grid=(3, 4), impl=impl))


@pytest.mark.parametrize("impl", IMPLS)
def test_permuted_positions_permute_the_result(impl):
    q, k, v, *_ = inputs((2, 2, (3, 4), 5, 3), torch.float64, positions=False)
    order = torch.randperm(12)
    whole = relative_attention_2d(q, k, v, None, None, grid=(3, 4), impl=impl)
    got = relative_attention_2d(q[:, :, order], k[:, :, order], v[:, :, order], None, None, grid=(3, 4), impl=impl)
    torch.testing.assert_close(got, whole[:, :, order])


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("grid", [(2, 2), (8, 8)], ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_what_is_not_finite_stays_visible(impl, grid, value):
    tensors = [t.detach() for t in inputs((1, 1, grid, 4, 2))]
    for spoiled in range(5):
        broken = [t.clone() for t in tensors]
        broken[spoiled].view(-1)[0] = value
        assert not relative_attention_2d(*broken, grid=grid, impl=impl).isfinite().all(), spoiled


@pytest.mark.parametrize("impl", IMPLS)
def test_a_request_runs_that_implementation(impl):
    ran = []
    spies = {
        name: replace(found, attend=lambda *a, n=name, f=found.attend: (ran.append(n), f(*a))[1])
        for name, found in IMPLEMENTATIONS.items()
    }
    with patch.dict(IMPLEMENTATIONS, spies):
        relative_attention_2d(*inputs(SHAPES[0]), grid=(4, 4), impl=impl)
    assert ran == [impl]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_autocast(impl, dtype):
    tensors = [t.detach() for t in inputs((2, 2, (3, 4), 5, 3), dtype)]
    with torch.autocast("cpu", torch.bfloat16):
        got = relative_attention_2d(*tensors, grid=(3, 4), impl=impl)
    assert got.dtype == (torch.bfloat16 if dtype == torch.float32 else dtype)
    wanted = relative_attention_2d(*tensors, grid=(3, 4), impl=impl)
    torch.testing.assert_close(got.to(dtype), wanted, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("impl", IMPLS)
def test_compiles_without_a_break(impl, dynamic):
    tensors = inputs((2, 2, (3, 4), 5, 3))
    compiled = torch.compile(via(impl), fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for got, wanted in zip(run(compiled, tensors, (3, 4)), run(via(impl), tensors, (3, 4)), strict=True):
        torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("impl", IMPLS)
def test_meta_tensors_have_the_right_shape(impl):
    tensors = [t.detach().to("meta") for t in inputs((2, 3, (3, 4), 5, 7))]
    got = relative_attention_2d(*tensors, grid=(3, 4), impl=impl)
    assert got.device.type == "meta"
    assert got.shape == (2, 3, 12, 7)


def test_folded_stores_no_tensor_of_all_pairs():
    """Peak of what a 64x64 map allocates: a float32 tensor of all pairs would be 64 MiB a head."""
    tensors = [t.detach() for t in inputs((1, 1, (64, 64), 4, 4))]
    with torch.profiler.profile(profile_memory=True) as profile:
        relative_attention_2d(*tensors, grid=(64, 64), impl="folded")
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert largest < 4096 * 4096 * 4 / 4


BAD = {  # name: (changed arguments, error, message)
    "list for q": ({"q": [1.0]}, TypeError, r"q must be a torch.Tensor, got list"),
    "3-D q": ({"q": torch.zeros(2, 12, 5)}, ValueError, r"q must have shape \[B, N, L, K\], got \[2, 12, 5\]"),
    "ints": ({"q": torch.zeros(2, 3, 12, 5, dtype=torch.long)}, ValueError, r"q must be floating point"),
    "other k": ({"k": torch.zeros(2, 3, 12, 4)}, ValueError, r"k must have shape \[2, 3, 12, 5\], got \[2, 3, 12, 4\]"),
    "other v": ({"v": torch.zeros(2, 3, 11, 7)}, ValueError, r"v must have shape \[2, 3, 12, V\], got \[2, 3, 11, 7\]"),
    "mixed": ({"v": torch.zeros(2, 3, 12, 7).double()}, ValueError, r"v must have the dtype of q \(torch.float32\)"),
    "device": ({"k": torch.zeros(2, 3, 12, 5, device="meta")}, ValueError, r"k must be on the device of q \(cpu\)"),
    "short table": ({"rel_h": torch.zeros(4, 5)}, ValueError, r"rel_h must have shape \[5, 5\], got \[4, 5\]"),
    "swapped": (
        {"rel_h": torch.zeros(7, 5), "rel_w": torch.zeros(5, 5)},
        ValueError,
        r"rel_h must have shape \[5, 5\], got \[7, 5\]",
    ),
    "grid": ({"grid": (3, 5)}, ValueError, r"grid \(H, W\) must hold L=12 positions, got 3x5=15"),
    "grid of 0": ({"grid": (0, 5)}, ValueError, r"grid must be at least 1"),
    "int for grid": ({"grid": 12}, TypeError, r"grid must be two ints \(H, W\), got 12"),
    "float in grid": ({"grid": (3.0, 4.0)}, TypeError, r"grid must be an int, got float"),
    "impl": ({"impl": "fodled"}, ValueError, r"impl must be one of .* got 'fodled'; did you mean 'folded'\?"),
    "scale": ({"scale": math.nan}, ValueError, r"scale must be finite"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    changes, error, message = BAD[name]
    tensors = dict(zip(["q", "k", "v", "rel_h", "rel_w"], inputs((2, 3, (3, 4), 5, 7)), strict=True))
    with pytest.raises(error, match=message):
        relative_attention_2d(**{**tensors, "grid": (3, 4), **changes})


@pytest.mark.parametrize("impl", IMPLS)
def test_says_what_memory_a_huge_map_would_take(impl):
    """10^5 positions and more are refused before anything is allocated; nothing here occupies memory."""
    edge = 400 if impl == "reference" else 20_000
    huge = torch.zeros(1, 1, 1, 1).expand(8, 8, edge * edge, 20)
    with pytest.raises(
        ValueError, match=r"attention over a map of \(\d+, \d+\) .* would take about [\d,]+ GiB .* use a sm"
    ):
        relative_attention_2d(huge, huge, huge, None, None, grid=(edge, edge), impl=impl)


def test_estimates_cover_what_is_allocated():
    q = torch.zeros(1, 2, 256, 8)
    assert reference.extra_bytes(q, q, (16, 16)) >= 2 * 2 * 256 * 256 * 4
    assert folded.extra_bytes(q, q, (16, 16)) >= 4 * 2 * 256 * 40 * 4
