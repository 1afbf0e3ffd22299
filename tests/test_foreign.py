"""Layers from the weights of other implementations compute what those compute; what cannot be is refused."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aaconv import foreign

KINDS = foreign.KINDS
from_module = partial(foreign.from_module, impl="reference")  # no kernel to compile
from_state_dict = partial(foreign.from_state_dict, impl="reference")

N, K, V, C = 2, 5, 3, 6  # heads, key and value channels a head, input channels
GRID = (3, 5)
SOUND = [kind for kind, row in KINDS.items() if not row.wrong]
# Names of convolution, queries-keys-values, output projection, tables of rows and columns, as their sources have them.
NAMES = {
    "legendong": ("conv_layer", "qkv_layer", "attn_layer", "key_rel_h", "key_rel_w"),
    "sebastiani": ("conv_out", "conv_qkv", "conv_attn", "key_rel_h", "key_rel_w"),
    "leaderj1001": ("conv_out", "qkv_conv", "attn_out", "key_rel_h", "key_rel_w"),
    "titu1994": ("conv", "qkv", "out", "key_rel_h", "key_rel_w"),
    "lucidrains": (None, "to_qkv", None, "pos_emb.rel_height", "pos_emb.rel_width"),
    "timm_bottleneck": (None, "qkv", None, "pos_embed.height_rel", "pos_embed.width_rel"),
    "segment_anything": (None, "qkv", "proj", "rel_pos_h", "rel_pos_w"),
}
BIASED = ("legendong", "sebastiani", "leaderj1001", "titu1994", "segment_anything")


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64) * 0.5


def state(kind, grid=GRID, relative=True, kernel=3):
    """A state dict with their names and shapes."""
    conv, qkv, out, height, width = NAMES[kind]
    values = {"leaderj1001": 1, "lucidrains": K}.get(kind, V) * N
    kernel = 1 if kind == "leaderj1001" else kernel
    filters = {qkv: (2 * N * K + values, C, 1)} | ({conv: (4, C, kernel)} if conv else {})
    filters |= {out: (values, values, 1)} if out else {}
    weights = {}
    for name, (rows, columns, edge) in filters.items():
        if kind == "segment_anything":
            weights[f"{name}.weight"] = drawn(rows, columns)
        elif kind == "titu1994":
            weights[f"{name}.kernel"] = drawn(edge, edge, columns, rows).numpy()
        else:
            weights[f"{name}.weight"] = drawn(rows, columns, edge, edge)
        if kind in BIASED:
            weights[f"{name}.bias"] = drawn(rows)
    if relative:
        weights |= {height: drawn(2 * grid[0] - 1, K), width: drawn(2 * grid[1] - 1, K)}
    return weights


def their_output(kind, weights, x, scale_pos_embed=None):
    """What their layer gives for ``x``, from the formula: all pairs of cells, offsets looked up one by one."""
    conv, qkv, out, height, width = NAMES[kind]

    def project(name, x):
        if kind == "titu1994":
            weight = torch.from_numpy(weights[f"{name}.kernel"]).permute(3, 2, 0, 1)
        else:
            weight = weights[f"{name}.weight"]
        weight = weight if weight.dim() == 4 else weight[:, :, None, None]
        return F.conv2d(x, weight, weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    rows, columns = x.shape[2:]
    split = project(qkv, x)
    values = split.shape[1] - 2 * N * K
    q, k, v = (part.unflatten(1, (N, -1)).flatten(3) for part in split.split([N * K, N * K, values], dim=1))
    content = torch.einsum("bnci,bncj->bnij", q, k)
    position = torch.zeros_like(content)
    if height in weights:
        sign = -1 if kind == "segment_anything" else 1  # offsets query minus key there
        for i in range(rows * columns):
            for j in range(rows * columns):
                dy, dx = sign * (j // columns - i // columns), sign * (j % columns - i % columns)
                vector = weights[height][dy + rows - 1] + weights[width][dx + columns - 1]
                position[:, :, i, j] = q[:, :, :, i] @ vector
    unscaled = kind == "segment_anything" or scale_pos_embed is False
    logits = content * K**-0.5 + position * (1 if unscaled else K**-0.5)
    attended = torch.einsum("bnij,bncj->bnci", logits.softmax(-1), v).flatten(1, 2).unflatten(2, (rows, columns))
    attended = project(out, attended) if out else attended
    return torch.cat([project(conv, x), attended], dim=1) if conv else attended


CASES = [(kind, None) for kind in SOUND if kind != "timm_bottleneck"]
CASES += [("timm_bottleneck", False), ("timm_bottleneck", True)]


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("kind, scale_pos_embed", CASES)
def test_equal_outputs(kind, scale_pos_embed, relative):
    torch.manual_seed(0)
    weights, x = state(kind, relative=relative), drawn(2, C, *GRID)
    if kind == "timm_bottleneck" and not relative:
        pytest.skip("timm's module has no such option")
    if kind == "segment_anything" and not relative:
        weights["qkv.weight"], weights["qkv.bias"] = drawn(2 * N * K + N * V, C), drawn(2 * N * K + N * V)
    before = {
        name: value.copy() if kind == "titu1994" and name.endswith("l") else value + 0
        for name, value in weights.items()
    }
    layer = from_state_dict(weights, kind, num_heads=N, scale_pos_embed=scale_pos_embed)
    want = their_output(kind, weights, x, scale_pos_embed)
    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-12)
    assert (layer.attention.position.tables(GRID)[0] is not None) == relative
    for name, value in before.items():  # theirs stay as they were, also when ours is trained
        assert (value == weights[name]).all()
    assert all(p.requires_grad for p in layer.parameters())


def test_part_of_a_network_and_other_dtypes():
    torch.manual_seed(0)
    weights, x = state("legendong"), drawn(2, C, *GRID)
    want = their_output("legendong", weights, x)
    whole = {f"layer1.0.conv1.{name}": value.float() for name, value in weights.items()} | {"fc.weight": drawn(2, 2)}
    layer = from_state_dict(whole, "legendong", num_heads=N, prefix="layer1.0.conv1.")
    torch.testing.assert_close(layer(x.float()).double(), want, rtol=0, atol=1e-5)
    half = from_state_dict({n: v.bfloat16() for n, v in weights.items()}, "legendong", num_heads=N)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}


def test_tables_that_were_not_used():
    """Their option, which the weights do not tell: the tables are in the state dict all the same."""
    torch.manual_seed(0)
    weights, x = state("sebastiani"), drawn(2, C, *GRID)
    plain = {name: value for name, value in weights.items() if "rel" not in name}
    layer = from_state_dict(weights, "sebastiani", num_heads=N, relative=False)
    torch.testing.assert_close(layer(x), their_output("sebastiani", plain, x), rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale_pos_embed", [False, True])
def test_module_of_timms_bottleneck(scale_pos_embed):
    attention = pytest.importorskip("timm.layers.bottleneck_attn")
    torch.manual_seed(0)
    options = {"num_heads": N, "dim_head": K, "scale_pos_embed": scale_pos_embed}
    module = attention.BottleneckAttn(C, N * V, feat_size=GRID, **options).double().eval()
    for table in module.pos_embed.parameters():
        nn.init.normal_(table)
    x, layer = drawn(2, C, *GRID), from_module(module, "timm_bottleneck")
    torch.testing.assert_close(layer(x), module(x), rtol=0, atol=1e-12)
    assert not layer.training
    strided = attention.BottleneckAttn(C, N * V, feat_size=(4, 4), stride=2, **options)
    with pytest.raises(ValueError, match=r"module cannot be ours with pool.stride=2: it averages its result"):
        from_module(strided, "timm_bottleneck")


@pytest.mark.parametrize("use_rel_pos", [True, False])
def test_module_of_segment_anything(use_rel_pos):
    sam = pytest.importorskip("timm.models.vision_transformer_sam")
    torch.manual_seed(0)
    module = sam.Attention(C, num_heads=N, use_rel_pos=use_rel_pos, input_size=GRID).double().eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    x = drawn(2, C, *GRID)
    want = module(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    torch.testing.assert_close(from_module(module, "segment_anything")(x), want, rtol=0, atol=1e-12)


class Named(nn.Module):
    """Holds weights under given names, and attributes."""

    def __init__(self, weights, **attributes):
        super().__init__()
        for name, value in weights.items():
            home = self
            *parents, last = name.split(".")
            for part in parents:
                if not hasattr(home, part):
                    home.add_module(part, nn.Module())
                home = getattr(home, part)
            home.register_parameter(last, nn.Parameter(value))
        for name, value in attributes.items():
            setattr(self, name, value)


def test_heads_and_options_of_modules():
    torch.manual_seed(0)
    x = drawn(2, C, *GRID)
    for kind, heads in (("legendong", "Nh"), ("lucidrains", "heads"), ("sebastiani", "num_heads")):
        weights = state(kind)
        module = Named(weights, **{heads: N}, softmax=nn.Softmax(dim=-1))
        torch.testing.assert_close(from_module(module, kind)(x), their_output(kind, weights, x), rtol=0, atol=1e-12)
    module.relative_encoding = False
    plain = {name: value for name, value in weights.items() if "rel" not in name}
    torch.testing.assert_close(from_module(module, kind)(x), their_output(kind, plain, x), rtol=0, atol=1e-12)
    module.softmax = nn.Softmax()
    with pytest.raises(ValueError, match=r"module cannot be ours with softmax.dim=None: its softmax does not run over"):
        from_module(module, kind)
    with pytest.raises(ValueError, match=r"only layers of stride 1"):
        from_module(Named(state("leaderj1001", (4, 4)), Nh=N, stride=2), "leaderj1001")
    with pytest.raises(ValueError, match=r"module must be a LegenDong/.* which has 'Nh'; got Conv2d"):
        from_module(nn.Conv2d(2, 2, 1), "legendong")
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got dict"):
        from_module({}, "legendong")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in SOUND])
def test_kinds_that_are_other_functions(kind):
    with pytest.raises(ValueError, match=f"weights of {kind} .* cannot be ours: it"):
        from_state_dict({}, kind, num_heads=N)
    with pytest.raises(ValueError, match="cannot be ours"):
        from_module(nn.Conv2d(2, 2, 1), kind)


def spoiled(case):
    """(weights, kind, further arguments, message)"""
    weights = state("legendong")
    match case:
        case "unknown kind":
            return weights, "legendog", {}, r"kind must be one of \['lead.*'titu1994'\].*did you mean 'legendong'"
        case "no scale":
            return state("timm_bottleneck"), "timm_bottleneck", {}, "scale_pos_embed must say how .* timm's default is"
        case "scale of another":
            return weights, "legendong", {"scale_pos_embed": True}, "scale_pos_embed must be left out for legendong"
        case "heads":
            return weights, "legendong", {"num_heads": 1}, "num_heads=1 does not fit 10 key .* tables of 5 channels"
        case "heads that divide nothing":
            return weights, "legendong", {"num_heads": 4}, "key channels must be a multiple of num_heads=4"
        case "missing and unknown":
            weights["conv.weight"] = weights.pop("conv_layer.weight")
            return weights, "legendong", {}, r"missing: conv_layer.weight; unknown: conv.weight"
        case "no tables":
            weights = {name: value for name, value in weights.items() if "rel" not in name}
            return weights, "legendong", {"relative": True}, r"missing: key_rel_h, key_rel_w; unknown: none"
        case "one table":
            del weights["key_rel_h"]
            return weights, "legendong", {}, r"missing: key_rel_h"
        case "prefix":
            return (
                weights,
                "legendong",
                {"prefix": "x."},
                r"weights must hold names that begin with 'x.', got qkv_layer",
            )
        case "not finite":
            weights["key_rel_w"][1, 2] = float("inf")
            return weights, "legendong", {}, "must be finite floats, key_rel_w is not"
        case "integers":
            weights["attn_layer.bias"] = torch.zeros(N * V, dtype=torch.int64)
            return weights, "legendong", {}, "must be finite floats, attn_layer.bias is not"
        case "even table":
            weights["key_rel_w"] = drawn(8, K)
            return weights, "legendong", {}, r"must have key_rel_w of \[2\*size - 1, K\], got \[8, 5\]"
        case "dimensions":
            weights["attn_layer.weight"] = drawn(N * V, N * V)
            return weights, "legendong", {}, r"must have attn_layer.weight of 4 dimensions, got \[6, 6\]"
        case "shapes that contradict":
            weights["conv_layer.weight"] = drawn(4, C + 1, 3, 3)
            return weights, "legendong", {}, "weights of legendong do not fit together: .*conv.weight"
        case "several value channels":
            weights = state("leaderj1001", (4, 4))
            weights |= {"attn_out.weight": drawn(6, 6, 1, 1), "attn_out.bias": drawn(6)}
            return weights, "leaderj1001", {}, "mixes channels with positions"
        case "large kernel":
            weights = state("leaderj1001", (4, 4))
            weights["qkv_conv.weight"] = drawn(22, C, 3, 3)
            return weights, "leaderj1001", {}, "from a convolution larger than 1x1"
        case "absolute positions":
            weights = {"to_qkv.weight": drawn(3 * N * K, C, 1, 1), "pos_emb.height": drawn(3, K)}
            return weights, "lucidrains", {}, "its positions are absolute"


FAULTS = [
    "unknown kind",
    "no scale",
    "scale of another",
    "heads",
    "heads that divide nothing",
    "missing and unknown",
    "no tables",
    "one table",
    "prefix",
    "not finite",
    "integers",
    "even table",
    "dimensions",
    "shapes that contradict",
    "several value channels",
    "large kernel",
    "absolute positions",
]


@pytest.mark.parametrize("case", FAULTS)
def test_refusals(case):
    weights, kind, options, message = spoiled(case)
    with pytest.raises(ValueError, match=message):
        from_state_dict(weights, kind, **{"num_heads": N, **options})
