"""Every command that writes, made small: a row is its words, and what is made small in a process that runs it."""

import functools
import hashlib
import importlib
import itertools
import sys
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from aaconv.training.checkpoint import ModelCard, save_checkpoint
from tests.data.pictures import noise
from tests.detection.box_files import VAL, lay_both, save_detector

SCRIPTS = Path(__file__).parents[2] / "scripts"
ARCHIVE = b"archive" * 300_000
# Imported before the first fork, so that a start takes no seconds.
MODULES = (
    "aaconv.cli",
    "aaconv.demo",
    "aaconv.export",
    "aaconv.explain.explain",
    "aaconv.ops.cpu_kernels",
    "aaconv.reproduction.detectors",
    "aaconv.reproduction.reproduce",
    "aaconv.data.download",
    "aaconv.tables",
    "faster_coco_eval",
    "matplotlib.backends.backend_agg",
    "tensorboard",
    "torch.utils.tensorboard",
    "torchvision.transforms.v2",
)


@dataclass(frozen=True)
class Row:
    """A command: ``words`` with {inputs} and {out} in them; ``shrink`` changes the process that is to run it."""

    words: str
    shrink: object = None
    script: str = ""  # in place of ``aaconv``


TINY = "--data.size 16 --batch_size 12 --epochs 2 --machine.accelerator cpu --machine.save_steps 1"
BOXES = "--data.name coco --data.path {inputs}/boxes --data.size 64 --batch_size 3 --epochs 1 --machine.accelerator cpu"
DETECTORS = "aa_retinanet_resnet10_fpn retinanet_resnet10_fpn"


def _demo(inputs):
    from aaconv import demo

    demo.digit_pairs = functools.partial(demo.digit_pairs, 200, 100)


def _download(inputs):
    from aaconv.data import download

    known = replace(download.ARCHIVES["cifar10"][0], md5=hashlib.md5(ARCHIVE).hexdigest())
    known = replace(known, page=(Path(inputs) / "page").read_text())
    download.get = functools.partial(download.get, archives={"cifar10": (known,)})


class _AtOnce:
    """A pool that works when it is asked, in this process: its own would import everything again at every start."""

    def submit(self, work, *arguments):
        future = Future()
        future.set_result(work(*arguments))
        return future


@contextmanager
def _no_pool(count):
    yield _AtOnce()


def _reproduce(inputs):
    from aaconv.reproduction import reproduce, runs

    reproduce.ARMS = {name: reproduce.ARMS[name] for name in list(reproduce.ARMS)[:2]}
    reproduce.estimate_seconds = lambda *arguments: 60.0
    runs.worker_pool = _no_pool
    tiny = ("--data.size=9", "--batch_size=1600", "--machine.accelerator=cpu")
    reproduce.reproduce = functools.partial(reproduce.reproduce, overrides=tiny)


def _tables(inputs):
    from aaconv import tables

    every = tables.paper_tables
    tables.paper_tables = lambda results: itertools.islice(every(results), 1)


def _gallery(inputs):
    import make_gallery

    every = make_gallery.checkpoints
    make_gallery.checkpoints = lambda: dict(list(every().items())[:1])


def _checkpoints(inputs):
    import make_checkpoints as script

    from aaconv.data.digit_pairs import digit_pairs

    few = digit_pairs(train_count=16, test_count=60)
    script.classification.load_data = lambda recipe: few
    script.digit_pairs = lambda: few
    tiny = ("--model.name=aa_resnet10xs_r25", "--epochs=1", "--batch_size=8", "--machine.loggers=[]")
    script.ROWS = {"digits": replace(script.ROWS["digits"], changes=tiny)}


COMMANDS = {
    "augment": Row("augment resnet18 --json {out}/report.json --img-size 64"),
    "data get": Row("data get cifar10 --to {out}", _download),
    "demo": Row("demo --out {out} --epochs 1", _demo),
    "detect compare": Row(
        f"detect compare detect_digits --out {{out}} --seeds 2 --models {DETECTORS} {BOXES} --machine.loggers []"
    ),
    "detect eval": Row(
        "detect eval {inputs}/detector.safetensors --out {out} --boxes {inputs}/boxes/annotations/instances_"
        f"{VAL}.json --images {{inputs}}/boxes/{VAL}"
    ),
    "detect predict": Row(
        f"detect predict --checkpoint {{inputs}}/detector.safetensors --out {{out}} {{inputs}}/boxes/{VAL}/0.png "
        f"{{inputs}}/boxes/{VAL}/1.png"
    ),
    "detect train": Row(f"detect train detect_digits --out {{out}} {BOXES} --machine.save_steps 1"),
    "eval": Row("eval {inputs}/network.safetensors --data {inputs}/classes --json {out}/measured.json"),
    "explain": Row("explain --checkpoint {inputs}/network.safetensors --out {out} {inputs}/classes/left/0.png"),
    "export": Row("export digits --format torch --out {out}/digits.pt2"),
    "make_checkpoints": Row("--work {out}/work --out {out}/zoo", _checkpoints, "make_checkpoints"),
    "make_gallery": Row("--out {out}", _gallery, "make_gallery"),
    "reproduce": Row("reproduce --out {out} --seeds 2 --tasks clutter --epochs 2 --workers 1", _reproduce),
    "tables": Row("tables --format csv --out {out}/tables.csv", _tables),
    "train": Row(f"train folder --data.path {{inputs}}/classes --out {{out}} --model.name aa_resnet10xs_r25 {TINY}"),
}


def lay_inputs(folder, page=""):
    """Images of two classes, images with boxes, a checkpoint of each kind, and where the archive is."""
    for label in ("left", "right"):
        (folder / "classes" / label).mkdir(parents=True)
        for i in range(12):
            (folder / "classes" / label / f"{i}.png").write_bytes(noise(i))
    lay_both(folder / "boxes")
    torch.manual_seed(0)
    save_detector(folder / "detector.safetensors")
    card = ModelCard("aa_resnet10xs_r25", ("left", "right"), 3, 32, (0.5,) * 3, (0.25,) * 3)
    save_checkpoint(folder / "network.safetensors", card.build(), card)
    (folder / "page").write_text(page)
    return folder


def run(row, inputs, out):
    """Run a row in this process; its exit code."""
    if row.shrink:
        row.shrink(inputs)
    words = [word.format(inputs=inputs, out=out) for word in row.words.split(" ")]
    if not row.script:
        return importlib.import_module("aaconv.cli").main(words)
    sys.argv = [row.script, *words]
    importlib.import_module(row.script).main()
    return 0
