"""Networks and layers as folders of the Hugging Face hub: ``save_pretrained``, ``from_pretrained``, ``push_to_hub``.

A folder holds ``model.safetensors`` (weights, and what they belong to), ``config.json`` (the same for readers without
tensors) and ``README.md`` (a model card). Nothing else is read, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin, hf_hub_download
from safetensors.torch import save
from torch import nn

from aaconv import __version__
from aaconv._files import write_whole
from aaconv._weights import FLOATS, WeightsFile, build_empty, expect_fit, open_weights, parse_entry, shorten
from aaconv.models import is_detector
from aaconv.nn import AttentionAugmentedConv2d
from aaconv.nn.position import POSITIONS
from aaconv.training.checkpoint import KEY, ModelCard, load_checkpoint, load_network, own_tensors, read_card

WEIGHTS, CONFIG, PAGE = "model.safetensors", "config.json", "README.md"
MAX_CONFIG = 2**20  # bytes
MARK = "<!-- Written by aaconv; delete this line to keep your own text. -->"
LAYER = "AttentionAugmentedConv2d"


@dataclass(frozen=True)
class LayerCard:
    """What it takes to rebuild a single ``AttentionAugmentedConv2d``."""

    options: dict[str, Any]  # its arguments
    layer: str = LAYER
    version: str = __version__
    torch_version: str = field(default_factory=lambda: str(torch.__version__))

    def build(self) -> nn.Module:
        """The layer, freshly initialised."""
        options = dict(self.options)
        dtype = FLOATS[options.pop("dtype", "F32")]
        return AttentionAugmentedConv2d(**options, dtype=dtype)


class Pretrained(nn.Module, PyTorchModelHubMixin, library_name="aaconv", tags=["aaconv"]):
    """A network or layer with its card, and the methods that the hub's libraries have.

    Args:
        model: A network of ``create_model``, or an ``AttentionAugmentedConv2d``.
        card: What it is: of a network the ``ModelCard`` that it was built by, of a layer a ``LayerCard``.

    ``forward`` is the model's. ``from_pretrained`` checks what it reads as ``load_checkpoint`` does; the mixin's own
    would read a ``config.json`` of any size and fall back to pickles.
    """

    def __init__(self, model: nn.Module, card: ModelCard | LayerCard):
        super().__init__()
        self.model, self.card = model, card
        self._hub_mixin_config = asdict(card)

    def forward(self, *args: Any, **options: Any) -> Any:
        """What the model gives."""
        return self.model(*args, **options)

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Write the folder: each file whole or not at all, a model card that was edited left as it is.

        Args:
            save_directory: Is made if it is not there.
            options: The mixin's: ``push_to_hub``, ``repo_id``, ...
        """
        target = Path(save_directory)
        push, repo_id = options.pop("push_to_hub", False), options.pop("repo_id", None)
        chosen = {name: options.pop(name) for name in ("config", "model_card_kwargs") if name in options}
        if target.exists() and not target.is_dir():
            raise ValueError(f"save_directory must be a folder, got a file: {target}")
        target.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".saving-", dir=target) as beside:
            super().save_pretrained(Path(beside), **chosen)
            page = target / PAGE
            kept = page.exists() and MARK not in page.read_text(encoding="utf-8", errors="replace")
            for name in (WEIGHTS, CONFIG, PAGE):
                if not (name == PAGE and kept):
                    os.replace(Path(beside) / name, target / name)
        return self.push_to_hub(repo_id or target.name, **chosen, **options) if push else None

    def _save_pretrained(self, save_directory: Path) -> None:
        data = save(own_tensors(self.model), {KEY: json.dumps(asdict(self.card))})
        write_whole(save_directory / WEIGHTS, lambda beside: beside.write_bytes(data))
        (save_directory / PAGE).write_text(_page(self.model, self.card), encoding="utf-8")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **options: Any) -> Pretrained:
        """See the function ``from_pretrained``."""
        weights, config = _files(str(pretrained_model_name_or_path), options)
        with open_weights(weights, pretrained_model_name_or_path) as file:
            card = _card(file, config)
            model = load_network(file, card) if isinstance(card, ModelCard) else _load_layer(file, card)
        return cls(model, card).eval()


