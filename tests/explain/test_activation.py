"""Grad-CAM by its formula."""

import pytest
import timm
import torch
from torch import nn

from aaconv import create_model
from aaconv.explain.activation import class_activation


def by_hand(model, module, images, classes):
    kept = {}
    handle = module.register_forward_hook(lambda m, args, out: kept.update(out=out))
    logits = model(images)
    handle.remove()
    grads = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), kept["out"])[0]
    return (kept["out"] * grads.mean(dim=(2, 3), keepdim=True)).sum(dim=1).relu()


def test_equals_the_formula():
    model = create_model("aa_resnet10s", num_classes=3).eval()
    images, classes = torch.rand(2, 3, 32, 32), torch.tensor([2, 0])
    expected = by_hand(model, model.blocks[-1], images, classes)
    assert expected.shape == (2, 8, 8)
    assert expected.max() > 0
    torch.testing.assert_close(class_activation(model, images, classes), expected.detach())
    likeliest = class_activation(model, images, model(images).argmax(dim=1))
    torch.testing.assert_close(class_activation(model, images), likeliest)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_anybodys_network():
    model = timm.create_model("resnet18", num_classes=3).eval()
    assert class_activation(model, torch.rand(1, 3, 64, 64)).shape == (1, 2, 2)


def test_no_map_no_activation():
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 3))
    with pytest.raises(ValueError, match="makes no map to look at"):
        class_activation(model, torch.rand(1, 3, 2, 2))
