"""Which tensors are trained and how: parameter groups, the optimizer, the schedule of the learning rate."""

import math
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from mgie.errors import ConfigError

Groups = dict[str, list[nn.Parameter]]


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, and how its learning rate goes up and down."""

    lr: float
    """Learning rate of every group that `lrs` does not name."""
    lrs: dict[str, float] = field(default_factory=dict)
    """Learning rates of single groups."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    """Largest norm of the gradient; longer ones are scaled down."""
    warmup: float = 0.03
    """Part of the run in which the learning rate grows from 0."""
    schedule: Literal["cosine", "constant"] = "cosine"


def choose_trained(model: nn.Module, groups: Groups, trained: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Freeze every parameter of `model` but those of the groups named in `trained`; these come back by name.

    Raises ConfigError for a group that does not exist. Every parameter must be in exactly one group.
    """
    unknown = [name for name in trained if name not in groups]
    if unknown:
        raise ConfigError(
            f"train.groups names {', '.join(unknown)}: this model has the groups {', '.join(groups)}."
        )
    grouped = [parameter for members in groups.values() for parameter in members]
    everything = list(model.parameters())
    assert len({id(p) for p in grouped}) == len(grouped), "a parameter is in two groups"
    assert {id(p) for p in grouped} == {id(p) for p in everything}, "a parameter is in no group"
    chosen = {id(parameter) for name in trained for parameter in groups[name]}
    for parameter in everything:
        parameter.requires_grad_(id(parameter) in chosen)
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}


def build_optimizer(groups: Groups, trained: tuple[str, ...], config: OptimConfig) -> torch.optim.AdamW:
    """AdamW with one parameter group per trained group, at its own learning rate."""
    unknown = [name for name in config.lrs if name not in trained]
    if unknown:
        raise ConfigError(
            f"optim.lrs names {', '.join(unknown)}: expected some of the trained groups {', '.join(trained)}."
        )
    rates = [(name, config.lrs.get(name, config.lr)) for name in trained]
    return torch.optim.AdamW(
        [{"params": groups[name], "name": name, "lr": lr, "peak_lr": lr} for name, lr in rates],
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def rate_factor(progress: float, config: OptimConfig) -> float:
    """What the peak learning rate is multiplied by when the part `progress` in [0, 1) of the run is done."""
    if progress < config.warmup:
        return progress / config.warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (progress - config.warmup) / (1.0 - config.warmup)))


def set_rates(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Put every group's learning rate at `factor` of its peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * factor
