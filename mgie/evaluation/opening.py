"""Which benchmark a command asks for, and options that it does not heed."""

from collections.abc import Sequence
from pathlib import Path

import torch

from mgie.errors import ConfigError
from mgie.evaluation.controlled.benchmark import ControlledBenchmark
from mgie.evaluation.controlled.found import Found
from mgie.evaluation.controlled.suites import CONTROLLED, Asked, open_controlled
from mgie.evaluation.measures.cutting import Cutter
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.published.benchmark import PublishedBenchmark
from mgie.evaluation.published.data import is_published, outputs_of, part_of, read_layout
from mgie.evaluation.published.entries import Views
from mgie.evaluation.published.protocol import Protocol, find_protocol, protocol_names
from mgie.evaluation.published.rows import check_eyes, check_texts
from mgie.evaluation.subset import Subset

PICTURES = "pictures:"
"""What stands before a folder of ready pictures, in place of a model."""
OWN_WAY = ("count", "control", "metrics")
"""Options that no published protocol heeds; of ready pictures it heeds none of MAKING either."""
MAKING = (
    "stage", "seed", "batch_size", "steps", "guidance", "image_guidance", "size", "dtype", "verify",
)  # fmt: skip


def controlled(
    suite: str,
    data: str | Path | None,
    count: int,
    finders: dict[str, str | Path | None],
    eyes: Eyes,
    place: torch.device,
    *,
    scored: bool,
) -> ControlledBenchmark:
    """A suite of controls on its data; `scored` says whether its models are needed."""
    if data is None:
        raise ConfigError(f"the suite {suite} needs its data: give --data DIR.")
    if eyes.clip or eyes.lpips:
        raise ConfigError(f"clip and lpips have no place here: {suite} measures in its own way.")
    return open_controlled(
        Asked(
            suite=suite, data=Path(data), count=count, folders=finders, dino=eyes.dino, device=place,
            scored=scored,
        )
    )  # fmt: skip


def check_alone(given: Sequence[str]) -> None:
    """Refuse what is for finished reports where a model is measured. Raises ConfigError."""
    if unheeded := [name for name in ("ab", "results", "questions") if name in given]:
        raise ConfigError(
            f"{unheeded[0]} is for finished reports, and a model is to be measured: leave it out, and name "
            "the reports when there are two (mgie evaluate A B --ab DIR)."
        )


def cuts(suite: str) -> bool:
    """Whether a published protocol cuts a thing out of outputs, where it is given what finds it."""
    protocol = find_protocol(suite) if suite in protocol_names() else None
    return bool(protocol) and any("subject" in metric.of for metric in protocol.metrics.values())


def cutter(suite: str, finders: dict[str, str | Path | None], place: torch.device) -> Cutter | None:
    """What cuts things out of outputs; None where no finders are given. Raises ConfigError for one of two."""
    if not cuts(suite) or not any(finders.values()):
        return None
    found = Found.open(suite, tuple(finders), finders, place)
    hashes = {f"{option}/{file}": sha for option, own in found.hashes.items() for file, sha in own.items()}
    return Cutter(detector=found.detector, segmenter=found.segmenter, hashes=hashes)


def check_finders_asked(suite: str, finders: dict[str, str | Path | None]) -> None:
    """Refuse finders where nothing is looked for. Raises ConfigError."""
    given = [option for option, folder in finders.items() if folder is not None]
    if given and suite not in CONTROLLED and not cuts(suite):
        raise ConfigError(
            f"{given[0]} has no place here: {suite} looks for no things in pictures; leave it out."
        )


def check_asked(
    suite: str,
    protocol: Protocol | None,
    ready: Path | None,
    given: Sequence[str],
    *,
    part: bool,
    unpinned: bool,
) -> None:
    """Refuse options that would not be heeded; `part` says that a subset was asked for. Raises
    ConfigError."""
    if part and protocol is None:
        raise ConfigError(
            f"subset is for published benchmarks, and {suite} is none: say how many items with --count."
        )
    if suite in CONTROLLED:
        unheeded = [
            name
            for name in given
            if name in ("control", "metrics") or (ready and name in MAKING and name != "stage")
        ]
        if unheeded or unpinned:
            name = unheeded[0] if unheeded else "unpinned"
            raise ConfigError(f"{name} has no place here: the suite {suite} measures in its own way.")
        return
    if protocol is None:
        if unpinned:
            raise ConfigError(
                f"unpinned is for published protocols, and {suite} is a suite of this program: leave it out."
            )
        if ready:
            raise ConfigError(
                f"the suite {suite} wants pictures made for it, and {PICTURES}{ready} are ready ones: give a "
                "release, or a published protocol as --suite."
            )
        return
    unheeded = [name for name in given if name in OWN_WAY or (ready and name in MAKING)]
    if ready and unheeded:
        raise ConfigError(
            f"{unheeded[0]} has no place here: the protocol {suite} measures ready pictures its own way."
        )
    if unheeded:
        raise ConfigError(
            f"{unheeded[0]} has no place here: the protocol {suite} measures all its items its own way."
        )
    if "image_guidance" in given and any(view.image_guidance is not None for view in protocol.views.values()):
        raise ConfigError(f"image_guidance has no place here: the views of {suite} are made with one each.")


def published(
    suite: str,
    protocol: Protocol,
    data: str | Path | None,
    ready: Path | None,
    eyes: Eyes,
    *,
    subset: Subset | None,
    unpinned: bool,
    scored: bool,
) -> PublishedBenchmark:
    """A published protocol on its data or a subset of them, of ready pictures or of ones that are to be made;
    `scored` says whether its models are needed."""
    if data is None:
        raise ConfigError(f"the protocol {suite} needs its published data: give --data DIR.")
    views = read_layout(protocol, Path(data), unpinned=unpinned)
    reasons = [] if is_published(protocol, views) else ["the data"]
    if subset:
        count, views = _count(views), part_of(views, subset, suite)
        reasons.append(subset.note(_count(views), count))
    facts = {"not_asked_for": len(outputs_of(ready, views)[1])} if ready else {}
    open_questions = check_eyes(protocol, eyes, unpinned=unpinned) if scored else []
    if scored:
        check_texts(protocol, views, eyes)
    reasons = [*(f"the weights of {name}" for name in open_questions), *reasons]
    return PublishedBenchmark(suite, protocol, views, eyes, subset=subset, unpinned=reasons, facts=facts)


def _count(views: Views) -> int:
    return sum(map(len, views.values()))
