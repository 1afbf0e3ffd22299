"""Small folders in COCO's format: bright rectangles on dark noise."""

import json

import numpy as np
from PIL import Image

from tests.data.pictures import saved

CATEGORIES = [{"id": 9, "name": "wide"}, {"id": 4, "name": "tall"}, {"id": 30, "name": "never"}]  # none of the last
CLASSES, CATEGORY_IDS = ("tall", "wide", "never"), (4, 9, 30)
LOOKS = {9: ((26, 14), (240, 60, 60)), 4: ((14, 26), (60, 90, 250))}  # width and height, colour
SIZES = ((64, 64), (64, 64), (48, 64), (64, 50), (64, 64), (48, 64))  # height and width


def lay_part(root, part, sizes=SIZES, seed=0, empty=(1,), crowds=()):
    """Write ``root/part`` and its annotations; images whose numbers are ``empty`` hold nothing.

    Others hold one or two rectangles, one of each kind at most; those of ``crowds`` a crowd besides.
    """
    random = np.random.default_rng(seed)
    content = {"images": [], "annotations": [], "categories": CATEGORIES}
    (root / part).mkdir(parents=True, exist_ok=True)
    for index, (height, width) in enumerate(sizes):
        pixels = random.integers(0, 70, (height, width, 3), dtype=np.uint8)
        number, name = 1000 - 7 * index, f"{index}.png"
        content["images"].append({"id": number, "file_name": name, "height": height, "width": width})
        kinds = [] if index in empty else random.permutation(list(LOOKS))[: 1 + index % 2].tolist()
        for place, kind in enumerate(kinds):
            (w, h), colour = LOOKS[kind]
            x = int(random.integers(0, width - w + 1))
            y = int(random.integers(0, height // 2 - h // 2)) + (height // 2 if place else 0)
            h = min(h, height - y)
            pixels[y : y + h, x : x + w] = colour
            content["annotations"].append(entry(number, [x, y, w, h], kind))
        if index in crowds:
            content["annotations"].append(entry(number, [0, 0, width, height], 9, iscrowd=1))
        (root / part / name).write_bytes(saved(Image.fromarray(pixels)))
    for number, each in enumerate(content["annotations"], start=1):
        each["id"] = number
    return write_boxes(root, part, content), root / part


def entry(image, box, category, **others):
    return {"image_id": image, "bbox": box, "category_id": category, "area": box[2] * box[3], "iscrowd": 0, **others}


def boxes_of(root, part):
    """The path of the annotations."""
    return root / "annotations" / f"instances_{part}.json"


def write_boxes(root, part, content):
    path = boxes_of(root, part)
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def change_boxes(root, part, change):
    """Let ``change`` edit what the annotations hold."""
    content = json.loads(boxes_of(root, part).read_text())
    change(content)
    return write_boxes(root, part, content)


def lay_both(root, **options):
    """Parts named as COCO's, so that recipes need the path of the folder alone."""
    lay_part(root, "train2017", **options)
    lay_part(root, "val2017", **{**options, "seed": 1})
    return root
