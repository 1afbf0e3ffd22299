"""CIFAR's archives: every form gives the same images, and nothing unvouched for is read or run."""

import os
import pickle
import re
import subprocess
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from aaconv.data.cifar import ARCHIVES, load_cifar
from tests.data.cifar_archives import images_of, make_cifar, md5_hex, pickled

NAMES = pytest.mark.parametrize("name", ["cifar10", "cifar100"])


class Call:
    """Pickles to a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def rehash(path, archives, name):
    """The table with the present hash of the archive, as if that were the official one."""
    rows = (replace(row, md5=md5_hex(path.read_bytes())) if row.file == path.name else row for row in archives[name])
    return {**archives, name: tuple(rows)}


@NAMES
@pytest.mark.parametrize("form", ["archive", "beside", "folder", "above", "binary", "binary beside", "renamed"])
def test_every_form_gives_the_same_images(tmp_path, name, form):
    path, archives = make_cifar(
        tmp_path, name, train=130, test=30, binary="binary" in form, packed=form not in ("folder", "above")
    )
    if form == "renamed":
        path = path.rename(tmp_path / "mine.tgz")
    data = load_cifar(name, path.parent if form in ("beside", "above", "binary beside") else path, archives=archives)
    classes = 100 if name == "cifar100" else 10
    assert data.classes == tuple(f"class_{i}" for i in range(classes))
    assert (data.channels, data.size) == (3, (32, 32))
    for seed, (split, count) in enumerate(((data.train, 130), (data.val, 30))):
        pixels, labels, _ = images_of(count, classes, seed)
        assert (split.images.dtype, split.labels.dtype) == (torch.uint8, torch.int64)
        assert torch.equal(split.images, torch.from_numpy(pixels.reshape(count, 3, 32, 32)))
        assert split.labels.tolist() == labels
    assert data.mean == pytest.approx((0.5, 0.5, 0.5), abs=0.01)


@NAMES
def test_the_usual_reader_gives_the_same(tmp_path, name):
    path, archives = make_cifar(tmp_path, name, packed=False)
    row, data = archives[name][0], load_cifar(name, path, archives=archives)
    for split, members in ((data.train, row.train), (data.val, row.test)):
        entries = [pickle.loads((path / member).read_bytes(), encoding="latin1") for member in members]
        assert np.array_equal(split.images.flatten(1), np.vstack([entry["data"] for entry in entries]))
        assert split.labels.tolist() == [label for entry in entries for label in entry[row.keys[0]]]


@NAMES
def test_hashes_and_places_are_torchvisions(name):
    spec = find_spec("torchvision") or pytest.skip("no torchvision")
    text = (Path(spec.origin).parent / "datasets" / "cifar.py").read_text()  # not imported: that takes seconds
    row = ARCHIVES[name][0]
    for wanted in (row.page + row.file, row.md5, row.folder, row.keys[1]):
        assert f'"{wanted}"' in text
    for member, md5 in (row.train | row.test).items():
        assert f'["{member}", "{md5}"]' in text
    ((meta, md5),) = row.meta.items()
    assert re.search(rf'"filename": "{meta}",\s*"key": "{row.keys[1]}",\s*"md5": "{md5}"', text)


@pytest.mark.parametrize("protocol", [2, 4])
def test_pickles_of_today_are_read(tmp_path, protocol):
    pixels, labels, _ = images_of(20, 100, 7)
    entry = pickle.dumps({"data": pixels.copy(order="F"), "fine_labels": labels}, protocol)
    path, archives = make_cifar(tmp_path, "cifar100", change=lambda members: members.update(train=entry))
    data = load_cifar("cifar100", path, archives=archives)
    assert torch.equal(data.train.images.flatten(1), torch.from_numpy(pixels))


def test_held_out_is_a_share_of_each_training_class(tmp_path):
    path, archives = make_cifar(tmp_path, "cifar10", train=100)
    data, again, other = (load_cifar("cifar10", path, held_out=0.2, seed=seed, archives=archives) for seed in (3, 3, 4))
    whole = load_cifar("cifar10", path, archives=archives).train
    assert data.train.labels.bincount().tolist() == [8] * 10
    assert data.val.labels.bincount().tolist() == [2] * 10
    position = {image.numpy().tobytes(): i for i, image in enumerate(whole.images)}
    found = [[position[image.numpy().tobytes()] for image in part.images] for part in (data.train, data.val)]
    assert sorted(found[0] + found[1]) == list(range(100))
    for part, positions in zip((data.train, data.val), found, strict=True):
        assert torch.equal(part.labels, whole.labels[positions])
    assert data.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("function", [os.system, subprocess.call, eval, getattr, np.load])
@pytest.mark.parametrize("member", ["train", "meta"])
def test_a_pickle_that_runs_code_is_refused(tmp_path, function, member):
    trace = tmp_path / "trace"
    argument = f"open({str(trace)!r}, 'w')" if function is eval else f"touch {trace}"
    bad = pickled({"data": Call(function, argument), "fine_label_names": ["a"]})
    path, archives = make_cifar(tmp_path, "cifar100", change=lambda members: members.update({member: bad}))
    with pytest.raises(ValueError, match=rf"{member} of .*cannot be read: it asks for .*{function.__name__}, which"):
        load_cifar("cifar100", path, archives=archives)
    assert not trace.exists()


@pytest.mark.parametrize("packed", [True, False])
def test_nothing_is_parsed_before_all_hashes_are_right(tmp_path, monkeypatch, packed):
    path, archives = make_cifar(tmp_path, "cifar10", packed=packed)
    if packed:
        path.write_bytes(path.read_bytes() + b"\0")
    else:
        (path / "test_batch").write_bytes(b"")  # the last that would be parsed
    monkeypatch.setattr("aaconv.data.cifar._unpickle", lambda *_: pytest.fail("parsed"))
    monkeypatch.setattr("tarfile.open", lambda *_: pytest.fail("opened"))
    what = "cifar-10-python.tar.gz" if packed else "test_batch of .*cifar-10-batches-py"
    wanted = archives["cifar10"][0].md5 if packed else archives["cifar10"][0].test["test_batch"]
    with pytest.raises(ValueError, match=rf"{what} has md5 [0-9a-f]{{32}}, expected {wanted}.*; download it again"):
        load_cifar("cifar10", path, archives=archives)


def test_members_are_checked_in_the_archive_too(tmp_path):
    path, archives = make_cifar(tmp_path, "cifar100")
    (tmp_path / "other").mkdir()
    other, _ = make_cifar(tmp_path / "other", "cifar100", train=21)
    path.write_bytes(other.read_bytes())
    with pytest.raises(ValueError, match=r"train of .* has md5 .*, expected"):
        load_cifar("cifar100", path, archives=rehash(path, archives, "cifar100"))


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_archive_is_refused(tmp_path, binary, kept):
    path, archives = make_cifar(tmp_path, "cifar100", binary=binary)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole))])
    with pytest.raises(ValueError, match=r"has md5 .*, expected .*; download it again"):
        load_cifar("cifar100", path, archives=archives)
    with pytest.raises(ValueError, match=r"cifar-100-\w+.tar.gz is cut short or damaged \(.+\); download it again"):
        load_cifar("cifar100", path, archives=rehash(path, archives, "cifar100"))


@pytest.mark.parametrize("position", [0, 60])
def test_an_archive_damaged_inside_is_refused(tmp_path, position):
    path, archives = make_cifar(tmp_path, "cifar100", binary=True)
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"cifar-100-binary.tar.gz is cut short or damaged \(.+\); download it again"):
        load_cifar("cifar100", path, archives=rehash(path, archives, "cifar100"))


@pytest.mark.parametrize("packed", [True, False])
def test_a_missing_file_is_named(tmp_path, packed):
    path, archives = make_cifar(tmp_path, "cifar10", packed=packed, change=lambda members: members.pop("data_batch_3"))
    with pytest.raises(ValueError, match=r"must hold data_batch_1, .*batches.meta, got no data_batch_3; download"):
        load_cifar("cifar10", path, archives=archives)


PIXELS = np.zeros((2, 3072), np.uint8)


@pytest.mark.parametrize(
    "entry, message",
    [
        ({"data": PIXELS, "fine_labels": [0, 100]}, r"must hold labels in 0\.\.99, got 100"),
        ({"data": PIXELS, "fine_labels": [-1, 1]}, r"must hold labels in 0\.\.99, got -1"),
        ({"data": PIXELS, "fine_labels": [0]}, "must hold a list of 2 int labels, one an image, got 1"),
        ({"data": PIXELS, "fine_labels": [0, 1.5]}, "must hold a list of 2 int labels"),
        ({"data": PIXELS, "labels": [0, 1]}, "must hold a list of 2 int labels, one an image, got NoneType"),
        ({"data": PIXELS[:, :-1], "fine_labels": [0, 1]}, r"images as \[n, 3072\] uint8, got \[2, 3071\] uint8"),
        ({"data": PIXELS[0], "fine_labels": [0, 1]}, r"\[n, 3072\] uint8, got \[3072\] uint8"),
        ({"data": PIXELS[:0], "fine_labels": []}, r"\[n, 3072\] uint8, got \[0, 3072\] uint8"),
        ({"data": PIXELS.astype("f4"), "fine_labels": [0, 1]}, r"\[n, 3072\] uint8, got \[2, 3072\] float32"),
        ({"fine_labels": [0, 1]}, r"\[n, 3072\] uint8, got NoneType"),
        ([PIXELS], "must hold a dict, got list"),
    ],
)
def test_a_pickle_of_another_form_is_refused(tmp_path, entry, message):
    path, archives = make_cifar(tmp_path, "cifar100", change=lambda members: members.update(test=pickled(entry)))
    with pytest.raises(ValueError, match=f"test of .*cifar-100-python.tar.gz {message}|{message}"):
        load_cifar("cifar100", path, archives=archives)


@pytest.mark.parametrize(
    "member, content, message",
    [
        ("train", b"", "train of .* cannot be read: "),
        ("train", b"\x80\x02}q\x01U\x04da", "train of .* cannot be read: "),
        ("meta", pickled({"fine_label_names": "abc"}), "meta of .* must hold a list of class names, got abc"),
        ("meta", pickled({}), "meta of .* must hold a list of class names, got None"),
    ],
)
def test_damaged_pickles_are_refused(tmp_path, member, content, message):
    path, archives = make_cifar(tmp_path, "cifar100", change=lambda members: members.update({member: content}))
    with pytest.raises(ValueError, match=message):
        load_cifar("cifar100", path, archives=archives)


@pytest.mark.parametrize(
    "content, message",
    [
        (bytes(3073), "test.bin of .* must hold rows of 3074 bytes, got 3073 bytes"),
        (b"", r"must hold images as \[n, 3072\] uint8, got \[0, 3072\] uint8"),
        (bytes([0, 100]) + bytes(3072), r"must hold labels in 0\.\.99, got 100"),
    ],
)
def test_a_binary_file_of_another_form_is_refused(tmp_path, content, message):
    path, archives = make_cifar(
        tmp_path, "cifar100", binary=True, change=lambda members: members.update({"test.bin": content})
    )
    with pytest.raises(ValueError, match=message):
        load_cifar("cifar100", path, archives=archives)


def test_other_paths_and_arguments_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*/none; `aaconv data get cifar100` downloads it"):
        load_cifar("cifar100", tmp_path / "none")
    wanted = r"cifar-10-python.tar.gz, cifar-10-binary.tar.gz, cifar-10-batches-py/; `aaconv data get cifar10`"
    with pytest.raises(FileNotFoundError, match=f"must be or hold one of {wanted}"):
        load_cifar("cifar10", tmp_path)
    make_cifar(tmp_path, "cifar10", binary=True, packed=False)
    with pytest.raises(FileNotFoundError, match="must be or hold one of"):  # nothing vouches for these
        load_cifar("cifar10", tmp_path)
    with pytest.raises(ValueError, match=r"name must be one of .*got 'cifar20'; did you mean"):
        load_cifar("cifar20", tmp_path)
    path, archives = make_cifar(tmp_path, "cifar10", train=15)
    with pytest.raises(ValueError, match=r"held_out must lie in \[0, 1\], got held_out=2"):
        load_cifar("cifar10", path, held_out=2, archives=archives)
    with pytest.raises(ValueError, match="class 5 needs at least 2 images to hold one out, got 1"):
        load_cifar("cifar10", path, held_out=0.5, archives=archives)
