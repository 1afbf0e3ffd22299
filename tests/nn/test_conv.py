"""The layer as a drop-in: geometry, branches, grids, checkpoints, PyTorch's machinery, bad arguments."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch.func import functional_call, grad, vmap

from aaconv import AttentionAugmentedConv2d
from tests.ops.cases import IMPLS

POSITIONS = ["relative", "sine", "coordconv", "none"]


def layer_of(*args, **options):
    """A small layer: 6 -> 12 channels, 3x3, 2 heads of 4 key and 2 value channels."""
    args = args or (6, 12, 3)
    sizes = {"key_channels": 8, "value_channels": 4, "num_heads": 2}
    return AttentionAugmentedConv2d(*args, **{**sizes, **options})


GEOMETRIES = [  # kernel, stride, padding, dilation, groups, padding mode
    (3, 1, 1, 1, 1, "zeros"),
    (3, 2, 1, 1, 2, "zeros"),
    (3, 3, "same", 1, 1, "zeros"),
    (1, 1, 0, 1, 1, "zeros"),
    (1, 2, 0, 1, 1, "zeros"),
    (5, 2, 4, 2, 2, "zeros"),
    (7, 4, 3, 1, 1, "reflect"),
    ((3, 5), (2, 1), (1, 2), 1, 1, "circular"),
    (2, 1, "same", 1, 1, "zeros"),
    (4, 2, "same", 1, 2, "replicate"),
    (4, (3, 2), "same", (1, 3), 1, "zeros"),
]


@pytest.mark.parametrize("size", [(9, 12), (12, 9), (10, 10), (5, 7)], ids=str)
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_output_grid_is_input_over_stride(geometry, size):
    kernel, stride, padding, dilation, groups, mode = geometry
    layer = layer_of(6, 12, kernel, stride, padding, dilation, groups, True, mode)
    steps = stride if isinstance(stride, tuple) else (stride, stride)
    y = layer(torch.randn(2, 6, *size))
    assert y.shape == (2, 12, -(-size[0] // steps[0]), -(-size[1] // steps[1]))


@pytest.mark.parametrize("geometry", [g for g in GEOMETRIES if g[2] != "same" or g[1] == 1], ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # nn.Conv2d's, of the twin
def test_conv_branch_is_conv2d(geometry):
    """Convolution first, with nn.Conv2d's own arguments and meaning."""
    layer = layer_of(6, 12, *geometry[:5], True, geometry[5])
    twin = nn.Conv2d(6, 8, *geometry[:5], True, geometry[5])
    twin.load_state_dict(layer.conv.state_dict())
    x = torch.randn(2, 6, 9, 12)
    torch.testing.assert_close(layer(x)[:, :8], twin(x))


@pytest.mark.parametrize("mode, how", [("zeros", "constant"), *((name, name) for name in ("reflect", "replicate"))])
@pytest.mark.parametrize("kernel, pads", [(4, (1, 2, 1, 2)), ((2, 5), (2, 2, 0, 1))])
def test_even_kernel_with_stride_pads_the_odd_cell_after(kernel, pads, mode, how):
    layer = layer_of(6, 12, kernel, 2, padding_mode=mode)
    x = torch.randn(2, 6, 9, 12)
    wanted = nn.functional.conv2d(nn.functional.pad(x, pads, how), layer.conv.weight, layer.conv.bias, stride=2)
    torch.testing.assert_close(layer(x)[:, :8], wanted)


def test_no_values_is_conv2d():
    layer = layer_of(6, 12, 3, 2, 0, 1, 2, value_channels=0)  # a padding that attention could not follow
    twin = nn.Conv2d(6, 12, 3, 2, 0, 1, 2)
    assert {n: p.shape for n, p in layer.named_parameters()} == {
        f"conv.{n}": p.shape for n, p in twin.named_parameters()
    }
    twin.load_state_dict(layer.conv.state_dict())
    x = torch.randn(2, 6, 9, 12)
    torch.testing.assert_close(layer(x), twin(x), rtol=0, atol=0)


