"""Attention put into networks of many families: shapes, gradients, reports, exactness, and nothing touched in vain."""

from copy import deepcopy

import pytest
import timm
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrize

from aaconv import AttentionAugmentedConv2d, augment, create_model
from aaconv.models.complexity import measure_complexity
from aaconv.nn.convert import InPlaceAugmentedConv2d, kept_filters
from aaconv.surgery import Report, reapply, unaugment

FAMILIES = {  # how to build the network, what to ask for
    "resnet": (lambda: timm.create_model("resnet18", num_classes=5), {}),
    "resnext": (lambda: timm.create_model("resnext50_32x4d", num_classes=5), {}),
    "regnet": (lambda: timm.create_model("regnety_002", num_classes=5), {}),
    "densenet": (lambda: timm.create_model("densenet121", num_classes=5), {"where": ["features.denseblock4.*.conv1"]}),
    "vgg": (lambda: timm.create_model("vgg11", num_classes=5), {"where": ["features.*"]}),
    "efficientnet, same padding": (
        lambda: timm.create_model("tf_efficientnet_b0", num_classes=5),
        {"kernel_sizes": [1]},
    ),
    "mobilenet": (lambda: timm.create_model("mobilenetv3_small_100", num_classes=5), {"kernel_sizes": [1]}),
    "convnext": (lambda: timm.create_model("convnext_atto", num_classes=5), {"where": ["stages.*.downsample.1"]}),
    "torchvision resnet": (lambda: torchvision.models.resnet18(num_classes=5), {}),
    "torchvision mobilenet": (lambda: torchvision.models.mobilenet_v2(num_classes=5), {"kernel_sizes": [1]}),
}
SIZE = (64, 80)


@pytest.fixture(params=FAMILIES)
def family(request):
    build, options = FAMILIES[request.param]

    def awake():
        """The network with norms that hide nothing: residual branches often begin at zero."""
        torch.manual_seed(0)
        model = build()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
        return model

    return awake, {**options, "img_size": SIZE}


def tiny():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1)
    )


def zeroed(model, report):
    """A copy in which the filters that went to attention are zero."""
    model = deepcopy(model)
    with torch.no_grad():
        for row in report.replaced:
            conv = model.get_submodule(row.name)
            gone = torch.ones(conv.out_channels, dtype=torch.bool)
            gone[kept_filters(conv, row.value_channels)] = False
            conv.weight[gone] = 0
            if conv.bias is not None:
                conv.bias[gone] = 0
    return model


@torch.no_grad()
def test_begins_as_the_original_with_the_replaced_filters_zero(family):
    build, options = family
    original = build().eval()
    model, report = augment(deepcopy(original), new_channels="zero", **options)
    x = torch.randn(2, 3, *SIZE)
    torch.testing.assert_close(model(x), zeroed(original, report)(x), rtol=1e-4, atol=1e-5)
    assert len(report.replaced) + len(report.skipped) == sum(isinstance(m, nn.Conv2d) for m in original.modules())
    assert Report.from_json(report.to_json()) == report
    assert report.replaced[-1].name in str(report)


def test_learns_and_reloads(family):
    build, options = family
    model, report = augment(build(), new_channels="fresh", **options)
    model.train()(torch.randn(2, 3, *SIZE)).square().sum().backward()
    for row in report.replaced:
        for name, parameter in model.get_submodule(row.name).named_parameters():
            assert parameter.grad is not None, (row.name, name)
            assert parameter.grad.isfinite().all()
    again = reapply(build(), Report.from_json(report.to_json()))
    again.load_state_dict(model.state_dict())
    x = torch.randn(1, 3, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), model.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("trained", [False, True])
def test_attention_of_a_new_network_is_drawn_and_of_a_trained_one_zero(trained):
    """Zeros behind a new batch norm and a ReLU would have no gradient for ever."""
    model = timm.create_model("resnet18", num_classes=3, zero_init_last=False)
    if trained:
        with torch.no_grad():
            model.train()(torch.randn(4, 3, *SIZE))
    model, report = augment(model, img_size=SIZE, where=["layer4.*.conv1"])
    layers = [model.get_submodule(row.name).attention for row in report.replaced]
    assert [bool(layer.out.weight.any()) for layer in layers] == [not trained] * 2
    if not trained:
        model.train()(torch.randn(4, 3, *SIZE)).square().sum().backward()
        assert all(layer.position.height.grad.any() for layer in layers)


