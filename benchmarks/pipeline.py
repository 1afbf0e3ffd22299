"""What feeds training, in images a second, beside torchvision: parity first, then medians of interleaved epochs.

Two inputs: CIFAR's shape held in memory, shifted and mirrored a whole batch at once where torchvision takes one image
at a time; and JPEG files of about 500x375, a random part of each at 224 pixels.

Run: python benchmarks/pipeline.py [--repeats 7] [--images 50000] [--batch 128 256] [--files 384] [--workers 0 2]
     [--out FOLDER]
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from measuring import machine
from PIL import Image
from timing import milliseconds
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from aaconv._files import write_text
from aaconv.data.augmentation import crop_and_flip
from aaconv.data.files import load_files
from aaconv.data.splits import Draw, Images, Split
from aaconv.data.views import random_box
from aaconv.training.checkpoint import ModelCard
from aaconv.training.loaders import Batch, Plan, Share, train_loader

EDGE, PADDING, SHARE = 32, 4, 10  # torchvision gets one image of ten in memory, since it takes so much longer
FILE_EDGE, FILE_BATCH, BORDER = 224, 32, 4
CARD = ModelCard("", ("",), 3, EDGE, (0.49, 0.48, 0.45), (0.25, 0.24, 0.26))
CPU = torch.device("cpu")
Epoch = Callable[[int], int]  # number of the epoch -> images that it gave
Row = dict[str, Any]


def main() -> int:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        data, files = noise(options.images), photographs(Path(folder), options.files)
        checks = {"shifted and mirrored": shifts_agree(data), "normalised": floats_agree(data)}
        checks |= {"cut and resized": parts_agree(*files), "each image once an epoch": complete(data)}
        if wrong := [name for name, right in checks.items() if not right]:
            print(f"not timed: {', '.join(wrong)} differ from torchvision's", file=sys.stderr)
            return 1
        rows = []
        for batch in options.batch:
            rows += rates(in_memory(data, batch), options.repeats, input="memory", batch=batch, workers=0)
        for workers in options.workers:
            case = {"input": "files", "batch": FILE_BATCH, "workers": workers}
            rows += rates(from_files(*files, workers), options.repeats, **case)
    print(machine())
    if options.out:
        write_text(options.out / "pipeline.json", json.dumps({"machine": machine(), "rows": rows}, indent=1))
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--images", type=int, default=50_000, help="in memory")
    parser.add_argument("--batch", type=int, nargs="*", default=[128, 256], help="of images in memory; none skips them")
    parser.add_argument("--files", type=int, default=384, help=f"JPEGs, at least {FILE_BATCH}")
    parser.add_argument("--workers", type=int, nargs="*", default=[0, 2], help="that read files; none skips them")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="write pipeline.json there too")
    return parser.parse_args()


def noise(count: int) -> Split:
    """Images in memory, each with its own number as label."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, EDGE, EDGE), generator=random, dtype=torch.uint8)
    return Split(images, torch.arange(count))


