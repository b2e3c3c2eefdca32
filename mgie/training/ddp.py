"""Processes that share out the samples only (DistributedDataParallel), or one alone."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from mgie.training.engine import AbstractEngine, exchanged
from mgie.training.task import AbstractTask
from mgie.training.world import World
from mgie.types import Batch, Draws, Losses
from mgie.weights.checkpoint import Snapshot


class DdpEngine(AbstractEngine):
    """Gradients are summed over the processes in the last backward pass of a step."""

    model: nn.Module
    optimizer: torch.optim.Optimizer

    def __init__(self, world: World, *, clip: float, bf16: bool):
        super().__init__(world, clip=clip, bf16=bf16)
        self.fused = world.device.type in ("cuda", "cpu")

    def prepare(
        self, task: AbstractTask, optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter]
    ) -> None:
        """Parameters stay the objects that they are."""
        self.model = task.to(self.world.device)
        if self.world.size > 1:
            self.model = DistributedDataParallel(self.model)
        self.optimizer, self.trained = optimizer, trained

    def __call__(self, batch: Batch, draws: Draws) -> Losses:
        """Computed under autocast."""
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.bf16):
            return self.model(batch, draws)

    def accumulating(self, *, last: bool) -> AbstractContextManager:
        """Only with the last one do gradients travel."""
        if isinstance(self.model, DistributedDataParallel) and not last:
            return self.model.no_sync()
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """DistributedDataParallel averages over the processes, so the loss is multiplied by their number."""
        (loss * self.world.size).backward()

    def step(self) -> tuple[Tensor, Tensor]:
        """Where torch's fused AdamW is, it is told on the device whether to leave the step out."""
        norm = clip_grad_norm_(self.trained.values(), self.clip)
        taken = norm.isfinite().float()
        if self.fused:
            self.optimizer.found_inf = 1 - taken  # type: ignore[attr-defined]
        if self.fused or taken:
            self.optimizer.step()
        self.optimizer.zero_grad()
        return norm, taken

    def local_parameters(self) -> list[nn.Parameter]:
        """All."""
        return list(self.trained.values())

    def full_parameters(self, averages: list[Tensor] | None) -> AbstractContextManager:
        """It has the whole model anyway."""
        return nullcontext() if averages is None else exchanged(self.trained.values(), averages)

    def state_dict(self, averages: list[Tensor] | None) -> Snapshot:
        """As they are."""
        state = self.optimizer.state
        moments = (
            (f"{name}|{kind}", value)
            for name, parameter in self.trained.items()
            for kind, value in state.get(parameter, {}).items()
        )
        return Snapshot(
            trained=self._kept(self.trained.items()),
            optimizer=self._kept(moments),
            ema=None if averages is None else self._kept(zip(self.trained, averages)),
        )

    def load_state_dict(self, snapshot: Snapshot, averages: list[Tensor] | None) -> None:
        """A fused optimizer counts its steps on the device, another one on the CPU."""
        for name, average in zip(self.trained, averages or ()):
            average.copy_((snapshot.ema or snapshot.trained)[name])
        for key, value in snapshot.optimizer.items():
            name, kind = key.rsplit("|", 1)
            on_host = kind == "step" and not self.fused
            state = self.optimizer.state[self.trained[name]]
            state[kind] = value if on_host else value.to(self.world.device)