@torch.no_grad()
def test_taken_out_again(family):
    build, options = family
    original = build().eval()
    model, report = augment(deepcopy(original), new_channels="zero", **options)
    x = torch.randn(1, 3, *SIZE)
    plain = unaugment(model)
    assert not [m for m in plain.modules() if isinstance(m, AttentionAugmentedConv2d)]
    torch.testing.assert_close(plain(x), zeroed(original, report)(x), rtol=1e-4, atol=1e-5)


def test_the_papers_rule_on_the_papers_network():
    model, report = augment(timm.create_model("resnet50"))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(25.809, abs=0.001)
    assert [row.name.split(".")[0] for row in report.replaced] == ["layer2"] * 4 + ["layer3"] * 6 + ["layer4"] * 3
    assert {row.pool for row in report.replaced[:4]} == {2}
    added = sum(row.gflops[1] - row.gflops[0] for row in report.replaced)
    before, after = (measure_complexity(m, 3, 224).flops for m in (timm.create_model("resnet50"), model))
    assert added == pytest.approx((after - before) / 1e9, rel=1e-6)
    assert sum(row.parameters[1] - row.parameters[0] for row in report.replaced) == 252_360


def test_budgets_are_spent_from_the_last_layer():
    names = []
    for budget in (0.0, 0.05, 0.1, None):
        _, report = augment(timm.create_model("resnet50"), extra_gflops=budget)
        names.append([row.name for row in report.replaced])
        spent = sum(row.gflops[1] - row.gflops[0] for row in report.replaced)
        assert budget is None or spent <= budget
    assert names[0] == ["layer4.0.conv2", "layer4.1.conv2", "layer4.2.conv2"]  # which save operations
    assert [len(found) for found in names] == sorted(len(found) for found in names)
    assert names[1] == names[2][-len(names[1]) :]
    _, report = augment(timm.create_model("resnet50"), extra_memory_mb=0.5)
    assert sum(row.memory_mb[1] - row.memory_mb[0] for row in report.replaced) <= 0.5
    assert "the budget of memory is spent" in {row.reason for row in report.skipped}


def test_grouped_channels_stay_in_their_places():
    model = nn.Sequential(nn.Conv2d(8, 32, 3, padding=1, groups=4))
    (layer,), report = augment(model, img_size=8, in_chans=8, num_heads=2)
    assert isinstance(layer, InPlaceAugmentedConv2d)
    assert report.replaced[0].value_channels == 4
    assert {name.partition(".")[0] for name in layer.state_dict()} == {"conv", "attention"}
    attention_only = layer(torch.randn(1, 8, 8, 8))[0, [7, 15, 23, 31]]
    assert not attention_only.any()


def test_value_channels_are_a_multiple_of_groups_and_heads():
    model = nn.Sequential(nn.Conv2d(6, 36, 3, padding=1, groups=3))
    _, report = augment(model, img_size=8, in_chans=6, num_heads=2, value_ratio=0.3)  # of 36: 10
    assert report.replaced[0].value_channels == 6


def test_maps_of_oblong_images():
    """The longer edge decides the pool; height comes first, also in what timm's models say of themselves."""
    model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1))
    model.default_cfg = {"input_size": (3, 8, 28)}
    _, report = augment(model, value_ratio=0.25)
    assert report.image_size == (8, 28)
    assert [(row.pool, row.grid) for row in report.replaced] == [(2, (4, 14))]


def test_predicate_dtype_mode_and_frozen_filters():
    model = tiny().double().eval()
    model[0].requires_grad_(False)
    model, report = augment(model, img_size=12, value_ratio=0.25, where=lambda name, conv: conv.in_channels == 3)
    assert [row.name for row in report.replaced] == ["0"]
    layer = model[0]
    assert not layer.training
    assert not layer.conv.weight.requires_grad
    assert all(p.requires_grad and p.dtype == torch.float64 for p in layer.attention.parameters())