def photographs(root: Path, count: int) -> tuple[Images, ImageFolder]:
    """JPEGs of two classes, about as large and as hard to decode as ImageNet's, as we read them and as torchvision."""
    random = torch.Generator().manual_seed(0)
    names = [f"train/{name}/{place:05}.jpg" for name in "ab" for place in range(count // 2)]
    for path in (root / name for name in [*names, "val/a/0.jpg", "val/b/0.jpg"]):
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = (375, 500) if torch.rand((), generator=random) < 0.75 else (500, 375)
        height += int(torch.randint(-25, 26, (), generator=random))
        coarse = torch.rand(1, 3, 24, 32, generator=random)
        smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")[0]
        pixels = 255 * smooth + 14 * torch.randn(1, height, width, generator=random)
        Image.fromarray(pixels.clamp(0, 255).byte().permute(1, 2, 0).numpy()).save(path, quality=92)
    cut = v2.Compose([v2.RandomResizedCrop(FILE_EDGE, antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor()])
    return load_files(root, size=FILE_EDGE).train, ImageFolder(str(root / "train"), cut)


def shifts_agree(data: Split) -> bool:
    """A batch shifted and mirrored against torchvision's functions, image by image, with the same random numbers."""
    batch = next(iter(batches(data, min(256, len(data)), 0)))
    got = crop_and_flip(batch.images, batch.noise, padding=PADDING, flip=True)
    for image, (down, right, mirrored), cut in zip(batch.images, batch.noise.tolist(), got, strict=True):
        image = tv.horizontal_flip(image) if mirrored < 0.5 else image
        top, left = (int(share * (2 * PADDING + 1)) for share in (down, right))
        if not torch.equal(tv.crop(tv.pad(image, [PADDING]), top, left, EDGE, EDGE), cut):
            return False
    return True


def floats_agree(data: Split) -> bool:
    wanted = torch.stack([_floats()(image) for image in data.images[:64]])
    return torch.allclose(CARD.normalize(data.images[:64]), wanted, rtol=1e-5, atol=1e-5)


def parts_agree(files: Images, folder: ImageFolder) -> bool:
    """Random parts of files against torchvision's, within one grey level.

    Pillow's ``box`` lets the filter see what lies around the part, a crop before resizing does not: the outermost
    pixels are left out.
    """
    inner = slice(BORDER, -BORDER)
    for index, (path, label) in enumerate(folder.samples[::7]):
        (got,), (own,) = files.read([7 * index], Draw(0, 0))
        draw = Draw(0, 0).generator(7 * index)
        with Image.open(path) as image:
            left, top, right, bottom = random_box(*image.size, draw)
            place = (int(top), int(left), int(bottom - top), int(right - left))
            wanted = tv.pil_to_tensor(tv.resized_crop(image.convert("RGB"), *place, [FILE_EDGE] * 2, antialias=True))
        wanted = tv.horizontal_flip(wanted) if torch.rand((), generator=draw) < 0.5 else wanted
        if own != label or (got.int() - wanted.int())[:, inner, inner].abs().max() > 1:
            return False
    return True


def complete(data: Split) -> bool:
    """Whether an epoch gives no image twice, and all but what fills no batch."""
    size = min(256, len(data))
    labels = torch.cat([batch.labels for batch in batches(data, size, 0)])
    return len(labels.unique()) == len(labels) == len(data) // size * size


def in_memory(data: Split, batch: int) -> dict[str, Epoch]:
    """Our batches as bytes and as floats, and torchvision's, an image at a time."""
    shifted = v2.Compose([v2.RandomCrop(EDGE, padding=PADDING), v2.RandomHorizontalFlip()])
    some = range(max(batch, len(data) // SHARE))

    def ours(epoch: int, floats: bool = False) -> int:
        count = 0
        for images, _, drawn in batches(data, batch, epoch):
            images = crop_and_flip(images, drawn, padding=PADDING, flip=True)
            count += len(CARD.normalize(images) if floats else images)
        return count

    return {
        "aaconv": ours,
        "aaconv, floats": lambda epoch: ours(epoch, floats=True),
        "torchvision": lambda epoch: consume(Subset(Each(data, shifted), some), batch, 0),
        "torchvision, floats": lambda epoch: consume(
            Subset(Each(data, v2.Compose([shifted, _floats()])), some), batch, 0
        ),
    }


def from_files(files: Images, folder: ImageFolder, workers: int) -> dict[str, Epoch]:
    """Random parts of photographs at the network's size, half of them mirrored, as bytes."""
    return {
        "aaconv": lambda epoch: sum(len(batch.images) for batch in batches(files, FILE_BATCH, epoch, workers)),
        "torchvision": lambda epoch: consume(folder, FILE_BATCH, workers),
    }


def batches(images: Images, batch: int, epoch: int, workers: int = 0) -> DataLoader[Batch]:
    """An epoch as training asks for it."""
    plan = Plan(len(images), batch, 1, 1)
    return train_loader(images, plan, Draw(0, epoch), Share(), start=0, workers=workers, magnitude=0)


class Each(Dataset[tuple[Tensor, Tensor]]):
    """Images in memory one at a time, each changed by ``change``."""

    def __init__(self, data: Split, change: Callable[[Tensor], Tensor]):
        self.data, self.change = data, change

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.change(self.data.images[index]), self.data.labels[index]

    def __len__(self) -> int:
        return len(self.data)


def consume(images: Dataset[Any], batch: int, workers: int) -> int:
    loader = DataLoader(images, batch_size=batch, shuffle=True, drop_last=True, num_workers=workers)
    return sum(len(labels) for _, labels in loader)


def _floats() -> v2.Compose:
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(CARD.mean, CARD.std)])


def rates(contenders: dict[str, Epoch], repeats: int, **case: Any) -> list[Row]:
    """Median images a second of whole epochs, contenders taking turns; the first turn warms up."""
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for epoch in range(repeats + 1):
        for name, work in contenders.items():
            given: list[int] = []
            taken = milliseconds(CPU, lambda work=work, given=given: given.append(work(epoch)))  # noqa: B023
            if epoch:
                found[name].append(1e3 * given[0] / taken)
    rows = [{**case, "name": name, "unit": "images/s", "value": statistics.median(v)} for name, v in found.items()]
    for row in rows:
        row["all"] = [round(value) for value in found[row["name"]]]
        spread = f"{min(row['all']):>9,} to {max(row['all']):,}"
        where = f"{row['input']:<7} batch {row['batch']:<4} workers {row['workers']}"
        print(f"{where} {row['name']:<20} {row['value']:>10,.0f} images/s {spread}", flush=True)
    return rows


if __name__ == "__main__":
    sys.exit(main())
