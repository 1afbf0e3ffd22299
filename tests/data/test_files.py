"""Image files read when asked for: the right view of the right file, and what becomes of broken ones."""

import os
import pickle
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from aaconv.data import images as images_module
from aaconv.data.files import MEAN, STD, ImageFiles, Names, load_files
from aaconv.data.images import ImageReadError
from aaconv.data.splits import Draw
from aaconv.data.views import View
from tests.data.pictures import KINDS, encoded, flat, noise, saved, seen


@pytest.fixture
def root(tmp_path):
    """Two classes of six images each, all of other sizes and pixels."""
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / name).mkdir()
        for i in range(6):
            (tmp_path / name / f"{i}.png").write_bytes(noise(10 * label + i, 20 + i, 30 - i))
    return tmp_path


def all_of(root, on_broken="fail", **view):
    """The images of both classes, in order."""
    names = [f"{name}/{i}.png" for name in ("cat", "dog") for i in range(6)]
    return ImageFiles(root, Names(names), torch.arange(12) // 6, View(8, **view), on_broken)


def test_evaluation_reads_the_view_of_the_file(root):
    files = all_of(root, crop_pct=0.8)
    images, labels = files.read([7, 0, 7], None)
    assert images.dtype == torch.uint8
    assert labels.tolist() == [1, 0, 1]
    for got, name in zip(images, ("dog/1", "cat/0", "dog/1"), strict=True):
        assert torch.equal(got, View(8, crop_pct=0.8).evaluation(Image.open(root / f"{name}.png")))


def test_training_reads_a_view_that_depends_on_seed_epoch_and_index_alone(root):
    files, draw = all_of(root, rand_augment=5), Draw(3, 4)
    state = torch.get_rng_state()
    images, labels = files.read(range(12), draw)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(7)
    order = [11, 2, 5]
    again, _ = all_of(root, rand_augment=5).read(order, draw)
    assert torch.equal(again, images[order])
    assert labels.tolist() == [0] * 6 + [1] * 6
    wanted = files.view.training(Image.open(root / "dog" / "3.png"), draw.generator(9))
    assert torch.equal(images[9], wanted)
    for other in (Draw(3, 5), Draw(4, 4)):
        assert not torch.equal(files.read([9], other)[0][0], wanted)
    (root / "dog" / "4.png").write_bytes((root / "dog" / "3.png").read_bytes())
    assert not torch.equal(files.read([10], draw)[0][0], wanted)


def test_workers_get_the_same(root):
    files = pickle.loads(pickle.dumps(all_of(root)))
    assert torch.equal(files.read([3, 8], Draw(0, 0))[0], all_of(root).read([3, 8], Draw(0, 0))[0])


@pytest.mark.parametrize("names", [[], ["a"], ["", "b/c.png", "ü", os.fsdecode(b"\xff\xfe"), "d"]])
def test_names_come_back(names):
    held = Names(names)
    assert len(held) == len(names)
    assert list(held) == [held[i] for i in range(len(names))] == names
    with pytest.raises(IndexError):
        held[len(names)]


def read_all(data):
    """How many images both parts give."""
    return sum(len(part.read(range(len(part)), Draw(0, 0))[0]) for part in (data.train, data.val))


def cut(content):
    """Its head, which opens, without most of its pixels."""
    return content[: len(content) // 2]


@pytest.mark.parametrize("content", [b"", b"a text", cut(noise(0, 90, 90))])
def test_broken_files_fail_or_are_skipped_at_reading(root, content):
    (root / "cat" / "5.png").write_bytes(content)
    with pytest.raises(ImageReadError, match=r"^\S*cat/5\.png: .+"):
        all_of(root).read([4, 5], None)
    files = all_of(root, "skip")
    with pytest.warns(RuntimeWarning, match=r"left out, the next image takes its place: \S*cat/5\.png: ") as warned:
        images, labels = files.read([4, 5, 5], None)
    assert len(warned) == 1  # once a file
    wanted, _ = files.read([4, 6, 6], None)
    assert torch.equal(images, wanted)
    assert labels.tolist() == [0, 1, 1]
    with pytest.warns(RuntimeWarning):
        images, _ = all_of(root, "skip").read([5], Draw(0, 0))
    assert torch.equal(images[0], files.view.training(Image.open(root / "dog" / "0.png"), Draw(0, 0).generator(5)))


def test_evaluation_leaves_broken_files_out(root):
    for name in ("cat", "dog"):
        path = root / "val" / name
        path.mkdir(parents=True)
        (root / "train").mkdir(exist_ok=True)
        (root / name).rename(root / "train" / name)
        for i in range(2):
            (path / f"{i}.png").write_bytes(noise(40 + i))
    (root / "val" / "dog" / "0.png").write_bytes(cut(noise(0, 90, 90)))
    data = load_files(root, size=8, on_broken="skip")
    with pytest.warns(RuntimeWarning, match=r"left out: \S*dog/0\.png: "):
        images, labels = data.val.read([0, 2, 3], None)
    assert (len(images), labels.tolist()) == (2, [0, 1])
    with pytest.warns(RuntimeWarning):
        assert data.val.read([2], None)[0].shape == (0, 3, 8, 8)


def test_a_file_that_is_gone(root):
    (root / "dog" / "5.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no image file .*dog/5\.png"):
        all_of(root).read([11], None)
    files = all_of(root, "skip")
    assert len(files.fingerprint()) == 16
    with pytest.warns(RuntimeWarning, match="dog/5"):
        assert torch.equal(files.read([11], None)[0], files.read([0], None)[0])


def test_nothing_readable_comes_to_an_end(root):
    for path in root.rglob("*.png"):
        path.write_bytes(b"")
    with pytest.warns(RuntimeWarning), pytest.raises(ImageReadError, match=r"none of the 12 images can be"):
        all_of(root, "skip").read([3], None)


def test_fingerprints_change_with_names_sizes_and_labels(root, tmp_path_factory):
    files = all_of(root)
    first = files.fingerprint()
    moved = tmp_path_factory.mktemp("other") / "root"
    root.rename(moved)
    files = all_of(moved)
    assert files.fingerprint() == first
    os.utime(moved / "cat" / "0.png", (0, 0))
    assert files.fingerprint() == first
    labels = files.labels.clone()
    labels[0] = 1
    names = [*files.names]
    (moved / "cat" / "6.png").write_bytes((moved / "cat" / "0.png").read_bytes())
    renamed = ImageFiles(moved, ["cat/6.png", *names[1:]], files.labels, files.view)
    others = [renamed.fingerprint(), ImageFiles(moved, names, labels, files.view).fingerprint()]
    (moved / "dog" / "2.png").write_bytes((moved / "dog" / "2.png").read_bytes() + b"x")
    assert len({first, files.fingerprint(), *others}) == 4


def test_loading(root):
    data = load_files(root, size=8, held_out=0.34, seed=1, crop="resize", flip=False)
    assert (data.classes, data.channels, data.size, data.skipped) == (("cat", "dog"), 3, (8, 8), ())
    assert (data.mean, data.std) == (MEAN, STD)
    assert (len(data.train), len(data.val)) == (8, 4)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert data.val.labels.tolist() == [0, 0, 1, 1]
    assert sorted([*data.train.names, *data.val.names]) == sorted([*all_of(root).names])
    for part in (data.train, data.val):
        for name, label in zip(part.names, part.labels, strict=True):
            assert name.startswith(data.classes[label])
    assert torch.equal(data.train.read([0], Draw(0, 0))[0], data.train.read([0], None)[0])  # crop and flip arrive
    prints = [load_files(root, size=8, held_out=0.34, seed=seed).fingerprint() for seed in (1, 2)]
    assert prints[0] == data.fingerprint() != prints[1]


def test_given_validation_images_and_grey_ones(root):
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (root / "split" / part / name).mkdir(parents=True)
            (root / "split" / part / name / "0.png").write_bytes(flat(7))
    data = load_files(root / "split", size=8)
    assert (len(data.train), len(data.val), data.channels) == (2, 2, 1)
    assert len(data.mean) == len(data.std) == 1
    assert data.train.read([0, 1], None)[0].eq(7).all()
    assert load_files(root / "split", size=8, check="none").channels == 3


def bad_file(kind, path, monkeypatch):
    """Put something at ``path`` that no header can be read of."""
    if kind == "loop":
        return path.symlink_to(path)
    if kind == "huge":
        monkeypatch.setattr(images_module, "MAX_PIXELS", 1000)
    content = {"empty": b"", "text": b"renamed\n", "huge": saved(Image.new("1", (101, 10)))}[kind]
    return path.write_bytes(content)


@pytest.mark.parametrize("kind", ["empty", "text", "huge", "loop"])
def test_what_has_no_header_is_refused_or_counted_before_training(root, kind, monkeypatch):
    bad_file(kind, root / "cat" / "bad.png", monkeypatch)
    reason = {"huge": r"101x10 pixels, more than 1,000", "loop": "no image file"}.get(kind, "not an image that can")
    with pytest.raises(ValueError, match=rf"1 of 13 images cannot be read: .*{reason}.*; repair or remove them"):
        load_files(root, size=8)
    data = load_files(root, size=8, on_broken="skip")
    assert len(data.skipped) == 1
    assert "bad.png" in data.skipped[0]
    assert len(data.train) + len(data.val) == 12
    data = load_files(root, size=8, on_broken="skip", check="none")
    assert (len(data.train) + len(data.val), data.skipped) == (13, ())
    with pytest.warns(RuntimeWarning, match=r"bad\.png"):
        assert read_all(data) == 13
    with pytest.raises((ImageReadError, FileNotFoundError), match=r"bad\.png"):
        read_all(load_files(root, size=8, check="none"))


def test_a_class_of_broken_files_alone_is_refused(root):
    for path in (root / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="class 'cat' needs at least 2 images to hold one out, got 0"):
        load_files(root, size=8, on_broken="skip")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_as_it_is_seen(root, kind):
    suffix = "jpg" if kind in ("jpeg", "cmyk") else "png"
    (root / "dog" / f"kind.{suffix}").write_bytes(encoded(kind))
    data = load_files(root, size=16, crop_pct=1.0)
    assert data.channels == 3
    (part,) = (part for part in (data.train, data.val) if f"dog/kind.{suffix}" in list(part.names))
    image = part.read([list(part.names).index(f"dog/kind.{suffix}")], None)[0][0]
    got = image[:, 4::8, 4::8].permute(1, 2, 0).numpy().astype(int)  # the middle of each quarter
    assert np.abs(got - seen(kind)).max() <= (30 if kind == "palette" else 6)


def test_names_need_not_be_utf8(root):
    for raw, content in ((b"caf\xe9.png", noise(50)), (b"\xff.png", b"")):
        (root / "cat" / os.fsdecode(raw)).write_bytes(content)
    with pytest.raises(ValueError, match=r"udcff\.png: not an image") as raised:
        load_files(root, size=8)
    assert str(raised.value).encode()  # can be written anywhere
    data = load_files(root, size=8, on_broken="skip")
    assert data.skipped[0].encode()
    assert len(data.fingerprint()) == 33
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_all(data) == 13


@pytest.mark.parametrize(
    "options, message",
    [
        ({"size": 0}, "data.size must be at least 1, got data.size=0"),
        ({"held_out": 0}, r"data.held_out must lie in \(0, 1\], got data.held_out=0"),
        ({"on_broken": "skp"}, r"data.on_broken must be one of \['fail', 'skip'\], got 'skp'; did you mean 'skip'"),
        ({"check": "header"}, r"data.check must be one of \['headers', 'none'\], got 'header'; did you mean"),
        ({"crop": "middle"}, "crop must be one of"),
    ],
)
def test_bad_arguments(root, options, message):
    with pytest.raises(ValueError, match=message):
        load_files(root, **{"size": 8, **options})
