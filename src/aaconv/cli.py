"""The command line: parses, calls, prints. Nothing heavy is imported before a command is known to be well-formed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
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


def _tables_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--format", default="text", choices=("text", "csv", "markdown"), help="how to print")
    parser.add_argument("--results", metavar="FILE", help="CSV of models and top1 percent, to stand beside the paper's")
    parser.add_argument("--out", metavar="FILE", help="write there instead of printing")


def _tables(options: argparse.Namespace) -> None:
    from aaconv.tables import format_tables, read_results

    results = read_results(Path(options.results)) if options.results else None
    _print_or_write(format_tables(options.format, results), options.out)


def _models_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", help="shell pattern of names")
    parser.add_argument("--counts", action="store_true", help="also count parameters and operations (some seconds)")


def _models(options: argparse.Namespace) -> None:
    from aaconv.models import list_models
    from aaconv.models.lookup import describe

    names = list_models(options.pattern)
    if not names:
        raise ValueError(f"no model matches {options.pattern!r}; 'aaconv models' lists all")
    for name in names:
        print(describe(name) if options.counts else name)


def _augment_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a name of timm's or of 'aaconv models', or torchvision:NAME")
    parser.add_argument("--img-size", type=int, nargs="+", metavar="PIXELS", help="edge, or height and width")
    parser.add_argument(
        "--where", nargs="+", metavar="PATTERN", help="names of convolutions (default: the paper's rule)"
    )
    parser.add_argument("--key-ratio", type=float, default=0.2, help="key channels / output channels (kappa)")
    parser.add_argument("--value-ratio", type=float, default=0.1, help="value channels / output channels (upsilon)")
    parser.add_argument("--num-heads", type=int, default=8, help="attention heads")
    parser.add_argument(
        "--extra-gflops", type=float, metavar="G", help="budget of operations, spent from the last layer"
    )
    parser.add_argument("--extra-memory-mb", type=float, metavar="MB", help="budget of activations, likewise")
    parser.add_argument("--json", metavar="FILE", help="write the report there too")


def _augment(options: argparse.Namespace) -> None:
    import torch

    from aaconv import augment
    from aaconv._files import write_text
    from aaconv.models.lookup import any_model

    size = options.img_size
    if size is not None and len(size) > 2:
        raise ValueError(f"--img-size takes an edge, or height and width, got {len(size)} numbers")
    with torch.device("meta"):
        model = any_model(options.model)
    chosen = {name: getattr(options, name) for name in ("key_ratio", "value_ratio", "num_heads")}
    chosen |= {name: getattr(options, name) for name in ("where", "extra_gflops", "extra_memory_mb")}
    _, report = augment(model, img_size=size[0] if size and len(size) == 1 else size, **chosen)
    print(report)
    if options.json:
        write_text(Path(options.json), report.to_json())


def _print_or_write(text: str, path: str | None) -> None:
    from aaconv._files import write_text

    if path is None:
        print(text, end="")
    else:
        write_text(Path(path), text)


_COMMANDS: dict[str, tuple[Callable[[argparse.ArgumentParser], Any], Command, str]] = {
    "demo": (_demo_options, _demo, "Train with and without attention on the embedded digits and write a report."),
    "train": (_train_options, _train, "Train a network on your own images."),
    "tables": (_tables_options, _tables, "Print the paper's tables with our counts beside the printed figures."),
    "models": (_models_options, _models, "List the networks."),
    "augment": (_augment_options, _augment, "Show what putting attention into a network would change."),
    "predict": (_predict_options, _predict, "Print class and probability of each image."),
}
