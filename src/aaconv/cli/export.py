"""The command that writes networks for other programs: its options, and what it calls."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from aaconv.cli.commands import Commands, image_size

FORMAT_NAMES, OPSETS = ("torch", "onnx", "executorch"), (18, 20, 23)  # known here before torch is


def _export_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="model.safetensors of a run, or a packaged one's name")
    parser.add_argument("--format", default="onnx", choices=FORMAT_NAMES, help="of the file")
    parser.add_argument("--out", metavar="FILE", help="where it goes (default: CHECKPOINT's name in this folder)")
    parser.add_argument("--opset", type=int, default=OPSETS[0], choices=OPSETS, help="of ONNX's operators")
    parser.add_argument("--static", action="store_true", help="fix batch, height and width")
    parser.add_argument(
        "--img-size", type=int, nargs="+", metavar="PIXELS", help="edge, or height and width (default: the network's)"
    )


def _export(options: argparse.Namespace) -> None:
    from aaconv.export import export_checkpoint

    size = image_size(options)
    chosen: dict[str, Any] = {} if size is None else {"img_size": size}
    chosen |= {"dynamic": not options.static, "opset": options.opset, "on_step": _tell}
    print(export_checkpoint(options.checkpoint, options.out, format=options.format, **chosen))


def _tell(step: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"{step} ...", file=sys.stderr)


EXPORT: Commands = {
    "export": (_export_options, _export, "Write a network as a file for other programs, compared before it is done."),
}
