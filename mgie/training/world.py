"""The processes that train together, under plain `torchrun` or alone. Set up by accelerate."""

import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import fields, replace
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor

from mgie.data.batches import STOPS
from mgie.errors import ConfigError, DeviceError, UserError
from mgie.lines import say
from mgie.training.cpu import flush_denormals
from mgie.training.hold import held
from mgie.types import Batch, Draws

Answer = TypeVar("Answer")
Record = TypeVar("Record", Batch, Draws)

FATES = {
    "DataLoader worker": "a process that reads data was killed, often for want of memory: lower data.workers",
    "Connection closed by peer": "another process of this run has ended: read what it said before",
    "Connection reset by peer": "another process of this run has ended: read what it said before",
    "Timed out waiting": "another process of this run has not answered for as long as train.timeout says: it "
    "or its machine hangs; end what is left of it",
}
"""What torch says, in the midst of a longer text, when a process is gone; and what to say."""

NO_MEMORY = (
    "the GPU's memory is used up: lower train.micro_batch_size, or ask `mgie train ... --dry_run --gpu "
    "24GiB` what would fit"
)

TIMEOUT = timedelta(hours=3)
"""How long the processes wait for one that reads or writes: a checkpoint of 7 billion trained weights, with
moments and average, has 110 GB to be written, synced and hashed."""

PATIENCE = 10
"""Seconds in which the process that has failed tells why, before the others tell that it is gone."""


REQUEUE = 75
"""Exit code of a run that its scheduler has told to make way: start it again (EX_TEMPFAIL of sysexits.h)."""


class Interrupted(KeyboardInterrupt):
    """A run was told to stop from outside; `code` is what its process ends with."""

    def __init__(self, code: int = 130):
        super().__init__()
        self.code = code


class Stopped(Interrupted):
    """All processes have agreed to stop, and what was done is saved."""


def code_after(signals: list[int]) -> int:
    """The exit code of a process that was told to stop by these signals; 0 where there are none."""
    return REQUEUE if {signal.SIGTERM, signal.SIGUSR1} & {*signals} else 130 if signals else 0


