"""Figures of found boxes: pycocotools' on random ones, and what was worked out by hand on a few."""

import contextlib
import io
import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("faster_coco_eval")
from aaconv.data.coco import CocoSet, as_coco
from aaconv.detection.scores import FIGURES, OVERLAPS, RECALLS, Found, as_results, score

CAT, DOG = 0, 1
SQUARE = (10, 20, 110, 120)  # x1, y1, x2, y2


def coco_set(images, classes=("cat", "dog"), category_ids=(17, 18)):
    """``images`` holds a list of (class, x1, y1, x2, y2) for each, with True behind for a crowd."""
    rows = [row for image in images for row in image]
    corners = np.array([row[1:5] for row in rows], dtype=float).reshape(-1, 4)
    boxes = np.hstack([corners[:, :2], corners[:, 2:] - corners[:, :2]])
    return CocoSet(
        root=Path(),
        names=[f"{index:03}.jpg" for index in range(len(images))],
        image_ids=100 - 3 * np.arange(len(images)),
        sizes=np.full((len(images), 2), 640),
        classes=tuple(classes),
        category_ids=tuple(category_ids),
        starts=np.cumsum([0, *map(len, images)]),
        boxes=boxes,
        labels=np.array([row[0] for row in rows], dtype=int),
        areas=boxes[:, 2] * boxes[:, 3],
        crowd=np.array([len(row) > 5 for row in rows], dtype=bool),
        dropped={},
    )


def found(image, *rows, dtype=torch.float32):
    """Each row is a class, a score and x1, y1, x2, y2."""
    numbers = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return Found(image, numbers[:, 2:].to(dtype), numbers[:, 1].to(dtype), numbers[:, 0].long())


def random_case(seed, images=30, classes=5, truths=8, detections=60):
    """A fifth of the images holds nothing, a tenth of the boxes are crowds, scores repeat, ids are in no order."""
    random = np.random.default_rng(seed)

    def rows(count):
        size = np.exp(random.uniform(np.log(6), np.log(300), (count, 2)))
        start = random.uniform(0, 300, (count, 2))
        return [(*row,) for row in np.hstack([start, start + size])]

    held, given = [], []
    for image in range(images):
        boxes = [] if image % 5 == 0 else rows(random.integers(1, truths))
        kinds = random.integers(0, classes - 1, len(boxes))  # none of the last class
        crowds = [(True,) if random.random() < 0.1 else () for _ in boxes]
        held.append([(kind, *box, *crowd) for kind, box, crowd in zip(kinds, boxes, crowds, strict=True)])
        for kind, *box in [(random.integers(0, classes), *box) for box in rows(random.integers(0, detections))]:
            given.append((image, kind, round(random.random(), 2), *box))
        for kind, box in zip(kinds, boxes, strict=True):
            given.append((image, kind, round(random.random(), 1), *(np.array(box) + random.normal(0, 4, 4))))
    given = [row for row in given if row[5] > row[3] and row[6] > row[4]]
    truth = coco_set(held, [f"kind {index}" for index in range(classes)], random.permutation(90)[:classes].tolist())
    truth = replace(truth, areas=truth.areas * random.uniform(0.4, 1, len(truth.areas)))
    every = [found(image, *(row[1:] for row in given if row[0] == image)) for image in range(images)]
    return truth, [each for each in every if len(each.scores)]


def by_hand(truth, given):
    """Detections in COCO's format, without our own code."""
    return [
        {
            "image_id": int(truth.image_ids[each.image]),
            "category_id": truth.category_ids[label],
            "bbox": [x1, y1, x2 - x1, y2 - y1],
            "score": value,
        }
        for each in given
        for (x1, y1, x2, y2), value, label in zip(
            each.boxes.double().tolist(), each.scores.tolist(), each.labels.tolist(), strict=True
        )
    ]


