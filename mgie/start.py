"""Where a run begins or goes on, and as what: decided once, the same for all processes."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from llava_patch.folders import check_out
from mgie.build import check_parts, first_checkpoint
from mgie.config import RunConfig, dump_run, load_run
from mgie.data.datasets import identity
from mgie.data.stored_features import stored_kinds
from mgie.errors import ConfigError, WeightsError
from mgie.personalization import subjects
from mgie.training.world import World
from mgie.weights import checkpoint
from mgie.weights.checkpoint import Found


def find_start(
    run: RunConfig, world: World, *, data: str | None = None
) -> tuple[RunConfig, Path | None, str]:
    """What all processes start with: the run, the checkpoint that it goes on from (None: it is new; one line
    says which), and the identity of its data, `data` where that is known.

    The main process chooses and verifies. Raises WeightsError where no checkpoint is intact or another
    process sees another one, ConfigError if the folder holds a run of other settings, DataError.
    """

    def choose() -> tuple[Found, RunConfig, str]:
        check_out(run.folder / "checkpoints" / "new", kind=checkpoint.CHECKPOINT)
        found = checkpoint.find(run.folder)
        learnt = data or _learnt(run)
        return found, settle_features(settle_start(run, found.path), found.path), learnt

    found, run, learnt = world.from_main(choose)
    for rank, problem in enumerate(world.from_all(found.otherwise_here())):
        if problem:
            raise WeightsError(f"process {rank} {problem}")
    if found.path is None:
        world.say(f"new: {run.folder}.")
        return run, None, learnt
    check_same_run(run, found.path, learnt)
    for damaged in found.skipped:
        world.say(f"skipped {damaged}.")
    world.say(f"goes on from {found.path} at sample {found.samples}.")
    return run, found.path, learnt


def _learnt(run: RunConfig) -> str:
    """Identity of what a run learns from. Raises DataError."""
    if run.data.subjects:
        return subjects.identity(run.data.path, run.data.subjects.prior)
    return identity(run.data.shares, streaming=run.data.streaming)


def settle_start(run: RunConfig, found: Path | None) -> RunConfig:
    """The run with the checkpoint that `model.start` means, decided once: one that goes on from `found` keeps
    its own."""
    start = run.model.start
    if found:
        recorded = yaml.safe_load((found / "run.yaml").read_text())["model"].get("start")
        meant = Path(recorded or "").absolute()
        if recorded and (start is None or Path(start).absolute() in (meant, *meant.parents[:2])):
            start = recorded
    elif start is not None:
        start = first_checkpoint(start)
    return replace(run, model=replace(run.model, start=start))


def settle_features(run: RunConfig, found: Path | None) -> RunConfig:
    """The run with the stored features that it takes, decided once: one that goes on from `found` keeps its
    own. By itself it takes all that is stored, of parts that are frozen, where pictures are neither cut nor
    mirrored."""
    data, trained = run.data, run.train.groups
    if data.features is not None:
        return run
    if found:
        kinds = yaml.safe_load((found / "run.yaml").read_text())["data"].get("features") or ()
    elif data.streaming or data.subjects or data.crop < 1 or data.flip or data.buckets == "shape":
        kinds = ()
    else:
        frozen = {"vae": "codec" not in trained, "clip": "vision_tower" not in trained}
        kinds = tuple(kind for kind in stored_kinds(data.shares) if frozen[kind])
    return replace(run, data=replace(data, features=tuple(kinds)))


def check_same_run(run: RunConfig, found: Path, data: str) -> None:
    """Refuse to go on with a checkpoint of a run that would learn something else, or from other data.

    Where it runs, how long, and how often it is saved and looked at, may be another.
    """
    state = checkpoint.load_state(found)
    check_parts(run, state, found)
    if state.data not in ("", data):
        raise ConfigError(
            f"{run.folder} holds a run that learnt from other data than {run.data.path} has now (identity "
            f"{state.data}, now {data}): give this run another --name, and --from {run.folder} to go on "
            "from its weights."
        )
    recorded = load_run(str(found / "run.yaml"))  # keys that came later have their defaults
    before, now = (_comparable(dump_run(each)) for each in (recorded, run))
    changed = [key for key in sorted(before.keys() | now.keys()) if before.get(key) != now.get(key)]
    if changed:
        key = changed[0]
        raise ConfigError(
            f"{run.folder} holds a run with {key}={before.get(key)}, now {key}={now.get(key)} is asked for: "
            "give this run another --name, or remove that folder."
        )


def _comparable(text: str) -> dict[str, Any]:
    """Flat settings that decide what is learnt."""
    free = (
        "out", "data.path", "data.mixture", "data.subjects.prior", "data.workers",
        "train.samples", "train.epochs",
        "train.micro_batch_size", "train.threads", "train.strategy", "train.offload", "train.timeout",
        "model.encoder.attention", "model.encoder.packed",
        "save", "log", "preview", "validation", "sampling", "evaluate",
    )  # fmt: skip

    def flat(values: dict, prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in values.items():
            name = prefix + key
            if name not in free:
                found |= flat(value, name + ".") if isinstance(value, dict) else {name: value}
        return found

    return flat(yaml.safe_load(text))
