"""Which tensors are trained and how: groups, optimizer, schedule of the rate."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from torch import Tensor, nn

from llava_patch.ranges import Range
from mgie.errors import ConfigError
from mgie.keys import nearest
from mgie.training.groups import GROUP_SETS

Groups = dict[str, list[nn.Parameter]]
Rate = Annotated[float, Range(gt=0, le=10**9)]
Warmup = Annotated[float, Range(ge=0, lt=1)]
Schedule = Literal["cosine", "constant"]
Beta = Annotated[float, Range(ge=0, lt=1)]

MUON = "_matrices"
"""How the second parameter group of a group is called."""
PIXEL_LAYERS = frozenset({"conv_in", "conv_out", "patch_embedding"})
"""Names of the convolutions that read or write pictures, in diffusers' and transformers' models."""
MOMENTUM = 0.95
MOST_LEFT_OUT = 8
"""So many steps in a row whose gradient is not finite end a run (half of its steps, if that is less): what
comes after them is no better."""


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW, for matrices if wanted Muon, and how their learning rates go up and down."""

    lr: Rate
    """Learning rate of every group that `lrs` does not name."""
    lrs: dict[str, Rate] = field(default_factory=dict)
    """Learning rates of single groups."""
    muon: Rate | None = None
    """Learning rate of the weights of linear layers and of convolutions under Muon (Jordan et al. 2024),
    scaled to the steps of AdamW (Liu et al. 2025, arXiv 2502.16982, equation 4); all else, and what reads and
    writes words and pictures, stays with AdamW. None: all is AdamW's. Small models learn from scratch in
    fewer samples with it."""
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    eps: Annotated[float, Range(gt=0, le=1)] = 1e-8
    weight_decay: Annotated[float, Range(ge=0, le=1)] = 0.0
    clip: Annotated[float, Range(gt=0, le=10**9)] = 1.0
    """Largest norm of the gradient; longer ones are scaled down."""
    warmup: Warmup = 0.03
    """Part of the run in which the learning rate grows from 0."""
    schedule: Schedule = "cosine"
    warmups: dict[str, Warmup] = field(default_factory=dict)
    """Other parts of the run for the warm-up of single groups."""
    schedules: dict[str, Schedule] = field(default_factory=dict)
    """Other schedules of single groups."""


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """How the averaged weights (`train.ema`) come to their decay."""

    after: Annotated[int, Range(ge=0, le=10**9)] = 0
    """Steps before the average begins; until then it is the weights themselves."""
    power: Annotated[float, Range(gt=0, le=10)] | None = None
    """The decay grows as 1 - (1 + step)^-power up to `train.ema`: 2/3 for runs of a million steps, 3/4 for
    shorter ones. None: as (1 + step) / (10 + step)."""
    least: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """The decay is never below it, once the average has begun."""

    def options(self) -> dict[str, Any]:
        """As diffusers' average takes them."""
        grows = {} if self.power is None else {"use_ema_warmup": True, "power": self.power}
        return {"update_after_step": self.after, "min_decay": self.least, **grows}


def choose_trained(model: nn.Module, groups: Groups, trained: tuple[str, ...]) -> dict[str, nn.Parameter]:
    """Freeze every parameter of `model` but those of the groups named in `trained`; these come back by name.

    Raises ConfigError for a group that does not exist, or that would train nothing. Every parameter must be
    in exactly one group.
    """
    unknown = [name for name in trained if name not in groups]
    if unknown:
        near = nearest(unknown[0], [*groups, *GROUP_SETS])
        hint = f" (did you mean {' or '.join(near)}?)" if near else ""
        raise ConfigError(
            f"train.groups names {', '.join(unknown)}{hint}: this model has the groups {', '.join(groups)}."
        )
    if empty := [name for name in trained if not groups[name]]:
        full = ", ".join(name for name, members in groups.items() if members)
        raise ConfigError(
            f"train.groups names {', '.join(empty)}, which has no parameters here and would train nothing: "
            f"expected some of {full}."
        )
    grouped = [parameter for members in groups.values() for parameter in members]
    everything = list(model.parameters())
    assert len({id(p) for p in grouped}) == len(grouped), "a parameter is in two groups"
    assert {id(p) for p in grouped} == {id(p) for p in everything}, "a parameter is in no group"
    chosen = {id(parameter) for name in trained for parameter in groups[name]}
    for parameter in everything:
        parameter.requires_grad_(id(parameter) in chosen)
    return {name: parameter for name, parameter in model.named_parameters() if id(parameter) in chosen}


