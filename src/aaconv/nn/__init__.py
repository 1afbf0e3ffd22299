"""Modules: parameters, initialisation, and the names that checkpoints hold."""

from aaconv.nn.attention import Attention2d
from aaconv.nn.channels import attention_channels
from aaconv.nn.conv import AttentionAugmentedConv2d

__all__ = ["Attention2d", "AttentionAugmentedConv2d", "attention_channels"]