def save_pretrained(
    model: nn.Module | str | Path, folder: str | Path, *, card: ModelCard | None = None, **options: Any
) -> str | None:
    """Write a network or a layer as a folder that ``from_pretrained`` and the hub take.

    Args:
        model: A layer; a network, with ``card``; a checkpoint's file, or the name of a packaged one.
        folder: Its other files stay.
        card: See ``ModelCard``.
        options: ``push_to_hub=True`` and the like, see ``huggingface_hub.PyTorchModelHubMixin.save_pretrained``.

    Raises:
        FileNotFoundError: No such checkpoint.
        TypeError, ValueError: ``model`` is none of these, or lacks its card; ``folder`` is a file.
        OSError: The folder cannot be written; files of that name in it stay as they were.
    """
    return as_pretrained(model, card).save_pretrained(folder, **options)


def push_to_hub(model: nn.Module | str | Path, repo_id: str, *, card: ModelCard | None = None, **options: Any) -> str:
    """Write a network or layer as ``save_pretrained`` does and upload it to ``repo_id``; the address of the commit.

    Args:
        model, card: As of ``save_pretrained``.
        repo_id: "owner/name".
        options: ``private``, ``token``, ``commit_message``, ..., see ``huggingface_hub.ModelHubMixin.push_to_hub``.
    """
    return as_pretrained(model, card).push_to_hub(repo_id, **options)


def from_pretrained(source: str | Path, **options: Any) -> Pretrained:
    """The network or layer of a folder or of a repository of the hub, in evaluation mode, with its card.

    Args:
        source: A folder; if there is none of that name, a repository "owner/name".
        options: ``revision``, ``token``, ``cache_dir``, ``force_download``, ``local_files_only`` of
            ``huggingface_hub.hf_hub_download``.

    Raises:
        FileNotFoundError: No such folder, none of its files, or no such repository within reach.
        ValueError: Damaged, not finite, or weights that do not fit the card, see ``load_checkpoint``; a configuration
            that contradicts the weights' or asks for weights of other files.
    """
    return Pretrained.from_pretrained(source, **options)


def as_pretrained(model: nn.Module | str | Path, card: ModelCard | None = None) -> Pretrained:
    """``model`` with its card; see ``save_pretrained``."""
    if isinstance(model, Pretrained):
        return model
    if isinstance(model, (str, Path)):
        return Pretrained(*load_checkpoint(model, detector=None))
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a network, a layer or a checkpoint's path, got {type(model).__name__}")
    if isinstance(model, AttentionAugmentedConv2d):
        return Pretrained(model, LayerCard(_arguments(model)))
    if card is None:
        raise ValueError("card must be the ModelCard of a network: its name, classes, image size, mean and deviation")
    return Pretrained(model, card)


def _files(source: str, options: dict[str, Any]) -> tuple[Path, Path | None]:
    """Weights and configuration of a folder, or fetched from the hub."""
    folder = Path(source)
    if folder.is_dir():
        if not (folder / WEIGHTS).is_file():
            pickles = ", ".join(sorted(path.name for path in folder.glob("*.bin")))
            hint = f"; {pickles} is a pickle, which is never read" if pickles else ""
            raise FileNotFoundError(f"no {WEIGHTS} in {source}{hint}")
        return folder / WEIGHTS, folder / CONFIG if (folder / CONFIG).is_file() else None
    if folder.exists():
        raise ValueError(f"{source} is a file; give its folder, or read it with aaconv.training.checkpoint")
    try:
        weights = Path(hf_hub_download(source, WEIGHTS, **options))
    except TypeError:  # an option that there is not
        raise
    except Exception as error:  # the hub's own, its HTTP library's, the operating system's
        why = f"{type(error).__name__}: {shorten(error)}"
        raise FileNotFoundError(f"no folder {source}, nor a repository of the hub within reach ({why})") from None
    try:
        return weights, Path(hf_hub_download(source, CONFIG, **options))
    except Exception:  # the weights say what they are
        return weights, None


def _card(file: WeightsFile, config: Path | None) -> ModelCard | LayerCard:
    """What the weights say they are; without that, what the configuration says. Both must agree."""
    entries = {file.shown: file.metadata.get(KEY), f"{file.shown}/{CONFIG}": _text(config)}
    cards = [_parsed(where, entry) for where, entry in entries.items() if entry is not None]
    if not cards:
        raise ValueError(f"{file.shown} holds weights but no description of what they belong to")
    if cards[0] != cards[-1]:
        raise ValueError(f"{file.shown} contradicts itself: {CONFIG} describes another network than {WEIGHTS}")
    return cards[0]


