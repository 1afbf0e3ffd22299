"""timm's attention modules compute what they did after adapting, by our operator, on the same weights."""

import pickle
from copy import deepcopy

import pytest
import torch
from torch import nn

from aaconv.adapters import adapt, adapt_bottleneck_attention, adapt_decomposed_attention
from aaconv.ops import cpu

timm = pytest.importorskip("timm")

from timm.layers.bottleneck_attn import BottleneckAttn  # noqa: E402
from timm.models.vision_transformer_sam import Attention, Block, VisionTransformerSAM  # noqa: E402

TOLERANCES = {torch.float64: 1e-13, torch.float32: 1e-5}  # of a tensor's largest entry, or of 1
BOTTLENECKS = {
    "plain": {},
    "scaled positions": {"scale_pos_embed": True},
    "stride, bias and narrow heads": {"stride": 2, "qkv_bias": True, "dim_head": 5},
    "one head": {"num_heads": 1, "dim_out": 8},
}
DECOMPOSED = {
    "fused": {},
    "plain formula": {"fused_attn": False},
    "normalised queries": {"qk_norm": True, "num_heads": 4},
    "tables of another size": {"input_size": (3, 9)},
    "one head": {"num_heads": 1, "qkv_bias": False},
}


def drawn(module, dtype=torch.float32):
    """The module with all parameters drawn: tables that are zero would hide every fault."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module.to(dtype).eval()


def bottleneck(grid=(4, 6), dtype=torch.float32, **options):
    return drawn(BottleneckAttn(12, feat_size=grid, **{"dim_out": 16, "num_heads": 2, **options}), dtype)


def decomposed(grid=(4, 6), dtype=torch.float32, fused_attn=True, **options):
    module = Attention(12, use_rel_pos=True, **{"num_heads": 2, "input_size": grid, **options})
    module.fused_attn = fused_attn
    return drawn(module, dtype)


def sam(**options):
    """A backbone of a windowed block, several windows and padding, and a global one, on a map of 6x6."""
    sizes = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 3}
    windows = {"window_size": 4, "global_attn_indexes": (1,), "neck_chans": 8}
    return drawn(VisionTransformerSAM(**{**sizes, **windows, "use_rel_pos": True, **options}))


def botnet(img_size=(32, 64)):
    return timm.create_model("botnet26t_256", img_size=img_size, num_classes=3).eval()


def results(module, *inputs):
    """Output, and gradients of the inputs and of every parameter, for one upstream gradient."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    module.zero_grad()
    out = module(*inputs)
    weight = torch.linspace(-1, 2, out.numel(), dtype=out.dtype).view(out.shape)
    (out * weight).sum().backward()
    grads = {name: p.grad.clone() for name, p in module.named_parameters()}
    return {"output": out.detach(), **{f"input {i}": x.grad for i, x in enumerate(inputs)}, **grads}


