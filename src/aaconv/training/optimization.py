"""Optimisers and learning rates."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from aaconv.training.config import OptimizerConfig, RunConfig, ScheduleConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weights, which decay, and what does not: norms, biases and what ``model.no_weight_decay()`` names."""
    spared: set[str] = getattr(model, "no_weight_decay", set)()
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    decayed = [value for name, value in named if value.dim() > 1 and name not in spared]
    others = [value for name, value in named if value.dim() <= 1 or name in spared]
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def build_optimizer(model: nn.Module, config: OptimizerConfig, batch_size: int) -> Optimizer:
    """The optimiser of a recipe over the parameters of ``model``."""
    lr = peak_rate(config, batch_size)
    groups = parameter_groups(model, config.weight_decay)
    if config.name == "sgd":
        return torch.optim.SGD(groups, lr=lr, momentum=config.momentum, nesterov=config.nesterov)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=lr)
    from timm.optim import RMSpropTF

    return RMSpropTF(groups, lr=lr, alpha=0.9, momentum=config.momentum, eps=1e-3)


def peak_rate(config: OptimizerConfig, batch_size: int) -> float:
    """The largest learning rate, scaled with the batch where the recipe says for which batch it is."""
    return config.lr * (batch_size / config.lr_batch if config.lr_batch else 1)


def rate_factor(config: ScheduleConfig, epochs: int, steps: int) -> Callable[[int], float]:
    """Step of the run -> learning rate as a share of the peak; an epoch has ``steps``.

    The way up is linear, from 1/w in the first of its w steps to 1; the rest counts from the start of the run, but
    for the cosine, which fills what is left of it.
    """
    total = epochs * steps
    warm = round(config.warmup * total)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        if config.name == "cosine":
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm)))
        epoch = step / steps
        if config.name == "step":
            return config.gamma ** sum(epoch >= milestone for milestone in config.milestones)
        return config.gamma ** math.floor(epoch / config.decay_epochs) if config.name == "exponential" else 1.0

    return factor


def build_schedule(optimizer: Optimizer, recipe: RunConfig, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule, to be stepped after each of ``steps`` optimiser steps an epoch."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, rate_factor(recipe.schedule, recipe.epochs, steps))