def _text(config: Path | None) -> str | None:
    if config is None:
        return None
    if (size := config.stat().st_size) > MAX_CONFIG:
        raise ValueError(f"{config} must be at most {MAX_CONFIG:,} bytes, got {size:,}")
    try:
        return config.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{config} is no UTF-8 text: {error}") from error


def _parsed(where: str, entry: str) -> ModelCard | LayerCard:
    try:
        values = parse_entry(entry)
    except ValueError as error:
        raise ValueError(f"{where} has a damaged description: {shorten(error)}") from error
    if "layer" not in values:
        return read_card(where, entry)
    known = {name: values.get(name, "") for name in LayerCard.__dataclass_fields__}
    if known["layer"] != LAYER or not isinstance(known["options"], dict):
        raise ValueError(f"{where} has a damaged description: layer must be {LAYER!r}, options a dictionary")
    return LayerCard(**known)


def _load_layer(file: WeightsFile, card: LayerCard) -> nn.Module:
    try:
        empty = build_empty(card.build, file)
    except Exception as error:  # options of a stranger may raise anything
        raise ValueError(f"{file.shown} describes a layer that cannot be built: {shorten(error)}") from error
    weights = file.read(expect_fit(file, empty, card.layer))
    model = card.build()
    model.load_state_dict(weights)
    return model


def _arguments(layer: AttentionAugmentedConv2d) -> dict[str, Any]:
    """The arguments that build a layer like ``layer``."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    options: dict[str, Any] = {name: getattr(layer, name) for name in (*names, "value_channels")}
    attention = layer.attention
    part = layer.conv if attention is None else attention.qkv
    options |= {"bias": part is not None and part.bias is not None, "key_channels": 1, "num_heads": 1}
    if attention is not None:
        options |= {name: getattr(attention, name) for name in ("key_channels", "num_heads", "pool")}
        options["position"] = next(name for name, kind in POSITIONS.items() if type(attention.position) is kind)
        options["grid"] = getattr(attention.position, "grid", None)
        if options["position"] == "relative" and options["grid"] is None:
            raise ValueError("model must have position tables of a size: pass grid=(H, W) or run one forward first")
    dtypes = {value: name for name, value in FLOATS.items()}
    return json.loads(json.dumps(options)) | {"dtype": dtypes[next(layer.parameters()).dtype]}


def _page(model: nn.Module, card: ModelCard | LayerCard) -> str:
    """The model card: what is known of the model, and nothing else."""
    count = sum(parameter.numel() for parameter in model.parameters())
    rows = {"Parameters": f"{count:,}", "Written by": f"aaconv {card.version}, torch {card.torch_version or 'unknown'}"}
    tag = ""
    if isinstance(card, ModelCard):
        detector = is_detector(card.model)
        tag = f"pipeline_tag: {'object-detection' if detector else 'image-classification'}\n"
        title = f"{card.model}, {len(card.classes)} classes"
        names = ", ".join(card.classes[:20]) + (", ..." if len(card.classes) > 20 else "")
        rows |= {
            "Classes": names,
            "Images": f"{card.channels} channels, {card.edge} pixels, mean {card.mean}, deviation {card.std} of 0..1",
            "Training images": card.data or "not written down",
            "Options": json.dumps(card.options),
        }
    else:
        title = f"{card.layer} layer"
        rows["Arguments"] = json.dumps(card.options)
    table = "\n".join(f"| {name} | {' '.join(str(value).split()).replace('|', '/')} |" for name, value in rows.items())
    code = 'import aaconv.hub\n\npretrained = aaconv.hub.from_pretrained("THIS REPOSITORY OR FOLDER")'
    return f"""---
library_name: aaconv
{tag}tags:
- aaconv
- model_hub_mixin
- pytorch_model_hub_mixin
---

{MARK}

# {title}

Attention-augmented convolution (Bello et al. 2019, arXiv:1904.09925). Accuracy, licence and intended use are for
whoever publishes this to write down.

| | |
|---|---|
{table}

```python
{code}
```
"""