def assert_same(got, want, tolerance):
    assert got.keys() == want.keys()
    for name in want:
        atol = tolerance * max(1.0, want[name].abs().max().item())
        torch.testing.assert_close(
            got[name], want[name], rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture
def calls(monkeypatch):
    """Names of our CPU kernels in the order in which they ran."""
    ran = []
    for name in ("forward", "forward_from_tables", "backward"):
        kernel = getattr(cpu, name)
        monkeypatch.setattr(cpu, name, lambda *a, name=name, kernel=kernel: ran.append(name) or kernel(*a))
    return ran


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("grid", [(4, 6), (7, 3), (1, 5)], ids=str)
@pytest.mark.parametrize("options", BOTTLENECKS.values(), ids=BOTTLENECKS)
def test_bottleneck_attention(options, grid, dtype):
    if options.get("stride") == 2 and 1 in grid:
        pytest.skip("nothing would be left of the map")
    module, x = bottleneck(grid, dtype, **options), torch.randn(3, 12, *grid, dtype=dtype)
    want, seen = results(module, x), module(x).detach()
    assert adapt_bottleneck_attention(module) is module
    assert_same(results(module, x), want, TOLERANCES[dtype])
    with torch.no_grad():  # another kernel
        assert_same({"output": module(x)}, {"output": seen}, TOLERANCES[dtype])


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("grid", [(4, 6), (7, 3), (1, 5)], ids=str)
@pytest.mark.parametrize("options", DECOMPOSED.values(), ids=DECOMPOSED)
def test_decomposed_attention(options, grid, dtype):
    module, x = decomposed(grid, dtype, **options), torch.randn(3, *grid, 12, dtype=dtype)
    want, seen = results(module, x), module(x).detach()
    assert adapt_decomposed_attention(module) is module
    assert_same(results(module, x), want, TOLERANCES[dtype])
    with torch.no_grad():
        assert_same({"output": module(x)}, {"output": seen}, TOLERANCES[dtype])


def test_block_of_several_windows():
    block = Block(12, 2, use_rel_pos=True, window_size=4, input_size=(6, 9))
    block, x = drawn(block, torch.float64), torch.randn(2, 6, 9, 12, dtype=torch.float64)
    want = results(block, x)
    assert adapt(block)[1] == ["attn"]
    assert_same(results(block, x), want, TOLERANCES[torch.float64])


@pytest.mark.parametrize("size", [(48, 48), (40, 64)], ids=str)
def test_whole_segment_anything_backbone(size, calls):
    """The second size needs the tables of the global block interpolated."""
    model, x = sam().double(), torch.randn(2, 3, *size, dtype=torch.float64)
    model.patch_embed.strict_img_size = False
    want, names = results(model, x), list(model.state_dict())
    adapted, found = adapt(model)
    assert adapted is model
    assert found == ["blocks.0.attn", "blocks.1.attn"]
    assert list(model.state_dict()) == names
    assert_same(results(model, x), want, 1e-11)
    assert calls == ["forward", "forward", "backward", "backward"]


def test_whole_bottleneck_transformer(calls):
    model, x = botnet().double(), torch.randn(2, 3, 32, 64, dtype=torch.float64)
    want = results(model, x)
    names = [name for name, module in model.named_modules() if isinstance(module, BottleneckAttn)]
    assert adapt(model)[1] == names
    assert len(names) == 3
    assert_same(results(model, x), want, 1e-11)
    assert calls == ["forward"] * 3 + ["backward"] * 3
    with torch.inference_mode():
        torch.testing.assert_close(model(x), want["output"], rtol=0, atol=1e-11)
    assert calls[6:] == ["forward_from_tables"] * 3


MODULES = {
    "bottleneck": (bottleneck, adapt_bottleneck_attention, (2, 12, 4, 6)),
    "decomposed": (decomposed, adapt_decomposed_attention, (2, 4, 6, 12)),
}


@pytest.fixture(params=MODULES.values(), ids=MODULES)
def case(request):
    build, adapt_one, shape = request.param
    return build(), adapt_one, torch.randn(shape)


def test_weights_names_and_identity_stay(case):
    module, adapt_one, x = case
    original, state, parameters = type(module), deepcopy(module.state_dict()), dict(module.named_parameters())
    seen = []
    module.register_forward_hook(lambda *_: seen.append(True))
    adapt_one(module)
    assert isinstance(module, original)
    assert all(parameter is parameters[name] for name, parameter in module.named_parameters())
    assert {name: t.shape for name, t in module.state_dict().items()} == {name: t.shape for name, t in state.items()}
    want = module(x)
    drawn(module)
    assert not torch.allclose(module(x), want)
    module.load_state_dict(state)  # an old checkpoint, strictly
    torch.testing.assert_close(module(x), want)
    assert len(seen) == 3


@pytest.mark.parametrize("copy", [deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["deep", "pickle"])
def test_copies(case, copy, calls):
    module, adapt_one, x = case
    want = adapt_one(module)(x)
    calls.clear()
    clone = copy(module)
    assert type(clone) is type(module)
    torch.testing.assert_close(clone(x), want, rtol=0, atol=0)
    assert calls == ["forward"]
    assert adapt_one(clone) is clone


def test_compiled(case, calls):
    module, adapt_one, x = case
    want = results(module, x)
    compiled = torch.compile(adapt_one(module), fullgraph=True, backend="aot_eager")
    got = {name.removeprefix("_orig_mod."): t for name, t in results(compiled, x).items()}
    assert_same(got, want, TOLERANCES[torch.float32])
    assert calls == ["forward", "backward"]


def test_autocast(case):
    module, adapt_one, x = case
    with torch.autocast("cpu", torch.bfloat16):
        want = module(x)
        got = adapt_one(module)(x)
    assert got.dtype == want.dtype
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.1)


def test_normalised_queries_under_autocast():
    module, x = decomposed(qk_norm=True), torch.randn(2, 4, 6, 12)
    want = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = adapt_decomposed_attention(module)(x)
    torch.testing.assert_close(got.float(), want, rtol=0.05, atol=0.1)


def test_map_of_another_size_is_refused():
    module = adapt_bottleneck_attention(bottleneck((4, 6)))
    with pytest.raises(ValueError, match=r"rel_h must have shape \[11, 8\], got \[7, 8\]"):
        module(torch.randn(1, 12, 6, 4))


@pytest.mark.parametrize("model", [nn.Conv2d(3, 4, 1), sam(use_rel_pos=False)], ids=["convolution", "no tables"])
def test_nothing_to_adapt(model):
    with pytest.raises(ValueError, match=r"BottleneckAttn, or its segment-anything Attention .*: it holds none"):
        adapt(model)


def test_adapted_once():
    model, names = adapt(nn.Sequential(bottleneck(), nn.Identity(), decomposed()))
    assert names == ["0", "2"]
    with pytest.raises(ValueError, match="all 2 of its modules are adapted already"):
        adapt(model)
    model.append(bottleneck())
    assert adapt(model)[1] == ["3"]


def test_module_itself():
    module = bottleneck()
    assert adapt(module) == (module, [""])
    assert type(module) is not BottleneckAttn


class Other(BottleneckAttn):
    """May compute anything."""


def test_refusals_leave_everything_as_it_was():
    patched = bottleneck()
    patched.forward = lambda x: x
    other = Other(12, feat_size=(4, 6))
    reasons = {
        "got attn_drop.p=0.1; set it to 0": decomposed(attn_drop=0.1),
        "must have the forward of its class": patched,
        "must be a timm.layers.bottleneck_attn.BottleneckAttn itself": other,
    }
    for reason, module in reasons.items():
        model = nn.Sequential(bottleneck(), module)
        types = [type(child) for child in model]
        with pytest.raises(ValueError, match=f"model.1 must .*{reason}|model.1 {reason}"):
            adapt(model)
        assert [type(child) for child in model] == types


def test_wrong_arguments():
    with pytest.raises(ValueError, match=r"module must be a timm.models.vision_transformer_sam.Attention itself"):
        adapt_decomposed_attention(bottleneck())
    with pytest.raises(ValueError, match="must have relative positions, got use_rel_pos=False"):
        adapt_decomposed_attention(Attention(12, num_heads=2))
    for function in (adapt, adapt_bottleneck_attention, adapt_decomposed_attention):
        with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got str"):
            function("botnet26t_256")


def test_dropout_set_after_adapting():
    module, x = adapt_decomposed_attention(decomposed()), torch.randn(1, 4, 6, 12)
    module.attn_drop.p = 0.2
    module(x)
    with pytest.raises(ValueError, match=r"attn_drop.p must be 0 in training"):
        module.train()(x)
