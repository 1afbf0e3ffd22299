"""Trained networks as safetensors files that say what they are; nothing is ever unpickled."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from aaconv import __version__
from aaconv._files import write_whole
from aaconv.models import create_model, is_detector

KEY = "aaconv"  # of our entry in the file's metadata


@dataclass(frozen=True)
class ModelCard:
    """What it takes to rebuild a network and to feed it."""

    model: str
    classes: tuple[str, ...]
    channels: int  # of an image: 1 grey, 3 colour
    edge: int  # pixels an image is resized to
    mean: tuple[float, ...]  # of each channel, images in 0..1
    std: tuple[float, ...]
    version: str = __version__
    options: dict[str, Any] = field(default_factory=dict)  # of the network: position, drop_path_rate, ...
    crop_pct: float = 1.0  # of the resized image's edge, cut out of its middle for evaluation
    data: str = ""  # the training images: a data set's name, or "folder"
    category_ids: tuple[int, ...] = ()  # of a detector's classes in COCO's files

    def build(self) -> nn.Module:
        """The network, freshly initialised."""
        sizes: dict[str, Any] = {"num_classes": len(self.classes), "in_chans": self.channels, "img_size": self.edge}
        return create_model(self.model, **{**sizes, **self.options})

    def normalize(self, images: Tensor) -> Tensor:
        """uint8 [n, C, E, E] -> floats of mean 0 and deviation 1."""
        mean = torch.tensor(self.mean, device=images.device).view(-1, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(-1, 1, 1)
        return (images.float() / 255 - mean) / std


def save_checkpoint(path: str | Path, model: nn.Module, card: ModelCard) -> None:
    """Write weights and card; the file appears whole or not at all."""
    weights = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    metadata = {KEY: json.dumps(asdict(card))}
    write_whole(path, lambda beside: beside.write_bytes(save(weights, metadata)))


def load_checkpoint(path: str | Path, *, detector: bool = False) -> tuple[nn.Module, ModelCard]:
    """The network of a file by ``save_checkpoint``, in evaluation mode, and its card.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint of ours, or not of a classifier (or a ``detector``); damaged, with missing, unknown
            or misshapen weights, or not finite.
    """
    weights, entry = read_weights(path)
    if entry is None:
        raise ValueError(f"{path} holds weights but no description of their network; make it with 'aaconv train'")
    card = _read_card(path, entry)
    if is_detector(card.model) != detector:
        found, needed = ("a classifier", "a detector") if detector else ("a detector", "a classifier")
        use = "without" if detector else "with"
        raise ValueError(f"{path} is {found}'s ({card.model}), {needed}'s is needed; {use} 'detect' in front it works")
    model = card.build()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit its network {card.model}: {' '.join(str(error).split())}") from error
    return model.eval(), card


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], str | None]:
    """Tensors by name and our description, if there is one, of a safetensors file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No safetensors file, damaged, or with weights that are not finite.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no checkpoint file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            entry = (file.metadata() or {}).get(KEY)
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no safetensors checkpoint: {error}") from error
    bad = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if bad:
        raise ValueError(f"{path} holds weights that are not finite: {', '.join(bad[:3])}")
    return weights, entry


def _read_card(path: str | Path, entry: str) -> ModelCard:
    try:
        values: dict[str, Any] = json.loads(entry)
        known = {field.name for field in fields(ModelCard)}
        card = ModelCard(**{name: _frozen(value) for name, value in values.items() if name in known})
        sound = len(card.mean) == len(card.std) == card.channels and len(card.classes) > 0
        sound &= len(card.category_ids) == (len(card.classes) if is_detector(card.model) else 0)
        sound &= all(isinstance(number, int) for number in card.category_ids)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a damaged description: {error}") from error
    if not sound:
        raise ValueError(f"{path} has a damaged description: channels, mean, std, classes or ids do not fit together")
    return card


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
