"""Named benchmarks, as data: which pairs, which metrics, and who judges."""

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from PIL.Image import Image

from mgie.errors import ConfigError
from mgie.evaluation.controlled.suites import CONTROLLED
from mgie.evaluation.judges.pair_rubric import pair_rubric_names
from mgie.evaluation.judges.rubric import rubric_names
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.published.protocol import Metric, protocol_names
from mgie.toy.judge import JUDGES, Verdict, judge
from mgie.toy.pairs import ToyPairs
from mgie.toy.things import UNIT
from mgie.types import EditPair


@dataclass(frozen=True, kw_only=True, slots=True)
class Request:
    """What a user asks of a suite."""

    count: int
    """How many pairs at most."""
    seed: int
    """A fresh seed makes a fresh test set, where the suite makes its pairs."""
    size: int
    """Side of the pictures that are made."""
    data: Path | None = None
    """A data set that `mgie prepare` wrote."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Suite:
    """One benchmark."""

    name: str
    about: str
    pairs: Callable[[Request], list[EditPair]]
    """The pairs of a request, in the order in which they are given to the model."""
    metrics: tuple[str, ...]
    """Names of METRICS that are measured without being asked for."""
    judge: Callable[[EditPair, Image], Verdict] | None = None
    """Who says whether an output is right; with it goes the control. None: nobody."""
    needs_data: bool = False
    """It has no pairs of its own."""


METRICS = {
    "l1": Metric(measure="l1", of=("output", "target"), at="target", better="lower"),
    "l2": Metric(measure="l2", of=("output", "target"), at="target", better="lower"),
    "psnr": Metric(measure="psnr", of=("output", "target"), at="target", better="higher"),
    "ssim": Metric(measure="ssim", of=("output", "target"), at="target", better="higher"),
}
"""Name -> what can be asked for, of any suite."""

MORE = {
    "clip_i": Metric(measure="clip", of=("output", "target"), better="higher"),
    "clip_t": Metric(measure="clip", of=("output", "caption"), overlong="cut", better="higher"),
    "dino": Metric(measure="dino", of=("output", "target"), better="higher"),
    "lpips": Metric(measure="lpips", of=("output", "target"), at="target", better="lower"),
}
"""Name -> what comes with the model that it is measured by."""


def find_metrics(names: Sequence[str], eyes: Eyes) -> dict[str, Metric]:
    """What is measured, by its name: what was asked for, what the models are there for, and what doing
    nothing would give. Raises ConfigError for what is unknown."""
    for name in names:
        if name not in METRICS:
            raise ConfigError(
                f"There is no metric '{name}': expected some of {', '.join(METRICS)}, or cmmd outside of "
                "training; CLIP-I and CLIP-T come with --clip FOLDER, DINO with --dino FOLDER, LPIPS with "
                "--lpips NET:FILE."
            )
    seen = {name: metric for name, metric in MORE.items() if metric.measure in eyes.hashes}
    copied = replace(METRICS["l1"], of=("source", "target"))
    if eyes.lpips:  # three networks, three metrics
        seen[f"lpips_{eyes.lpips.net}"] = seen.pop("lpips")
    return {name: METRICS[name] for name in names} | {"copy_l1": copied} | seen


def caption_of(pair: EditPair) -> str:
    """What the target shows, in words, as the data set's authors described it: MagicBrush's local
    descriptions, InstructPix2Pix's output captions. Empty where they did not, for an expressive instruction
    is no caption."""
    return pair.meta.get("local_description") or pair.meta.get("output", "")


def find_suite(name: str, data: str | Path | None = None) -> Suite:
    """The suite of that name, to be measured on `data`. Raises ConfigError with the nearest names, and where
    it needs data."""
    if name not in SUITES:
        known = [*SUITES, *protocol_names(), *CONTROLLED, *rubric_names(), *pair_rubric_names()]
        near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
        hint = f"did you mean {' or '.join(near)}?" if near else "choose one of them."
        raise ConfigError(f"There is no suite '{name}': expected one of {', '.join(known)}; {hint}")
    if SUITES[name].needs_data and data is None:
        raise ConfigError(
            f"the suite {name!r} measures on a data set of yours: give --data DIR that `mgie prepare` wrote."
        )
    return SUITES[name]


def _toy(request: Request) -> list[EditPair]:
    if request.data is not None:
        pairs = _held_out(request)
        foreign = [pair.key for pair in pairs if pair.meta.get("world") not in JUDGES]
        if foreign:
            raise ConfigError(
                f"The suite 'toy' judges pairs of the toy world, and {request.data} holds others, such as "
                f"{foreign[0]}: say --suite pairs."
            )
        return pairs
    side = max(request.size // UNIT, 1) * UNIT  # the nearest below that there is
    return list(ToyPairs(request.count, seed=request.seed, split="test", size=side))


def _held_out(request: Request) -> list[EditPair]:
    assert request.data is not None
    from mgie.data.shards import check_set  # a second of imports, which the toy world needs not
    from mgie.data.stored_pairs import StoredPairs

    check_set(request.data, sampled=True)
    stored = StoredPairs(request.data, "test")
    return [stored[index] for index in islice(range(len(stored)), request.count)]


SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite(
            name="toy",
            about="held-out scenes and photographs of the toy world, made from the seed, each judged",
            pairs=_toy,
            metrics=("l1",),
            judge=judge,
        ),
        Suite(
            name="pairs",
            about="the test split of a data set that `mgie prepare` wrote, against its targets",
            pairs=_held_out,
            metrics=("l1", "l2"),
            needs_data=True,
        ),
    )
}
"""Name -> benchmark."""
