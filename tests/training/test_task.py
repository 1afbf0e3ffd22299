"""The training step: what it computes, and what it gives the network."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from aaconv.data.augmentation import NOISE, Mixer
from aaconv.data.splits import Draw
from aaconv.training.checkpoint import ModelCard
from aaconv.training.config import (
    AugmentConfig,
    DataConfig,
    MachineConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
)
from aaconv.training.loaders import Batch
from aaconv.training.task import ClassificationTask

CARD = ModelCard("resnet10xs", ("a", "b", "c"), 2, 5, (0.4, 0.5), (0.2, 0.3))


class Watched(nn.Module):
    """Logits are linear in the pixels; keeps what it was given."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2 * 5 * 5, 3)
        self.seen = []

    def forward(self, images):
        self.seen.append(images)
        return self.fc(images.flatten(1))


@pytest.fixture
def batch():
    random = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (6, 2, 5, 5), generator=random, dtype=torch.uint8)
    return Batch(images, torch.tensor([0, 1, 2, 2, 1, 0]), torch.rand(6, NOISE, generator=random))


@pytest.fixture
def task_of():
    """Tasks, each with a trainer that lives as long as the test."""
    trainers = []

    def task_of(*, epoch=0, rank=0, world=1, name="folder", **values):
        task = ClassificationTask(Watched(), CARD, Recipe(data=DataConfig(name=name, size=5), **values), steps=4)
        trainers.append(SimpleNamespace(current_epoch=epoch, global_rank=rank, world_size=world))
        task.trainer = trainers[-1]
        return task

    return task_of


def normalized(images):
    return (images.double() / 255 - torch.tensor(CARD.mean).view(-1, 1, 1)) / torch.tensor(CARD.std).view(-1, 1, 1)


def moved(batch, padding, flip):
    """Pixel by pixel: mirrored in half of the cases, then cut out of the image within its zeros."""
    result = torch.zeros_like(batch.images)
    for number, (image, noise) in enumerate(zip(batch.images, batch.noise.tolist(), strict=True)):
        source = image.flip(2) if flip and noise[2] < 0.5 else image
        down, right = (int(share * (2 * padding + 1)) - padding for share in noise[:2])
        for y in range(5):
            for x in range(5):
                if 0 <= y + down < 5 and 0 <= x + right < 5:
                    result[number, :, y, x] = source[:, y + down, x + right]
    return result


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_by_hand(task_of, batch, smoothing):
    task = task_of(label_smoothing=smoothing)
    loss = task.training_step(batch, 0)
    logits = task.model.fc(normalized(batch.images).float().flatten(1)).double()
    logs = logits - logits.exp().sum(1, keepdim=True).log()
    right = logs[range(6), batch.labels.tolist()]
    expected = -((1 - smoothing) * right + smoothing * logs.mean(1)).mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.requires_grad
    means = task.meter.means()
    assert means["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert means["accuracy"] == pytest.approx((logits.argmax(1) == batch.labels).double().mean().item())


@pytest.mark.parametrize("padding, flip", [(0, True), (1, False), (2, True)])
def test_images_are_cut_and_mirrored_by_their_noise(task_of, batch, padding, flip):
    crop = "pad" if padding else "none"
    task = task_of(augment=AugmentConfig(crop=crop, padding=padding, flip=flip))
    task.training_step(batch, 0)
    expected = moved(batch, padding, flip)
    assert not torch.equal(expected, batch.images)
    torch.testing.assert_close(task.model.seen[0], normalized(expected).float())


def test_without_augmentation_images_stay(task_of, batch):
    task = task_of(augment=AugmentConfig(crop="none", padding=2, flip=False))
    task.training_step(batch, 0)
    torch.testing.assert_close(task.model.seen[0], normalized(batch.images).float())


@pytest.mark.parametrize("name", ["files", "shards"])
@pytest.mark.parametrize("crop", ["none", "inception"])
def test_images_that_are_read_anew_were_mirrored_then(task_of, batch, name, crop):
    task = task_of(name=name, augment=AugmentConfig(crop=crop, flip=True))
    task.training_step(batch, 0)
    torch.testing.assert_close(task.model.seen[0], normalized(batch.images).float())


def test_batches_are_mixed_by_seed_epoch_and_their_number(task_of, batch):
    """So that a resumed run mixes alike, and devices each in their own way."""
    augment = AugmentConfig(mixup=0.4, cutmix=1.0)
    mixer = Mixer(3, mixup=0.4, cutmix=1.0)
    seen = []
    for index, rank, epoch, number in ((0, 0, 0, 0), (2, 1, 0, 5), (2, 1, 3, 5)):
        task = task_of(augment=augment, seed=9, epoch=epoch, rank=rank, world=2, label_smoothing=0.1)
        loss = task.training_step(batch, index)
        mixed, targets = mixer(normalized(batch.images).float(), batch.labels, Draw(9, epoch), number)
        torch.testing.assert_close(task.model.seen[0], mixed)
        expected = F.cross_entropy(task.model.fc(mixed.flatten(1)), targets, label_smoothing=0.1)
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
        seen.append(mixed)
    assert not torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])


def test_evaluation_is_plain(task_of, batch):
    task = task_of(label_smoothing=0.3, augment=AugmentConfig(crop="pad", flip=True, mixup=1.0))
    task.validation_step(batch, 0)
    torch.testing.assert_close(task.model.seen[0], normalized(batch.images).float())
    logits = task(batch.images)
    assert task.val_meter.means()["loss"] == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-6)
    assert task.meter.totals[3] == 0


@pytest.mark.parametrize("channels_last", [False, True])
def test_channels_stand_where_the_recipe_says(task_of, batch, channels_last):
    task = task_of(machine=MachineConfig(channels_last=channels_last))
    other = batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))
    for given in (batch, other):
        task.training_step(given, 0)
        task.validation_step(given, 0)
    for images in task.model.seen:
        assert images.is_contiguous(memory_format=torch.channels_last) == channels_last
        assert images.is_contiguous() != channels_last


def test_optimizer_and_schedule_are_the_recipe_s(task_of):
    task = task_of(
        optimizer=OptimizerConfig(name="sgd", lr=0.1, lr_batch=64, weight_decay=0.01),
        schedule=ScheduleConfig(name="step", warmup=0.0, milestones=(1,)),
        batch_size=128,
        epochs=2,
    )
    made = task.configure_optimizers()
    optimizer, schedule = made["optimizer"], made["lr_scheduler"]
    assert schedule["interval"] == "step"
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.01, 0]
    assert [id(value) for group in optimizer.param_groups for value in group["params"]] == [
        id(task.model.fc.weight),
        id(task.model.fc.bias),
    ]
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule["scheduler"].step()
    assert rates == pytest.approx([0.2, 0.2, 0.2, 0.2, 0.02])
