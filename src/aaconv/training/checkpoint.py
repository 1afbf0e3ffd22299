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
from aaconv.zoo import locate_checkpoint

KEY = "aaconv"  # of our entry in the file's metadata
MAX_EDGE = 8192  # pixels of the images that a network may be made for
LOADING = ("checkpoint_path", "cache_dir", "weights", "weights_backbone")  # options that read files or fetch


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


def load_checkpoint(path: str | Path, *, detector: bool | None = False) -> tuple[nn.Module, ModelCard]:
    """The network of a file by ``save_checkpoint`` or a packaged checkpoint's name, in evaluation mode, and its card.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint of ours, or not of a classifier (a ``detector``, either if None); damaged, with
            missing, unknown or misshapen weights, or not finite.
    """
    weights, entry = read_weights(path)
    if entry is None:
        raise ValueError(f"{path} holds weights but no description of their network; make it with 'aaconv train'")
    card = _read_card(path, entry)
    if detector is not None and is_detector(card.model) != detector:
        found, needed = ("a classifier", "a detector") if detector else ("a detector", "a classifier")
        use = "without" if detector else "with"
        raise ValueError(f"{path} is {found}'s ({card.model}), {needed}'s is needed; {use} 'detect' in front it works")
    try:
        model = card.build()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path} describes a network that cannot be built: {error}") from error
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
    file_path = locate_checkpoint(path)
    try:
        with safe_open(file_path, framework="pt") as file:
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
        sound &= isinstance(card.edge, int) and 1 <= card.edge <= MAX_EDGE
        loading = [name for name in card.options if name.startswith("pretrained") or name in LOADING]
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path} has a damaged description: {error}") from error
    if not sound:
        raise ValueError(f"{path} has a damaged description: channels, mean, std, classes, ids or edge do not fit")
    if loading:
        raise ValueError(f"{path} asks for weights of other files ({', '.join(loading)}), which no checkpoint may")
    return card


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
