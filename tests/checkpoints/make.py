"""Write what tests/test_checkpoints.py reads: see README.md beside this."""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import aaconv
from aaconv import AttentionAugmentedConv2d, create_model, list_models
from aaconv.training.checkpoint import ModelCard, load_checkpoint, save_checkpoint

HOME = Path(__file__).parent
KEYS = HOME / "keys.txt"
MOMENTS = {"mean": (0.4, 0.5, 0.6), "std": (0.2, 0.25, 0.3)}
SMALL = {"widths": [8, 8, 16, 16], "key_channels": 16, "num_heads": 2, "value_ratios": [0, 0, 0.25, 1]}
CARDS = {
    "small": ModelCard("aa_resnet10s", ("cat", "dog", "한글"), 3, 32, **MOMENTS, options=SMALL),
    "excited": ModelCard("se_resnet10xs", ("a", "b"), 3, 24, **MOMENTS, options={"widths": [8, 8, 8, 8]}),
}
LAYER = {"key_channels": 8, "value_channels": 6, "num_heads": 2, "grid": (5, 7)}  # of a 3x3 layer, 4 -> 10 channels
PACKAGED = ("digits", "detect_digits")


def waves(*shape):
    """A fixed input, the same for every version of torch."""
    return torch.sin(torch.arange(int(np.prod(shape)), dtype=torch.float64) * 0.37).float().view(shape)


def outputs(model, channels):
    """What a network gives for a fixed image; of a detector before boxes are chosen, a slice."""
    with torch.no_grad():
        if hasattr(model, "dense_outputs"):
            logits, boxes = model.dense_outputs(waves(1, 3, 64, 96))
            return torch.cat([logits, boxes], dim=2)[:, ::50]
        return model(waves(2, channels, 28, 36))


def summary(name):
    """A line: the network, how many tensors its state dict holds, and a digest of their names and shapes."""
    with torch.device("meta"):
        state = create_model(name).state_dict()
    text = "\n".join(sorted(f"{key} {list(value.shape)}" for key, value in state.items()))
    return f"{name} {len(state)} {hashlib.sha256(text.encode()).hexdigest()[:16]}"


def write_keys():
    KEYS.write_text("\n".join(map(summary, list_models())) + "\n", encoding="utf-8")


def write_checkpoints(folder):
    torch.manual_seed(0)
    results = {}
    for name, card in CARDS.items():
        model = card.build()
        model(torch.randn(8, 3, 32, 32))  # statistics of the norms
        save_checkpoint(folder / f"{name}.safetensors", model, card)
        results[name] = outputs(model.eval(), card.channels)
    layer = AttentionAugmentedConv2d(4, 10, 3, **LAYER)
    save_file(layer.state_dict(), folder / "layer.safetensors")
    results["layer"] = layer(waves(2, 4, 5, 7)).detach()
    for name in PACKAGED:
        model, card = load_checkpoint(name, detector=None)
        results[name] = outputs(model, card.channels)
    np.savez_compressed(folder / "outputs.npz", **{name: value.numpy() for name, value in results.items()})


if __name__ == "__main__":
    if sys.argv[1:] == ["keys"]:
        write_keys()
    else:
        write_checkpoints(HOME / aaconv.__version__)
