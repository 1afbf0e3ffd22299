"""Which files are found under a folder of classes, and what is said of those that cannot be opened."""

import os
from pathlib import Path

import pytest
import torch

from aaconv.data.listing import expect_all_classes, hold_out_files, list_classes, list_parts, refuse, survey
from tests.data.pictures import flat, noise


def lay(root, *names):
    """A grey image under each name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(flat(9))
    return root


def under(root, files):
    """The names of each class, as they lie under ``root``."""
    return {name: [path.relative_to(root).as_posix() for path in paths] for name, paths in files.items()}


def test_classes_and_files_are_sorted_and_others_are_passed_over(tmp_path):
    lay(tmp_path, "b/2.PNG", "b/10.jpeg", "b/deep/er/1.JPG", "a/x.png", ".hidden/x.png")
    for name in ("a/notes.txt", "a/x.png.part", "a/Thumbs.db", "top.png"):
        (tmp_path / name).write_bytes(b"")
    files = list_classes(tmp_path)
    assert under(tmp_path, files) == {"a": ["a/x.png"], "b": ["b/10.jpeg", "b/2.PNG", "b/deep/er/1.JPG"]}
    assert list(files) == ["a", "b"]  # labels are places in this order


def test_links(tmp_path):
    root = lay(tmp_path / "root", "a/x.png", "b/y.png")
    lay(tmp_path / "far", "z.png")
    (root / "c").symlink_to(tmp_path / "far")  # a class may lie elsewhere
    (root / "a" / "again").symlink_to(root)
    (root / "round").symlink_to(root / "round")
    (root / "b" / "w.png").symlink_to(tmp_path / "far" / "z.png")
    assert under(root, list_classes(root)) == {"a": ["a/x.png"], "b": ["b/w.png", "b/y.png"], "c": ["c/z.png"]}


def test_given_parts(tmp_path):
    lay(tmp_path, *(f"{part}/{name}/{i}.png" for part in ("train", "val") for name in "ab" for i in range(3)))
    parts = list_parts(tmp_path)
    assert parts.classes == ("a", "b")
    assert parts.divided(0.5, 0) == (parts.train, parts.val)
    assert len(parts.paths) == len(set(parts.paths)) == 12
    gone = {tmp_path / "val" / "b" / "1.png": "why", tmp_path / "train" / "a" / "0.png": "why"}
    rest = parts.without(gone)
    assert sorted(rest.paths) == sorted(set(parts.paths) - set(gone))
    assert [len(files) for files in (rest.train["a"], rest.train["b"], rest.val["a"], rest.val["b"])] == [2, 3, 3, 2]
    lay(tmp_path, "val/c/0.png")
    with pytest.raises(ValueError, match=r"val must hold the classes of training \['a', 'b'\], got \['a', 'b', 'c'\]"):
        list_parts(tmp_path)


def test_train_without_val_is_a_class(tmp_path):
    lay(tmp_path, "train/1.png", "train/2.png", "other/1.png", "other/2.png")
    parts = list_parts(tmp_path)
    assert parts.classes == ("other", "train")
    train, val = parts.divided(0.5, 0)
    assert [len(train[name]) for name in parts.classes] == [len(val[name]) for name in parts.classes] == [1, 1]


@pytest.mark.parametrize("share, held", [(0.25, (5, 1)), (0.001, (1, 1)), (1.0, (19, 1))])
def test_held_out_is_a_share_of_each_class(share, held):
    files = {"a": [Path(f"a/{i}") for i in range(20)], "b": [Path("b/0"), Path("b/1")]}
    train, val = hold_out_files(files, share, seed=4)
    assert tuple(len(paths) for paths in val.values()) == held
    for name, paths in files.items():
        assert sorted(train[name] + val[name]) == sorted(paths)
    assert hold_out_files(files, share, seed=4) == (train, val)
    assert hold_out_files(files, share, seed=5)[1] != val


def test_survey_tells_grey_from_colour_and_says_what_is_broken(tmp_path):
    lay(tmp_path, "1.png", "2.png")
    grey = [tmp_path / "1.png", tmp_path / "2.png"]
    assert survey(grey) == (1, {})
    colour, empty, gone = (tmp_path / name for name in ("3.png", "4.png", "5.png"))
    colour.write_bytes(noise(0))
    empty.write_bytes(b"")
    channels, broken = survey([*grey, empty, gone, colour])
    assert channels == 3
    assert broken == {empty: f"{empty}: not an image that can be read (PNG or JPEG)", gone: f"no image file {gone}"}
    assert survey([empty, *grey])[0] == 1


@pytest.mark.parametrize("count, more", [(1, ""), (3, ""), (4, " and 1 more")])
def test_refusal_counts_all_and_names_three(count, more):
    refuse({}, 7)
    broken = {Path(str(i)): f"reason{i}" for i in range(count)}
    shown = "; ".join(f"reason{i}" for i in range(min(3, count)))
    with pytest.raises(ValueError, match=rf"^{count} of 7 images cannot be read: {shown}{more}; repair or remove them"):
        refuse(broken, 7)


def test_names_need_not_be_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    lay(tmp_path, "a/x.png", f"b/{name}")
    (tmp_path / "b" / os.fsdecode(b"\xff.png")).write_bytes(b"text")
    files = list_classes(tmp_path)
    assert tmp_path / "b" / name in files["b"]
    _, broken = survey(files["a"] + files["b"])
    with pytest.raises(ValueError, match=r"udcff\.png: not an image") as raised:
        refuse(broken, 3)
    assert str(raised.value).encode()  # can be written anywhere


def test_refusals(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*/none"):
        list_parts(tmp_path / "none")
    lay(tmp_path, "a/x.png")
    with pytest.raises(FileNotFoundError, match=r"x\.png is a file, not a folder"):
        list_parts(tmp_path / "a" / "x.png")
    with pytest.raises(ValueError, match=r"for each of at least two classes, got \['a'\]"):
        list_parts(tmp_path)
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"class 'b' has no .png, .jpg, .jpeg image in .*/b$"):
        list_parts(tmp_path)
    labels = torch.tensor([1, 0])
    expect_all_classes(labels, labels, "ab", "here")
    for parts, name in (((labels, labels[:1]), "validation"), ((labels[:1], labels), "training")):
        with pytest.raises(ValueError, match=rf"class 'a' has no readable {name} image in here; add some or remove"):
            expect_all_classes(*parts, "ab", "here")
