"""How a run tells what it does: a progress bar, one line per interval in log.jsonl, and the trackers. Names of all metrics."""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image
from tqdm import tqdm

from mgie.training.world import World


@dataclass(frozen=True, kw_only=True)
class LogConfig:
    every: int
    """Samples between log lines."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Where the numbers go besides the console and log.jsonl."""


class RunLog:
    """Console, file and trackers of one run. Only the main process writes."""

    def __init__(self, folder: Path, world: World, *, total: int, done: int):
        self.world = world
        self.folder = folder
        self.started = time.monotonic()
        self.start_samples = done
        self.bar = tqdm(total=total, initial=done, unit="sample", desc="train", disable=not world.is_main, smoothing=0.05)

    def advance(self, samples: int) -> None:
        """Move the bar."""
        self.bar.update(samples)

    def step(self, *, step: int, samples: int, loss_ce: float, loss_edit: float, grad_norm: float, lr: float) -> None:
        """One line: `loss_ce` and `loss_edit` are means over the interval, `samples_per_second` over this process's life."""
        seconds = time.monotonic() - self.started
        line = {
            "step": step,
            "samples": samples,
            "loss_ce": loss_ce,
            "loss_edit": loss_edit,
            "grad_norm": grad_norm,
            "lr": lr,
            "samples_per_second": round((samples - self.start_samples) / max(seconds, 1e-9), 2),
        }
        self.bar.set_postfix(ce=f"{loss_ce:.3f}", edit=f"{loss_edit:.4f}", refresh=False)
        if self.world.is_main:
            with (self.folder / "log.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")
        self.world.track({k: v for k, v in line.items() if k not in ("step", "samples")}, step=samples)

    def picture(self, name: str, image: Image.Image) -> None:
        """Keep a preview as previews/<name>.png."""
        if self.world.is_main:
            (self.folder / "previews").mkdir(exist_ok=True)
            image.save(self.folder / "previews" / f"{name}.png")

    def say(self, sentence: str) -> None:
        """One line above the bar."""
        if self.world.is_main:
            self.bar.write(sentence)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.close()
