"""The commands that show attention: options of each, and what it calls."""

from __future__ import annotations

import argparse

from aaconv.cli.commands import Commands

PACKAGED = "digits"  # checkpoint that is looked into when none is given


def _explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="PNG or JPEG files (default: samples)")
    _checkpoint_option(parser)
    parser.add_argument(
        "--query",
        action="append",
        type=_point,
        default=[],
        metavar="X,Y",
        help="point to look from in the pictures, in pixels of the image; may be given again (default: the middle)",
    )
    parser.add_argument(
        "--layer", nargs="+", default=["*"], metavar="PATTERN", help="shell patterns of attention layers to show"
    )
    parser.add_argument("--part", default="both", choices=("both", "content", "position"), help="of the logits")
    parser.add_argument("--out", default="runs/explain", metavar="FOLDER", help="where report and pictures go")


def _checkpoint_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        action="append",
        metavar="FILE",
        help=f"model.safetensors of a run, or a packaged one's name; may be given again (default: {PACKAGED})",
    )


def _explain(options: argparse.Namespace) -> None:
    from aaconv.explain.explain import explain_files

    page = explain_files(
        options.checkpoint or [PACKAGED],
        options.images,
        options.out,
        queries=options.query,
        layers=options.layer,
        part=options.part,
    )
    print(f"report: {page}")


def _explore_options(parser: argparse.ArgumentParser) -> None:
    _checkpoint_option(parser)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; another one lets others in")
    parser.add_argument("--port", type=int, default=7860, help="to listen on")
    parser.add_argument("--open", action="store_true", help="open the page in a browser")


def _explore(options: argparse.Namespace) -> None:
    from aaconv.explain.app import serve
    from aaconv.zoo import checkpoints

    serve(options.checkpoint or list(checkpoints()), options.host, options.port, browser=options.open)


def _point(text: str) -> tuple[float, float]:
    """ "12,7.5" -> (12.0, 7.5)."""
    try:
        x, y = map(float, text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be two numbers X,Y, got {text!r}") from error
    return x, y


EXPLAIN: Commands = {
    "explain": (_explain_options, _explain, "Write pictures and a page of where networks look on images."),
    "explore": (_explore_options, _explore, "Serve a page to see, at a click, where networks look."),
}
