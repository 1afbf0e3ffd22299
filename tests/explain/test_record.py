"""Recordings show the attention that ran, whatever ran it."""

import pytest
import timm
import torch
from torch import nn

from aaconv import AttentionAugmentedConv2d, augment, create_model
from aaconv.explain import record


def given(layer, call, part="both"):
    """What the layer computes out of the recorded weights and its values, [B, d_v, H, W] before upsampling."""
    with torch.no_grad():
        p = layer.project(call)
        maps = layer.maps(call, torch.arange(p.grid[0] * p.grid[1]), part)
        heads = maps.flatten(-2).to(p.v.dtype) @ p.v
        return layer.out(heads.mT.flatten(1, 2).unflatten(-1, p.grid))


def outputs_of(model):
    outputs = {}
    for name, module in model.named_modules():
        if name.endswith("attention"):
            module.register_forward_hook(lambda m, args, out, name=name: outputs.update({name: out}))
    return outputs


def surgery():
    model, _ = augment(timm.create_model("resnet18", num_classes=3), img_size=64)
    return model


@pytest.mark.parametrize(
    "build, images",
    [
        (lambda: create_model("aa_resnet10s", num_classes=2, in_chans=1), torch.rand(2, 1, 32, 24)),
        (surgery, torch.rand(2, 3, 64, 64)),
        (lambda: create_model("aa_retinanet_resnet10_fpn", num_classes=2), list(torch.rand(1, 3, 64, 96))),
    ],
    ids=["small", "surgery", "detector"],
)
@pytest.mark.parametrize("training", [False, True])
def test_weights_times_values_is_what_the_layer_gave(build, images, training):
    model = build().eval()
    if training:
        for module in model.modules():  # a detector in training mode wants targets
            module.training = not isinstance(module, type(model)) or not isinstance(images, list)
    outputs = outputs_of(model)
    with record(model) as recording, torch.no_grad():
        model(images)
    assert len(recording.layers) >= 2
    for name, layer in recording.layers.items():
        assert recording.grid(name) == recording.maps(name, [0]).shape[-2:]
        got = given(layer, recording.inputs[name])
        if layer.pool != (1, 1):
            got = nn.functional.interpolate(got, size=outputs[name].shape[2:], mode="bilinear")
        torch.testing.assert_close(got, outputs[name], rtol=1e-4, atol=1e-5)


def test_under_autocast_maps_are_those_of_the_low_precision():
    torch.manual_seed(0)
    model = create_model("aa_resnet10s", num_classes=2, in_chans=1).eval()
    name = "blocks.3.conv1.attention"
    with record(model) as recording, torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            model(torch.rand(1, 1, 32, 32))
        low = recording.maps(name, [5])
        with torch.autocast("cpu", torch.bfloat16):
            wanted = recording.layers[name].maps(recording.inputs[name], [5])
    high = recording.layers[name].maps(recording.inputs[name].float(), [5])
    assert torch.equal(low, wanted)
    assert not torch.equal(low, high)
    torch.testing.assert_close(low, high, rtol=0.1, atol=1e-3)


def test_compiled_networks_are_recorded():
    model = create_model("aa_resnet10s", num_classes=2, in_chans=1).eval()
    images = torch.rand(1, 1, 32, 32)
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        compiled(images)
        with record(compiled) as recording:
            compiled(images)
        with record(model) as plain:
            model(images)
    assert list(recording.calls) == list(plain.calls)
    for name in plain.layers:
        assert torch.equal(recording.maps(name, [3]), plain.maps(name, [3]))


def test_every_run_is_kept_and_maps_are_of_the_last():
    model = create_model("aa_resnet10s", num_classes=2, in_chans=1).eval()
    first, second = torch.rand(2, 1, 1, 32, 32)
    with record(model) as recording:
        model(first)
        model(second)
    with record(model) as again:
        model(second)
    name = "blocks.2.conv1.attention"
    assert len(recording.calls[name]) == 2
    assert torch.equal(recording.maps(name, [0, 7]), again.maps(name, [0, 7]))


def test_parts_multiply_to_the_whole():
    """exp(a + b) is exp(a) exp(b), so that but for a factor a query the weights are those of the parts multiplied."""
    layer = AttentionAugmentedConv2d(5, 8, 3, key_channels=8, value_channels=4, num_heads=2, grid=(6, 9)).attention
    x, queries = torch.randn(2, 5, 6, 9), [0, 10, 53]
    whole, content, position = (layer.maps(x, queries, part) for part in ("both", "content", "position"))
    product = content * position
    torch.testing.assert_close(whole, product / product.sum(dim=(-2, -1), keepdim=True))
    assert not torch.allclose(whole, content)
    p = layer.project(x)
    logits = p.q @ p.k.mT * p.q.shape[-1] ** -0.5
    torch.testing.assert_close(content.flatten(-2), logits.softmax(-1)[:, :, queries])
    with pytest.raises(ValueError, match="part must be one of"):
        layer.maps(x, queries, "all")


def test_content_is_all_there_is_without_tables():
    layer = AttentionAugmentedConv2d(5, 8, 3, key_channels=8, value_channels=4, num_heads=2, position="sine").attention
    x = torch.randn(1, 5, 4, 4)
    assert torch.equal(layer.maps(x, [1], "both"), layer.maps(x, [1], "content"))
    with pytest.raises(ValueError, match="of a layer without relative positions"):
        layer.maps(x, [1], "position")