def cast_frozen(model: nn.Module, dtype: torch.dtype) -> None:
    """Keep what is not trained of `model` in `dtype`; buffers stay as they are."""
    for parameter in model.parameters():
        if not parameter.requires_grad:
            parameter.data = parameter.data.to(dtype)


def build_optimizer(
    groups: Groups,
    trained: tuple[str, ...],
    config: OptimConfig,
    *,
    fused: bool = False,
    matrices: Iterable[Tensor] = (),
) -> torch.optim.AdamW:
    """AdamW with one parameter group per trained group, at its own learning rate; with `config.muon` a second
    one for those of its members that are among `matrices`.

    A `fused` one can be told on the device to leave a step out (`found_inf`); its sums are rounded
    differently.
    """
    options = {"betas": config.betas, "eps": config.eps, "weight_decay": config.weight_decay}
    turned = set() if config.muon is None else {id(parameter) for parameter in matrices}
    members = []
    for name in trained:
        lr = config.lrs.get(name, config.lr)
        plain = [parameter for parameter in groups[name] if id(parameter) not in turned]
        members.append({"params": plain, "name": name, "lr": lr, "peak_lr": lr})
        if config.muon is not None and len(plain) < len(groups[name]):
            share = config.muon * lr / config.lr  # slower groups are slower here too
            rest = [parameter for parameter in groups[name] if id(parameter) in turned]
            members.append(
                {"params": rest, "name": f"{name}{MUON}", "lr": share, "peak_lr": share, "muon": True}
            )
    kind = torch.optim.AdamW if config.muon is None else MuonAdamW
    return kind([group for group in members if group["params"]], fused=fused or None, **options)


def hidden_matrices(model: nn.Module, groups: Groups) -> list[Tensor]:
    """The weights of the linear layers and convolutions of `model`, without those that read and write words
    and pictures."""
    words = {id(parameter) for name in ("embeddings", "lm_head") for parameter in groups.get(name, ())}
    return [
        layer.weight
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d) and name.rpartition(".")[2] not in PIXEL_LAYERS
        and layer.weight.requires_grad and id(layer.weight) not in words
    ]  # fmt: skip


class MuonAdamW(torch.optim.AdamW):
    """AdamW, but the groups that are marked `muon` go along their momentum with all directions of it made
    equally long (Jordan et al. 2024); torch's own Muon does the same to matrices and knows nothing else."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """As AdamW's, `found_inf` included."""
        assert closure is None
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group.get("muon")]
        try:
            super().step()
        finally:
            self.param_groups = groups
        left_out = getattr(self, "found_inf", None)  # stays on the device: nobody waits for it
        for group in groups:
            for parameter in group["params"] if group.get("muon") else ():
                if parameter.grad is not None:
                    self._turn(parameter, parameter.grad, group, left_out)

    def _turn(
        self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], left_out: Tensor | None
    ) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        momentum = state["momentum_buffer"].lerp(gradient, 1 - MOMENTUM)
        nesterov = gradient.lerp(momentum, MOMENTUM).flatten(1)  # a convolution's: all that one output sees
        step = orthogonal(nesterov).mul_(0.2 * math.sqrt(max(nesterov.shape))).view_as(parameter)
        moved = parameter * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * step
        if left_out is not None:
            stays = left_out.to(parameter.device).bool()
            moved = torch.where(stays, parameter, moved)
            momentum = torch.where(stays, state["momentum_buffer"], momentum)
        parameter.copy_(moved)
        state["momentum_buffer"].copy_(momentum)


