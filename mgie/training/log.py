"""How a run tells what it does: progress bar, lines in log.jsonl, trackers.

Names of all metrics are here.
"""

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from llava_patch.ranges import Range
from mgie.ranges import Few, Number, NumberOrNone
from mgie.training.files import HELD_OUT, LINES
from mgie.training.optim import OptimConfig, rate_factor
from mgie.training.world import World
from mgie.types import Losses
from mgie.weights.checkpoint import TrainState

MANY_EPOCHS = 50
"""From here on it is said that pairs are learnt by heart."""
RISES = 3
"""So many looks at held-out pairs in a row must be worse than the best one, before it is said."""


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How often a run says how it goes, and where."""

    every: Number
    """Samples between log lines."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the numbers go besides the console and log.jsonl."""
    peak_tflops: Annotated[float, Range(gt=0, le=10**6)] | None = None
    """What a device can do, in 10^12 operations a second: `mfu` is the share of it that is used. None: what
    the maker says of a known card in bfloat16 (mgie/training/pace.py)."""


@dataclass(frozen=True, kw_only=True)
class PreviewConfig:
    """The pictures that are edited on the way, to be looked at."""

    every: NumberOrNone
    """Samples between previews; 0 for none."""
    count: Few = 4
    """How many held-out pairs are shown."""
    photos: str | None = None
    """Own photos and instructions that are shown instead of held-out pairs: a list as `mgie edit --list`
    reads it, CSV with the columns photo and instruction or JSON lines with these names."""


class Means:
    """Means of the losses over the steps that are taken. The sums stay on the device until they are read."""

    def __init__(self, names: Iterable[str], device: torch.device):
        self.names = tuple(names)
        self._all = torch.zeros(2, len(self.names), device=device)
        self._step = torch.zeros_like(self._all)

    def add(self, losses: Losses) -> None:
        """The losses of a micro-batch."""
        for place, name in enumerate(self.names):
            self._step[0, place] += losses[name].sum.detach()
            self._step[1, place] += losses[name].count

    def close_step(self, taken: Tensor) -> None:
        """All micro-batches of a step were added: it counts if `taken` is 1, and was none if it is 0."""
        self._all = torch.where(taken > 0, self._all + self._step, self._all)
        self._step.zero_()

    def read(self, world: World) -> dict[str, float]:
        """Means over all processes since the last reading; none if no step was taken. Waits for it."""
        sums, counts = world.sum(self._all).tolist()
        self._all.zero_()
        pairs = zip(sums, counts) if any(counts) else ()
        return {name: total / max(count, 1) for name, (total, count) in zip(self.names, pairs)}


