"""What a user writes, with types: a strict type checker takes it."""

import torch
from torch import Tensor, nn

import aaconv


class Block(nn.Module):
    """A user's module around the layer."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mix = aaconv.AttentionAugmentedConv2d(channels, channels, 3, key_channels=16, value_channels=8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.mix(x)
        return out


names: list[str] = aaconv.list_models("aa_*")
model: nn.Module = aaconv.create_model(names[0], num_classes=2)
x = torch.ones(1, 1, 4, 2)
maps: Tensor = aaconv.attention_maps_2d(x, x, None, None, grid=(2, 2), queries=[0])
out: Tensor = aaconv.relative_attention_2d(x, x, x, None, None, grid=(2, 2), impl="reference")
