"""The paper's networks: sizes as printed, and the manners of timm's models."""

import pytest
import timm
import torch
from torch.nn import functional as F

import aaconv.models
from aaconv import Attention2d, create_model, list_models
from aaconv.models import mnasnet, resnet, small, timm_networks, wide_resnet
from aaconv.models.complexity import measure_complexity

OURS = sorted({**resnet.SPECS, **mnasnet.SPECS, **wide_resnet.SPECS, **small.SPECS})
SIZES = {  # millions of parameters, GFLOPs: what the printed figures come from
    "aa_resnet34": (20.745, 7.09),
    "aa_resnet50": (25.81, 8.33),
    "aa_resnet101": (45.39, 16.09),
    "aa_resnet152": (61.61, 23.81),
    "aa_resnet50_r25": (24.30, 7.90),
    "aa_resnet50_r50": (22.34, 7.31),
    "aa_resnet50_r75": (20.74, 6.81),
    "aa_resnet50_r100": (19.38, 6.38),
    "resnet34": (21.80, 7.33),
    "resnet50": (25.56, 8.18),
    "resnet101": (44.55, 15.60),
    "resnet152": (60.19, 23.03),
    "wrn28_10": (36.278, 10.43),
    "aa_wrn28_10": (36.05, 12.29),
    "aa_wrn28_10_first": (36.24, 10.85),
    "se_wrn28_10": (36.55, 10.43),
    "ge_wrn28_10": (36.278, 10.43),
    "mnasnet_a1_075": (2.912, None),
    "mnasnet_a1_100": (3.887, None),
    "mnasnet_a1_125": (5.255, None),
    "mnasnet_a1_140": (6.106, None),
    "aa_mnasnet_075": (3.015, None),
    "aa_mnasnet_100": (4.058, None),
    "aa_mnasnet_125": (5.530, None),
    "aa_mnasnet_140": (6.443, None),
}


def on_meta(name, **changes):
    with torch.device("meta"):
        return create_model(name, **changes)


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_papers(name):
    model, (parameters, gflops) = on_meta(name), SIZES[name]
    edge = model.default_cfg["input_size"][1]
    counted = measure_complexity(model, 3, edge, convention="full" if "wrn" in name else "paper")
    assert counted.parameters / 1e6 == pytest.approx(parameters, abs=0.0051)
    if gflops is not None:
        assert counted.flops / 1e9 == pytest.approx(gflops, abs=0.011)


@pytest.mark.parametrize("name", OURS)
def test_timm_knows_every_network(name):
    assert name in timm.list_models()
    assert name in list_models()
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=7, in_chans=1)
    config = timm.data.resolve_data_config(model=model)
    assert config["input_size"][0] in (1, 3)
    assert len(config["mean"]) == 3
    assert sum(p.numel() for p in model.get_classifier().parameters()) > 0
    tables = {name for name, _ in model.named_parameters() if name.endswith(("position.height", "position.width"))}
    assert model.no_weight_decay() == tables
    assert bool(tables) == name.startswith("aa_")
    groups = timm.models.group_parameters(model, model.group_matcher(coarse=True))
    assert sum(map(len, groups.values())) == len(list(model.parameters()))
    model.reset_classifier(3)
    assert model.num_classes == 3


def test_a_clash_with_timm_is_refused():
    with pytest.raises(ValueError, match="timm has a model 'resnet18' already"):
        timm_networks._register("resnet18", lambda: None, "list")
    assert not set(OURS) & set(timm_networks.THEIRS)


@pytest.mark.parametrize("name", OURS)
def test_every_parameter_learns(name):
    torch.manual_seed(0)
    # The last norm of a residual branch begins at zero in timm's ResNet, and hides the branch from the gradient.
    options = {"zero_init_last": False} if "_resnet" in name and name not in small.SPECS else {}
    model = create_model(name, num_classes=3, img_size=32, **options)
    F.cross_entropy(model(torch.randn(3, 3, 43, 40)), torch.tensor([0, 1, 2])).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name


