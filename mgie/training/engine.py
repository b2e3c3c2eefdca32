"""One interface for training a task on one process or many: ddp.py, deepspeed.py, fsdp.py."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mgie.training.task import AbstractTask
from mgie.training.world import World
from mgie.types import Batch, Draws, Losses, Term
from mgie.weights import checkpoint
from mgie.weights.checkpoint import Snapshot, TrainState

Strategy = Literal["ddp", "zero1", "zero2", "zero3", "fsdp2"]
"""What processes share out: the samples; with zero1 to zero3 also what deepspeed.py tells, with fsdp2 what
fsdp.py tells."""


class AbstractEngine(ABC):
    """Trains a task together with the other processes of a world.

    A checkpoint is gone on with in two halves: `read` before `prepare`, `resume` after it. Every process
    calls every method, in the same order.
    """

    fused: bool = False
    """Whether the optimizer shall be torch's fused one, which can be told on the device to leave a step
    out."""

    def __init__(self, world: World, *, clip: float, bf16: bool):
        """`clip`: the largest norm of the gradient. `bf16`: compute in bfloat16; what is trained, gradients
        and moments stay in float32."""
        self.world, self.clip, self.bf16 = world, clip, bf16
        self.trained: dict[str, nn.Parameter] = {}
        self._read: Snapshot | None = None

    def reading(self, *, whole: bool) -> AbstractContextManager:
        """Around what reads the model's weights; `whole`, where every process needs all values at once."""
        del whole
        return nullcontext()

    def read(self, found: Path, trained: dict[str, nn.Parameter]) -> None:
        """Put the trained tensors of a checkpoint where they belong, before `prepare`.

        Raises WeightsError.
        """
        _, self._read = checkpoint.load(found)
        checkpoint.load_into(self._read.trained, trained, where=found)

    def resume(self, found: Path, averages: list[Tensor] | None) -> None:
        """Put in the rest of the checkpoint that was `read`, in place. Raises WeightsError."""
        del found
        assert self._read is not None
        self.load_state_dict(self._read, averages)
        self._read = None

    def save(
        self, folder: Path, state: TrainState, averages: list[Tensor] | None, *, begun: dict[str, Tensor],
        run_yaml: str, keep: int,
    ) -> None:  # fmt: skip
        """Write a checkpoint of the run in `folder`, as `checkpoint.save` does; where processes hold shares,
        it may be written while training goes on (`finish_saving`)."""
        snapshot = self.state_dict(averages)
        if self.world.is_main:
            checkpoint.save(folder, state, replace(snapshot, begun=begun), run_yaml=run_yaml, keep=keep)
        self.world.wait()

    def finish_saving(self) -> None:  # noqa: B027  (most have nothing to wait for)
        """Wait until the last checkpoint is on the disk. Raises what went wrong with it, on every process."""

    @abstractmethod
    def prepare(
        self, task: AbstractTask, optimizer: torch.optim.Optimizer, trained: dict[str, nn.Parameter]
    ) -> None:
        """Move the task to the device and wrap it; `trained` are the parameters that `optimizer` steps."""

    @abstractmethod
    def __call__(self, batch: Batch, draws: Draws) -> Losses:
        """The task's losses of this process's part."""

    @abstractmethod
    def accumulating(self, *, last: bool) -> AbstractContextManager:
        """Around forward and backward of every micro-batch of a step; `last`: of its last one."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, which is summed over processes and micro-batches."""

    @abstractmethod
    def step(self) -> tuple[Tensor, Tensor]:
        """Scale the gradient down to `clip`, step, and forget the gradient.

        Gives the norm before, and 1; or 0 for a step that is left out, as its norm is not finite: weights and
        moments are then as they were. Nobody waits for a GPU to know.
        """

    @abstractmethod
    def local_parameters(self) -> list[nn.Parameter]:
        """What this process holds of the trained tensors, to be averaged: all, or its share of each."""

    @abstractmethod
    def full_parameters(self, averages: list[Tensor] | None) -> AbstractContextManager:
        """Inside, this process has the whole model and can use it without the others, with the averages of
        `local_parameters` in the place of what is trained; after it, all is as before."""

    @abstractmethod
    def state_dict(self, averages: list[Tensor] | None) -> Snapshot:
        """What a checkpoint holds, whole, on the main process; empty on the others."""

    @abstractmethod
    def load_state_dict(self, snapshot: Snapshot, averages: list[Tensor] | None) -> None:
        """Put the moments and averages of a checkpoint where they belong, in place."""

    def _kept(self, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """One by one: all processes make each tensor, the main one keeps it."""
        return {name: each.detach().cpu().contiguous() for name, each in tensors if self.world.is_main}


@contextmanager
def exchanged(parameters: Iterable[nn.Parameter], tensors: Iterable[Tensor]) -> Iterator[None]:
    """The parameters are `tensors` inside; nothing is copied."""
    pairs = [(parameter, parameter.data, tensor) for parameter, tensor in zip(parameters, tensors)]
    for parameter, _, tensor in pairs:
        parameter.data = tensor
    try:
        yield
    finally:
        for parameter, before, _ in pairs:
            parameter.data = before


class InTuples(nn.Module):
    """A task that tells its losses as plain tuples: DeepSpeed and FSDP look for tensors in those.

    Autocast is inside, as DeepSpeed's engine turns off what is turned on outside of it.
    """

    def __init__(self, task: AbstractTask, *, bf16: bool):
        super().__init__()
        self.task, self.bf16 = task, bf16

    def forward(self, batch: Batch, draws: Draws) -> dict[str, tuple[Any, ...]]:
        """Sum and count of each loss."""
        with torch.autocast(batch.target.device.type, torch.bfloat16, enabled=self.bf16):
            # Not called as a module: its own hooks would look, too.
            losses = self.task.forward(batch, draws)
        return {name: (term.sum, term.count) for name, term in losses.items()}


def in_records(told: dict[str, tuple[Any, ...]]) -> Losses:
    """What `InTuples` tells, as losses again."""
    return {name: Term(sum=total, count=count) for name, (total, count) in told.items()}
