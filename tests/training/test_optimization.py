"""Optimisers and learning rates against values worked out by hand."""

import math

import pytest
import timm
import torch
from torch import nn

from aaconv import create_model
from aaconv.training.config import OptimizerConfig, Recipe, ScheduleConfig
from aaconv.training.optimization import build_optimizer, build_schedule, parameter_groups, peak_rate, rate_factor


def named_groups(model):
    names = {value: name for name, value in model.named_parameters()}
    decayed, others = parameter_groups(model, 0.3)
    assert (decayed["weight_decay"], others["weight_decay"]) == (0.3, 0.0)
    return [{names[value] for value in group["params"]} for group in (decayed, others)]


@pytest.mark.parametrize("name", ["aa_resnet10s", "aa_wrn10_2", "se_resnet10xs", "aa_mnasnet_075"])
def test_weights_alone_decay(name):
    model = create_model(name, num_classes=5)
    decayed, others = named_groups(model)
    assert decayed | others == {name for name, _ in model.named_parameters()}
    assert not decayed & others
    weights = (nn.Conv2d, nn.Linear)
    for path, module in model.named_modules():
        for part, _ in module.named_parameters(recurse=False):
            expected = decayed if isinstance(module, weights) and part == "weight" else others
            assert f"{path}.{part}" in expected


def test_position_tables_do_not_decay():
    _, others = named_groups(create_model("aa_resnet10s"))
    tables = {name for name in others if ".position." in name}
    assert len(tables) == 4  # two layers, a table for the rows and one for the columns of each
    model = create_model("aa_resnet10s")
    assert all(model.get_parameter(name).dim() == 2 for name in tables)


def test_networks_of_timm_s():
    decayed, others = named_groups(timm.create_model("resnet18", num_classes=5))
    assert len(decayed) == 21  # 16 convolutions of blocks, the stem, 3 shortcuts, the classifier
    assert all(name.endswith("weight") for name in decayed)
    assert len(others) == 2 * 20 + 1
    assert "fc.bias" in others
    assert "bn1.weight" in others


def test_frozen_parameters_are_left_out():
    model = create_model("resnet10s")
    model.stem.requires_grad_(False)
    assert not any(name.startswith("stem") for group in named_groups(model) for name in group)


