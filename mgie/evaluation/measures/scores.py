"""One output and what it is measured against -> its numbers by metrics, and their means.

What cannot be measured is never a number: it has none, is left out of the mean, and is counted by its reason.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from PIL.Image import Image
from torch import Tensor

from mgie.evaluation.measures.averages import Mean, macro, micro
from mgie.evaluation.measures.blocks import at_size
from mgie.evaluation.measures.eyes import Eyes, Feature
from mgie.evaluation.measures.features import Clip
from mgie.evaluation.measures.masked import inside, outside, outside_score, shares
from mgie.evaluation.measures.metrics import PIXEL_METRICS, PSNR_CAP, cosine, direction
from mgie.evaluation.published.protocol import TEXTS, Metric, Part


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """What one output is measured against. Whatever a data set does not have is None or empty."""

    output: Image
    source: Image | None = None
    target: Image | None = None
    caption: str = ""
    """What the target shows, in words."""
    source_caption: str = ""
    mask: Image | None = None
    """Where the edit belongs, white."""
    entity: Image | None = None
    """The thing that the instruction shows, on black."""
    subject: Image | None = None
    """That thing, cut out of the output."""
    found: bool = True
    """Whether it was found there."""
    references: tuple[Image, ...] = ()
    """Photos of the subject that should be seen."""

    def has(self, part: Part) -> bool:
        """Whether it is there."""
        several = part in TEXTS or part == "references"
        return bool(getattr(self, part)) if several else getattr(self, part) is not None


@dataclass(frozen=True, slots=True)
class Score:
    """A number, and what is to be known of it."""

    value: float | None
    """None: it could not be measured."""
    notes: tuple[str, ...] = ()
    """Such as "no caption", "cut", "infinite"; counted in the results."""


def score(metric: Metric, case: Case, eyes: Eyes) -> Score:
    """The number of one output. The models that the metric needs are there (`find_scorers`)."""
    parts = (*metric.of, metric.at) if metric.at else metric.of
    for part in parts:
        if not case.has(part):
            return Score(None, (f"no {part.replace('_', ' ')}",))
    if "equal_captions" in metric.leave_out and case.caption == case.source_caption:
        return Score(None, ("equal captions",))
    if "black_output" in metric.leave_out and case.output.convert("RGB").getbbox() is None:
        return Score(None, ("black output",))
    if "references" in metric.of:
        return _over_references(metric, case, eyes)
    if metric.region is not None:
        return _in_region(metric, case, eyes)
    return MEASURES[metric.measure](metric, case, eyes)


def _over_references(metric: Metric, case: Case, eyes: Eyes) -> Score:
    """The mean over the photos of a subject."""
    one = replace(metric, of=tuple("target" if part == "references" else part for part in metric.of))
    found = [score(one, replace(case, target=photo), eyes) for photo in case.references]
    values = [each.value for each in found if each.value is not None]
    notes = tuple(dict.fromkeys(note for each in found for note in each.notes))
    return Score(micro(values).value, notes)


def _in_region(metric: Metric, case: Case, eyes: Eyes) -> Score:
    """The number inside or outside the mask."""
    if case.mask is None:
        return Score(None, ("no mask",))
    assert metric.side
    mask = shares(case.mask, metric.side)
    if metric.region == "inside":
        found = _likeness(metric, replace(case, output=inside(case.output, mask)), eyes)
        assert found.value is not None
        return Score(100 * max(found.value, 0.0), found.notes)  # CLIPScore, as torchmetrics has it
    pair = [outside(getattr(case, part), mask) for part in metric.of]
    value, infinite = outside_score(metric, pair[0], pair[1], eyes.lpips and eyes.lpips.between)
    return Score(value, ("infinite",) if infinite else ())


def _pixels(metric: Metric, case: Case, eyes: Eyes) -> Score:
    size = getattr(case, metric.at).size if metric.at else case.output.size
    first, second = (at_size(getattr(case, part).convert("RGB"), size, metric.filter) for part in metric.of)
    if metric.measure == "lpips":
        assert eyes.lpips
        return Score(eyes.lpips(first, second))
    value = PIXEL_METRICS[metric.measure](first, second)
    return Score(value) if math.isfinite(value) else Score(PSNR_CAP, ("infinite",))


def _likeness(metric: Metric, case: Case, eyes: Eyes) -> Score:
    (first, second), notes = _features(metric, case, eyes)
    lost = ("not found",) if "subject" in metric.of and not case.found else ()
    return Score(float(cosine(first, second)), (*notes, *lost, *_empty(first, second)))


def _direction(metric: Metric, case: Case, eyes: Eyes) -> Score:
    (source, output, before, after), notes = _features(metric, case, eyes)
    length = metric.normalise_before_difference
    value = direction(source, output, before, after, normalise_before_difference=length)
    return Score(float(value), (*notes, *_empty(output - source, after - before)))


MEASURES: dict[str, Callable[[Metric, Case, Eyes], Score]] = {
    **dict.fromkeys((*PIXEL_METRICS, "lpips"), _pixels),
    **dict.fromkeys(("clip", "dino"), _likeness),
    "direction": _direction,
}
"""What a metric may measure -> how it is done."""


def _features(metric: Metric, case: Case, eyes: Eyes) -> tuple[list[Feature], tuple[str, ...]]:
    """Of each part, in the metric's order."""
    found, notes = [], []
    model = eyes.dino if metric.measure == "dino" else eyes.clip
    assert model
    for part in metric.of:
        if part in TEXTS:
            assert isinstance(model, Clip)
            words = model.words(getattr(case, part), metric.overlong)
            notes += ["cut"] * words.cut + ["text not cleaned"] * (not words.cleaned)
            found.append(eyes.once(("text", words.ids), lambda words=words: model.texts([words])))
            continue
        picture = getattr(case, part)
        bits = hashlib.sha256(picture.convert("RGB").tobytes()).digest()
        key = (metric.measure == "dino", bits, picture.size, metric.prep)
        found.append(eyes.once(key, lambda picture=picture: model.images([picture], metric.prep)))
    return found, tuple(dict.fromkeys(notes))


def _empty(*features: Float[Tensor, "1 f"]) -> tuple[str, ...]:
    return ("nothing to compare",) if any(not torch.any(each) for each in features) else ()


def average(rule: str, values: Sequence[float], groups: Mapping[str, Sequence[str]]) -> Mean:
    """The mean by a metric's rule; `groups` tells of each item its kind, its cluster."""
    kind, _, of = rule.partition(":")
    return macro(values, groups[of]) if kind == "macro" else micro(values)


def means(
    metrics: Mapping[str, Metric], scored: Sequence[Mapping[str, Score]], groups: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """Metric -> its mean; with `n_of`, how many items it is of where some have no number, and `counted`: how
    often what was noted of it."""
    facts: dict[str, Any] = {}
    own: dict[str, int] = {}
    counted: dict[str, dict[str, int]] = {}
    for name, metric in metrics.items():
        kept = [(place, each[name].value) for place, each in enumerate(scored)]
        kept = [(place, value) for place, value in kept if value is not None]
        inside = {of: [labels[place] for place, _ in kept] for of, labels in groups.items()}
        facts[name] = average(metric.average, [value for _, value in kept], inside).value
        if len(kept) < len(scored):
            own[name] = len(kept)
        if notes := Counter(note for each in scored for note in each[name].notes):
            counted[name] = dict(sorted(notes.items()))
    facts |= {"n_of": own} if own else {}
    return facts | ({"counted": counted} if counted else {})
