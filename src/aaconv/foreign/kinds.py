"""The layers of others as a table: how each names, orders and scales what ours has, or why it is another function."""

from __future__ import annotations

from dataclasses import dataclass, field

TABLES = ("attention.position.height", "attention.position.width")


def _names(
    conv: str | None, qkv: str, out: str | None, height: str, width: str, weight: str = "weight"
) -> dict[str, str]:
    """Our parameters and theirs; None is a part that they have not."""
    parts = {"conv": conv, "attention.qkv": qkv, "attention.out": out}
    pairs = {"weight": weight, "bias": "bias"}
    names = {f"{ours}.{a}": f"{own}.{b}" for ours, own in parts.items() if own for a, b in pairs.items()}
    return names | dict(zip(TABLES, (height, width), strict=True))


@dataclass(frozen=True)
class Kind:
    """How an implementation names, orders and scales what our layer has, or why its weights cannot be ours."""

    source: str  # repository or package: class
    names: dict[str, str] = field(default_factory=dict)  # our parameter -> theirs
    heads: str = "num_heads"  # the attribute of their module that holds N
    layout: str = "OIHW"  # of filters; "HWIO" is Keras', "OI" a linear layer's
    scaled: bool | None = True  # whether positions are scaled as q k^T is; None where an option of the module decides
    flipped: bool = False  # whether offsets are query minus key
    refused: dict[str, str] = field(default_factory=dict)  # their name -> why weights that hold it are another function
    one_value_channel: str = ""  # why more than one value channel a head (V > 1) makes it another function
    wrong: str = ""  # why no weights of this kind can be taken
    needs: tuple[tuple[str, object, str], ...] = ()  # of a module: attribute, its only sound value, why


_REL = ("key_rel_h", "key_rel_w")
KINDS: dict[str, Kind] = {
    "legendong": Kind(
        "LegenDong/attention-augmented.pytorch: AugmentedLayer",
        _names("conv_layer", "qkv_layer", "attn_layer", *_REL),
        heads="Nh",
    ),
    "sebastiani": Kind(
        "sebastiani/pytorch-attention-augmented-convolution: AttentionConv2d of the folder pytorch-retinanet",
        _names("conv_out", "conv_qkv", "conv_attn", *_REL),
        needs=(("softmax.dim", -1, "its softmax does not run over the keys"),),
    ),
    "sebastiani_classifier": Kind(
        "sebastiani/pytorch-attention-augmented-convolution: AttentionConv2d of the folder model",
        wrong="its softmax runs over the heads instead of the keys",
    ),
    "leaderj1001": Kind(
        "leaderj1001/Attention-Augmented-Conv2d: AugmentedConv",
        _names("conv_out", "qkv_conv", "attn_out", *_REL),
        heads="Nh",
        one_value_channel="it mixes channels with positions when it joins heads of more than one value channel",
        needs=(("stride", 1, "only layers of stride 1 are taken"),),
    ),
    "leaderj1001_bottleneck": Kind(
        "leaderj1001/BottleneckTransformers: MHSA",
        wrong="its positions are absolute, and those of the query instead of the key's",
    ),
    "martinger": Kind(
        "MartinGer/Attention-Augmented-Convolutional-Networks: AACN_Layer",
        wrong="it mixes channels with positions when it splits the heads, and adds up the position terms of all heads",
    ),
    "titu1994": Kind(
        "titu1994/keras-attention-augmented-convs: augmented_conv2d, without its batch normalisation",
        _names("conv", "qkv", "out", *_REL, weight="kernel"),
        layout="HWIO",
    ),
    "lucidrains": Kind(
        "lucidrains/bottleneck-transformer-pytorch: Attention with rel_pos_emb=True",
        _names(None, "to_qkv", None, "pos_emb.rel_height", "pos_emb.rel_width"),
        heads="heads",
        refused=dict.fromkeys(("pos_emb.height", "pos_emb.width"), "its positions are absolute (rel_pos_emb=False)"),
    ),
    "timm_bottleneck": Kind(
        "timm: layers.bottleneck_attn.BottleneckAttn of stride 1",
        _names(None, "qkv", None, "pos_embed.height_rel", "pos_embed.width_rel"),
        scaled=None,
    ),
    "segment_anything": Kind(
        "timm: models.vision_transformer_sam.Attention, and segment-anything's own; ours takes [B, C, H, W]",
        _names(None, "qkv", "proj", "rel_pos_h", "rel_pos_w"),
        layout="OI",
        scaled=False,
        flipped=True,
    ),
}