def orthogonal(matrix: Float[Tensor, "m n"]) -> Float[Tensor, "m n"]:
    """A matrix with the same directions, whose singular values are about 1: five steps of Newton and Schulz,
    with Jordan's coefficients (2024)."""
    wide = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    wide = wide / wide.norm().clamp_min(1e-7)
    # Every step multiplies by a polynomial of the square: to follow that alone is a third of the work. It
    # costs digits where singular values are small, which five steps do not make 1 anyway.
    square, turned = wide @ wide.T, torch.eye(len(wide), dtype=wide.dtype, device=wide.device)
    for _ in range(5):
        turn = torch.addmm(square, square, square, beta=-4.775, alpha=2.0315)
        turn.diagonal().add_(3.4445)
        square, turned = turn @ square @ turn, turn @ turned
    found = turned @ wide
    return found.T if matrix.shape[0] > matrix.shape[1] else found


def rate_factor(progress: float, config: OptimConfig, group: str = "") -> float:
    """What the peak learning rate is multiplied by when the part `progress` in [0, 1) of the run is done.

    Of a `group` that the configuration names its own; else that of all.
    """
    warmup, schedule = config.warmups.get(group, config.warmup), config.schedules.get(group, config.schedule)
    if progress < warmup:
        return progress / warmup
    if schedule == "constant":
        return 1.0
    return 0.5 * (1.0 + math.cos(math.pi * (progress - warmup) / (1.0 - warmup)))


def set_rates(optimizer: torch.optim.Optimizer, progress: float, config: OptimConfig) -> None:
    """Put every group's learning rate where it belongs when the part `progress` of the run is done."""
    for group in optimizer.param_groups:
        name = group["name"].removesuffix(MUON)
        group["lr"] = group["peak_lr"] * rate_factor(progress, config, name)


class Average(EMAModel):
    """The running average of the weights, which also leaves out the steps that are left out."""

    @torch.no_grad()
    def step(self, parameters: Iterable[nn.Parameter], taken: Tensor | float = 1.0) -> None:
        """Move towards `parameters`, in the library's arithmetic; `taken` 0 leaves everything as it is."""
        self.optimization_step += 1
        weight = (1 - self.get_decay(self.optimization_step)) * taken
        for average, parameter in zip(self.shadow_params, parameters, strict=True):
            average.sub_(weight * (average - parameter))


class LeftOut:
    """Counts the steps whose gradient was not finite. The counts stay on the device until they are read."""

    def __init__(self, device: torch.device, *, before: int = 0):
        """`before`: how many there were until the checkpoint that the run goes on from."""
        self._all = torch.full((), float(before), device=device)
        self._row = torch.zeros((), device=device)
        self._longest = torch.zeros((), device=device)

    def note(self, taken: Tensor) -> None:
        """Count a step: 1 for one that was taken, 0 for one that was left out."""
        left = 1 - taken
        self._all += left
        self._row = (self._row + left) * left
        self._longest = torch.maximum(self._longest, self._row)

    def read(self, *, steps: int, folder: Path) -> tuple[int, int]:
        """All of them, and those in a row until now. Waits for the device.

        Raises ConfigError where too many were in a row for a run of so many `steps`, which lies in `folder`.
        """
        every, row, longest = map(int, torch.stack([self._all, self._row, self._longest]).tolist())
        if longest >= min(MOST_LEFT_OUT, math.ceil(steps / 2)):
            raise ConfigError(
                f"training has diverged: the gradient was not finite for {longest} steps in a row, which "
                "were left out; train again under another --name with a lower optim.lr, from the start, or "
                f"--from a checkpoint in {folder}."
            )
        return every, row
