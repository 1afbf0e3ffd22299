"""The commands of detection: options of each, and what it calls."""

from __future__ import annotations

import argparse

from aaconv.cli.commands import Commands, train, train_options


def _train(options: argparse.Namespace) -> None:
    from aaconv.detection.config import DetectionRecipe

    train(options, DetectionRecipe, "aaconv.detection.run", "mAP {val_map:.3f}")


def _eval_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="model.safetensors or best.safetensors of a run")
    parser.add_argument(
        "--boxes", default="scenes", metavar="FILE", help="annotations in COCO's format; scenes is the embedded set"
    )
    parser.add_argument("--images", metavar="FOLDER", help="where the images of the annotations are")
    parser.add_argument("--out", metavar="FOLDER", help="write scores, detections in COCO's format and curves there")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="images of one size at a time")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read images")
    parser.add_argument("--skip-broken", action="store_true", help="go on without missing and unreadable images")


def _eval(options: argparse.Namespace) -> None:
    from aaconv.detection.evaluate import evaluate

    scores = evaluate(
        options.checkpoint,
        options.boxes,
        options.images,
        out=options.out,
        batch_size=options.batch_size,
        workers=options.workers,
        on_broken="skip" if options.skip_broken else "fail",
    )
    print(scores)


def _predict_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="model.safetensors of a run")
    parser.add_argument("--out", default="runs/boxes", metavar="FOLDER", help="gets drawings, and boxes as COCO JSON")
    parser.add_argument("--threshold", type=float, default=0.5, metavar="SCORE", help="least score of a box")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="PNG or JPEG files")


def _predict(options: argparse.Namespace) -> None:
    from aaconv.detection.predict import predict_files

    found = predict_files(options.checkpoint, options.images, options.out, threshold=options.threshold)
    for path, detections in found.items():
        print(f"{path}: {', '.join(map(str, detections)) or 'nothing'}")
    print(f"drawings: {options.out}")


def _compare_options(parser: argparse.ArgumentParser) -> None:
    parser.usage = f"{parser.prog} [RECIPE] [--key value ...] [--models NAME ...] [--seeds N] [--out FOLDER]"
    parser.add_argument("recipe", nargs="?", default="detect_digits", metavar="RECIPE", help="comes first")
    usual = ["aa_retinanet_resnet10_fpn", "retinanet_resnet10_fpn"]
    parser.add_argument("--models", nargs="+", default=usual, metavar="NAME", help="the first against each other one")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each")
    parser.add_argument("--out", default="runs/detectors", metavar="FOLDER", help="where runs and page go, or go on")


def _compare(options: argparse.Namespace) -> None:
    from aaconv.reproduction.detectors import compare

    chosen = {"seeds": options.seeds, "overrides": options.overrides}
    print(f"page: {compare(options.out, options.recipe, options.models, **chosen)}")


DETECT: Commands = {
    "train": (train_options, _train, "Train a detector as a recipe says; the same command goes on after a stop."),
    "eval": (_eval_options, _eval, "Measure a detector on images with boxes by COCO's rules."),
    "compare": (_compare_options, _compare, "Train detectors with several seeds and write a page that compares them."),
    "predict": (_predict_options, _predict, "Find and draw boxes on images."),
}
