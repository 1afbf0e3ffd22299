"""COCO files: boxes arrive as written, training's are usable, and what is wrong is counted or refused in one line."""

import json
import pickle

import numpy as np
import pytest
import torch

from aaconv.data.coco import as_coco, clipped, describe_dropped, load_coco

CATEGORIES = [{"id": 9, "name": "dog"}, {"id": 3, "name": "cat"}]
NAN = float("nan")


def image(number, name, height=40, width=60):
    return {"id": number, "file_name": name, "height": height, "width": width}


def box(image_id, numbers, category_id=3, **others):
    return {"image_id": image_id, "bbox": numbers, "category_id": category_id, "segmentation": [[1.5, 2.5]], **others}


def good():
    """Three images, the second without boxes, in a set of two categories."""
    return {
        "images": [image(70, "b.png"), image(-5, "a/c.png", 50, 30), image(8, "d.png")],
        "annotations": [
            box(8, [1, 2, 3.5, 4.25], 9, area=7.5),
            box(70, [50, 30, 20, 20]),
            box(8, [-5, -5, 15, 25], iscrowd=0),
            box(8, [0, 0, 60, 40], iscrowd=1, area=100),
        ],
        "categories": CATEGORIES,
    }


@pytest.fixture
def root(tmp_path):
    (tmp_path / "images" / "a").mkdir(parents=True)
    for name in ("b.png", "a/c.png", "d.png"):
        (tmp_path / "images" / name).write_bytes(b"not opened")
    return tmp_path


def load(root, content, **options):
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    (root / "set.json").write_bytes(raw)
    return load_coco(root / "set.json", root / "images", **options)


def test_boxes_arrive_as_written(root):
    data = load(root, good())
    assert len(data) == 3
    assert list(data.names) == ["b.png", "a/c.png", "d.png"]
    assert data.image_ids.tolist() == [70, -5, 8]
    assert data.sizes.tolist() == [[40, 60], [50, 30], [40, 60]]
    assert (data.classes, data.category_ids) == (("cat", "dog"), (3, 9))
    assert data.starts.tolist() == [0, 1, 1, 4]
    assert data.boxes.tolist() == [[50, 30, 20, 20], [1, 2, 3.5, 4.25], [-5, -5, 15, 25], [0, 0, 60, 40]]
    assert data.labels.tolist() == [0, 1, 0, 0]
    assert data.areas.tolist() == [400, 7.5, 375, 100]
    assert data.crowd.tolist() == [False, False, False, True]
    assert data.dropped == {"of crowds, in training": 1}


def test_targets_end_at_the_edges_and_are_no_crowds(root):
    data = load(root, good())
    wanted = [([[50, 30, 60, 40]], [0]), ([], []), ([[1, 2, 4.5, 6.25], [0, 0, 10, 20]], [1, 0])]
    for i, (boxes, labels) in enumerate(wanted):
        got, classes = data.target(i)
        assert (got.dtype, classes.dtype, got.shape) == (torch.float32, torch.int64, (len(labels), 4))
        assert got.tolist() == boxes
        assert classes.tolist() == labels


def test_clipping_against_plain_numbers():
    random = np.random.default_rng(0)
    boxes = random.uniform(-50, 150, (200, 4)).round(2)
    sizes = random.integers(1, 120, (200, 2))
    for (x, y, w, h), (height, width), got in zip(boxes, sizes, clipped(boxes, sizes), strict=True):
        wanted = [min(max(a, 0), b) for a, b in ((x, width), (y, height), (x + w, width), (y + h, height))]
        assert got.tolist() == pytest.approx(wanted, abs=1e-4)
        assert clipped(np.array([[x, y, w, h]]), np.array([height, width]))[0].tolist() == got.tolist()


DROPPED = [
    (box(5, [1, 1, 5, 5]), "of unknown images"),
    (box(None, [1, 1, 5, 5]), "of unknown images"),
    (box([8], [1, 1, 5, 5]), "of unknown images"),
    (box(NAN, [1, 1, 5, 5]), "of unknown images"),
    ("text", "of unknown images"),
    (box(8, [1, 1, 5, 5], 4), "of unknown categories"),
    (box(8, [1, 1, 5, 5], {}), "of unknown categories"),
    (box(8, [NAN, 1, 5, 5]), "not four finite numbers"),
    (box(8, [1, 1, float("inf"), 5]), "not four finite numbers"),
    (box(8, [1, 1, 10**400, 5]), "not four finite numbers"),
    (box(8, [1, 1, 1e300, 5]), "not four finite numbers"),
    (box(8, [1, 1, "5", 5]), "not four finite numbers"),
    (box(8, [1, 1, 5]), "not four finite numbers"),
    (box(8, None), "not four finite numbers"),
    (box(8, [1, 1, 0, 5]), "of no width or height"),
    (box(8, [1, 1, 5, -5]), "of no width or height"),
    (box(8, [60, 1, 5, 5]), "outside their image"),
    (box(8, [1, -9, 5, 5]), "outside their image"),
    (box(8, [1, 1, 5, 0.5]), "smaller than a pixel"),
    (box(8, [59.5, 1, 5, 5]), "smaller than a pixel"),
    (box(8, [90, 1, 5, 5], iscrowd=1), "of crowds, in training"),
]


