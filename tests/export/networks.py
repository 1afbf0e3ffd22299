"""Small networks to export."""

import torch
from torch import nn

from aaconv import AttentionAugmentedConv2d, augment, create_model


def tiny(**options):
    """Two augmented layers: one on the whole map, one strided, pooled and normed."""
    torch.manual_seed(0)
    shares = {"key_channels": 8, "value_channels": 4, "num_heads": 2, **options}
    layers = [
        AttentionAugmentedConv2d(3, 8, 3, **shares),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        AttentionAugmentedConv2d(8, 12, 3, stride=2, pool=2, bias=False, **shares),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ]
    return nn.Sequential(*layers).eval()


def lively(model):
    """``model`` in evaluation mode with norms that are not at their start, as after training."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.running_mean, std=0.1)
    return model.eval()


def operated():
    """timm's smallest ResNet with attention put into it."""
    import timm

    return lively(augment(timm.create_model("resnet10t", num_classes=7), img_size=96, num_heads=4)[0])


def named(name, **options):
    return lively(create_model(name, **options))
