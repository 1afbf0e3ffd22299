"""Small folders in COCO's format, bright rectangles on dark noise, and detectors that find something in them."""

import json

import numpy as np
import torch
from PIL import Image
from torch import nn

from aaconv.data.files import MEAN, STD
from aaconv.detection.config import DetectionRecipe
from aaconv.training.checkpoint import ModelCard, save_checkpoint
from aaconv.training.recipes import load_recipe
from tests.data.pictures import saved

CATEGORIES = [{"id": 9, "name": "wide"}, {"id": 4, "name": "tall"}, {"id": 30, "name": "never"}]  # none of the last
CLASSES, CATEGORY_IDS = ("tall", "wide", "never"), (4, 9, 30)
LOOKS = {9: ((26, 14), (240, 60, 60)), 4: ((14, 26), (60, 90, 250))}  # width and height, colour
SIZES = ((64, 64), (50, 64), (64, 64), (64, 50), (50, 64), (64, 64))  # height and width
TRAIN, VAL = "train2017", "val2017"


def lay_part(root, part, sizes=SIZES, seed=0, empty=(1,), crowds=()):
    """Write ``root/part`` and its annotations, and return both paths, annotations first.

    Images whose numbers are ``empty`` hold nothing, others one or two rectangles, those of ``crowds`` a crowd besides.
    """
    random = np.random.default_rng(seed)
    images, annotations = [], []
    (root / part).mkdir(parents=True)
    for index, (height, width) in enumerate(sizes):
        pixels = random.integers(0, 70, (height, width, 3), dtype=np.uint8)
        number, name = 1000 - 7 * index, f"{index}.png"
        images.append({"id": number, "file_name": name, "height": height, "width": width})
        kinds = [] if index in empty else random.permutation(list(LOOKS))[: 1 + index % 2].tolist()
        for place, kind in enumerate(kinds):  # the second one in the lower half
            (w, h), colour = LOOKS[kind]
            half = height // 2
            w, h = min(w, width), min(h, half)
            x, y = random.integers([0, half * place], [width - w + 1, half * place + half - h + 1]).tolist()
            pixels[y : y + h, x : x + w] = colour
            annotations.append(box(number, [x, y, w, h], kind))
        if index in crowds:
            annotations.append(box(number, [0, 0, width, height], 9, iscrowd=1))
        (root / part / name).write_bytes(saved(Image.fromarray(pixels)))
    return write_boxes(root, part, {"images": images, "annotations": annotations, "categories": CATEGORIES})


def lay_both(root, **options):
    """Both parts under COCO's names, so that recipes need the folder alone."""
    for seed, part in enumerate((TRAIN, VAL)):
        lay_part(root, part, seed=seed, **options)
    return root


def box(image, corner_and_size, category, **others):
    return {"image_id": image, "bbox": corner_and_size, "category_id": category, **others}


def write_boxes(root, part, content):
    path = root / "annotations" / f"instances_{part}.json"
    path.parent.mkdir(exist_ok=True)
    numbered = [{**each, "id": number} for number, each in enumerate(content["annotations"], start=1)]
    path.write_text(json.dumps({**content, "annotations": numbered}))
    return path, root / part


def change_boxes(root, part, change):
    """Let ``change`` edit what the annotations hold."""
    path = root / "annotations" / f"instances_{part}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def recipe_of(*overrides):
    """A short run of the smallest detector."""
    usual = {"--data.name": "coco", "--data.size": "64", "--batch_size": "3", "--epochs": "1", "--optimizer.lr": "1e-3"}
    usual |= {"--augment.smallest": "1", "--augment.largest": "1", "--machine.loggers": "[]"}
    usual |= {"--machine.accelerator": "cpu", "--machine.channels_last": "false"}
    usual |= dict(item.split("=", 1) for item in overrides)
    return load_recipe("detect_digits", [f"{name}={value}" for name, value in usual.items()], DetectionRecipe)


def save_detector(path, classes=CLASSES, category_ids=CATEGORY_IDS, **options):
    """A checkpoint of an untrained network that finds thirty boxes of all classes in every image."""
    options = {"score_thresh": 0.3, "detections_per_img": 30, **options}
    card = ModelCard("aa_retinanet_resnet10_fpn", classes, 3, 64, MEAN, STD, options=options, category_ids=category_ids)
    model = card.build()
    for module in model.modules():  # not as they start, so that evaluation mode shows
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
    head = model.head.classification_head.cls_logits
    weight = torch.randn(head.weight.shape) / 40
    head.weight.data = weight - weight.mean(dim=(1, 2, 3), keepdim=True)  # else one class alone would be found
    nn.init.zeros_(head.bias)
    save_checkpoint(path, model, card)
    return path