@pytest.mark.parametrize("entry, reason", DROPPED, ids=lambda part: json.dumps(part)[:60])
def test_what_training_cannot_use_is_left_out_and_counted(root, entry, reason):
    content = {**good(), "annotations": [entry, box(8, [2, 3, 4, 5]), entry]}
    data = load(root, content)
    assert data.dropped == {reason: 2}
    assert data.target(2)[0].tolist() == [[2, 3, 6, 8]]
    stay = reason in ("outside their image", "smaller than a pixel", "of crowds, in training")
    assert len(data.boxes) == (3 if stay else 1)  # evaluation has what can be compared


def test_description(root):
    assert describe_dropped(load(root, {**good(), "annotations": [box(8, [2, 3, 4, 5])]}).dropped) == ""
    content = {**good(), "annotations": [*(entry for entry, _ in DROPPED), box(8, [2, 3, 4, 5])]}
    content["images"].append(image(6, "gone.png"))
    assert describe_dropped(load(root, content, on_missing="skip").dropped) == (
        "left out: 5 boxes of unknown images, 2 boxes of unknown categories, 7 boxes not four finite numbers, "
        "2 boxes of no width or height, 1 image missing from the folder, 1 box of crowds, in training, "
        "2 boxes outside their image, 2 boxes smaller than a pixel"
    )


@pytest.mark.parametrize("area", [NAN, -1, "7", None, 10**400])
def test_areas_that_are_none_are_those_of_the_boxes(root, area):
    data = load(root, {**good(), "annotations": [box(8, [1, 1, 5, 6], area=area)]})
    assert data.areas.tolist() == [30]


def test_missing_images(root):
    content = good()
    content["images"] += [image(6, "a/d.png"), image(4, "no/folder.png"), image(2, "a")]
    content["annotations"] += [box(4, [1, 1, 5, 5]), box(6, [1, 1, 5, 5])]
    with pytest.raises(
        FileNotFoundError, match=r"3 of the 6 images of \S+ are not in \S+, the first is 'a/d.png'; leave"
    ):
        load(root, content)
    data = load(root, content, on_missing="skip")
    assert data.dropped == {"of missing images": 2, "missing from the folder": 3, "of crowds, in training": 1}
    assert as_coco(data) == as_coco(load(root, good()))
    (root / "images" / "a" / "d.png").symlink_to(root / "nowhere")
    (root / "images" / "a" / "e.png").symlink_to(root / "images" / "d.png")
    content["images"].append(image(1, "a/e.png"))
    assert len(load(root, content, on_missing="skip")) == 4
    for on_missing in ("fail", "skip"):
        with pytest.raises(FileNotFoundError, match=r"1 of the 1 images .* name the folder that they are in"):
            load(root, {**content, "images": [image(6, "x.png")]}, on_missing=on_missing)


@pytest.mark.parametrize("name", ["a/../b.png", "./b.png", "a//../b.png", "a\\..\\b.png"])
def test_names_that_stay_inside(root, name):
    content = good()
    content["images"][0]["file_name"] = name
    assert load(root, content).names[0] == "b.png"


def test_categories_are_those_of_training(root):
    train = load(root, good())
    content = {**good(), "annotations": [box(8, [1, 1, 5, 5], 9)], "categories": CATEGORIES[:1]}
    assert load(root, content).labels.tolist() == [0]
    data = load(root, content, like=train)
    assert data.labels.tolist() == [1]
    assert (data.classes, data.category_ids) == (train.classes, train.category_ids)
    for number, name in ((9, "cat"), (4, "cat"), (9, "owl")):
        content["categories"] = [{"id": number, "name": name}]
        with pytest.raises(ValueError, match=rf"category '{name}' with id {number} is none of training's; .*'cat'"):
            load(root, content, like=train)


def changed(part, **values):
    """The good file with the first entry of a part changed."""
    content = good()
    content[part] = [{**content[part][0], **values}, *content[part][1:]]
    return content


