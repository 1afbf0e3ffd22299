"""Metrics of an epoch equal those of all its images at once."""

import math

import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, top_k_accuracy_score
from torch.nn import functional as F

from aaconv.training.meter import ClassMeter


def batches(count, classes, sizes, seed=0):
    """Random logits and labels, cut into batches of ``sizes``."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, classes, generator=random)
    labels = torch.randint(classes, (count,), generator=random)
    return logits, labels, list(zip(logits.split(sizes), labels.split(sizes), strict=True))


def metered(parts):
    meter = ClassMeter()
    for logits, labels in parts:
        meter.add(F.cross_entropy(logits, labels), logits, labels)
    return meter


@pytest.mark.parametrize("classes", [6, 10, 100])
def test_equals_plain_computation(classes):
    logits, labels, parts = batches(157, classes, [64, 64, 28, 1])
    chances, every = logits.double().softmax(1).numpy(), range(classes)
    means = metered(parts).means()
    assert tuple(means) == ClassMeter.NAMES
    assert means["loss"] == pytest.approx(log_loss(labels, chances, labels=every), rel=1e-5)
    assert means["accuracy"] == pytest.approx(accuracy_score(labels, chances.argmax(1)), abs=1e-12)
    assert means["top5"] == pytest.approx(top_k_accuracy_score(labels, chances, k=5, labels=every), abs=1e-12)
    assert means["accuracy"] < means["top5"] < 1


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_among_five_classes_or_fewer_the_first_five_hold_the_right_one(classes):
    logits, labels, parts = batches(40, classes, [16, 24])
    means = metered(parts).means("val_")
    assert means["val_top5"] == 1
    assert means["val_accuracy"] == pytest.approx(accuracy_score(labels, logits.argmax(1)))


def test_one_class():
    assert metered(batches(4, 1, [4])[2]).means() == {"loss": 0, "accuracy": 1, "top5": 1}


def test_forgets_and_knows_nothing_at_first():
    meter = metered(batches(8, 3, [8])[2])
    meter.reset()
    assert all(math.isnan(value) for value in meter.means().values())
    logits, labels, parts = batches(9, 3, [9], seed=1)
    meter.add(F.cross_entropy(*parts[0]), *parts[0])
    assert meter.means()["loss"] == pytest.approx(F.cross_entropy(logits, labels).item())
    assert meter.totals[3] == 9


def test_many_images_lose_no_digits():
    """In single precision, sums stop growing by 1 at 2^24."""
    meter = ClassMeter()
    meter.totals[:] = torch.tensor([2.0**25, 2.0**25, 2.0**25, 2.0**25])
    meter.add(torch.tensor(1.0), torch.tensor([[0.0, 1.0]]), torch.tensor([1]))
    assert meter.totals.tolist() == [2**25 + 1] * 4


def test_keeps_no_graph():
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 0])
    meter = ClassMeter()
    meter.add(F.cross_entropy(logits, labels), logits, labels)
    assert not meter.totals.requires_grad


def test_devices_are_summed(monkeypatch):
    """A second process with twice the images, of which none was right."""
    meter = metered(batches(12, 3, [12])[2])
    mine = meter.totals.clone()
    others = torch.tensor([6.0, 0.0, 24.0, 24.0], dtype=torch.float64)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda totals: totals.add_(others))
    assert torch.equal(meter.summed(), mine + others)
    assert torch.equal(meter.totals, mine)
    assert meter.means()["accuracy"] == pytest.approx(mine[1].item() / 36)
    assert meter.own_means()["accuracy"] == pytest.approx(mine[1].item() / 12)
