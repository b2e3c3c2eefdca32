"""How a run tells what it does: a progress bar, one line per interval in log.jsonl, and the trackers.

Names of all metrics are here.
"""

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from tqdm import tqdm

from mgie.training.world import World
from mgie.weights.checkpoint import TrainState

LINES = "log.jsonl"


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    """How often a run says how it goes, and where."""

    every: int
    """Samples between log lines."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the numbers go besides the console and log.jsonl."""


class RunLog:
    """Console, file and trackers of one run. Only the main process writes."""

    def __init__(self, folder: Path, world: World, *, total: int, done: int, run_yaml: str):
        self.world = world
        self.folder = folder
        self.started = time.monotonic()
        self.done_before = self.samples_of_line = done
        self.bar = tqdm(
            total=total, initial=done, unit="sample", desc="train", disable=not world.is_main, smoothing=0.05
        )
        if world.is_main:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "run.yaml").write_text(run_yaml)
            self._forget_after(done)

    def advance(self, samples: int) -> None:
        """Move the bar."""
        self.bar.update(samples)

    def samples_since_line(self, samples: int) -> int:
        """How many of `samples` came after the last line."""
        return samples - self.samples_of_line

    def step(self, state: TrainState, *, grad_norm: float, lr: float) -> None:
        """One line: losses are means since the last one, `samples_per_second` since this process began."""
        seconds = time.monotonic() - self.started
        line = {
            "step": state.steps,
            "samples": state.samples,
            "loss_ce": state.loss_ce,
            "loss_edit": state.loss_edit,
            "loss_align": state.loss_align,
            "grad_norm": grad_norm,
            "lr": lr,
            "samples_per_second": round((state.samples - self.done_before) / max(seconds, 1e-9), 2),
        }
        self.samples_of_line = state.samples
        self.bar.set_postfix(ce=f"{state.loss_ce:.3f}", edit=f"{state.loss_edit:.4f}", refresh=False)
        if self.world.is_main:
            with (self.folder / LINES).open("a") as file:
                file.write(json.dumps(line) + "\n")
        self.world.track({k: v for k, v in line.items() if k not in ("step", "samples")}, step=state.samples)

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

    def _forget_after(self, done: int) -> None:
        """Drop the lines of steps that were taken after the checkpoint and are taken again now."""
        path = self.folder / LINES
        if path.exists():
            lines = [
                line
                for line in path.read_text().splitlines()
                if line.endswith("}") and json.loads(line)["samples"] <= done
            ]
            path.write_text("".join(line + "\n" for line in lines))