class RunLog:
    """Console, file and trackers of one run. Only the main process writes."""

    def __init__(self, folder: Path, world: World, *, total: int, done: int, run_yaml: str):
        self.world = world
        self.folder = folder
        self.total = total
        self.told_time = False
        self.bar = tqdm(
            total=total, initial=done, unit="sample", desc="train", disable=not world.is_main, smoothing=0.05
        )
        if world.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.yaml").write_text(run_yaml)
            for name in (LINES, HELD_OUT):
                _forget_after(folder / name, done)

    def advance(self, samples: int) -> None:
        """Move the bar."""
        self.bar.update(samples)

    def step(
        self, state: TrainState, *, grad_norm: float, rates: dict[str, float], pace: dict[str, float]
    ) -> None:
        """One line: losses are means over the steps taken since the last one, `rates` the learning rates of
        the groups, `skipped` counts all steps that were left out; `pace` is what Pace has read.

        The first one of a process says how long the rest will take.
        """
        line = {
            "step": state.steps,
            "samples": state.samples,
            **{f"loss_{name}": loss for name, loss in state.losses.items()},
            "grad_norm": grad_norm if math.isfinite(grad_norm) else None,
            **{f"lr_{name}": rate for name, rate in rates.items()},
            "skipped": state.skipped,
            **pace,
        }
        rate = pace.get("samples_per_second", 0)
        self.bar.set_postfix({name: f"{loss:.4f}" for name, loss in state.losses.items()}, refresh=False)
        if self.world.is_main:
            with (self.folder / LINES).open("a") as file:
                file.write(json.dumps(line) + "\n")
        numbers = {k: v for k, v in line.items() if k not in ("step", "samples") and v is not None}
        self.world.track(numbers, step=state.samples)
        if rate and not self.told_time and state.samples < self.total:
            left = (self.total - state.samples) / rate
            self.say(f"{rate:.3g} samples per second: about {_duration(left)} to go.")
        self.told_time = True

    def measured(self, state: TrainState, figures: dict[str, int | float]) -> None:
        """A line of its own: what an evaluation on the way has found."""
        if self.world.is_main:
            with (self.folder / LINES).open("a") as file:
                line = {"step": state.steps, "samples": state.samples, **figures}
                file.write(json.dumps(line) + "\n")
        self.world.track(figures, step=state.samples)
        told = ", ".join(f"{name.rsplit('/', 1)[1]} {value:.4g}" for name, value in figures.items())
        self.say(f"after {state.samples} samples: {told}")

    def outlook(self, state: TrainState, optim: OptimConfig, *, batch_size: int, epoch: int | None) -> None:
        """One line: how long the run is, how often each pair comes, and what it means that it was to be of
        another length."""
        line = f"{self.total} samples in {self.total // batch_size} steps"
        if state.total not in (0, self.total):
            was, now = (rate_factor(state.samples / total, optim) for total in (state.total, self.total))
            line += (
                f" instead of {state.total} samples (the learning rate follows the schedule of the new "
                f"length: it goes on at {now:.3g} of its peak, not at {was:.3g})"
            )
        if epoch:
            line += f": {self.total / epoch:.3g} epochs of {epoch} pairs"
        if epoch and self.total > MANY_EPOCHS * epoch:
            line += (
                f". Each pair comes {self.total / epoch:.0f} times and is learnt by heart: "
                f"{MANY_EPOCHS} epochs are train.samples={MANY_EPOCHS * epoch}"
            )
        self.say(f"{line}.")

    def held_out(self, state: TrainState, losses: dict[str, float]) -> None:
        """One line of validation.jsonl: losses of held-out pairs; `edit` is the mean over all levels. When
        one of the two has risen, it is said, once for each lowest point."""
        levels = [loss for name, loss in losses.items() if name.startswith("edit_")]
        line = {"step": state.steps, "samples": state.samples, **losses, "edit": sum(levels) / len(levels)}
        if self.world.is_main:
            with (self.folder / HELD_OUT).open("a") as file:
                file.write(json.dumps(line) + "\n")
            for sentence in _risen((self.folder / HELD_OUT).read_bytes().splitlines()):
                self.say(sentence)
        numbers = {f"held_out_{name}": loss for name, loss in line.items() if name not in ("step", "samples")}
        self.world.track(numbers, step=state.samples)

    def picture(self, name: str, image: Image.Image) -> None:
        """Keep a preview as previews/<name>.png."""
        (self.folder / "previews").mkdir(exist_ok=True)
        image.save(self.folder / "previews" / f"{name}.png")

    def say(self, sentence: str) -> None:
        """One line above the bar."""
        if self.world.is_main:
            self.bar.write(sentence, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()


def _forget_after(path: Path, done: int) -> None:
    """Drop the lines of steps that were taken after the checkpoint and are taken again now.

    Where nothing is resumed, and of lines that are not ours, none is lost.
    """
    if not path.exists():
        return
    lines = path.read_bytes().splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines[-1] += b"\n"
        if _samples(lines[-1]) is None and lines[-1].startswith(b'{"step": '):  # its process was killed
            lines.pop()
    kept = [line for line in lines if not done or (_samples(line) or 0) <= done]
    beside = path.with_suffix(".new")
    beside.write_bytes(b"".join(kept))
    beside.replace(path)


def _samples(line: bytes) -> int | None:
    """The samples that a line is about; None where it is no line of ours."""
    try:
        samples = json.loads(line)["samples"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return samples if isinstance(samples, int) else None


def _risen(lines: Iterable[bytes]) -> Iterator[str]:
    """A sentence for each held-out loss that was at its lowest exactly RISES looks ago."""
    rows = [json.loads(line) for line in lines if _samples(line) is not None]
    for name, what in (("ce", "words"), ("edit", "painting")):
        told = [(row.get(name), -row["samples"]) for row in rows]
        seen = [each for each in told if isinstance(each[0], float) and math.isfinite(each[0])]
        if len(seen) > RISES and min(seen) == seen[-1 - RISES]:  # of equal ones the last
            (lowest, place), (now, _) = min(seen), seen[-1]
            yield (
                f"the held-out loss of the {what} was lowest at sample {-place} ({lowest:.4g}), and is "
                f"{now:.4g} now: pairs are perhaps learnt by heart; more pairs help, or a smaller "
                "train.samples, or evaluate.every, which keeps the best editor."
            )


def _duration(seconds: float) -> str:
    """Seconds as a person says them."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"