def test_all_values_is_attention_alone():
    layer = layer_of(value_channels=12, grid=(5, 7))
    assert layer.conv is None
    assert set(layer.state_dict()) == {
        *(f"attention.{part}.{kind}" for part in ("qkv", "out") for kind in ("weight", "bias")),
        *(f"attention.position.{axis}" for axis in ("height", "width")),
    }
    x = torch.randn(2, 6, 5, 7)
    torch.testing.assert_close(layer(x), layer.attention(x))


def test_parameter_names_and_shapes():
    layer = layer_of(grid=(5, 7))
    assert {name: tuple(p.shape) for name, p in layer.named_parameters()} == {
        "conv.weight": (8, 6, 3, 3),
        "conv.bias": (8,),
        "attention.qkv.weight": (20, 6, 1, 1),
        "attention.qkv.bias": (20,),
        "attention.out.weight": (4, 4, 1, 1),
        "attention.out.bias": (4,),
        "attention.position.height": (9, 4),
        "attention.position.width": (13, 4),
    }
    assert not any("bias" in name for name, _ in layer_of(bias=False, grid=(5, 7)).named_parameters())


def test_tables_are_drawn_with_the_papers_deviation():
    layer = AttentionAugmentedConv2d(8, 128, 3, key_channels=160, value_channels=8, grid=(200, 300))
    for table in (layer.attention.position.height, layer.attention.position.width):
        assert table.std().item() == pytest.approx(20**-0.5, rel=0.05)
        assert abs(table.mean().item()) < 0.02


def test_attributes_of_conv2d():
    layer = layer_of(6, 12, (3, 5), 2, dilation=(2, 1))
    assert (layer.in_channels, layer.out_channels, layer.kernel_size) == (6, 12, (3, 5))
    assert (layer.stride, layer.dilation, layer.groups, layer.padding_mode) == ((2, 2), (2, 1), 1, "zeros")


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("stride, pool", [(1, 1), (2, 1), (1, 2), (2, 2), (1, (2, 3))])
@pytest.mark.parametrize("size", [(9, 12), (1, 7), (1, 1)], ids=str)
def test_every_position_stride_and_pool(position, stride, pool, size):
    layer = layer_of(6, 12, 3, stride, position=position, pool=pool)
    y = layer(torch.randn(2, 6, *size))
    assert y.shape == (2, 12, -(-size[0] // stride), -(-size[1] // stride))
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in layer.parameters())


def test_pool_is_average_then_bilinear():
    """The attention branch of pool=2 is attention on the 3x3, stride-2 average, upsampled."""
    layer = layer_of(pool=2, grid=(4, 6))
    twin = layer_of(grid=(4, 6))
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 8, 12)
    small = twin.attention(nn.functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False))
    wanted = nn.functional.interpolate(small, size=(8, 12), mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(x)[:, 8:], wanted)
    torch.testing.assert_close(layer(x)[:, :8], twin(x)[:, :8])


def test_stride_attends_from_every_second_cell():
    layer = layer_of(6, 12, 3, 2, grid=(4, 6))
    twin = layer_of(grid=(4, 6))
    twin.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 8, 12)
    torch.testing.assert_close(layer(x)[:, 8:], twin.attention(x[:, :, ::2, ::2]))


@torch.no_grad()
def blind_to_zeros(attention):
    """Weights with which cells whose first channel is 0 get no attention: their keys score -1e4 with every query."""
    nn.init.zeros_(attention.qkv.bias)
    channels, heads = attention.key_channels, attention.num_heads
    for head in range(heads):
        query = head * channels // heads  # the head's first query channel is 1, its first key channel 1e4 (x0 - 1)
        key = channels + query
        attention.qkv.weight[[query, key]] = 0
        attention.qkv.bias[query], attention.qkv.bias[key] = 1, -1e4
        attention.qkv.weight[key, 0] = 1e4


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shift", [(1, 0), (0, 2), (2, 1), (-2, -3)], ids=str)
def test_shifted_input_shifts_relative_attention(impl, shift):
    attention = layer_of(grid=(9, 10), impl=impl).double().attention
    blind_to_zeros(attention)
    x = torch.zeros(2, 6, 9, 10, dtype=torch.float64)
    x[:, :, 2:5, 3:6] = torch.randn(2, 6, 3, 3, dtype=torch.float64)
    x[:, 0, 2:5, 3:6] = 1
    moved = attention(x.roll(shift, dims=(2, 3))).roll((-shift[0], -shift[1]), dims=(2, 3))
    still = attention(x)
    inner = (slice(None), slice(None), slice(2, 7), slice(3, 7))  # what no shift above wraps around
    torch.testing.assert_close(moved[inner], still[inner])
    assert still[inner].flatten(2).std(dim=2).min() > 1e-3  # the cells do differ