def original(truth, results):
    """The twelve numbers of pycocotools, and what it prints."""
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()):
        sought = COCO()
        sought.dataset = as_coco(truth)
        sought.createIndex()
        evaluation = COCOeval(sought, sought.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        with contextlib.redirect_stdout(said):
            evaluation.summarize()
    return evaluation.stats.tolist(), said.getvalue()


def numbers(scores):
    return [-1 if getattr(scores, name) is None else getattr(scores, name) for name in FIGURES]


CASES = [
    *({"seed": seed} for seed in range(4)),
    {"seed": 4, "images": 6, "classes": 2, "detections": 600},  # more than 100 of an image and class
    {"seed": 5, "images": 40, "classes": 30, "truths": 3},  # classes without boxes
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_figures_are_those_of_pycocotools(case):
    truth, given = random_case(**case)
    wanted, printed = original(truth, by_hand(truth, given))
    got = score(truth, given)
    assert numbers(got) == pytest.approx(wanted, abs=1e-9)
    assert 0.01 < got.map < 1
    assert str(got) + "\n" == printed
    there = [each for each in got.classes.values() if each["truths"]]
    for name in ("map", "map50"):
        assert np.mean([each[name] for each in there]) == pytest.approx(getattr(got, name))
    assert got.classes[truth.classes[-1]] == {"map": None, "map50": None, "truths": 0}
    assert (got.images, got.detections) == (len(truth.names), sum(len(each.scores) for each in given))
    assert got.boxes == int((~truth.crowd).sum()) < len(truth.boxes)


def test_sizes_without_boxes_are_minus_one_in_print_only():
    truth, given = random_case(7)
    truth = replace(truth, areas=np.full(len(truth.areas), 50 * 50))
    wanted, printed = original(truth, by_hand(truth, given))
    got = score(truth, given)
    assert (got.map_small, got.map_large, got.mar_small, got.mar_large) == (None, None, None, None)
    assert numbers(got) == pytest.approx(wanted, abs=1e-9)
    assert str(got) + "\n" == printed


def test_results_give_the_same_figures_after_they_were_a_file():
    truth, given = random_case(8)
    results = as_results(truth, given)
    assert results == by_hand(truth, given)
    wanted, _ = original(truth, json.loads(json.dumps(results)))
    assert numbers(score(truth, given)) == pytest.approx(wanted, abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_floats_and_what_needs_gradients(dtype):
    truth = coco_set([[(DOG, *SQUARE)]])
    each = found(0, (DOG, 0.5, *SQUARE), dtype=dtype)
    each.boxes.requires_grad_(True)
    boxes = each.boxes.clone()
    assert score(truth, [each]).map == 1
    assert torch.equal(each.boxes, boxes)
    (result,) = as_results(truth, [each])
    assert result == {"image_id": 100, "category_id": 18, "bbox": [10, 20, 100, 100], "score": 0.5}


def test_one_perfect_box():
    got = score(coco_set([[(CAT, *SQUARE)]]), [found(0, (CAT, 0.3, *SQUARE))])
    whole = ("map", "map50", "map75", "map_large", "mar1", "mar10", "mar100", "mar_large")
    assert {name: getattr(got, name) for name in FIGURES} == {
        name: pytest.approx(1) if name in whole else None for name in FIGURES
    }
    assert got.classes == {
        "cat": {"map": pytest.approx(1), "map50": pytest.approx(1), "truths": 1},
        "dog": {"map": None, "map50": None, "truths": 0},
    }
    assert (got.images, got.boxes, got.detections) == (1, 1, 1)


def test_an_overlap_of_062_counts_at_three_thresholds_of_ten():
    got = score(coco_set([[(CAT, 0, 0, 100, 100)]]), [found(0, (CAT, 0.3, 0, 0, 100, 62))])
    assert (got.map, got.map50, got.map75) == pytest.approx((0.3, 1, 0))
    assert got.mar100 == pytest.approx(0.3)
    assert got.classes["cat"] == {"map": pytest.approx(0.3), "map50": pytest.approx(1), "truths": 1}
    assert got.precision.shape == (len(OVERLAPS), len(RECALLS))
    assert got.precision.mean(axis=1).tolist() == pytest.approx([1] * 3 + [0] * 7)


def test_a_wrong_box_above_the_right_one_halves_precision():
    got = score(
        coco_set([[(CAT, *SQUARE)], []]),
        [found(1, (CAT, 0.9, *SQUARE)), found(0, (CAT, 0.8, *SQUARE), (DOG, 1, *SQUARE))],
    )
    assert got.map == pytest.approx(0.5)
    assert got.mar1 == pytest.approx(1)


def test_half_of_the_boxes_found():
    """Precision is 1 at the 51 recalls up to 0.5; the image that is left out counts."""
    got = score(coco_set([[(CAT, *SQUARE)], [(CAT, *SQUARE)]]), [found(0, (CAT, 0.9, *SQUARE))])
    assert (got.map, got.mar100) == pytest.approx((51 / 101, 0.5))
    assert got.class_precision["cat"].tolist() == pytest.approx([1] * 51 + [0] * 50)


def test_classes_in_any_order_of_their_ids():
    truth = coco_set([[(CAT, *SQUARE), (DOG, 200, 200, 300, 300)]], ("cat", "dog", "bird"), (40, 7, 20))
    got = score(truth, [found(0, (CAT, 0.9, *SQUARE), (DOG, 0.9, *SQUARE), (2, 0.9, *SQUARE))])
    assert {name: each["map"] for name, each in got.classes.items()} == {
        "cat": pytest.approx(1),
        "dog": 0,
        "bird": None,
    }
    assert got.map == pytest.approx(0.5)
    assert set(got.class_precision) == {"cat", "dog"}
    assert (got.class_precision["cat"].mean(), got.class_precision["dog"].mean()) == pytest.approx((1, 0))
    assert got.precision.mean() == pytest.approx(got.map)


def test_crowds_are_neither_missed_nor_wrong():
    truth = coco_set([[(CAT, *SQUARE), (CAT, 200, 200, 400, 400, True)], [(DOG, *SQUARE, True)]])
    got = score(truth, [found(0, (CAT, 0.9, 210, 210, 250, 250), (CAT, 0.5, *SQUARE))])
    assert got.map == pytest.approx(1)
    assert got.classes["cat"]["truths"] == got.boxes == 1
    assert got.classes["dog"] == {"map": None, "map50": None, "truths": 0}


@pytest.mark.parametrize("wrong, wanted", [(99, 0.01), (100, 0)])
def test_a_hundred_of_an_image_and_class_count(wrong, wanted):
    crowd_of_wrong = [(CAT, 0.9, 300, 300, 310, 310)] * wrong
    truth = coco_set([[(CAT, *SQUARE), (DOG, *SQUARE)]])
    got = score(truth, [found(0, (CAT, 0.1, *SQUARE), *crowd_of_wrong, (DOG, 0.1, *SQUARE))])
    assert got.classes["cat"]["map"] == pytest.approx(wanted)
    assert got.classes["dog"]["map"] == pytest.approx(1)
    assert got.detections == wrong + 2


def test_sizes_are_those_of_the_areas():
    truth = replace(coco_set([[(CAT, *SQUARE)]]), areas=np.array([500.0]))  # the box itself is large
    got = score(truth, [found(0, (CAT, 0.9, *SQUARE))])
    assert (got.map_small, got.map_medium, got.map_large) == (pytest.approx(1), None, None)


@pytest.mark.parametrize("given", [[], [found(0), found(1)]])
def test_nothing_found_is_zero(given):
    got = score(coco_set([[(CAT, *SQUARE)], []]), given)
    assert {name: getattr(got, name) for name in FIGURES} == {
        name: None if name.endswith(("small", "medium")) else 0 for name in FIGURES
    }
    assert got.detections == 0
    assert not got.precision.any()


def test_nothing_is_printed(capfd, caplog):
    caplog.set_level(0)
    score(*random_case(9, images=2))
    assert (capfd.readouterr(), caplog.text) == (("", ""), "")


def test_written_as_json(tmp_path):
    got = score(*random_case(10))
    got = replace(got, map_small=None)
    got.write(tmp_path / "scores.json")
    text = (tmp_path / "scores.json").read_text()
    assert text.splitlines()[1] == f'  "map": {got.map},'
    report = json.loads(text)
    assert list(report) == [each.name for each in fields(got)]
    assert {name: report[name] for name in FIGURES} == {name: getattr(got, name) for name in FIGURES}
    assert report["classes"] == got.classes
    assert report["classes"]["kind 4"] == {"map": None, "map50": None, "truths": 0}
    np.testing.assert_allclose(report["precision"], got.precision, atol=6e-6)
    assert set(report["class_precision"]) == set(got.class_precision)
    for name, curve in got.class_precision.items():
        np.testing.assert_allclose(report["class_precision"][name], curve, atol=6e-6)


def test_figures_and_fields_are_in_step():
    got = score(coco_set([[(CAT, *SQUARE)]]), [])
    assert list(FIGURES) == [each.name for each in fields(got)][:12]
    assert "precision" not in repr(got)


NAN, INF = float("nan"), float("inf")
BAD = [
    ([found(2)], ValueError, "image must be below 2, the number of images, got image=2"),
    ([found(-1)], ValueError, "image must be at least 0, got image=-1"),
    ([found(0.0)], TypeError, "image must be an int, got float 0.0"),
    ([found(1), found(0), found(1)], ValueError, r"an image once, got a second list of image 1 \(001.jpg\)"),
    ([found(1, (CAT, NAN, *SQUARE))], ValueError, r"scores of image 1 \(001.jpg\) must be finite, got nan"),
    ([found(1, (CAT, 1, 1, 1, NAN, 2))], ValueError, r"boxes of image 1 \(001.jpg\) must be finite, got nan"),
    ([found(0, (CAT, 1, 1, -INF, 2, 2))], ValueError, r"boxes of image 0 \(000.jpg\) must be finite, got -inf"),
    (
        [found(0, (CAT, 1, *SQUARE), (CAT, 1, 50, 60, 10, 70))],  # x, y, width, height
        ValueError,
        r"boxes of image 0 \(000.jpg\) must be x1 <= x2, y1 <= y2, got \[50.0, 60.0, 10.0, 70.0\]",
    ),
    ([found(0, (CAT, 1, 5, 9, 6, 8))], ValueError, "must be x1 <= x2, y1 <= y2"),
    ([found(0, (2, 1, *SQUARE))], ValueError, r"labels of image 0 \(000.jpg\) must be at least 0 and below 2, got 2"),
    ([found(0, (-1, 1, *SQUARE))], ValueError, "must be at least 0 and below 2, got -1"),
    (
        [Found(0, torch.ones(2, 5), torch.ones(2), torch.ones(2).long())],
        ValueError,
        r"boxes of image 0 \(000.jpg\) must have shape \[k, 4\], got \[2, 5\]",
    ),
    (
        [Found(0, torch.ones(2, 4), torch.ones(3), torch.ones(2).long())],
        ValueError,
        r"scores of image 0 \(000.jpg\) must have shape \[2\], got \[3\]",
    ),
    (
        [Found(0, torch.ones(2, 4), torch.ones(2), torch.ones(1).long())],
        ValueError,
        r"labels of image 0 \(000.jpg\) must be 2 ints, one a box, got \[1\] of torch.int64",
    ),
    (
        [Found(0, torch.ones(2, 4), torch.ones(2), torch.ones(2))],
        ValueError,
        r"must be 2 ints, one a box, got \[2\] of torch.float32",
    ),
    ([Found(0, [], torch.ones(0), torch.ones(0).long())], TypeError, "boxes of image 0 .* must be a torch.Tensor"),
    (
        [Found(0, torch.ones(0, 4), torch.ones(0), [])],
        TypeError,
        "labels of image 0 .* must be a torch.Tensor, got list",
    ),
]


@pytest.mark.parametrize("given, error, said", BAD, ids=[row[2][:40] for row in BAD])
@pytest.mark.parametrize("work", [score, as_results])
def test_what_cannot_be_scored(work, given, error, said):
    with pytest.raises(error, match=said):
        work(coco_set([[(CAT, *SQUARE)], []]), given)


@pytest.mark.parametrize(
    "images, said",
    [
        ([], "got 0 images and nothing but 0 crowds"),
        ([[], [(CAT, *SQUARE, True)]], "got 2 images and nothing but 1 cr"),
    ],
)
def test_a_set_with_nothing_to_find(images, said):
    with pytest.raises(ValueError, match=f"truth must hold a box to be found, {said}"):
        score(coco_set(images), [])
