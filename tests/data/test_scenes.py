"""The embedded detection data: exact boxes, splits that share nothing, and a folder that is whole or not there."""

import json
import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv import _files
from aaconv.data import scenes
from aaconv.data.caches import cache_folder, make_folder
from aaconv.data.coco import load_coco
from aaconv.data.digit_pairs import load_scans
from aaconv.data.scenes import CATEGORY_IDS, PHOTOGRAPHS, digit_scenes, scene

FORK = multiprocessing.get_context("fork")
SMALL = {"train_count": 5, "test_count": 3, "edge": 80}


@pytest.fixture
def painted(monkeypatch):
    """What is painted: (canvas before, ink, corner, canvas after) of each digit."""
    record, paint = [], scenes._paint

    def recording(canvas, ink, corner, random):
        before = canvas.copy()
        paint(canvas, ink, corner, random)
        record.append((before, ink, tuple(corner.tolist()), canvas.copy()))

    monkeypatch.setattr(scenes, "_paint", recording)
    return record


@pytest.mark.parametrize("split, edge", [("train", 128), ("test", 72)])
def test_boxes_are_tight_around_the_ink(split, edge, painted):
    for index in range(40):
        painted.clear()
        made = scene(split, index, edge=edge)
        assert (made.pixels.shape, made.pixels.dtype) == ((edge, edge, 3), np.uint8)
        assert len(made.boxes) == len(made.digits) == len(made.scans) == len(painted)
        for (before, ink, (left, top), after), box in zip(painted, made.boxes.tolist(), strict=True):
            inked = [(left + x, top + y) for (y, x), share in np.ndenumerate(ink) if share >= 0.25]
            columns, rows = zip(*inked, strict=True)
            assert box == [min(columns), min(rows), max(columns) - min(columns) + 1, max(rows) - min(rows) + 1]
            assert min(columns) >= 0
            assert min(rows) >= 0
            assert max(*columns, *rows) < edge
            changed = np.abs(after - before).max(axis=2)
            x, y, width, height = box
            window = changed[y : y + height, x : x + width]
            assert all(side.any() for side in (window[0], window[-1], window[:, 0], window[:, -1]))
            changed[top : top + ink.shape[0], left : left + ink.shape[1]] = 0
            assert not changed.any()
        if painted:
            assert np.array_equal(made.pixels, painted[-1][3].round().clip(0, 255).astype(np.uint8))


def test_digits_can_be_told_from_what_is_under_them(painted):
    for index in range(60):
        scene("train", index)
    heights = [ink.shape[0] for _, ink, *_ in painted]
    assert min(heights) < 18
    assert 45 < max(heights) <= 60
    for before, ink, (left, top), after in painted:
        window = (slice(top, top + ink.shape[0]), slice(left, left + ink.shape[1]))
        assert ink.max() >= 0.85
        full = ink > 0.8 * ink.max()
        change = (after - before)[window][full].mean(axis=0) @ [0.299, 0.587, 0.114]
        assert abs(change) > 40  # of 255


def test_digits_hardly_cover_each_other():
    counts = []
    for index in range(150):
        boxes = scene("test", index).boxes
        counts.append(len(boxes))
        for i, (x, y, w, h) in enumerate(boxes.tolist()):
            for x2, y2, w2, h2 in boxes[:i].tolist():
                shared = max(0, min(x + w, x2 + w2) - max(x, x2)) * max(0, min(y + h, y2 + h2) - max(y, y2))
                assert shared <= 0.1 * min(w * h, w2 * h2)
    assert set(counts) == set(range(scenes.MOST + 1))
    assert 1 <= counts.count(0) <= 12


def test_the_largest_digits_fit(monkeypatch):
    monkeypatch.setattr(scenes, "HEIGHTS", (56, 56.001))
    for scan in torch.cat([load_scans("train")[0], load_scans("test")[0]]).numpy()[::3]:
        assert max(scenes._ink(scan, np.random.default_rng(0)).shape) <= scenes.LEAST_EDGE


def test_splits_share_no_scan_and_no_photograph():
    assert not set(PHOTOGRAPHS["train"]) & set(PHOTOGRAPHS["test"])
    hashes = {}
    for split in ("train", "test"):
        scans, digits = load_scans(split)
        made = [scene(split, index) for index in range(150)]
        assert {one.photograph for one in made} == set(PHOTOGRAPHS[split])
        used = np.concatenate([one.scans for one in made])
        assert np.array_equal(np.concatenate([one.digits for one in made]), digits[used])
        assert set(digits[used].tolist()) == set(range(10))
        hashes[split] = {scans[number].numpy().tobytes() for number in used}
    assert not hashes["train"] & hashes["test"]


def test_photographs_need_no_download(monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    monkeypatch.setattr(socket, "socket", None)
    scenes.open_photograph.cache_clear()
    for name in (*PHOTOGRAPHS["train"], *PHOTOGRAPHS["test"]):
        photograph = scenes.open_photograph(name)
        assert photograph.mode == "RGB"
        assert min(photograph.size) >= 300


def test_scenes_depend_on_split_index_and_seed():
    first = scene("train", 7, seed=3)
    np.random.default_rng(0).random()
    again = scene("train", 7, seed=3)
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.boxes, again.boxes)
    for other in (scene("train", 8, seed=3), scene("train", 7, seed=4), scene("test", 7, seed=3)):
        assert not np.array_equal(first.pixels, other.pixels)
    counts = [[len(scene(split, index).boxes) for index in range(30)] for split in ("train", "test")]
    assert np.mean(np.not_equal(*counts)) > 0.5  # where digits stand is drawn anew too


