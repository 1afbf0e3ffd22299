"""Wide ResNets for images of 28 to 32 pixels: plain, augmented, and with what the paper compares with.

Letters: B batch, C channels, H W image.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from timm.layers import DropPath, create_classifier
from timm.models import checkpoint_seq
from torch import Tensor, nn
from torch.nn import functional as F

from aaconv.models.bam import Bam
from aaconv.models.channel_attention import channel_attention
from aaconv.models.placement import How, Shares, augment_convolution, position_tables

STRIDES = (1, 2, 2)


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One network."""

    depth: int = 28  # 6 * blocks of a group + 4
    widen: int = 10  # groups have 16, 32 and 64 times as many channels
    augmented: str = "none"  # blocks whose first convolution is: "none", "first" of each group, "all"
    shares: Shares = field(default_factory=Shares)
    channel_attention: str | None = None
    bam: bool = False  # a bottleneck attention module after each group but the last


_PLAIN, _SMALL = Spec(), Spec(depth=10, widen=2)
_FEW = Shares(key_ratio=0.5, value_ratio=0.25, num_heads=4, min_key_channels_per_head=10)  # for 32 channels and more
SPECS = {
    "wrn28_10": _PLAIN,
    "aa_wrn28_10": replace(_PLAIN, augmented="all"),
    "aa_wrn28_10_first": replace(_PLAIN, augmented="first"),
    "se_wrn28_10": replace(_PLAIN, channel_attention="se"),
    "ge_wrn28_10": replace(_PLAIN, channel_attention="ge"),
    "cbam_wrn28_10": replace(_PLAIN, channel_attention="cbam"),
    "bam_wrn28_10": replace(_PLAIN, bam=True),
    "wrn10_2": _SMALL,
    "aa_wrn10_2": replace(_SMALL, augmented="all", shares=_FEW),
    "se_wrn10_2": replace(_SMALL, channel_attention="se"),
    "ge_wrn10_2": replace(_SMALL, channel_attention="ge"),
    "cbam_wrn10_2": replace(_SMALL, channel_attention="cbam"),
    "bam_wrn10_2": replace(_SMALL, bam=True),
}


class Block(nn.Module):
    """Norm, ReLU and 3x3 convolution twice; the shortcut has no parameters: average pool and channels of zeros."""

    def __init__(self, in_channels: int, channels: int, stride: int, gate: str | None, drop_path: float):
        super().__init__()
        self.stride, self.added = stride, channels - in_channels
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1: nn.Module = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.attention = channel_attention(gate, channels)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.relu(self.bn1(x)))
        y = self.conv2(F.relu(self.bn2(y)))
        if self.stride > 1:  # odd maps end in a window of fewer cells, as the convolution's do
            x = F.avg_pool2d(x, self.stride, ceil_mode=True)
        if self.added:
            x = F.pad(x, (0, 0, 0, 0, 0, self.added))
        return x + self.drop_path(self.attention(y))


class WideResNet(nn.Module):
    """[B, C, H, W] -> logits [B, num_classes], any H and W, with the manners of timm's models.

    Args:
        spec: The row of ``SPECS``.
        num_classes: Logits; 0 gives the pooled features.
        in_chans: C.
        global_pool, drop_rate, drop_path_rate: As in timm's ResNet.
        position: "relative", "sine", "coordconv" or "none".
        impl: See ``aaconv.relative_attention_2d``.
        img_size: Image height and width, or both in one, that the position tables are built for.

    Source:
        Zagoruyko & Komodakis 2016, arXiv:1605.07146; Bello et al. 2019, arXiv:1904.09925, section 4.1, for what is
        augmented. Its words say the first convolution of every block, its counts one block of each group. The
        shortcuts without parameters are the reading that the printed 36.3M fit.
    """

    def __init__(
        self,
        spec: Spec,
        num_classes: int = 100,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        position: str = "relative",
        impl: str = "auto",
        img_size: int | tuple[int, int] = 32,
    ):
        super().__init__()
        how = How.checked(position, impl, img_size)
        self.spec, self.in_chans, self.drop_rate, self.grad_checkpointing = spec, in_chans, drop_rate, False
        self.conv1 = nn.Conv2d(in_chans, 16, 3, padding=1, bias=False)
        self.feature_info = [{"num_chs": 16, "reduction": 1, "module": "conv1"}]
        repeats, channels, reduction = (spec.depth - 4) // 6, 16, 1
        for index, stride in enumerate(STRIDES):
            width, reduction = 16 * 2**index * spec.widen, reduction * stride
            group = nn.Sequential()
            for place in range(repeats):
                rate = drop_path_rate * (index * repeats + place) / max(1, 3 * repeats - 1)
                first = place == 0
                group.append(
                    Block(channels if first else width, width, stride if first else 1, spec.channel_attention, rate)
                )
            for block in group[: {"none": 0, "first": 1, "all": repeats}[spec.augmented]]:
                augment_convolution(block, "conv1", spec.shares, how, reduction)
            if spec.bam and index < len(STRIDES) - 1:
                group.append(Bam(width))
            self.add_module(f"group{index + 1}", group)
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": f"group{index + 1}"})
            channels = width
        self.bn = nn.BatchNorm2d(channels)
        self.act = nn.ReLU()
        self.num_features = channels
        self.reset_classifier(num_classes, global_pool)
        self.apply(_initialise)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, [B, num_features, H/4, W/4]."""
        x = self.conv1(x)
        for index in range(len(STRIDES)):
            group = self.get_submodule(f"group{index + 1}")
            if self.grad_checkpointing and self.training and not torch.jit.is_scripting():
                x = checkpoint_seq(group, x)
            else:
                x = group(x)
        return self.act(self.bn(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """From the last map to logits, or with ``pre_logits`` to what the classifier gets."""
        x = self.get_submodule("global_pool")(x)
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.get_classifier()(x)

    def get_classifier(self) -> nn.Module:
        """The layer that gives the logits."""
        return self.get_submodule("fc")

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """A fresh classifier; ``global_pool`` None keeps the pooling."""
        self.num_classes = num_classes
        if global_pool is not None:
            self.pool_type = global_pool
        self.global_pool, self.fc = create_classifier(self.num_features, num_classes, pool_type=self.pool_type)
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Compute each group again in the backward pass instead of keeping its maps."""
        self.grad_checkpointing = enable

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """Patterns of parameter names by depth."""
        return {"stem": r"^conv1", "blocks": r"^group(\d+)" if coarse else r"^group(\d+)\.(\d+)"}

    def no_weight_decay(self) -> set[str]:
        """Names of parameters that weight decay should leave alone."""
        return position_tables(self)


def _initialise(module: nn.Module) -> None:
    """He initialisation of 3x3 convolutions, as the body's authors do; attention keeps its own."""
    if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