def test_shifted_input_does_not_shift_other_positions():
    """The same test tells absolute encodings from relative ones."""
    attention = layer_of(position="coordconv").double().attention
    x = torch.zeros(1, 6, 9, 10, dtype=torch.float64)
    x[:, :, 2:5, 3:6] = torch.randn(1, 6, 3, 3, dtype=torch.float64)
    moved = attention(x.roll((2, 1), dims=(2, 3)))[:, :, 4:7, 4:7]
    assert (moved - attention(x)[:, :, 2:5, 3:6]).abs().max() > 1e-3


@pytest.mark.parametrize("position, equivariant", [("none", True), ("relative", False), ("sine", False)])
def test_permuted_cells(position, equivariant):
    attention = layer_of(position=position, grid=(4, 5)).double().attention
    x = torch.randn(1, 6, 4, 5, dtype=torch.float64)
    order = torch.randperm(20)
    shuffled = x.flatten(2)[:, :, order].unflatten(2, (4, 5))
    difference = attention(shuffled).flatten(2) - attention(x).flatten(2)[:, :, order]
    assert (difference.abs().max() < 1e-12) == equivariant


def test_heads_are_blocks_of_channels():
    """Permuting whole heads everywhere leaves the output alone: heads share tables and nothing else."""
    layer = layer_of(6, 12, 3, value_channels=6, key_channels=9, num_heads=3, grid=(4, 5)).double()
    twin = copy.deepcopy(layer)
    q, k, v = layer.attention.qkv.weight.detach().split([9, 9, 6])
    bias_q, bias_k, bias_v = layer.attention.qkv.bias.detach().split([9, 9, 6])

    def reorder(t, dim=0):
        return t.unflatten(dim, (3, -1)).index_select(dim, torch.tensor([2, 0, 1])).flatten(dim, dim + 1)

    with torch.no_grad():
        twin.attention.qkv.weight.copy_(torch.cat([reorder(q), reorder(k), reorder(v)]))
        twin.attention.qkv.bias.copy_(torch.cat([reorder(bias_q), reorder(bias_k), reorder(bias_v)]))
        twin.attention.out.weight.copy_(reorder(layer.attention.out.weight, dim=1))
    x = torch.randn(2, 6, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(twin(x), layer(x))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("options", [{}, {"pool": 2}, {"value_channels": 12}, {"stride": 2}], ids=str)
def test_keeps_the_memory_format(options, memory_format):
    layer = layer_of(grid=(8, 6), **options)
    x = torch.randn(2, 6, 8, 6)
    wanted = layer(x)
    got = layer.to(memory_format=memory_format)(x.to(memory_format=memory_format))
    torch.testing.assert_close(got, wanted)
    if "value_channels" not in options:
        assert got.is_contiguous(memory_format=memory_format)


def test_expanded_input():
    layer = layer_of(grid=(4, 5))
    x = torch.randn(1, 6, 4, 5).expand(3, -1, -1, -1)
    torch.testing.assert_close(layer(x), layer(x.contiguous()))


def test_empty_batch():
    y = layer_of(grid=(4, 5))(torch.zeros(0, 6, 4, 5))
    assert y.shape == (0, 12, 4, 5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_dtypes(dtype):
    layer = layer_of(grid=(4, 5))
    x = torch.randn(2, 6, 4, 5)
    wanted = layer(x)
    got = layer.to(dtype)(x.to(dtype))
    assert got.dtype == dtype
    torch.testing.assert_close(got.float(), wanted, rtol=0.05, atol=0.05)
    made = layer_of(grid=(4, 5), dtype=dtype)
    assert {p.dtype for p in made.parameters()} == {dtype}


def test_autocast():
    layer, x = layer_of(grid=(4, 5)), torch.randn(2, 6, 4, 5)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), layer(x), rtol=0.05, atol=0.05)
    got.float().sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in layer.parameters())