def files_of(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_the_scenes(tmp_path):
    folder = digit_scenes(tmp_path / "a", **SMALL)
    assert [path.name for path in (tmp_path / "a").iterdir()] == [folder.name]
    train = load_coco(folder / "annotations" / "instances_train.json", folder / "train")
    test = load_coco(folder / "annotations" / "instances_test.json", folder / "test", like=train)
    assert (len(train), len(test)) == (5, 3)
    assert not train.dropped
    for split, data in (("train", train), ("test", test)):
        assert data.classes == tuple("0123456789")
        assert data.category_ids == CATEGORY_IDS
        for index in range(len(data)):
            made = scene(split, index, edge=80)
            part = slice(data.starts[index], data.starts[index + 1])
            assert np.array_equal(data.boxes[part], made.boxes)
            assert np.array_equal(data.labels[part], made.digits)
            stored = np.asarray(Image.open(folder / split / data.names[index]), float)
            assert np.abs(stored - made.pixels).mean() < 4
        content = json.loads((folder / "annotations" / f"instances_{split}.json").read_text())
        assert "synthetic composition of real images" in content["info"]["description"]
        assert [entry["id"] for entry in content["annotations"]] == list(range(1, len(data.boxes) + 1))


def test_the_folder_is_made_once_and_always_the_same(tmp_path, monkeypatch):
    folder = digit_scenes(tmp_path / "a", **SMALL)
    assert files_of(folder) == files_of(digit_scenes(tmp_path / "b", **SMALL))
    others = [{"seed": 1}, {"edge": 81}, {"train_count": 6}, {"test_count": 4}]
    assert len({folder, *(digit_scenes(tmp_path / "a", **{**SMALL, **other}) for other in others)}) == 5
    monkeypatch.setattr(scenes, "_write", None)
    assert digit_scenes(tmp_path / "a", **SMALL) == folder


def test_cache_folder(tmp_path, monkeypatch):
    monkeypatch.delenv("AACONV_CACHE", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    assert cache_folder() == tmp_path / "torch" / "aaconv"
    monkeypatch.setenv("AACONV_CACHE", str(tmp_path / "own"))
    assert digit_scenes(**SMALL).parent == tmp_path / "own"


def started(work, *arguments):
    process = FORK.Process(target=work, args=arguments)
    process.start()
    return process


def fill_together(target, barrier, text):
    """Both are done filling before either gives its folder the name."""

    def fill(folder):
        (folder / "file").write_text(text)
        barrier.wait(20)

    assert make_folder(target, fill) == target
    assert (target / "file").exists()


def test_two_processes_at_once_use_the_first_that_is_ready(tmp_path):
    barrier = FORK.Barrier(2)
    processes = [started(fill_together, tmp_path / "set", barrier, text) for text in ("a", "b")]
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert (tmp_path / "set" / "file").read_text() in ("a", "b")


def die_at_work(root):
    scenes._write = lambda folder, *_: ((folder / "half").touch(), os.kill(os.getpid(), signal.SIGKILL))
    digit_scenes(root, **SMALL)


def test_a_killed_process_leaves_nothing_that_counts(tmp_path):
    process = started(die_at_work, tmp_path)
    process.join(30)
    assert process.exitcode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert (left / "half").exists()
    name = left.name.replace(f".{process.pid}.", ".{}.")
    alive, elsewhere = tmp_path / name.format(os.getppid()), tmp_path / left.name.replace(socket.gethostname(), "other")
    for folder in (alive, elsewhere):
        folder.mkdir()
    made = digit_scenes(tmp_path, **SMALL)
    assert set(tmp_path.iterdir()) == {made, alive, elsewhere}
    assert (made / "annotations" / "instances_test.json").exists()
    assert not (made / "half").exists()


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_work_that_ends_early_leaves_nothing(tmp_path, error):
    def fill(folder):
        (folder / "half").touch()
        raise error

    with pytest.raises(type(error)) as raised:
        make_folder(tmp_path / "set", fill)
    if isinstance(error, OSError):
        assert "set cannot be made: [Errno 28] No space left on device; another folder can be" in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_folders_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("AACONV_CACHE", str(tmp_path / "file" / "in"))
    with pytest.raises(OSError, match=r"cannot be made: .*Not a directory.* named as argument or in \$AACONV_CACHE"):
        digit_scenes(**SMALL)
    with pytest.raises(OSError, match=r"cannot be made: "):
        make_folder(tmp_path / "file", Path.touch)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_processes_are_told_apart():
    assert _files._alive(os.getpid())
    process = started(int)
    process.join()
    assert not _files._alive(process.pid)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"edge": 71}, "edge must be at least 72, got edge=71"),
        ({"train_count": 0}, "train_count must be at least 1"),
        ({"test_count": 0}, "test_count must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_arguments(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        digit_scenes(tmp_path, **options)
    with pytest.raises(ValueError, match="split must be one of"):
        scene("val", 0)
