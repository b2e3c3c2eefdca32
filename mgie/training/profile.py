"""Where the time of a step goes, part by part: `mgie train --profile N`."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from mgie.training.engine import AbstractEngine
from mgie.training.task import AbstractTask

WARM = 2
"""Steps that are taken before the clock starts."""
REST = "all else"


class Times:
    """Seconds of parts, by name; each waits for the device before and after it."""

    def __init__(self, device: torch.device):
        self.device, self.running = device, False
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        """Seconds of a clock, when the device has done all that it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What happens inside belongs to `name`."""
        with record_function(name):
            began = self.now() if self.running else 0.0
            yield
            if self.running:
                self.seconds[name] = self.seconds.get(name, 0.0) + self.now() - began

    def around(self, name: str, call: Callable) -> Callable:
        """`call`, timed."""

        def timed(*given: Any, **named: Any) -> Any:
            with self.part(name):
                return call(*given, **named)

        return timed

    def table(self, seconds: float, steps: int) -> str:
        """Milliseconds per step and shares, longest first, of steps that took so many `seconds` together."""
        rows = dict(sorted(self.seconds.items(), key=lambda row: -row[1]))
        rows[REST] = seconds - sum(rows.values())
        lines = [
            f"| {name} | {1e3 * each / steps:.1f} | {each / seconds:.1%} |" for name, each in rows.items()
        ]
        whole = f"| a step | {1e3 * seconds / steps:.1f} | 100% |"
        return "\n".join(["| part | ms | share |", "| --- | --- | --- |", *lines, whole]) + "\n"


def watch_steps(
    engine: AbstractEngine, task: AbstractTask, batches: Any, *, steps: int, folder: Path,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """From the third step on time so many `steps`, and trace one; then leave all as it was.

    Writes table.md and trace.json (chrome://tracing, or Perfetto) into `folder`, on the main process. Parts
    that a task has not are not in the table. What is computed is the same.
    """
    times = Times(engine.world.device)
    undo: list[Callable[[], None]] = []

    def replace(owner: Any, method: str, name: str) -> None:
        setattr(owner, method, times.around(name, getattr(owner, method)))
        undo.append(lambda: delattr(owner, method))

    editor = task.editor
    stages: dict[str, nn.Module] = {}
    if hasattr(editor, "codec"):
        replace(editor.codec, "moments", "codec")
        stages = {**editor.encoder.stages, "denoiser": editor.denoiser}
    for name, module in stages.items():
        replace(module, "forward", name)
    replace(engine, "backward", "backward")
    replace(engine, "step", "optimizer")
    replace_steps(batches, times, undo)

    taken, began = 0, 0.0
    step, tracer = engine.step, profile(activities=[ProfilerActivity.CPU, *_on(times.device)])

    def counted() -> Any:
        nonlocal taken, began
        done = step()
        taken += 1
        if taken == WARM:
            times.running, began = True, times.now()
        elif taken == WARM + steps:
            seconds, times.running = times.now() - began, False
            if engine.world.is_main:
                folder.mkdir(parents=True, exist_ok=True)
                (folder / "table.md").write_text(times.table(seconds, steps))
            tracer.start()
        elif taken == WARM + steps + 1:
            tracer.stop()
            if engine.world.is_main:
                tracer.export_chrome_trace(str(folder / "trace.json"))
                say(f"{steps} steps were timed: {folder / 'table.md'}, and one traced beside it.")
            for each in undo:
                each()
        return done

    engine.step = counted  # type: ignore[method-assign]


def replace_steps(batches: Any, times: Times, undo: list[Callable[[], None]]) -> None:
    """Time how long a step waits for its data."""
    steps = batches.steps

    def timed(*given: Any, **named: Any) -> Iterator[Any]:
        rows = iter(steps(*given, **named))
        nothing = object()
        while True:
            with times.part("data wait"):
                row = next(rows, nothing)
            if row is nothing:
                return
            yield row

    batches.steps = timed
    undo.append(lambda: delattr(batches, "steps"))


def _on(device: torch.device) -> list[ProfilerActivity]:
    return [ProfilerActivity.CUDA] if device.type == "cuda" else []
