"""The steps of detection: losses are the detector's own, and what evaluation says is what COCO's rules give."""

import math

import numpy as np
import pytest
import torch

pytest.importorskip("faster_coco_eval")
from aaconv.data.box_views import BoxImages, BoxView
from aaconv.data.coco import load_coco
from aaconv.data.splits import Draw
from aaconv.detection.loaders import BoxBatch, EpochBoxes, whole_loader
from aaconv.detection.scores import Found, score
from aaconv.detection.task import FIGURES, BoxMeter, DetectionTask, LossMeter, as_floats, found_in
from aaconv.training.checkpoint import load_checkpoint
from aaconv.training.loaders import Share
from tests.detection.box_files import lay_part, recipe_of, save_detector
from tests.detection.test_scores import coco_set, found, random_case


@pytest.fixture
def images(tmp_path):
    return BoxImages(load_coco(*lay_part(tmp_path, "part", empty=(1,))), BoxView(64))


@pytest.fixture
def task(images, tmp_path):
    model, _ = load_checkpoint(save_detector(tmp_path / "model.safetensors"), detector=True)
    return DetectionTask(model, recipe_of("--optimizer.name=sgd", "--optimizer.lr=0.5"), 4, images.coco)


def losses(count, seed=0):
    parts = torch.rand(2, generator=torch.Generator().manual_seed(seed))
    return {"classification": parts[0], "bbox_regression": parts[1]}, count


def test_losses_are_the_detectors_own(task, images):
    """Of the same floats, by the model itself; an image without boxes among them."""
    model = task.model.train()
    batches = [EpochBoxes(images, Draw(0, 0)).__getitems__(indices) for indices in ([0, 1, 2, 5], [3, 4])]
    expected = []
    for index, batch in enumerate(batches):
        floats = [torch.from_numpy(np.float32(image.numpy()) / np.float32(255)) for image in batch.images]
        assert (min(f.min() for f in floats) >= 0, max(f.max() for f in floats) <= 1) == (True, True)
        theirs = model(floats, [dict(target) for target in batch.targets])
        loss = task.training_step(batch, index)
        assert loss.requires_grad
        assert loss.item() == pytest.approx((theirs["classification"] + theirs["bbox_regression"]).item(), rel=1e-6)
        expected.append(theirs)
    means = task.meter.means("train_")
    assert list(means) == ["train_loss", "train_class_loss", "train_box_loss"]
    for name, key in (("class_loss", "classification"), ("box_loss", "bbox_regression")):
        mean = (4 * expected[0][key] + 2 * expected[1][key]) / 6
        assert means[f"train_{name}"] == pytest.approx(mean.item(), rel=1e-5)
    assert means["train_loss"] == pytest.approx(means["train_class_loss"] + means["train_box_loss"], rel=1e-6)
    assert means["train_box_loss"] > 0


def test_a_batch_of_images_without_boxes_has_a_loss(task, images):
    batch = EpochBoxes(images, Draw(0, 0)).__getitems__([1, 1])
    task.model.train()
    loss = task.training_step(batch, 0)
    loss.backward()
    assert loss.item() > 0
    assert task.meter.means()["box_loss"] == 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in task.model.parameters())


def test_loss_meter_weighs_batches_by_their_images():
    meter = LossMeter()
    rows = [losses(count, seed) for seed, count in enumerate((8, 8, 1))]
    for row in rows:
        meter.add(*row)
    means = meter.means()
    for name, key in (("class_loss", "classification"), ("box_loss", "bbox_regression")):
        assert means[name] == pytest.approx(sum(parts[key].item() * count for parts, count in rows) / 17, rel=1e-6)
    assert means["loss"] == pytest.approx(means["class_loss"] + means["box_loss"], rel=1e-9)
    assert meter.totals.dtype == torch.float64
    meter.reset()
    assert all(math.isnan(value) for value in meter.means().values())


def test_loss_meter_keeps_no_graph():
    meter = LossMeter()
    meter.add({"classification": torch.ones((), requires_grad=True), "bbox_regression": torch.ones(())}, 3)
    assert not meter.totals.requires_grad


def test_losses_of_devices_are_summed(monkeypatch):
    meter = LossMeter()
    meter.add({"classification": torch.tensor(1.0), "bbox_regression": torch.tensor(0.5)}, 4)
    others = torch.tensor([36.0, 24.0, 12.0, 12.0], dtype=torch.float64)  # twelve images
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda totals: totals.add_(others))
    assert meter.means() == {"loss": 42 / 16, "class_loss": 28 / 16, "box_loss": 14 / 16}


def given(case):
    """What the detector would give for each image that something was found in."""
    return {one.image: {"boxes": one.boxes, "scores": one.scores, "labels": one.labels} for one in case}


@pytest.mark.parametrize("sizes", [[30], [7] * 5, [1] * 30], ids=len)
def test_box_meter_gives_the_figures_of_all_images_at_once(sizes):
    truth, case = random_case(0)
    held, order = given(case), torch.randperm(30, generator=torch.Generator().manual_seed(1)).tolist()
    meter = BoxMeter(truth)
    for size in sizes:
        indices, order = order[:size], order[size:]
        indices = [index for index in indices if index in held]
        meter.add(indices, [held[index] for index in indices])
    expected = score(truth, case)
    means = meter.means("val_")
    assert means == {f"val_{name}": getattr(expected, name) for name in FIGURES}
    assert 0 < means["val_map"] < means["val_map50"] < 1
    meter.reset()
    assert meter.means()["map"] == 0  # nothing was found
    assert meter.found == []


