"""Names and signatures that others rely on."""

import inspect

import pytest

import aaconv


def test_names():
    assert set(aaconv.__all__) == {
        "Attention2d",
        "AttentionAugmentedConv2d",
        "attention_channels",
        "attention_maps_2d",
        "augment",
        "create_model",
        "list_models",
        "relative_attention_2d",
    }
    for name in aaconv.__all__:
        assert callable(getattr(aaconv, name))
        assert name in dir(aaconv)
        assert len(getattr(aaconv, name).__doc__) > 40
    with pytest.raises(AttributeError, match="module 'aaconv' has no attribute 'nothing'"):
        _ = aaconv.nothing


def test_signatures():
    assert list(inspect.signature(aaconv.relative_attention_2d).parameters) == [
        *("q", "k", "v", "rel_h", "rel_w", "grid", "scale", "impl")
    ]
    assert list(inspect.signature(aaconv.attention_maps_2d).parameters) == [
        *("q", "k", "rel_h", "rel_w", "grid", "queries", "scale")
    ]
    layer = inspect.signature(aaconv.AttentionAugmentedConv2d).parameters
    positional = [name for name, p in layer.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    keywords = [name for name, p in layer.items() if p.kind is p.KEYWORD_ONLY]
    assert positional == [
        *("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "bias"),
        "padding_mode",
    ]
    assert keywords == [
        *("key_channels", "value_channels", "num_heads", "position", "grid", "pool", "impl", "device", "dtype")
    ]
    assert {name: layer[name].default for name in ("stride", "dilation", "groups", "bias", "padding_mode")} == {
        "stride": 1,
        "dilation": 1,
        "groups": 1,
        "bias": True,
        "padding_mode": "zeros",
    }
    assert {name: layer[name].default for name in ("num_heads", "position", "grid", "pool", "impl")} == {
        "num_heads": 8,
        "position": "relative",
        "grid": None,
        "pool": 1,
        "impl": "auto",
    }
