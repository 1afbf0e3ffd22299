"""Position encodings: tables at other grids, first input, checkpoints, waves and coordinates."""

import math

import pytest
import torch

from aaconv import AttentionAugmentedConv2d
from aaconv.nn.position import CoordPosition2d, RelativePosition2d, SinePosition2d, fit_table


def layer_of(grid, **options):
    return AttentionAugmentedConv2d(4, 6, 3, key_channels=6, value_channels=4, num_heads=2, grid=grid, **options)


def test_smaller_map_takes_the_middle_rows():
    table = torch.arange(-6.0, 7)[:, None]  # offsets -6..6, row value = offset
    assert fit_table(table, 7) is not None
    torch.testing.assert_close(fit_table(table, 4)[:, 0], torch.arange(-3.0, 4), rtol=0, atol=0)
    torch.testing.assert_close(fit_table(table, 1)[:, 0], torch.zeros(1), rtol=0, atol=0)


def test_larger_map_interpolates_end_on_end():
    table = torch.arange(-2.0, 3)[:, None]  # S = 3
    got = fit_table(table, 5)[:, 0]
    torch.testing.assert_close(got, torch.linspace(-2, 2, 9))
    assert got[4] == 0
    torch.testing.assert_close(fit_table(torch.full((1, 2), 3.0), 4), torch.full((7, 2), 3.0))


def test_smaller_map_is_exact():
    """A layer on a crop equals a layer whose tables were built for the crop from the same offsets."""
    large, small = layer_of((8, 9)), layer_of((5, 4))
    state = large.state_dict()
    state["attention.position.height"] = state["attention.position.height"][3:12]
    state["attention.position.width"] = state["attention.position.width"][5:12]
    small.load_state_dict(state)
    x = torch.randn(2, 4, 5, 4)
    torch.testing.assert_close(large(x), small(x), rtol=0, atol=0)


@pytest.mark.parametrize("grid", [(5, 4), (12, 13), (5, 13), (12, 4), (1, 1)], ids=str)
def test_resize_grid_and_loading_follow_the_same_rule(grid):
    layer = layer_of((8, 9))
    x = torch.randn(2, 4, *grid)
    wanted = layer(x)
    loaded = layer_of(grid)
    loaded.load_state_dict(layer.state_dict())
    torch.testing.assert_close(loaded(x), wanted)
    unsized = layer_of(None)
    unsized.load_state_dict(layer.state_dict())
    assert unsized.attention.position.grid == (8, 9)
    parameters = list(layer.parameters())
    layer.resize_grid(grid)
    assert layer.attention.position.grid == grid
    assert [id(p) for p in layer.parameters()] == [id(p) for p in parameters]  # an optimiser still holds them
    torch.testing.assert_close(layer(x), wanted)
    for axis, size in zip(("height", "width"), grid, strict=True):
        torch.testing.assert_close(
            loaded.state_dict()[f"attention.position.{axis}"].shape, torch.Size([2 * size - 1, 3])
        )


def test_larger_map_trains_the_tables():
    layer = layer_of((3, 3))
    layer(torch.randn(1, 4, 7, 5)).square().sum().backward()
    assert layer.attention.position.height.grad.abs().sum() > 0


def test_first_input_sizes_the_tables():
    layer = layer_of(None, stride=2, pool=2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    assert layer.attention.position.grid is None
    layer(torch.randn(1, 4, 16, 20))
    assert layer.attention.position.grid == (4, 5)
    before = layer.attention.position.height.detach().clone()
    layer(torch.randn(1, 4, 16, 20)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(before, layer.attention.position.height)
    layer(torch.randn(1, 4, 8, 8))
    assert layer.attention.position.grid == (4, 5)


def test_resize_before_the_first_input():
    layer = layer_of(None)
    layer.resize_grid((3, 4))
    assert layer.attention.position.grid == (3, 4)


def test_unsized_layer_moves_and_has_no_tables_to_save():
    layer = layer_of(None)
    assert not any("position" in name for name in layer.state_dict())
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"attention.position.height\""):
        layer_of(None).load_state_dict(layer.state_dict())
    assert layer.double()(torch.randn(1, 4, 3, 5).double()).dtype == torch.float64


def test_compiling_an_unsized_layer_says_what_to_do():
    compiled = torch.compile(layer_of(None), fullgraph=True, backend="eager")
    with pytest.raises(Exception, match=r"pass grid=\(H, W\) or run one eager forward first"):
        compiled(torch.randn(1, 4, 3, 5))


@pytest.mark.parametrize(
    "table, message",
    [(torch.zeros(8, 3), "size mismatch"), (torch.zeros(9, 4), "size mismatch"), (torch.zeros(9), "size mismatch")],
)
def test_other_tables_do_not_load(table, message):
    layer = layer_of((5, 5))
    with pytest.raises(RuntimeError, match=message):
        layer.load_state_dict({**layer.state_dict(), "attention.position.height": table})


def test_missing_tables_are_reported():
    layer = layer_of((5, 5))
    state = {name: value for name, value in layer.state_dict().items() if "position" not in name}
    with pytest.raises(RuntimeError, match=r"attention.position.height"):
        layer.load_state_dict(state)


def test_repr_names_the_grid():
    assert "grid=(5, 4)" in repr(RelativePosition2d(3, (5, 4)))
    assert "grid=None" in repr(RelativePosition2d(3))


@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_sine_is_added(channels):
    waves = SinePosition2d().encode(torch.zeros(1, channels, 3, 4))[0]
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(4.0), indexing="ij")
    wanted = []
    for f in range(-(-channels // 4)):
        w = 10000 ** (-f / -(-channels // 4))
        wanted += [(rows * w).sin(), (rows * w).cos(), (columns * w).sin(), (columns * w).cos()]
    torch.testing.assert_close(waves, torch.stack(wanted[:channels]))
    x = torch.randn(2, channels, 3, 4)
    torch.testing.assert_close(SinePosition2d().encode(x), x + waves)


def test_coordinates_are_appended():
    x = torch.randn(2, 3, 3, 5)
    got = CoordPosition2d().encode(x)
    torch.testing.assert_close(got[:, :3], x)
    torch.testing.assert_close(got[0, 3], torch.tensor([-1, -0.5, 0, 0.5, 1]).expand(3, 5))
    torch.testing.assert_close(got[1, 4], torch.tensor([-1.0, 0, 1])[:, None].expand(3, 5))
    assert math.isfinite(CoordPosition2d().encode(x[:, :, :1, :1]).sum())


@pytest.mark.parametrize("position", ["sine", "coordconv", "none"])
def test_positions_without_tables_have_no_parameters(position):
    layer = AttentionAugmentedConv2d(4, 6, 3, key_channels=6, value_channels=4, num_heads=2, position=position)
    assert not any("position" in name for name, _ in layer.named_parameters())
    inputs = 6 if position == "coordconv" else 4
    assert layer.attention.qkv.weight.shape == (16, inputs, 1, 1)
