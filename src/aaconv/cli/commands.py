"""The commands: options of each, and what it calls."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

Command = Callable[[argparse.Namespace], None]
Commands = dict[str, tuple[Callable[[argparse.ArgumentParser], Any], Command, str]]


def _demo_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/demo", metavar="FOLDER", help="where report and checkpoints go")
    parser.add_argument("--epochs", type=int, default=10, help="of 100 steps each")
    parser.add_argument("--seed", type=int, default=0, help="of weights and training canvases")


def _demo(options: argparse.Namespace) -> None:
    from aaconv.demo import run_demo

    report = run_demo(options.out, epochs=options.epochs, seed=options.seed)
    print(f"report: {report}")


def train_options(parser: argparse.ArgumentParser) -> None:
    """Of training, whatever the task."""
    parser.usage = f"{parser.prog} RECIPE [--key value ...] [--out FOLDER] [--dry-run] [--print-config]"
    parser.add_argument(
        "recipe", metavar="RECIPE", help="a name that 'aaconv recipes' lists, or a YAML file; comes first"
    )
    parser.add_argument("--out", metavar="FOLDER", help="where the run goes, or goes on; runs/RECIPE if not given")
    parser.add_argument(
        "--dry-run", action="store_true", help="build everything and train one step on synthetic images"
    )
    parser.add_argument("--print-config", action="store_true", help="print the whole configuration as YAML")
    parser.add_argument("--resume-anyway", action="store_true", help="go on although settings or devices changed")
    parser.epilog = (
        "--key value changes the recipe: --model.name, --data.path, ...; 'aaconv recipes --keys' explains all."
    )


def _train(options: argparse.Namespace) -> None:
    from aaconv.training.config import Recipe

    train(options, Recipe, "aaconv.training.run", "accuracy {val_accuracy:.1%}")


def train(options: argparse.Namespace, kind: Any, module: str, score: str) -> None:
    """Do what training's options ask for.

    Args:
        kind: Of recipe.
        module: Has ``train`` and ``dry_run`` for it; heavy, so imported as late as can be.
        score: How the last epoch's metrics are told.
    """
    from aaconv.training.recipes import dump_recipe, load_recipe

    recipe = load_recipe(options.recipe, options.overrides, kind)
    if options.print_config:
        print(dump_recipe(recipe), end="")
        return
    task = import_module(module)
    if options.dry_run:
        print(task.dry_run(recipe))
        return
    run = task.train(recipe, options.out or f"runs/{Path(options.recipe).stem}", anyway=options.resume_anyway)
    if run.rank == 0:
        print(f"{score.format(**run.history[-1])} after {len(run.history)} epochs")
        print(f"checkpoint: {run.weights}")


def _recipes_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", nargs="?", metavar="RECIPE", help="print this one")
    parser.add_argument("--keys", action="store_true", help="print every key of a recipe of its task with its meaning")


def _recipes(options: argparse.Namespace) -> None:
    from aaconv.training.recipes import DETECTORS, describe_keys, list_recipes, locate, text_of

    if options.keys:
        from aaconv.detection.config import DetectionRecipe
        from aaconv.training.config import Recipe

        name = locate(options.name).name if options.name else ""
        print(describe_keys(DetectionRecipe if name.startswith(DETECTORS) else Recipe))
        return
    if options.name:
        print(text_of(locate(options.name)), end="")
        return
    for name, title in list_recipes().items():
        print(f"{name:<24} {title}")


def _eval_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="model.safetensors or best.safetensors of a run")
    parser.add_argument(
        "--data", required=True, help="digits, clutter, cifar10, cifar100, a folder of classes, or shards (*.tar)"
    )
    parser.add_argument("--path", metavar="PATH", help="where CIFAR's archive lies")
    parser.add_argument("--batch-size", type=int, default=128, metavar="N", help="images at a time")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument("--skip-broken", action="store_true", help="leave unreadable images out")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")


def _eval(options: argparse.Namespace) -> None:
    from aaconv.training.evaluate import evaluate

    found = evaluate(
        options.checkpoint,
        options.data,
        path=options.path,
        batch_size=options.batch_size,
        workers=options.workers,
        on_broken="skip" if options.skip_broken else "fail",
    )
    print(found)
    if options.json:
        found.write(options.json)


def _data_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", choices=("get",), help="fetch a data set")
    parser.add_argument("name", help="cifar10 or cifar100")
    parser.add_argument("--to", default="data", metavar="FOLDER", help="where it goes")


def _data(options: argparse.Namespace) -> None:
    from aaconv.data.download import get

    print(get(options.name, options.to))


def _reproduce_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="runs/reproduce", metavar="FOLDER", help="where runs and page go, or go on")
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="runs of each network on each task")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="digits, clutter (default: both)")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="runs at a time (default: a core that it may use each, one on a GPU)"
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="another length of all runs")


def _reproduce(options: argparse.Namespace) -> None:
    from aaconv.reproduction.reproduce import reproduce

    page = reproduce(
        options.out, seeds=options.seeds, tasks=options.tasks, workers=options.workers, epochs=options.epochs
    )
    print(f"page: {page}")


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


def image_size(options: argparse.Namespace) -> int | list[int] | None:
    """What --img-size says: an edge, height and width, or nothing."""
    size = options.img_size
    if size is not None and len(size) > 2:
        raise ValueError(f"--img-size takes an edge, or height and width, got {len(size)} numbers")
    return size[0] if size is not None and len(size) == 1 else size


def _augment(options: argparse.Namespace) -> None:
    import torch

    from aaconv import augment
    from aaconv._files import write_text
    from aaconv.models.lookup import any_model, finds_boxes

    size = image_size(options)
    with torch.device("cpu" if finds_boxes(options.model) else "meta"):  # boxes are chosen by numbers
        model = any_model(options.model)
    chosen = {name: getattr(options, name) for name in ("key_ratio", "value_ratio", "num_heads")}
    chosen |= {name: getattr(options, name) for name in ("where", "extra_gflops", "extra_memory_mb")}
    _, report = augment(model, img_size=size, **chosen)
    print(report)
    if options.json:
        write_text(Path(options.json), report.to_json())


def _print_or_write(text: str, path: str | None) -> None:
    from aaconv._files import write_text

    if path is None:
        print(text, end="")
    else:
        write_text(Path(path), text)


COMMANDS: Commands = {
    "demo": (_demo_options, _demo, "Train with and without attention on the embedded digits and write a report."),
    "train": (train_options, _train, "Train a network as a recipe says; the same command goes on after a stop."),
    "recipes": (_recipes_options, _recipes, "List the recipes, or print one."),
    "eval": (_eval_options, _eval, "Measure a checkpoint on labelled images."),
    "data": (_data_options, _data, "Fetch a data set."),
    "reproduce": (_reproduce_options, _reproduce, "Train the paper's comparisons in miniature and write a page."),
    "tables": (_tables_options, _tables, "Print the paper's tables with our counts beside the printed figures."),
    "models": (_models_options, _models, "List the networks."),
    "augment": (_augment_options, _augment, "Show what putting attention into a network would change."),
    "predict": (_predict_options, _predict, "Print class and probability of each image."),
}
