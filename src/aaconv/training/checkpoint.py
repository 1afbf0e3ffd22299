"""Trained networks as safetensors files that say what they are; nothing is ever unpickled."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from aaconv import __version__
from aaconv._files import write_whole
from aaconv._weights import WeightsFile, build_empty, expect_fit, open_weights, parse_entry, shorten
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
    torch_version: str = str(torch.__version__)  # "" where it was not written down

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
    data = save(own_tensors(model), {KEY: json.dumps(asdict(card))})
    write_whole(path, lambda beside: beside.write_bytes(data))


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU, each tensor with memory of its own, which the format demands."""
    weights: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, value in model.state_dict().items():
        tensor = value.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        weights[name] = tensor.clone() if address in seen else tensor
        seen.add(address)
    return weights


def load_checkpoint(path: str | Path, *, detector: bool | None = False) -> tuple[nn.Module, ModelCard]:
    """The network of a file by ``save_checkpoint`` or a packaged checkpoint's name, in evaluation mode, and its card.

    Names, shapes and sizes are compared before memory is taken for the network. Weights of other floating-point dtypes
    are converted to the network's, position tables of another grid refitted.

    Raises:
        FileNotFoundError: No such file.
        ValueError: Not a checkpoint of ours, or not of a classifier (a ``detector``, either if None); damaged, too
            large, with missing, unknown or misshapen weights, or not finite.
    """
    with open_weights(locate_checkpoint(path), path) as file:
        entry = file.metadata.get(KEY)
        if entry is None:
            raise ValueError(f"{path} holds weights but no description of their network; make it with 'aaconv train'")
        card = read_card(path, entry)
        if detector is not None and is_detector(card.model) != detector:
            found, needed = ("a classifier", "a detector") if detector else ("a detector", "a classifier")
            use = "without" if detector else "with"
            raise ValueError(
                f"{path} is {found}'s ({card.model}), {needed}'s is needed; {use} 'detect' in front it works"
            )
        return load_network(file, card), card


def load_network(file: WeightsFile, card: ModelCard) -> nn.Module:
    """The network of ``card`` with the weights of ``file``, in evaluation mode; ValueError if they do not fit."""
    try:
        empty = build_empty(card.build, file)
    except ImportError:  # a package is missing, which is no fault of the file
        raise
    except Exception as error:  # options of a stranger may raise anything
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{file.shown} describes a network that cannot be built: {reason}") from error
    weights = file.read(expect_fit(file, empty, card.model))
    model = card.build()
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{file.shown} does not fit its network {card.model}: {shorten(error)}") from error
    return model.eval()


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], str | None]:
    """Tensors by name and our description, if there is one, of a safetensors file.

    Raises:
        FileNotFoundError: No such file.
        ValueError: No safetensors file, damaged, too large, or with weights that are not finite.
    """
    with open_weights(locate_checkpoint(path), path) as file:
        return file.read(), file.metadata.get(KEY)


def read_card(path: str | Path, entry: str) -> ModelCard:
    """The card in an entry of a file's metadata; ValueError if it is damaged or asks for weights of other files."""
    try:
        values = {"torch_version": "", **parse_entry(entry)}  # cards of 0.1.0 lack that
        known = {field.name for field in fields(ModelCard)}
        card = ModelCard(**{name: _frozen(value) for name, value in values.items() if name in known})
        sound = _is_sound(card)
        loading = [name for name in card.options if name.startswith("pretrained") or name in LOADING]
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path} has a damaged description: {shorten(error)}") from error
    if not sound:
        raise ValueError(f"{path} has a damaged description: channels, mean, std, classes, ids or edge do not fit")
    if loading:
        raise ValueError(f"{path} asks for weights of other files ({', '.join(loading)}), which no checkpoint may")
    return card


def _is_sound(card: ModelCard) -> bool:
    """Whether the values have their types and fit together."""
    numbers = [*card.mean, *card.std, card.crop_pct]
    texts = (card.model, card.version, card.data, card.torch_version, *card.classes)
    sound = all(isinstance(n, (int, float)) and not isinstance(n, bool) and math.isfinite(n) for n in numbers)
    sound = sound and min((*card.std, card.crop_pct), default=0) > 0 and card.crop_pct <= 1
    sound = sound and all(abs(n) < 1e6 for n in card.mean) and all(1e-6 < n < 1e6 for n in card.std)  # float32 has less
    sound &= not {"num_classes", "in_chans"} & set(card.options)  # classes and channels say that
    sound &= all(isinstance(text, str) for text in texts) and isinstance(card.classes, tuple)
    sound &= (
        isinstance(card.channels, int) and len(card.mean) == len(card.std) == card.channels and len(card.classes) > 0
    )
    sound &= len(card.category_ids) == (len(card.classes) if is_detector(card.model) else 0)
    sound &= all(isinstance(number, int) for number in card.category_ids)
    return sound and isinstance(card.edge, int) and 1 <= card.edge <= MAX_EDGE


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
