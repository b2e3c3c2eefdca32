"""The processes that train together, set up by accelerate under plain `torchrun` or alone."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, DeepSpeedPlugin
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn

from llava_patch.folders import locked
from mgie.data.batches import STOPS
from mgie.errors import DeviceError, UserError
from mgie.training import zero
from mgie.weights.checkpoint import Snapshot

Answer = TypeVar("Answer")

Strategy = Literal["ddp", "zero1", "zero2", "zero3"]
"""What processes share out: the samples; with zero1 to zero3 also what zero.py tells."""

FATES = {
    "DataLoader worker": "a process that reads data was killed, often for want of memory: lower data.workers",
    "Connection closed by peer": "another process of this run has ended: read what it said before",
    "Connection reset by peer": "another process of this run has ended: read what it said before",
}
"""What torch says, in the midst of a longer text, when a process is gone; and what to say."""

PATIENCE = 10
"""Seconds in which the process that has failed tells why, before the others tell that it is gone."""


class Stopped(KeyboardInterrupt):
    """All processes have agreed to stop, and what was done is saved."""


def processes() -> int:
    """How many processes were started to train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


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
        count = processes()
        together = count > 1
        # A process by itself has nobody to share with.
        self.stage = int(strategy[-1]) if together and strategy != "ddp" else 0
        self.rounds = max(1, batch_size // max(1, micro_batch_size * count))
        self.short = precision == "bf16"
        plugin = None
        if self.stage:
            plugin = DeepSpeedPlugin(
                hf_ds_config=zero.deepspeed_config(
                    self.stage, processes=count, batch_size=self.rounds * micro_batch_size * count,
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
        # What processes tell each other besides tensors goes from CPU to CPU: no GPU is waited for.
        self.hosts: Any = dist.new_group(backend="gloo") if together else None
        # An optimizer that can be told on the device to leave a step out; DeepSpeed's sees to that itself.
        self.fused: bool = self.device.type == "cuda" and not self.stage
        if self.device.type == "cpu":
            torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // self.size))

    def prepare(
        self, task: nn.Module, optimizer: torch.optim.Optimizer
    ) -> tuple[nn.Module, torch.optim.Optimizer]:
        """Move to the device and wrap for training together. The weights are read before, the rest after."""
        if self.stage:
            engine, optimizer = self.accelerator.prepare(zero.AsTuples(task, short=self.short), optimizer)
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

    def step(self, optimizer: Any, norm: Tensor) -> Tensor:
        """Step, unless `norm` is not finite: 1, or 0 for a step that leaves weights and moments as they are.

        Nobody waits for a GPU to know. Under ZeRO the step is taken or left out already: DeepSpeed looks at
        the norm of the gradient itself.
        """
        taken = norm.to(self.device).isfinite().float()
        if self.fused:
            _inner(optimizer).found_inf = 1 - taken
        if self.fused or self.stage or taken:
            optimizer.step()
        return taken

    def local_parameters(self, trained: dict[str, nn.Parameter]) -> list[nn.Parameter]:
        """What this process holds of the trained tensors, to be averaged: all, or its shares of them."""
        parameters = list(trained.values())
        return zero.local_shards(parameters) if self.stage == 3 else parameters

    def full_parameters(self, task: nn.Module) -> AbstractContextManager:
        """Inside, this process can use the model without the others. Every process calls it."""
        return zero.full_parameters(task) if self.stage == 3 else nullcontext()

    def state_dict(
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
                yield name, zero.unshard(tensor, parameter) if self.stage == 3 else tensor

        return Snapshot(
            trained=kept(whole(self.local_parameters(trained))),
            optimizer=kept(
                zero.optimizer_state(trained, _inner(optimizer))
                if self.stage
                else _optimizer_state(trained, optimizer)
            ),
            ema=None if averages is None else kept(whole(averages)),
        )

    def load_state_dict(
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
                tensor.copy_(zero.shard(source[name], tensor) if self.stage == 3 else source[name])
        if self.stage:
            zero.load_optimizer_state(snapshot.optimizer, trained, _inner(optimizer))
            return
        for key, value in snapshot.optimizer.items():
            name, kind = key.rsplit("|", 1)
            on_host = kind == "step" and not self.fused
            optimizer.state[trained[name]][kind] = value if on_host else value.to(self.device)

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor over all processes."""
        return self.accelerator.reduce(values.to(self.device), reduction="sum")

    def any(self, mine: bool) -> bool:
        """Whether it is so on any process."""
        if self.size == 1:
            return mine
        flag = torch.tensor(mine, dtype=torch.int32)
        dist.all_reduce(flag, group=self.hosts)
        return bool(flag)

    def from_main(self, ask: Callable[[], Answer]) -> Answer:
        """What `ask` gives on the main process, for all of them; likewise the UserError that it raises."""
        told: list[Any] = [None, None]
        if self.is_main:
            try:
                told[0] = ask()
            except UserError as error:
                told[1] = error
        if self.size > 1:
            dist.broadcast_object_list(told, group=self.hosts)
        if told[1] is not None:
            raise told[1]
        return told[0]

    def from_all(self, mine: Answer) -> list[Answer]:
        """What each process has, by rank."""
        everyones: list[Any] = [mine] * self.size
        if self.size > 1:
            dist.all_gather_object(everyones, mine, group=self.hosts)
        return everyones

    @contextmanager
    def holding(self, folder: Path) -> Iterator[None]:
        """Hold a run's folder against other runs, for all processes.

        Raises ConfigError that tells who holds it.
        """

        def hold() -> None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(locked(folder.resolve()))

        with ExitStack() as held:
            self.from_main(hold)
            yield

    def say(self, sentence: str) -> None:
        """One line for people, from the main process."""
        if self.is_main:
            print(f"mgie: {sentence}", file=sys.stderr)

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

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *rest: object) -> None:
        """Flush the trackers and leave the process group.

        All leave together, as one that leaves early kills the others; but one that fails does not wait.
        Raises DeviceError where the error is that another process is gone.
        """
        if kind is None or issubclass(kind, Stopped):
            if dist.is_initialized():
                dist.barrier()
            self.accelerator.end_training()
        if dist.is_initialized():
            dist.destroy_process_group()
        os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
        # The next run of this process (in a notebook, say) may want another precision.
        AcceleratorState._reset_state(reset_partial_state=True)
        fate = next((FATES[words] for words in FATES if words in str(error)), None)
        if fate and isinstance(error, RuntimeError):
            if self.size > 1:
                time.sleep(PATIENCE)
            raise DeviceError(f"{fate}; the same command goes on from the last checkpoint.") from error


def _inner(optimizer: Any) -> Any:
    """The optimizer, out of accelerate's wrapper."""
    return optimizer.optimizer


def _optimizer_state(
    trained: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer
) -> Iterator[tuple[str, Tensor]]:
    for name, parameter in trained.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            yield f"{name}|{kind}", value


@contextmanager
def stop_requests() -> Iterator[list[int]]:
    """Collect Ctrl-C and what schedulers send instead of dying, so that the loop can save first.

    A second Ctrl-C dies at once.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        received.append(number)

    with _handling(note):
        yield received


def stopping_at_once() -> AbstractContextManager[None]:
    """What schedulers send ends what is done inside as Ctrl-C does: there is nothing to be saved yet."""
    return _handling(signal.default_int_handler)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], Any]) -> Iterator[None]:
    wanted = [number for number in STOPS if number != signal.SIGHUP or not _ignored(number)]
    try:
        before = {number: signal.signal(number, handler) for number in wanted}
    except ValueError:  # signals belong to the main thread, and this is another one (a web server's, say)
        before = {}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _ignored(number: int) -> bool:
    """As under nohup, whose runs outlive their terminal."""
    return signal.getsignal(number) == signal.SIG_IGN
