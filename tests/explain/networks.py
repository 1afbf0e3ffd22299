"""Networks of random weights as checkpoints, and images, for the tests of looking."""

import numpy as np
import torch
from PIL import Image

from aaconv import attention_maps_2d
from aaconv.explain.look import Network
from aaconv.training.checkpoint import ModelCard, save_checkpoint


def classifier_card(**changes):
    values = {"model": "aa_resnet10s", "classes": ("a", "b", "c"), "channels": 3, "edge": 32}
    return ModelCard(**{**values, "mean": (0.5,) * 3, "std": (0.25,) * 3, **changes})


def detector_card(edge=64):
    names = ("x", "y")
    moments = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    return ModelCard("aa_retinanet_resnet10_fpn", names, 3, edge, **moments, category_ids=(1, 3))


def network(card=None, title="net", **options):
    torch.manual_seed(0)
    card = card or classifier_card()
    return Network(title, card.build().eval(), card, **options)


def saved(path, card=None, change=None):
    """A checkpoint file of random weights; ``change`` may alter the network before."""
    torch.manual_seed(0)
    card = card or classifier_card()
    model = card.build()
    if change:
        change(model)
    save_checkpoint(path, model, card)
    return path


def image(width=60, height=40, mode="RGB", seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def exact(look, layer, query, part="both"):
    """Every head's map from a flat position, by the public function: [N, H, W]."""
    with torch.no_grad():
        p = look.recording.layers[layer].project(look.recording.inputs[layer])
        k = p.k if part != "position" else torch.zeros_like(p.k)
        rel_h, rel_w = (None, None) if part == "content" else (p.rel_h, p.rel_w)
        return attention_maps_2d(p.q, k, rel_h, rel_w, grid=p.grid, queries=[query])[0, :, 0]
