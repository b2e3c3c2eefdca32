"""The state of a training run on disk: save, verify, find the latest, resume, prune.

A checkpoint is a folder `checkpoints/<samples>` with
    trained.safetensors    the trained tensors, by their names in the editor
    ema.safetensors        their running average, where the run keeps one
    optimizer.safetensors  "<name>|<kind of moment>" for each trained tensor
    state.json             samples and steps done
    run.yaml               the resolved configuration
    manifest.json          size and SHA-256 of each of these files; written last
It is written whole or not at all: what has no valid manifest does not exist.
Frozen tensors are never in it. Tensors are whole, whatever the processes of the run had shared out.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_patch.folders import MANIFEST, check_file, read_manifest, remove_folder, whole_folder
from mgie.errors import DeviceError, WeightsError

CHECKPOINT = "checkpoint"
"""Kind of the folder."""


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """How often a run is saved, and how much of that is kept."""

    every: int
    """Samples between checkpoints."""
    keep: int = 2
    """How many checkpoints are kept; the newest ones."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands. The place in the data and all random draws follow from `samples`."""

    samples: int = 0
    steps: int = 0
    seconds: float = 0.0
    loss_ce: float = float("nan")
    loss_edit: float = float("nan")
    loss_align: float = 0.0

    def after_step(self, samples: int, seconds: float) -> "TrainState":
        """The state one optimizer step and `samples` samples later, `seconds` into the run."""
        return replace(self, samples=self.samples + samples, steps=self.steps + 1, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All tensors that a run needs to go on: whole, and on the CPU."""

    trained: dict[str, Tensor]
    moments: dict[str, Tensor]
    """Of the optimizer, named "<name>|<kind>"."""
    ema: dict[str, Tensor] | None
    """The running average of `trained`, where the run keeps one."""


def save(folder: Path, state: TrainState, snapshot: Snapshot, *, run_yaml: str, keep: int) -> Path:
    """Write `folder/checkpoints/<samples>` and prune to the newest `keep`.

    Raises DeviceError when the disk is full.
    """
    final = folder / "checkpoints" / f"{state.samples:010d}"
    try:
        with whole_folder(final, kind=CHECKPOINT) as partial:
            save_file(snapshot.trained, partial / "trained.safetensors")
            if snapshot.ema is not None:
                save_file(snapshot.ema, partial / "ema.safetensors")
            save_file(snapshot.moments, partial / "optimizer.safetensors")
            (partial / "state.json").write_text(json.dumps(asdict(state)))
            (partial / "run.yaml").write_text(run_yaml)
    except (DeviceError, SafetensorError) as error:
        if "disk is full" in str(error) or "No space left" in str(error):
            raise DeviceError(
                f"the disk is full: checkpoint {final} could not be written, earlier ones are untouched; "
                "free some space and run the same command again to go on."
            ) from error
        raise
    for old in _valid(folder)[:-keep]:
        remove_folder(old)
    return final


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run whose manifest holds, or None."""
    for path in reversed(_valid(folder)):
        if _intact(path):
            return path
    return None


def load_state(checkpoint: Path) -> TrainState:
    """Where the run stood."""
    return TrainState(**json.loads((checkpoint / "state.json").read_text()))


def load_tensors(checkpoint: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Trained tensors by name; with `ema` their average, or the tensors themselves where there is none."""
    averaged = checkpoint / "ema.safetensors"
    return load_file(averaged if ema and averaged.exists() else checkpoint / "trained.safetensors")


def load(checkpoint: Path) -> tuple[TrainState, Snapshot]:
    """Where the run stood, and its tensors."""
    return load_state(checkpoint), Snapshot(
        trained=load_tensors(checkpoint),
        moments=load_file(checkpoint / "optimizer.safetensors"),
        ema=load_tensors(checkpoint, ema=True) if (checkpoint / "ema.safetensors").exists() else None,
    )


def put(tensors: dict[str, Tensor], trained: dict[str, nn.Parameter], *, where: Path) -> None:
    """Copy `tensors` into the parameters of the same names.

    Raises WeightsError unless names and shapes agree exactly.
    """
    problems = [f"missing {name}" for name in trained.keys() - tensors.keys()]
    problems += [f"unexpected {name}" for name in tensors.keys() - trained.keys()]
    problems += [
        f"{name} is {tuple(tensors[name].shape)} but the model has {tuple(parameter.shape)}"
        for name, parameter in trained.items()
        if name in tensors and tensors[name].shape != parameter.shape
    ]
    if problems:
        shown = "; ".join(sorted(problems)[:8]) + (
            f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        )
        raise WeightsError(
            f"checkpoint {where} does not fit this model: {shown}; use the recipe it was trained with."
        )
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(tensors[name])


def _valid(folder: Path) -> list[Path]:
    found = (folder / "checkpoints").glob("[0-9]*")
    return sorted(path for path in found if (path / MANIFEST).is_file())


def _intact(checkpoint: Path) -> bool:
    try:
        for name, facts in read_manifest(checkpoint)["files"].items():
            check_file(checkpoint, name, facts)
    except WeightsError:
        return False
    return True
