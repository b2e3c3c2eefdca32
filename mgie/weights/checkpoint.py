"""The state of a run on disk: save, verify, find the latest, resume, prune.

A checkpoint is a folder `checkpoints/<samples>` with
    trained.safetensors    the trained tensors, by their names in the editor
    ema.safetensors        their running average, where the run keeps one
    optimizer.safetensors  "<name>|<kind of moment>" for each trained tensor
    begun.safetensors      of a run that began with another one's tensors (model.start): those that it leaves
                           as they were, and that its parts have otherwise
    state.json             samples and steps done, and which data they were of
    run.yaml               the resolved configuration
    manifest.json          size and SHA-256 of each of these files; written last
It is written whole or not at all: one whose files are not what its manifest says is damaged, and skipped.
Other frozen tensors are never in it, nor a number that is not finite. Tensors are whole, whatever the
processes of the run had shared out; but where each holds its shares of all of them, there is a folder
`shards` in the place of the first three, with one file of each process (mgie/weights/shards.py).
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llava_patch.folders import (
    MANIFEST,
    check_file,
    file_hash,
    read_manifest,
    remove_folder,
    whole_folder,
)
from llava_patch.loading import fitting
from mgie.errors import DeviceError, WeightsError
from mgie.ranges import Few, Number
from mgie.weights import shards

CHECKPOINT = "checkpoint"
"""Kind of the folder."""
BEGUN = "begun.safetensors"
FACTS = ("state.json", "run.yaml")
FILES = ("trained.safetensors", "optimizer.safetensors", *FACTS)
"""What every checkpoint has that is not in shards."""


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """How often a run is saved, and how much of that is kept."""

    every: Number
    """Samples between checkpoints."""
    keep: Few = 2
    """How many checkpoints are kept, at least 1; the newest ones."""


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """Where a run stands. The place in the data and all random draws follow from `samples`."""

    samples: int = 0
    steps: int = 0
    seconds: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    """Mean of each loss, by name, as it was last told."""
    skipped: int = 0
    """Steps among these that were left out, as their gradient was not finite."""
    total: int = 0
    """Length of the run in samples, as it was meant to be."""
    data: str = ""
    """Identity of what was learnt from."""
    release: str = ""
    """Identity of the release that the checkpoint is read over, if it is one."""

    def after_step(self, samples: int, seconds: float) -> "TrainState":
        """The state one optimizer step and `samples` samples later, `seconds` into the run."""
        return replace(self, samples=self.samples + samples, steps=self.steps + 1, seconds=seconds)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """All tensors that a run needs to go on: whole, and on the CPU."""

    trained: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    """Of the optimizer, named "<name>|<kind>"."""
    ema: dict[str, Tensor] | None
    """The running average of `trained`, where the run keeps one."""
    begun: dict[str, Tensor] = field(default_factory=dict)
    """Frozen tensors that are not those of the run's parts, as the run began with another one's."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """What there is to go on from, and what was passed over."""

    path: Path | None
    """The newest intact checkpoint; None where there is none at all."""
    samples: int = 0
    identity: str = ""
    """SHA-256 of its manifest, which has those of its files."""
    skipped: tuple[str, ...] = ()
    """The damaged ones that are newer, each with its reason."""

    def otherwise_here(self) -> str | None:
        """A sentence where this process sees something else under `path` than the one that found it."""
        if self.path is None:
            return None
        manifest = self.path / MANIFEST
        if manifest.is_file() and file_hash(manifest) == self.identity:
            return None
        seen = "another checkpoint" if manifest.is_file() else "no checkpoint"
        return f"sees {seen} at {self.path}: expected a folder that all processes share; let `out` name one."


def save(folder: Path, state: TrainState, snapshot: Snapshot, *, run_yaml: str, keep: int) -> Path:
    """Write `folder/checkpoints/<samples>`; older ones go until, with it, `keep` intact ones are left.

    Raises DeviceError when the disk is full, WeightsError for weights that are not finite: then nothing is
    written, and nothing pruned.
    """
    final = place(folder, state)
    for tensors in (snapshot.trained, snapshot.ema or {}, snapshot.optimizer):
        check_finite(tensors.items(), f"checkpoint {final}, which was therefore not written,")
    with being_saved(folder, state, begun=snapshot.begun, run_yaml=run_yaml, keep=keep) as partial:
        save_file(snapshot.trained, partial / "trained.safetensors")
        if snapshot.ema is not None:
            save_file(snapshot.ema, partial / "ema.safetensors")
        save_file(snapshot.optimizer, partial / "optimizer.safetensors")
    return final


def place(folder: Path, state: TrainState) -> Path:
    """Where the checkpoint of a run lies."""
    return folder / "checkpoints" / f"{state.samples:010d}"


@contextmanager
def being_saved(
    folder: Path, state: TrainState, *, begun: dict[str, Tensor], run_yaml: str, keep: int
) -> Iterator[Path]:
    """A folder into which a checkpoint's tensors are written; it is one when the block ends well.

    Prunes and raises as `save` does.
    """
    final = place(folder, state)
    _make_way(final)
    try:
        with whole_folder(final, kind=CHECKPOINT) as partial:
            yield partial
            if begun:
                save_file(begun, partial / BEGUN)
            (partial / "state.json").write_text(json.dumps(asdict(state)))
            (partial / "run.yaml").write_text(run_yaml)
    except (DeviceError, SafetensorError) as error:
        if "disk is full" in str(error) or "No space left" in str(error):
            raise DeviceError(
                f"the disk is full: checkpoint {final} could not be written, earlier ones are untouched; "
                "free some space and run the same command again to go on."
            ) from error
        raise
    _prune([path for path in _all(folder) if path.name < final.name], keep - 1)


def find(folder: Path) -> Found:
    """The newest intact checkpoint of a run. Raises WeightsError where there are some, and none is intact."""
    skipped: list[str] = []
    for path in reversed(_all(folder)):
        if reason := _damage(path):
            skipped.append(f"{path} (damaged: {reason})")
            continue
        identity = file_hash(path / MANIFEST)
        return Found(path=path, samples=load_state(path).samples, identity=identity, skipped=tuple(skipped))
    if skipped:
        raise WeightsError(
            f"none of the checkpoints of {folder} is intact, not even {skipped[0]}: to start over, choose "
            "another --name, or remove that folder."
        )
    return Found(path=None)


def latest(folder: Path) -> Path | None:
    """The newest intact checkpoint of a run, None where there is none at all. Raises as `find` does."""
    return find(folder).path


def check(checkpoint: Path) -> None:
    """Raise WeightsError unless all files of a checkpoint are there and what its manifest says."""
    manifest = read_manifest(checkpoint)
    sharded = any(name.startswith(f"{shards.SHARDS}/") for name in manifest["files"])
    for name in FACTS if sharded else FILES:
        if manifest["kind"] != CHECKPOINT or name not in manifest["files"]:
            raise WeightsError(
                f"{checkpoint / MANIFEST} is no checkpoint's, which names {name}: train again."
            )
    for name, facts in manifest["files"].items():
        check_file(checkpoint, name, facts)


def check_finite(tensors: Iterable[tuple[str, Tensor]], what: str) -> None:
    """Raise WeightsError where a tensor holds NaN or infinity; `what` they are tensors of."""
    bad = [name for name, tensor in tensors if not tensor.isfinite().all()]
    if bad:
        raise WeightsError(
            f"{what} has {len(bad)} tensors with numbers that are not finite (the first is {bad[0]}): its "
            "training has diverged; take an earlier checkpoint, or train again under another --name with a "
            "lower optim.lr."
        )


def load_state(checkpoint: Path) -> TrainState:
    """Where the run stood. Raises WeightsError for one that an earlier version wrote."""
    try:
        return TrainState(**json.loads((checkpoint / "state.json").read_text()))
    except TypeError as error:
        raise WeightsError(
            f"{checkpoint / 'state.json'} was written by another version of mgie, whose runs this one cannot "
            f"go on with: expected {', '.join(f.name for f in fields(TrainState))}; give the run another "
            f"--name, and --from {checkpoint} to begin with its weights."
        ) from error


def load_tensors(checkpoint: Path, *, ema: bool = False) -> dict[str, Tensor]:
    """Trained tensors by name; with `ema` their average, or the tensors themselves where there is none."""
    averaged = ema and has_average(checkpoint)
    if shards.are_in(checkpoint):
        return shards.read_whole(checkpoint, shards.EMA if averaged else shards.TRAINED)
    return load_file(checkpoint / ("ema.safetensors" if averaged else "trained.safetensors"))


def shapes(checkpoint: Path) -> dict[str, Tensor]:
    """The trained tensors by name, of which nothing is read: without values, or mapped."""
    sharded = shards.are_in(checkpoint)
    return shards.shapes(checkpoint, shards.TRAINED) if sharded else load_tensors(checkpoint)


def has_average(checkpoint: Path) -> bool:
    """Whether the run keeps a running average."""
    if shards.are_in(checkpoint):
        return bool(shards.shapes(checkpoint, shards.EMA))
    return (checkpoint / "ema.safetensors").is_file()


def load_begun(checkpoint: Path) -> dict[str, Tensor]:
    """Tensors that the run neither trained nor has from its parts, by name."""
    return load_file(checkpoint / BEGUN) if (checkpoint / BEGUN).exists() else {}


def load(checkpoint: Path) -> tuple[TrainState, Snapshot]:
    """Where the run stood, and its tensors, whole."""
    sharded = shards.are_in(checkpoint)
    return load_state(checkpoint), Snapshot(
        trained=load_tensors(checkpoint),
        optimizer=shards.read_whole(checkpoint, shards.OPTIMIZER)
        if sharded
        else load_file(checkpoint / "optimizer.safetensors"),
        ema=load_tensors(checkpoint, ema=True) if has_average(checkpoint) else None,
        begun=load_begun(checkpoint),
    )


def load_into(
    tensors: dict[str, Tensor], trained: dict[str, nn.Parameter], *, where: str | Path, every: bool = True
) -> None:
    """Copy `tensors` into the parameters of the same names: into every one, or into some.

    Raises WeightsError unless names and shapes agree exactly, and all numbers are finite.
    """
    fits = fitting(
        trained,
        [(where, dict(tensors))],
        where=f"checkpoint {where}",
        optional=() if every else ("",),
        remedy="use the recipe it was trained with",
    )
    tensors = dict(fits)
    check_finite(tensors.items(), f"checkpoint {where}")
    with torch.no_grad():
        for name, tensor in tensors.items():
            trained[name].copy_(tensor)


def _all(folder: Path) -> list[Path]:
    """Folders of checkpoints, damaged or not, oldest first."""
    found = (folder / "checkpoints").glob("[0-9]*")
    return sorted(path for path in found if path.name.isdecimal() and path.is_dir())


def _damage(checkpoint: Path) -> str:
    """What is wrong with it, in half a sentence; empty where nothing is."""
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    stamps = ((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return _damage_found(checkpoint.absolute(), tuple(stamps))


@lru_cache(maxsize=64)
def _damage_found(checkpoint: Path, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Read once as long as its files have these names, sizes and times: a run asks after each save."""
    del stamps
    try:
        check(checkpoint)
    except WeightsError as error:
        return str(error).rsplit(": ", 1)[0]
    return ""


def _make_way(final: Path) -> None:
    """Move a damaged checkpoint aside whose samples are done again."""
    if final.is_dir() and _damage(final):
        names = (final.with_name(f"{final.name}.damaged{number or ''}") for number in itertools.count())
        final.rename(next(name for name in names if not name.exists()))


def _prune(older: list[Path], keep: int) -> None:
    """Remove all but the newest that hold `keep` intact ones. What is removed was written here."""
    for path in reversed(older if len(older) > keep else []):
        if keep > 0:
            keep -= not _damage(path)
        elif (path / MANIFEST).is_file():
            remove_folder(path)
