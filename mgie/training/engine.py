"""One interface for training a task on one process or on many: ddp.py, deepspeed.py."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from mgie.training.task import AbstractTask
from mgie.training.world import World
from mgie.types import Batch, Draws, Losses
from mgie.weights.checkpoint import Snapshot

Strategy = Literal["ddp", "zero1", "zero2", "zero3"]
"""What processes share out: the samples; with zero1 to zero3 also what deepspeed.py tells."""


class AbstractEngine(ABC):
    """Trains a task together with the other processes of a world.

    Weights are read before `prepare`, moments and averages after it. Every process calls every method, in the
    same order.
    """

    fused: bool = False
    """Whether the optimizer shall be torch's fused one, which can be told on the device to leave a step
    out."""

    def __init__(self, world: World, *, clip: float, bf16: bool):
        """`clip`: the largest norm of the gradient. `bf16`: compute in bfloat16; what is trained, gradients
        and moments stay in float32."""
        self.world, self.clip, self.bf16 = world, clip, bf16
        self.trained: dict[str, nn.Parameter] = {}

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
