"""The processes that train together, set up by accelerate under plain `torchrun` or alone."""

import os
import signal
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from mgie.training import zero
from mgie.weights.checkpoint import Snapshot

Strategy = Literal["ddp", "zero1", "zero2", "zero3"]
"""What processes share out: the samples; with zero1 to zero3 also what zero.py tells."""


class World:
    """Ranks, devices, precision and the few collective operations that a training loop needs."""

    def __init__(
        self,
        folder: Path,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
        trackers: tuple[str, ...] = (),
        threads: int | None = None,
        strategy: Strategy = "ddp",
        batch_size: int = 1,
        micro_batch_size: int = 1,
        clip: float = 1.0,
    ):
        """Meet the other processes.

        `batch_size`, `micro_batch_size` and `clip` are the run's; DeepSpeed wants to know them beforehand.
        """
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        together = processes > 1
        # A process by itself has nobody to share with.
        self.stage = int(strategy[-1]) if together and strategy != "ddp" else 0
        self.rounds = max(1, batch_size // max(1, micro_batch_size * processes))
        self.short = precision == "bf16"
        plugin = None
        if self.stage:
            plugin = DeepSpeedPlugin(
                hf_ds_config=zero.deepspeed_config(
                    self.stage, processes=processes, batch_size=self.rounds * micro_batch_size * processes,
                    micro_batch_size=micro_batch_size, clip=clip,
                ),
                zero3_init_flag=False,  # weights are read before they are shared out
            )  # fmt: skip
        self.accelerator = Accelerator(
            # Asked for by name: accelerate takes processes under torchrun that have no GPU for lone ones.
            cpu=together and not self.stage and not torch.cuda.is_available(),
            mixed_precision="bf16" if self.short and not self.stage else "no",
            deepspeed_plugin=plugin,
            gradient_accumulation_steps=self.rounds if self.stage else 1,
            # Nor does it find a backend for DeepSpeed there.
            kwargs_handlers=[InitProcessGroupKwargs(backend="gloo")]
            if plugin and not torch.cuda.is_available()
            else None,
            log_with=list(trackers) or None,
            project_dir=str(folder),
        )
        if plugin:
            # What tells transformers and diffusers to share out weights, too: here only this class does.
            plugin.dschf = None
        self.rank: int = self.accelerator.process_index
        self.size: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.is_main: bool = self.accelerator.is_main_process
        if self.device.type == "cpu":
            torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // self.size))

    def prepare(
        self, task: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Move to the device and wrap for training together. The weights are read before, the rest after."""
        if self.stage:
            engine, optimizer = self.accelerator.prepare(zero.AsTuple(task, short=self.short), optimizer)
            return zero.AsLosses(engine), optimizer
        return self.accelerator.prepare(task, optimizer)

    def accumulating(self, task: nn.Module, *, last: bool) -> AbstractContextManager:
        """Around every micro-batch of a step; gradients travel between processes only with the last one.

        (ZeRO 2 and 3 send them with each, as nobody keeps them all.)
        """
        if self.stage:
            self.accelerator.sync_gradients = last
            return nullcontext()
        return nullcontext() if last else self.accelerator.no_sync(task)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of `loss`, which is summed over processes.

        Under ZeRO the last one of a step clips and steps too: rates are set before it.
        """
        # Data-parallel wrappers average over the processes; the loss is already divided by the global counts.
        # DeepSpeed averages over the micro-batches too.
        self.accelerator.backward(loss * self.size * (self.rounds if self.stage else 1))

    def clip(self, parameters: list[nn.Parameter], norm: float) -> Tensor:
        """Scale gradients down to `norm`; the norm before clipping."""
        if self.stage:
            return torch.as_tensor(self.accelerator.deepspeed_engine_wrapped.engine.get_global_grad_norm())
        return self.accelerator.clip_grad_norm_(parameters, norm)

    def held(self, trained: dict[str, nn.Parameter]) -> list[nn.Parameter]:
        """What this process holds of the trained tensors, to be averaged: all, or its shares of them."""
        parameters = list(trained.values())
        return zero.shares(parameters) if self.stage == 3 else parameters

    def whole(self, task: nn.Module) -> AbstractContextManager:
        """Inside, this process can use the model without the others. Every process calls it."""
        return zero.whole_weights(task) if self.stage == 3 else nullcontext()

    def gather(
        self,
        trained: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        averages: list[Tensor] | None,
    ) -> Snapshot:
        """What a checkpoint holds, on the main process; empty on the others. Every process calls it.

        `averages` are of what this process holds.
        """

        def kept(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
            # One by one: all processes make each whole, one keeps it.
            return {name: each.detach().cpu().contiguous() for name, each in tensors if self.is_main}

        def whole(held: Iterable[Tensor]) -> Iterator[tuple[str, Tensor]]:
            for (name, parameter), tensor in zip(trained.items(), held, strict=True):
                yield name, zero.join(tensor, parameter) if self.stage == 3 else tensor

        return Snapshot(
            trained=kept(whole(self.held(trained))),
            moments=kept(
                zero.moments(trained, _inner(optimizer)) if self.stage else _moments(trained, optimizer)
            ),
            ema=None if averages is None else kept(whole(averages)),
        )

    def scatter(
        self,
        snapshot: Snapshot,
        trained: dict[str, nn.Parameter],
        optimizer: torch.optim.Optimizer,
        averages: list[Tensor] | None,
    ) -> None:
        """Put the moments and averages of a checkpoint where they belong, in place."""
        if averages is not None:
            source = snapshot.ema or snapshot.trained
            for name, tensor in zip(trained, averages, strict=True):
                tensor.copy_(zero.cut(source[name], tensor) if self.stage == 3 else source[name])
        if self.stage:
            zero.put_moments(snapshot.moments, trained, _inner(optimizer))
            return
        for key, value in snapshot.moments.items():
            name, kind = key.rsplit("|", 1)
            optimizer.state[trained[name]][kind] = value if kind == "step" else value.to(self.device)

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
            if dist.is_initialized():
                dist.barrier()
            self.accelerator.end_training()
        if dist.is_initialized():
            dist.destroy_process_group()
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
        # The next run of this process (in a notebook, say) may want another precision.
        AcceleratorState._reset_state(reset_partial_state=True)


def _inner(optimizer: Any) -> Any:
    """DeepSpeed's optimizer, out of accelerate's wrapper."""
    return optimizer.optimizer


def _moments(
    trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in trained.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}|{kind}", value


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