@pytest.mark.parametrize("name", ["aa_resnet34", "aa_mnasnet_075", "aa_wrn10_2", "aa_resnet10s"])
class TestManners:
    """What users of timm expect."""

    @pytest.fixture
    def model(self, name):
        torch.manual_seed(0)
        return create_model(name, num_classes=5, img_size=64).eval()

    @torch.no_grad()
    def test_features_only(self, name):
        extractor = timm.create_model(name, features_only=True, img_size=64, out_indices=(1, 2, 3)).eval()
        features = extractor(torch.randn(1, 3, 64, 80))
        assert [f.shape[1] for f in features] == extractor.feature_info.channels()
        for feature, reduction in zip(features, extractor.feature_info.reduction(), strict=True):
            assert feature.shape[2:] == (64 // reduction, 80 // reduction)

    @torch.no_grad()
    def test_head_and_features_make_the_whole(self, model, name):
        x = torch.randn(2, 3, 64, 64)
        torch.testing.assert_close(model(x), model.forward_head(model.forward_features(x)))
        assert model.forward_head(model.forward_features(x), pre_logits=True).shape == (2, model.head_hidden_size)

    @torch.no_grad()
    @pytest.mark.parametrize("size", [(64, 64), (97, 64), (40, 130)], ids=str)
    def test_any_size_at_run_time(self, model, name, size):
        logits = model(torch.randn(2, 3, *size))
        assert logits.shape == (2, 5)
        assert logits.isfinite().all()

    def test_round_trip_and_checkpoints_of_another_size(self, model, name):
        other = create_model(name, num_classes=5, img_size=64)
        other.load_state_dict(model.state_dict())
        x = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(other.eval()(x), model(x), rtol=0, atol=0)
        larger = create_model(name, num_classes=5, img_size=128)
        larger.load_state_dict(model.state_dict())
        grids = [[m.position.grid for m in net.modules() if isinstance(m, Attention2d)] for net in (larger, model)]
        assert grids[0] == [(2 * height, 2 * width) for height, width in grids[1]]

    def test_grad_checkpointing_and_dropout(self, model, name):
        model = create_model(name, num_classes=5, img_size=64, drop_rate=0.1).train()
        model.set_grad_checkpointing()
        model(torch.randn(2, 3, 64, 64)).sum().backward()
        assert all(p.grad is not None for p in model.parameters())

    @torch.no_grad()
    def test_bfloat16(self, model, name):
        x = torch.randn(2, 3, 64, 64)
        low = model.bfloat16()(x.bfloat16())
        assert low.dtype == torch.bfloat16
        assert low.isfinite().all()

    @torch.no_grad()
    def test_compiled_whole(self, model, name):
        x = torch.randn(1, 3, 64, 64)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x), model(x), rtol=1e-4, atol=1e-4)

    def test_pretrained_says_that_there_are_no_weights(self, name):
        with pytest.raises(RuntimeError, match=r"[Nn]o pretrained weights"):
            timm.create_model(name, pretrained=True)


@pytest.mark.parametrize("name", ["aa_resnet34", "aa_mnasnet_075", "aa_wrn10_2"])
def test_drop_path(name):
    torch.manual_seed(0)
    options = {"zero_init_last": False} if "_resnet" in name else {}
    model, x = create_model(name, num_classes=5, drop_path_rate=0.5, **options).train(), torch.randn(4, 3, 64, 64)
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("position", ["relative", "sine", "coordconv", "none"])
@pytest.mark.parametrize("name", ["aa_resnet50", "aa_mnasnet_100", "aa_wrn28_10"])
def test_positions(name, position):
    model = on_meta(name, position=position)
    kinds = {type(m.position).__name__ for m in model.modules() if isinstance(m, Attention2d)}
    assert len(kinds) == 1
    assert bool(model.no_weight_decay()) == (position == "relative")


def test_the_paper_pools_the_largest_maps():
    layers = [m for m in on_meta("aa_resnet50").modules() if isinstance(m, Attention2d)]
    places = [(layer.position.grid, layer.pool) for layer in layers]
    assert places == 4 * [((14, 14), (2, 2))] + 6 * [((14, 14), (1, 1))] + 3 * [((7, 7), (1, 1))]


def test_bad_arguments():
    with pytest.raises(ValueError, match="no model 'aa_resnet5O'; nearest: aa_resnet50"):
        create_model("aa_resnet5O")
    with pytest.raises(TypeError, match="heads"):
        create_model("aa_resnet50", heads=4)
    with pytest.raises(ValueError, match=r"position must be one of .* got 'relativ'; did you mean 'relative'"):
        create_model("aa_resnet50", position="relativ")
    with pytest.raises(ValueError, match="img_size must be at least 1, got img_size=0"):
        create_model("aa_resnet50", img_size=0)
    with pytest.raises(ValueError, match="impl must be one of"):
        create_model("aa_resnet50", impl="fast")


def test_aaconv_alone_lists_what_timm_lists():
    assert {name for name in timm.list_models() if name in aaconv.models.list_models()} >= set(OURS)


def test_checkpoints_that_do_not_fit_are_refused_with_every_key():
    model, weights = create_model("aa_wrn10_2"), create_model("aa_wrn10_2").state_dict()
    weights["extra"] = weights.pop("bn.weight")
    weights["fc.weight"] = weights["fc.weight"][:3]
    weights["group1.0.conv1.attention.position.height"] = torch.zeros(4, 10)
    with pytest.raises(RuntimeError) as refused:
        model.load_state_dict(weights)
    for said in ('Missing key(s) in state_dict: "bn.weight"', 'Unexpected key(s) in state_dict: "extra"'):
        assert said in str(refused.value)
    assert str(refused.value).count("size mismatch for") == 2