def tiny():
    """A weight, a bias, and their gradients."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -2.0]]))
        model.bias.fill_(3.0)
    model.weight.grad, model.bias.grad = torch.tensor([[0.5, 0.25]]), torch.tensor([2.0])
    return model


def stepped(config, batch_size, steps=2):
    model = tiny()
    optimizer = build_optimizer(model, config, batch_size)
    for _ in range(steps):
        optimizer.step()
    return optimizer, model.weight[0].tolist(), model.bias.item()


def by_hand(start, gradient, decay, update, steps=2):
    value, state = start, None
    for _ in range(steps):
        value, state = update(value, gradient + decay * value, state)
    return value


def test_sgd():
    config = OptimizerConfig(name="sgd", lr=0.1, lr_batch=256, momentum=0.9, weight_decay=0.1)
    optimizer, weight, bias = stepped(config, 512)
    assert type(optimizer) is torch.optim.SGD

    def update(value, gradient, speed):
        speed = gradient + 0.9 * (speed or 0)
        return value - 0.2 * speed, speed

    assert weight == pytest.approx([by_hand(1, 0.5, 0.1, update), by_hand(-2, 0.25, 0.1, update)])
    assert bias == pytest.approx(by_hand(3, 2, 0, update))


def test_sgd_with_nesterov_s_momentum():
    config = OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0)

    def update(value, gradient, speed):
        speed = gradient + 0.9 * (speed or 0)
        return value - 0.1 * (gradient + 0.9 * speed), speed

    assert stepped(config, 512)[2] == pytest.approx(by_hand(3, 2, 0, update))


def test_adamw():
    optimizer, weight, bias = stepped(OptimizerConfig(name="adamw", lr=0.1, weight_decay=0.5), 64, steps=1)
    assert type(optimizer) is torch.optim.AdamW
    assert weight == pytest.approx(
        [1 * (1 - 0.05) - 0.1, -2 * (1 - 0.05) - 0.1], rel=1e-5
    )  # the first step is the sign
    assert bias == pytest.approx(3 - 0.1, rel=1e-5)


def test_rmsprop_is_tensorflow_s():
    """The average starts at 1, epsilon stands under the root, and the rate goes into the momentum."""
    config = OptimizerConfig(name="rmsprop", lr=0.1, momentum=0.8, weight_decay=0.5)
    _, weight, bias = stepped(config, 64)

    def update(value, gradient, state):
        average, speed = state or (1.0, 0.0)
        average += 0.1 * (gradient**2 - average)
        speed = 0.8 * speed + 0.1 * gradient / math.sqrt(average + 1e-3)
        return value - speed, (average, speed)

    assert weight == pytest.approx([by_hand(1, 0.5, 0.5, update), by_hand(-2, 0.25, 0.5, update)])
    assert bias == pytest.approx(by_hand(3, 2, 0, update))


@pytest.mark.parametrize("lr_batch, batch_size, expected", [(0, 1024, 0.2), (256, 1024, 0.8), (256, 64, 0.05)])
def test_peak_is_scaled_with_the_batch(lr_batch, batch_size, expected):
    config = OptimizerConfig(name="sgd", lr=0.2, lr_batch=lr_batch)
    assert peak_rate(config, batch_size) == pytest.approx(expected)
    assert build_optimizer(tiny(), config, batch_size).param_groups[0]["lr"] == pytest.approx(expected)


SCHEDULES = {
    # 10 epochs of 10 steps, the first 10 steps up, then 90 down
    "cosine": (
        ScheduleConfig(name="cosine", warmup=0.1),
        10,
        10,
        {0: 0.1, 4: 0.5, 9: 1, 10: 1, 40: 0.75, 55: 0.5, 70: 0.25, 99: 0.5 + 0.5 * math.cos(math.pi * 89 / 90), 100: 0},
    ),
    "cosine without a way up": (ScheduleConfig(name="cosine", warmup=0.0), 4, 5, {0: 1, 10: 0.5, 20: 0}),
    # the paper's: 100 epochs, 5 of them up; milestones count from the start
    "step": (
        ScheduleConfig(name="step", warmup=0.05, milestones=(30, 60, 80, 90)),
        100,
        3,
        {0: 1 / 15, 14: 1, 15: 1, 89: 1, 90: 0.1, 179: 0.1, 180: 1e-2, 239: 1e-2, 240: 1e-3, 270: 1e-4, 299: 1e-4},
    ),
    "step, another factor": (ScheduleConfig(name="step", warmup=0, milestones=(1, 2), gamma=0.5), 3, 2, {1: 1, 2: 0.5}),
    # every 2.4 epochs of 5 steps is every 12 steps
    "exponential": (
        ScheduleConfig(name="exponential", warmup=0.01, gamma=0.97, decay_epochs=2.4),
        350,
        5,
        {0: 1 / 18, 17: 1, 18: 0.97, 23: 0.97, 24: 0.97**2, 1199: 0.97**99, 1200: 0.97**100, 1749: 0.97**145},
    ),
    "constant": (ScheduleConfig(name="constant", warmup=0.5), 2, 4, {0: 0.25, 3: 1, 4: 1, 7: 1}),
    "nothing but the way up": (ScheduleConfig(name="cosine", warmup=1.0), 2, 4, {0: 0.125, 7: 1}),
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_rates(case):
    config, epochs, steps, expected = SCHEDULES[case]
    factor = rate_factor(config, epochs, steps)
    assert {step: factor(step) for step in expected} == pytest.approx(expected, abs=1e-12)


def test_exponential_drops_at_the_step_it_should():
    """Epochs between factors are no whole numbers, and must not be off by a step for that."""
    factor = rate_factor(ScheduleConfig(name="exponential", warmup=0.0, gamma=0.5, decay_epochs=2.4), 350, 5)
    assert [factor(step) for step in range(1000)] == [0.5 ** (step // 12) for step in range(1000)]


def test_optimizer_follows_the_schedule():
    recipe = Recipe(
        optimizer=OptimizerConfig(name="sgd", lr=0.1, lr_batch=64),
        schedule=ScheduleConfig(name="step", warmup=0.25, milestones=(2, 3)),
        epochs=4,
        batch_size=128,
    )
    optimizer = build_optimizer(tiny(), recipe.optimizer, recipe.batch_size)
    schedule = build_schedule(optimizer, recipe, steps=2)
    rates = []
    for _ in range(8):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    assert rates == [pytest.approx([rate, rate]) for rate in (0.1, 0.2, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002)]