def test_box_meter_takes_a_detection_for_each_image_or_none():
    meter = BoxMeter(coco_set([[(0, 1, 2, 3, 4)]]))
    with pytest.raises(ValueError, match="zip"):
        meter.add([0], [])


def of_two(monkeypatch, rank, gather, broadcast):
    """Let the code believe that it runs in the process ``rank`` of two."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
    monkeypatch.setattr(torch.distributed, "gather_object", gather)
    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)


def test_boxes_of_devices_are_put_together_and_scored_once(monkeypatch):
    """The second process sends its boxes and hears the figures from the first."""
    truth, case = random_case(1)
    shares, meters, sent = (case[::2], case[1::2]), [BoxMeter(truth), BoxMeter(truth)], []
    for meter, share in zip(meters, shares, strict=True):
        meter.add([one.image for one in share], [given(share)[one.image] for one in share])
    alone = meters[0].means()

    def gather(held, parts, dst):
        assert dst == 0
        sent.append(held)
        if parts is not None:
            assert len(parts) == 2
            parts[:] = [held, meters[1].found]

    with monkeypatch.context() as patch:
        of_two(patch, 0, gather, lambda figures, src: sent.append((src, list(figures))))
        together = meters[0].means()
    expected = score(truth, case)
    assert together == {name: getattr(expected, name) for name in FIGURES}
    assert together["map"] > alone["map"]
    assert sent == [meters[0].found, (0, list(together.values()))]
    monkeypatch.setattr("aaconv.detection.task.score", None)  # would fail
    of_two(monkeypatch, 1, gather, lambda figures, src: figures.__setitem__(slice(None), together.values()))
    assert meters[1].means("val_") == {f"val_{name}": value for name, value in together.items()}
    assert sent[-1] is meters[1].found


@pytest.mark.parametrize("part", ["boxes", "scores"])
def test_boxes_that_are_not_finite_stop_every_process(monkeypatch, part):
    detections = {"boxes": torch.ones(1, 4), "scores": torch.ones(1), "labels": torch.zeros(1, dtype=torch.long)}
    detections[part] = detections[part] * torch.nan
    meter = BoxMeter(coco_set([[(0, 1, 2, 3, 4)]]))
    meter.add([0], [detections])
    with pytest.raises(FloatingPointError, match=r"boxes or scores of the detector are not finite; use a smaller opti"):
        meter.means()
    meter.reset()
    of_two(monkeypatch, 1, lambda held, parts, dst: None, lambda figures, src: None)  # the first one has none to give
    with pytest.raises(FloatingPointError, match="are not finite"):
        meter.means()


def test_found_keeps_no_graph_and_no_half_precision():
    detections = {
        "boxes": torch.ones(2, 4, dtype=torch.bfloat16, requires_grad=True),
        "scores": torch.ones(2, dtype=torch.float16),
        "labels": torch.tensor([0, 1]),
    }
    one = found_in(7, detections)
    assert one.image == 7
    assert (one.boxes.dtype, one.scores.dtype, one.labels.dtype) == (torch.float32, torch.float32, torch.int64)
    assert not one.boxes.requires_grad
    assert type(one) is Found


def test_evaluation_scores_what_the_detector_finds(task, images):
    task.model.eval()
    with torch.no_grad():
        for number, batch in enumerate(whole_loader(images, 2, Share(), 0)):
            task.validation_step(batch, number)
        expected = []
        for index in range(len(images)):
            (detections,) = task.model([images.read(index, None)[0].float() / 255])
            expected.append(Found(index, detections["boxes"], detections["scores"], detections["labels"]))
    assert {one.image for one in task.val_meter.found} == set(range(6))
    for one in task.val_meter.found:
        torch.testing.assert_close(one.boxes, expected[one.image].boxes, rtol=1e-4, atol=1e-3)
        assert len(one.boxes) == 30
    means, whole = task.val_meter.means(), score(images.coco, expected)
    assert means["map50"] == pytest.approx(whole.map50, abs=1e-6)


def test_a_batch_that_nothing_is_left_of_is_passed_over(task):
    task.model.forward = None  # would fail
    task.validation_step(BoxBatch([], [], []), 0)
    assert task.val_meter.found == []
    assert task.val_meter.means() == {"map": 0, "map50": 0, "map75": 0}


def test_perfect_boxes():
    meter = BoxMeter(coco_set([[(0, 1, 2, 30, 40)]]))
    perfect = found(0, (0, 0.9, 1, 2, 30, 40))
    meter.add([0], [given([perfect])[0]])
    assert meter.means() == pytest.approx({"map": 1, "map50": 1, "map75": 1})


def test_floats_of_whole_batches_and_of_lists():
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).expand(2, 3, 4, 3)
    for images in (pixels, list(pixels)):
        made = as_floats(images, torch.device("cpu"))
        assert len(made) == 2
        for image in made:
            assert image.dtype == torch.float32
            torch.testing.assert_close(image, torch.tensor([0, 0.2, 1.0]).expand(3, 4, 3))


def test_optimizer_leaves_norms_and_tables_alone(task):
    made = task.configure_optimizers()
    (decayed, free) = made["optimizer"].param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.05, 0)
    names = {id(value): name for name, value in task.model.named_parameters()}
    kept = {names[id(value)] for value in free["params"]}
    assert any(name.endswith("position.height") for name in kept)
    assert "head.classification_head.cls_logits.bias" in kept
    assert made["lr_scheduler"]["interval"] == "step"
