"""Attention maps are the weights that the operation uses."""

import pytest
import torch

from aaconv.ops import attention_maps_2d, relative_attention_2d
from tests.ops.cases import IMPLS, SHAPES, inputs


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("impl", IMPLS)
def test_weights_times_values_is_the_result(impl, shape):
    grid = shape[2]
    q, k, v, rel_h, rel_w = (t.detach() for t in inputs(shape, torch.float64))
    queries = torch.randint(grid[0] * grid[1], (5,))
    maps = attention_maps_2d(q, k, rel_h, rel_w, grid=grid, queries=queries)
    assert maps.shape == (*q.shape[:2], 5, *grid)
    torch.testing.assert_close(maps.sum(dim=(-1, -2)), torch.ones(*q.shape[:2], 5, dtype=torch.float64))
    out = relative_attention_2d(q, k, v, rel_h, rel_w, grid=grid, impl=impl)
    torch.testing.assert_close(maps.flatten(-2) @ v, out[:, :, queries])


def test_scale_and_missing_positions():
    q, k, v, *_ = (t if t is None else t.detach() for t in inputs((1, 2, (3, 4), 5, 2), positions=False))
    maps = attention_maps_2d(q, k, None, None, grid=(3, 4), queries=[0, 11], scale=0.3)
    out = relative_attention_2d(q, k, v, None, None, grid=(3, 4), scale=0.3)
    torch.testing.assert_close(maps.flatten(-2) @ v, out[:, :, [0, 11]])


def test_half_precision_gives_float32():
    q, k, _, rel_h, rel_w = inputs((1, 2, (3, 4), 5, 2), torch.bfloat16)
    assert attention_maps_2d(q, k, rel_h, rel_w, grid=(3, 4), queries=[3]).dtype == torch.float32


def test_no_queries():
    q, k, _, rel_h, rel_w = inputs((1, 2, (3, 4), 5, 2))
    assert attention_maps_2d(q, k, rel_h, rel_w, grid=(3, 4), queries=[]).shape == (1, 2, 0, 3, 4)


@pytest.mark.parametrize(
    "queries, error, message",
    [
        ([12], ValueError, r"queries must lie in 0..11 \(H\*W - 1\), got \[12\]"),
        ([-1], ValueError, r"queries must lie in 0..11"),
        ([0.5], TypeError, r"queries must be ints, got dtype=torch.float32"),
        ([[1, 2]], ValueError, r"queries must have shape \[Q\], got \[1, 2\]"),
    ],
)
def test_bad_queries(queries, error, message):
    q, k, _, rel_h, rel_w = inputs((1, 2, (3, 4), 5, 2))
    with pytest.raises(error, match=message):
        attention_maps_2d(q, k, rel_h, rel_w, grid=(3, 4), queries=queries)