BAD = {
    "folder": (None, "is a folder"),
    "empty": (b"", "not JSON in UTF-8"),
    "text": (b"a text", "not JSON in UTF-8"),
    "cut": (json.dumps(good()).encode()[:200], "not JSON in UTF-8"),
    "latin": (b'{"images": "\xe9"}', "not JSON in UTF-8"),
    "deep": (b"[" * 200_000, "nested too deeply"),
    "digits": (b'{"images": [' + b"1" * 10_000 + b"]}", "not JSON in UTF-8"),
    "list": ([good()], r"must be an object with images, .* got a list of 1"),
    "no images": ({**good(), "images": []}, r"has no images: they must be a list of objects, got a list of 0"),
    "odd images": ({**good(), "images": {"a": 1}}, "has no images: .* got a dict of 1"),
    "no categories": ({k: v for k, v in good().items() if k != "categories"}, "has no categories: .* got None"),
    "no annotations": ({k: v for k, v in good().items() if k != "annotations"}, "has no boxes: .* got None"),
    "no boxes": ({**good(), "annotations": []}, "has no boxes: .* got a list of 0"),
    "no good boxes": ({**good(), "annotations": [box(8, [1])]}, "no boxes that can be used, of 1: {'not four"),
    "image": ({**good(), "images": [7]}, r"images\[0\] must be an object, got 7"),
    "image id": (changed("images", id=NAN), r"images\[0\].id must be a whole number .* got nan"),
    "image id text": (changed("images", id="1" * 200), r"images\[0\].id must be a whole number .* got '1+\.\.\.$"),
    "image id bool": (changed("images", id=True), r"images\[0\].id must be a whole number"),
    "image id huge": (changed("images", id=2**70), r"images\[0\].id must be a whole number .* got an int above"),
    "image id twice": (changed("images", id=8), r"images\[2\].id 8 comes twice"),
    "height": (changed("images", height=0), r"images\[0\].height must be a positive whole number .* got 0"),
    "width": (changed("images", width=6.5), r"images\[0\].width must be a positive whole number .* got 6.5"),
    "no width": (changed("images", width=None), r"images\[0\].width must be a positive whole number .* got None"),
    "no name": (changed("images", file_name=""), r"images\[0\].file_name must be a text, got ''"),
    "odd name": (changed("images", file_name=["b"]), r"images\[0\].file_name must be a text, got a list of 1"),
    "surrogate": (changed("images", file_name="\ud800"), r"images\[0\].file_name is no text that can name a file"),
    "category id": (changed("categories", id=1.5), r"categories\[0\].id must be a whole number .* got 1.5"),
    "category id twice": (changed("categories", id=3), r"categories\[1\].id 3 is the id of 'dog' too"),
    "category name": (changed("categories", name=4), r"categories\[0\].name must be a text, got 4"),
    "category name twice": (changed("categories", name="cat"), r"categories\[1\].name 'cat' comes twice"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_files_are_refused_in_a_line(root, kind):
    content, message = BAD[kind]
    if content is None:
        (root / "set.json").mkdir()
    with pytest.raises(ValueError, match=rf"^\S*/set\.json.*{message}") as raised:
        load_coco(root / "set.json", root / "images") if content is None else load(root, content)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../b.png", "a/../../b.png", "a\\..\\..\\b.png", "C:\\b.png", "C:b.png", "\\\\host\\b", "a/.."],
)
def test_names_that_lead_out_are_refused(root, name):
    with pytest.raises(ValueError, match=r"images\[0\].file_name must name a file inside the folder of images, got"):
        load(root, changed("images", file_name=name))


def test_nothing_there(root):
    with pytest.raises(FileNotFoundError, match=r"no annotation file \S+other.json"):
        load_coco(root / "other.json", root / "images")
    load(root, good())
    with pytest.raises(FileNotFoundError, match=r"no folder of images \S+other"):
        load_coco(root / "set.json", root / "other")
    with pytest.raises(FileNotFoundError, match=r"set.json is a file, not a folder"):
        load_coco(root / "set.json", root / "set.json")
    with pytest.raises(
        ValueError, match=r"on_missing must be one of \['fail', 'skip'\], got 'skp'; did you mean 'skip'"
    ):
        load(root, good(), on_missing="skp")


def test_a_byte_order_mark_is_no_fault(root):
    assert len(load(root, b"\xef\xbb\xbf" + json.dumps(good()).encode())) == 3


def test_clean_ground_truth(root):
    dirty = {**good(), "annotations": [box(8, [NAN] * 4), *good()["annotations"], box(5, [1, 2, 3, 4])]}
    data = load(root, dirty)
    clean = as_coco(data)
    assert clean["annotations"][0] == {
        "id": 1, "image_id": 70, "category_id": 3, "bbox": [50, 30, 20, 20], "area": 400, "iscrowd": 0,
    }  # fmt: skip
    assert [entry["id"] for entry in clean["annotations"]] == [1, 2, 3, 4]
    assert clean["categories"] == [{"id": 3, "name": "cat"}, {"id": 9, "name": "dog"}]
    again = load(root, clean)
    assert as_coco(again) == clean
    assert again.fingerprint() == data.fingerprint()


def test_workers_get_the_same(root):
    data = load(root, good())
    copy = pickle.loads(pickle.dumps(data))
    assert copy.fingerprint() == data.fingerprint()
    assert torch.equal(copy.target(2)[0], data.target(2)[0])


def test_fingerprints_change_with_what_is_seen(root):
    first = load(root, good()).fingerprint()
    assert load(root, good()).fingerprint() == first
    others = [
        changed("images", width=61),
        changed("images", file_name="d.png"),
        changed("annotations", bbox=[1, 2, 3.5, 4.5]),
        changed("annotations", category_id=3),
        changed("annotations", image_id=70),
        changed("annotations", iscrowd=1),
        changed("categories", name="wolf"),
    ]
    prints = {load(root, content).fingerprint() for content in others}
    (root / "images" / "b.png").write_bytes(b"other")
    prints.add(load(root, good()).fingerprint())
    assert len(prints | {first}) == len(others) + 2