def test_shared_and_odd_convolutions():
    shared = nn.Conv2d(32, 32, 3, padding=1)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.unused = shared, shared, nn.Conv2d(32, 32, 3, padding=1)
            self.valid = nn.Conv2d(32, 32, 3)
            self.computed = parametrize.register_parametrization(
                nn.Conv2d(32, 32, 3, padding=1), "weight", nn.Identity()
            )

        def forward(self, x):
            return self.computed(self.valid(self.second(self.first(x))))

    model, report = augment(Net(), img_size=10, value_ratio=0.25)
    assert model.first is model.second
    assert isinstance(model.first, AttentionAugmentedConv2d)
    assert {row.name: row.reason for row in report.skipped} == {
        "unused": "it was not called",
        "valid": "its output map is not ceil(input / stride)",
        "computed": "its weight is computed from others (parametrised)",
    }


def test_networks_that_cannot_run_on_the_meta_device():
    class Asks(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if float(x.sum()) == 0 else x  # asks for a number, which meta has not

    model = Asks(nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32)).train()
    model, report = augment(model, img_size=8, value_ratio=0.25)
    assert len(report.replaced) == 1
    assert model.training
    assert model[1].num_batches_tracked == 0


BAD = {
    "no module": (lambda: "resnet", {}, TypeError, "model must be a torch.nn.Module, got str"),
    "no convolutions": (lambda: nn.Linear(2, 2), {}, ValueError, "model must have a convolution"),
    "a convolution itself": (lambda: nn.Conv2d(3, 8, 3), {}, ValueError, "model is a convolution itself"),
    "unknown pattern": (tiny, {"where": ["9"]}, ValueError, "no convolution's name matches '9'; nearest: 0, 3"),
    "a string": (tiny, {"where": "0"}, TypeError, "where must be a list of patterns or a function"),
    "ratio": (tiny, {"key_ratio": 1.5}, ValueError, r"key_ratio must lie in \(0, 1\], got key_ratio=1.5"),
    "too small a ratio": (tiny, {"value_ratio": 0.01}, ValueError, "nothing to replace: 2 its channels are too few"),
    "heads": (tiny, {"num_heads": 0}, ValueError, "num_heads must be at least 1, got num_heads=0"),
    "budget": (tiny, {"extra_gflops": -1.0}, ValueError, "extra_gflops must be at least 0"),
    "nothing left": (tiny, {"max_map": 1, "max_pool": 1}, ValueError, "nothing to replace: 2 maps larger than"),
    "new channels": (tiny, {"new_channels": "zeros"}, ValueError, "did you mean 'zero'"),
    "position": (tiny, {"position": "absolute"}, ValueError, "position must be one of"),
    "size": (tiny, {"img_size": 0}, ValueError, "img_size must be at least 1"),
    "channels": (tiny, {"in_chans": 4}, ValueError, "does not run on an image of"),
}


@pytest.mark.parametrize("case", BAD)
def test_mistakes_leave_the_model_alone(case):
    build, options, error, message = BAD[case]
    model = build()
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    weights = deepcopy(model.state_dict()) if isinstance(model, nn.Module) else {}
    with pytest.raises(error, match=message):
        augment(model, **{"img_size": 12, **options})
    if isinstance(model, nn.Module):
        assert list(model.modules()) == modules
        assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


def test_reports_of_another_network_are_refused():
    _, report = augment(tiny(), img_size=12, value_ratio=0.25)
    with pytest.raises(ValueError, match=r"the model has no convolutions \['3'\]"):
        reapply(tiny()[:2], report)
    with pytest.raises(ValueError, match=r"text must be what Report.to_json wrote"):
        Report.from_json("{}")
    with pytest.raises(ValueError, match="model has no augmented convolutions to take out"):
        unaugment(tiny())


def test_layers_that_have_attention_already_are_left_alone():
    model, report = augment(create_model("aa_resnet10xs_r25"), img_size=32, num_heads=2, value_ratio=0.25, where=["*"])
    held = {name for name, module in model.named_modules() if isinstance(module, AttentionAugmentedConv2d)}
    replaced = {row.name for row in report.replaced}
    assert replaced < held
    assert not [name for name in replaced if any(name.startswith(f"{other}.") for other in held)]
