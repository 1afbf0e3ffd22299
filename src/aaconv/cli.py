"""The command line: parses, calls, prints. Nothing heavy is imported before a command is known to be well-formed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from aaconv import __version__

USAGE, INTERRUPTED, FAILED = 2, 130, 1
Command = Callable[[argparse.Namespace], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 the work failed, 2 bad input (one line says what), 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        options.command(options)
    except KeyboardInterrupt:
        return _say("interrupted; the same command goes on from the last finished epoch", INTERRUPTED)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("aaconv"):
            raise
        return _say(f"this command needs the package {error.name!r}: pip install 'aaconv[all]'", USAGE)
    except FloatingPointError as error:
        return _say(str(error), FAILED)
    except (ValueError, TypeError, OSError) as error:
        if options.debug:
            raise
        return _say(str(error), USAGE)
    return 0


def _say(message: str, code: int) -> int:
    print(f"aaconv: {' '.join(message.split())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    """Errors in one line; the usage is a --help away."""

    def error(self, message: str) -> NoReturn:
        sys.exit(_say(f"{message}; see '{self.prog} --help'", USAGE))


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="aaconv", description="Attention-augmented convolution (Bello et al. 2019) for PyTorch.")
    parser.add_argument("--version", action="version", version=f"aaconv {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=_Parser)
    for name, (add_options, command, text) in _COMMANDS.items():
        formatter = argparse.ArgumentDefaultsHelpFormatter
        sub = commands.add_parser(name, help=text, description=text, formatter_class=formatter, allow_abbrev=False)
        add_options(sub)
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(command=command)
    return parser


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/demo", metavar="FOLDER", help="where report and checkpoints go")
    parser.add_argument("--epochs", type=int, default=10, help="of 100 steps each")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training canvases")


def _demo(options: argparse.Namespace) -> None:
    from aaconv.demo import run_demo

    report = run_demo(options.out, epochs=options.epochs, seed=options.seed)
    print(f"report: {report}")


def _train_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", default="digits", metavar="FOLDER", help="folder of class folders, or 'digits'")
    parser.add_argument("--out", default="runs/train", metavar="FOLDER", help="where checkpoint and history go")
    parser.add_argument("--model", default="aa_resnet10s", help="a network's name")
    parser.add_argument("--size", type=int, default=32, metavar="PIXELS", help="images are resized to this edge")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data")
    parser.add_argument("--batch-size", type=int, metavar="N", help="images a step (default: 128, or all of fewer)")
    parser.add_argument("--lr", type=float, default=3e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.05, help="of AdamW")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and the images held out")
    parser.add_argument("--held-out", type=float, default=0.2, metavar="SHARE", help="where there is no val folder")
    parser.add_argument("--skip-broken", action="store_true", help="leave unreadable images out")


def _train(options: argparse.Namespace) -> None:
    from aaconv.training.job import train_on
    from aaconv.training.run import Settings

    settings = Settings(
        model=options.model,
        data=options.data,
        edge=options.size,
        epochs=options.epochs,
        lr=options.lr,
        weight_decay=options.weight_decay,
        seed=options.seed,
    )
    run = train_on(
        settings,
        options.out,
        batch_size=options.batch_size,
        held_out=options.held_out,
        skip_broken=options.skip_broken,
    )
    print(f"held-out accuracy {run.history[-1]['val_accuracy']:.1%} after {len(run.history)} epochs")
    print(f"checkpoint: {run.weights}")


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="model.safetensors of a run")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG or JPEG files")


def _predict(options: argparse.Namespace) -> None:
    from aaconv.training.predict import predict_files

    for prediction in predict_files(options.checkpoint, options.images):
        print(f"{prediction.path}: {prediction.label} {prediction.probability:.3f}")


_COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], Any], Command, str]] = {
    "demo": (_demo_options, _demo, "Train with and without attention on the embedded digits and write a report."),
    "train": (_train_options, _train, "Train a network on your own images."),
    "predict": (_predict_options, _predict, "Print class and probability of each image."),
}