@pytest.mark.parametrize("position", POSITIONS)
def test_compiles_without_a_break(position):
    layer, x = layer_of(position=position, pool=2, grid=(4, 3)), torch.randn(2, 6, 8, 6)
    compiled = torch.compile(layer, fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    for module in (layer, compiled):
        layer.zero_grad()
        module(x).square().sum().backward()
        grads = [p.grad.clone() for p in layer.parameters()]
        if module is layer:
            wanted = grads
    for got, want in zip(grads, wanted, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_compiles_for_any_size_at_once():
    torch._dynamo.reset()
    layer = layer_of(grid=(12, 12))
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        for batch, height, width in [(2, 8, 7), (3, 9, 11), (4, 5, 7), (2, 12, 10), (5, 6, 9)]:
            x = torch.randn(batch, 6, height, width)
            torch.testing.assert_close(compiled(x), layer(x))


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("options", [{}, {"stride": 2, "pool": 2}], ids=str)
def test_a_handful_of_programs_serve_all_sizes(dynamic, options):
    torch._dynamo.reset()
    layer, counter = layer_of(grid=(12, 12), **options), CompileCounter()
    compiled = torch.compile(layer, fullgraph=True, dynamic=dynamic, backend=counter)
    sizes = [(8, 7), (9, 11), (5, 7), (12, 10), (20, 30), (25, 14), (14, 25), (6, 33), (33, 6), (40, 40)]
    with torch.no_grad():
        for batch, size in enumerate(sizes, start=2):
            compiled(torch.randn(batch, 6, *size))
    assert counter.frame_count <= 5


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # PyTorch's fused attention, under vmap
@pytest.mark.parametrize("position", POSITIONS)
def test_per_sample_gradients(position):
    """torch.func: gradients of each sample at once equal those of one sample after another."""
    layer = layer_of(position=position, grid=(4, 5)).double()
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    x = torch.randn(3, 6, 4, 5, dtype=torch.float64)

    def loss(values, sample):
        return functional_call(layer, values, (sample[None],)).square().sum()

    got = vmap(grad(loss), in_dims=(None, 0))(parameters, x)
    for i, sample in enumerate(x):
        for name, wanted in grad(loss)(parameters, sample).items():
            torch.testing.assert_close(got[name][i], wanted)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize("grid", [None, (4, 5)])
def test_copies(duplicate, grid):
    layer, x = layer_of(grid=grid), torch.randn(2, 6, 4, 5)
    if grid:
        torch.testing.assert_close(duplicate(layer)(x), layer(x))
    else:
        assert duplicate(layer)(x).shape == (2, 12, 4, 5)
        assert layer.attention.position.grid is None


@pytest.mark.parametrize("options", [{}, {"value_channels": 0}, {"value_channels": 12}], ids=str)
def test_meta_device(options):
    layer = layer_of(grid=(4, 5), device="meta", **options)
    assert layer(torch.empty(2, 6, 4, 5, device="meta")).shape == (2, 12, 4, 5)


def test_export_with_dynamic_batch():
    layer = layer_of(grid=(4, 5), impl="folded").eval()
    x = torch.randn(2, 6, 4, 5)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    other = torch.randn(5, 6, 4, 5)
    torch.testing.assert_close(program.module()(other), layer(other))


@pytest.mark.parametrize("name", ["key_channels", "value_channels"])
def test_channels_must_divide_by_heads(name):
    with pytest.raises(ValueError, match=rf"{name} must be a multiple of num_heads=4, got {name}=6; nearest: \[4, 8\]"):
        layer_of(num_heads=4, **{"key_channels": 8, "value_channels": 8, name: 6})


BAD = {  # name: (positional, options, error, message)
    "values above outputs": ((), {"value_channels": 14}, ValueError, r"value_channels must be at most out_channels=12"),
    "negative values": ((), {"value_channels": -2}, ValueError, r"value_channels must be at least 0, got"),
    "no keys": ((), {"key_channels": 0}, ValueError, r"key_channels must be at least 1, got key_channels=0"),
    "float keys": ((), {"key_channels": 8.0}, TypeError, r"key_channels must be an int, got float 8.0"),
    "no heads": ((), {"num_heads": 0}, ValueError, r"num_heads must be at least 1"),
    "position": ((), {"position": "relatve"}, ValueError, r"position must be one of .*; did you mean 'relative'\?"),
    "impl": ((), {"impl": "fast"}, ValueError, r"impl must be one of \['auto', .*\], got 'fast'"),
    "grid": ((), {"grid": (4, 0)}, ValueError, r"grid must be at least 1, got grid=0"),
    "grid of three": ((), {"grid": (4, 4, 4)}, ValueError, r"grid must be one int or two \(vertical, horizontal\)"),
    "pool": ((), {"pool": 0}, ValueError, r"pool must be at least 1"),
    "stride": ((6, 12, 3, 0), {}, ValueError, r"stride must be at least 1"),
    "kernel": ((6, 12, "3"), {}, TypeError, r"kernel_size must be an int, got str '3'"),
    "shrinking": (
        (6, 12, 3, 1, 0),
        {},
        ValueError,
        r"padding must give an output map of ceil\(input / stride\), got pad",
    ),
    "valid": ((6, 12, 3, 1, "valid"), {}, ValueError, r"use padding='same'"),
    "padding word": ((6, 12, 3, 1, "sane"), {}, ValueError, r"padding must be one of .*did you mean 'same'\?"),
    "padding mode": ((), {"padding_mode": "zero"}, ValueError, r"padding_mode must be one of .*did you mean 'zeros'\?"),
    "groups of inputs": (
        (6, 12, 3, 1, 1, 1, 4),
        {},
        ValueError,
        r"in_channels must be a multiple of groups=4, got in_c",
    ),
    "groups of filters": (
        (6, 12, 3, 1, 1, 1, 3),
        {},
        ValueError,
        r"out_channels - value_channels must be a multiple of groups=3, got .*=8; nearest: \[6, 9\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_arguments(name):
    args, options, error, message = BAD[name]
    with pytest.raises(error, match=message):
        layer_of(*args, **options)


BAD_INPUTS = {
    "3-D": (torch.zeros(6, 4, 5), r"input must have shape \[B, 6, H, W\], got \[6, 4, 5\]"),
    "5-D": (torch.zeros(1, 6, 4, 5, 1), r"input must have shape \[B, 6, H, W\], got \[1, 6, 4, 5, 1\]"),
    "channels": (torch.zeros(1, 5, 4, 5), r"input must have shape \[B, 6, H, W\], got \[1, 5, 4, 5\]"),
    "ints": (torch.zeros(1, 6, 4, 5, dtype=torch.uint8), r"input must be floating point, got dtype=torch.uint8"),
    "other dtype": (
        torch.zeros(1, 6, 4, 5).double(),
        r"input must have the layer's dtype torch.float32, got torch.float64",
    ),
    "no rows": (torch.zeros(1, 6, 0, 5), r"input must have at least one cell, got shape \[1, 6, 0, 5\]"),
}


@pytest.mark.parametrize("options", [{}, {"value_channels": 0}, {"value_channels": 12}], ids=str)
@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs(name, options):
    x, message = BAD_INPUTS[name]
    with pytest.raises(ValueError, match=message):
        layer_of(grid=(4, 5), **options)(x)


def test_input_that_its_padding_does_not_suit():
    layer = layer_of(6, 12, 2, 2, 0)  # right for even maps only
    assert layer(torch.zeros(1, 6, 8, 8)).shape == (1, 12, 4, 4)
    with pytest.raises(ValueError, match=r"got \[3, 4\] and \[4, 4\] for an input of \[7, 8\] with padding=0; use pad"):
        layer(torch.zeros(1, 6, 7, 8))


def test_nan_and_infinity_are_not_hidden():
    for value in (float("nan"), float("inf")):
        for size in ((1, 1), (2, 2), (8, 8)):
            x = torch.randn(1, 6, *size)
            x[0, 0, 0, 0] = value
            assert not layer_of(value_channels=12)(x).isfinite().all()


def test_a_hundred_thousand_cells_say_what_they_would_take():
    layer = layer_of(impl="reference", grid=(8, 8))
    with pytest.raises(
        ValueError, match=r"attention over a map of \(400, 400\) \(impl='reference'\) would take about [\d,]+ GiB"
    ):
        layer(torch.zeros(1, 6, 400, 400))
