"""The processes that train together, set up by accelerate under plain `torchrun` or alone."""

import os
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn


class World:
    """Ranks, devices, precision and the few collective operations that a training loop needs."""

    def __init__(
        self,
        folder: Path,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        trackers: tuple[str, ...] = (),
        threads: int | None = None,
    ):
        # Asked for by name: accelerate takes processes under torchrun that have no GPU for lone ones.
        together = int(os.environ.get("WORLD_SIZE", "1")) > 1
        self.accelerator = Accelerator(
            cpu=together and not torch.cuda.is_available(),
            mixed_precision="bf16" if precision == "bf16" else "no",
            log_with=list(trackers) or None,
            project_dir=str(folder),
        )
        self.rank: int = self.accelerator.process_index
        self.size: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.is_main: bool = self.accelerator.is_main_process
        if self.device.type == "cpu":
            torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // self.size))

    def prepare(
        self, task: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Move to the device and wrap for data-parallel training."""
        return self.accelerator.prepare(task, optimizer)

    def unwrap(self, task: nn.Module) -> nn.Module:
        """The task itself, out of its data-parallel wrapper."""
        return self.accelerator.unwrap_model(task)

    def accumulating(self, task: nn.Module, *, last: bool) -> AbstractContextManager:
        """Around every micro-batch of a step; gradients travel between processes only with the last one."""
        return nullcontext() if last else self.accelerator.no_sync(task)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, which is summed over processes."""
        # Data-parallel wrappers average over the processes; the loss is already divided by the global counts.
        self.accelerator.backward(loss * self.size)

    def clip(self, parameters: list[nn.Parameter], norm: float) -> Tensor:
        """Scale gradients down to `norm`; the norm before clipping."""
        return self.accelerator.clip_grad_norm_(parameters, norm)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over all processes."""
        return self.accelerator.reduce(values.to(self.device), reduction="sum")

    def autocast(self) -> AbstractContextManager:
        """Around the forward pass: the run's compute type."""
        return self.accelerator.autocast()

    def track(self, values: dict[str, Any], step: int) -> None:
        """Send numbers to the trackers that the run asked for."""
        self.accelerator.log(values, step=step)

    def start_trackers(self, name: str) -> None:
        """Open the trackers that the run asked for."""
        if self.accelerator.log_with:
            self.accelerator.init_trackers(name)

    def wait(self) -> None:
        """Until every process has come here."""
        self.accelerator.wait_for_everyone()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Flush the trackers and leave the process group.

        All leave together, as one that leaves early kills the others; but one that fails does not wait.
        """
        if kind is None or issubclass(kind, KeyboardInterrupt):
            self.accelerator.end_training()
            if dist.is_initialized():
                dist.barrier()
        if dist.is_initialized():
            dist.destroy_process_group()
        # The next run of this process (in a notebook, say) may want another precision.
        AcceleratorState._reset_state(reset_partial_state=True)


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying, so that the loop can save first.

    A second Ctrl-C dies at once.
    """
    received: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals belong to the main thread, and this is another one (a web server's, say)
        before = {}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