def processes() -> int:
    """How many processes were started to train together."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_trackers(names: Iterable[str]) -> None:
    """Refuse trackers whose package is missing, which accelerate would leave out. Raises ConfigError."""
    for name in names:
        if not find_spec(name):
            raise ConfigError(
                f"log.trackers names {name}, and the package {name} is not installed: pip install {name}, or "
                "leave it out."
            )


class World:
    """Ranks, devices, trackers, and what processes tell each other outside of the model."""

    def __init__(
        self,
        folder: Path,
        *,
        trackers: tuple[str, ...] = (),
        threads: int | None = None,
        timeout: timedelta = TIMEOUT,
    ):
        """Meet the other processes. What the run keeps lies in `folder`.

        Whoever waits for another one longer than `timeout` ends with a DeviceError. Raises ConfigError where
        the package of a tracker is missing.
        """
        together = processes() > 1
        check_trackers(trackers)
        with _meeting():
            self.accelerator = Accelerator(
                # Asked for by name: accelerate takes processes under torchrun that have no GPU for lone ones.
                cpu=together and not torch.cuda.is_available(),
                mixed_precision="no",  # that is the engine's
                log_with=list(trackers) or None,
                project_dir=str(folder),
                kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
            )
        self.rank: int = self.accelerator.process_index
        self.size: int = self.accelerator.num_processes
        self.device: torch.device = self.accelerator.device
        self.is_main: bool = self.accelerator.is_main_process
        self._named = False
        # What processes tell each other besides tensors goes from CPU to CPU: no GPU is waited for.
        self.timeout = timeout
        self.hosts: Any = self.new_group() if together else None
        self._flushes = self.device.type == "cpu" and flush_denormals()
        if self.device.type == "cpu":
            torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // self.size))

    def new_group(self) -> Any:
        """All processes once more, for another thread, or for what lies on the CPU."""
        return dist.new_group(backend="gloo", timeout=self.timeout)

    def meet_alone(self) -> None:
        """Make the group that engines expect, of this process only, where there is none."""
        if not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if self.device.type == "cuda" else "gloo"
            alone = {"store": dist.HashStore(), "rank": 0, "world_size": 1}
            dist.init_process_group(backend, timeout=self.timeout, **alone)
            self._named = "LOCAL_RANK" not in os.environ
            os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed asks for it

    def sum(self, values: Tensor) -> Tensor:
        """Sum of a small tensor on the device over all processes."""
        return self.accelerator.reduce(values, reduction="sum")

    def put(self, record: Record) -> Record:
        """A batch or its draws on the device; pinned on the way, or the copy would wait for the GPU."""
        return (pinned(record) if self.device.type == "cuda" else record).to(self.device)

    def totals(self, mine: list[int]) -> list[int]:
        """Sums of a few numbers over all processes, told from CPU to CPU."""
        numbers = torch.tensor(mine, dtype=torch.int64)
        if self.size > 1:
            dist.all_reduce(numbers, group=self.hosts)
        return numbers.tolist()

    def asked_to_stop(self, signals: list[int]) -> int:
        """What all processes shall exit with as any of them got `signals` to stop; 0: nobody did."""
        mine = code_after(signals)
        wished = self.totals([mine == REQUEUE, mine > 0])
        return REQUEUE if wished[0] else 130 if wished[1] else 0

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

    def all_or_none(self, act: Callable[[], None]) -> None:
        """Do something on every process; the UserError that it raises on any of them is raised on all."""
        failed = None
        try:
            act()
        except UserError as error:
            failed = error
        for error in self.from_all(failed):
            if error is not None:
                raise error

    @contextmanager
    def holding(self, folder: Path) -> Iterator[None]:
        """Hold a run's folder against other runs, for all processes (hold.py).

        Raises ConfigError that tells who holds it.
        """

        def hold() -> None:
            folder.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(folder.resolve(), say=self.say))

        with ExitStack() as stack:
            self.from_main(hold)
            yield

    def say(self, sentence: str) -> None:
        """One line for people, from the main process."""
        if self.is_main:
            say(sentence)

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
        Raises DeviceError where the error is that another process is gone, or a GPU's memory.
        """
        if kind is None or issubclass(kind, Stopped):
            if dist.is_initialized():
                dist.barrier()
            self.accelerator.end_training()
        if dist.is_initialized():
            dist.destroy_process_group()
        if self._flushes:
            torch.set_flush_denormal(False)
        if self._named:  # accelerate would take the next run of this process for one of several
            del os.environ["LOCAL_RANK"]
        # The next run of this process (in a notebook, say) may want other trackers.
        AcceleratorState._reset_state(reset_partial_state=True)
        fate = next((FATES[words] for words in FATES if words in str(error)), None)
        fate = NO_MEMORY if isinstance(error, torch.OutOfMemoryError) else fate
        if fate and isinstance(error, RuntimeError):
            if self.size > 1:
                time.sleep(PATIENCE)
            raise DeviceError(f"{fate}; the same command goes on from the last checkpoint.") from error


@contextmanager
def _meeting() -> Iterator[None]:
    """Who waits for the others in vain tells so. Raises DeviceError."""
    try:
        yield
    except dist.DistError as error:
        reason = " ".join(str(error).split())[:200]
        raise DeviceError(
            f"the processes of this run have not met ({reason}): see what the others said, and whether all "
            "were started with one WORLD_SIZE, MASTER_ADDR and MASTER_PORT."
        ) from error


def pinned(record: Record) -> Record:
    """The same record with its tensors in memory that a GPU reads by itself."""
    values = ((field.name, getattr(record, field.name)) for field in fields(record))
    return replace(record, **{name: value.pin_memory() for name, value in values if torch.is_tensor(value)})


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

    def stop(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        raise Interrupted(code_after([number]))

    return _handling(stop)


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
