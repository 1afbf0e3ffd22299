"""How well a detector's checkpoint does on images with boxes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from aaconv._checks import expect_int, expect_one_of
from aaconv._files import write_text, write_whole
from aaconv.data.box_views import BoxImages, BoxView
from aaconv.data.coco import describe_dropped, load_coco
from aaconv.data.scenes import digit_scenes
from aaconv.detection.curves import plot_precision_recall
from aaconv.detection.loaders import whole_loader
from aaconv.detection.scores import BoxScores, Found, as_results, score
from aaconv.detection.task import as_floats, found_in
from aaconv.training.checkpoint import load_checkpoint
from aaconv.training.failures import explained
from aaconv.training.loaders import Share

SCORES, RESULTS, CURVES = "scores.json", "detections.json", "precision_recall.png"


def evaluate(
    checkpoint: str | Path,
    boxes: str | Path = "scenes",
    images: str | Path | None = None,
    *,
    out: str | Path | None = None,
    batch_size: int = 16,
    workers: int = 0,
    on_broken: str = "fail",
) -> BoxScores:
    """Evaluate a checkpoint of ``aaconv detect train`` by COCO's rules.

    Args:
        checkpoint: model.safetensors or best.safetensors of a run.
        boxes: Annotations in COCO's format, or "scenes" for the embedded set.
        images: Folder of the images.
        out: Folder that gets the figures as JSON, the detections as COCO's results and the curves as PNG.
        batch_size: Images of one size at a time.
        workers: Processes that read images.
        on_broken: "fail", or "skip": images that are missing are left out, unreadable ones count as empty.

    Raises:
        FileNotFoundError: No such checkpoint, annotations or images.
        ValueError: The checkpoint is damaged or a classifier's, the annotations are unusable or have other categories.
    """
    expect_int("batch_size", batch_size)
    expect_one_of("on_broken", on_broken, ("fail", "skip"))
    if str(boxes) == "scenes" and images is not None:
        raise ValueError(f"--boxes must name the annotations of the images in {images}, got none")
    model, card = load_checkpoint(checkpoint, detector=True)
    if out is not None:
        make_folder_for(out)
    if str(boxes) == "scenes":
        root = digit_scenes()
        boxes, images = root / "annotations" / "instances_test.json", root / "test"
    if images is None:
        raise ValueError(f"--images must say which folder the images of {boxes} are in")
    truth = load_coco(boxes, images, on_missing=on_broken, like=card)
    if truth.dropped:
        print(describe_dropped(truth.dropped), file=sys.stderr)
    found = detect(model, BoxImages(truth, BoxView(card.edge), on_broken), batch_size, workers)
    scores = score(truth, found)
    if out is not None:
        folder, figure = Path(out), plot_precision_recall(scores)
        scores.write(folder / SCORES)
        write_text(folder / RESULTS, json.dumps(as_results(truth, found)))
        write_whole(folder / CURVES, lambda beside: figure.savefig(beside, dpi=120, format="png"))
    return scores


def to_device(model: nn.Module) -> torch.device:
    """Put a network to be used where it is fastest."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    return device


def make_folder_for(out: str | Path) -> None:
    """Make the folder of the results before there are any.

    Raises:
        ValueError: There is a file of that name.
        OSError: It cannot be made.
    """
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise ValueError(f"--out must be a folder, {out} is a file") from error


@torch.inference_mode()
def detect(model: nn.Module, images: BoxImages, batch_size: int = 16, workers: int = 0) -> list[Found]:
    """What a detector finds in each image."""
    device = to_device(model)
    found = []
    bar = tqdm(total=len(images), desc="detecting", unit=" images", disable=None)
    with bar, explained(images.coco.root):
        for batch in whole_loader(images, batch_size, Share(), workers):
            if batch.indices:
                detections = model(as_floats(batch.images, device))
                found += [found_in(index, one) for index, one in zip(batch.indices, detections, strict=True)]
            bar.update(len(batch.indices))
    return found
