"""Several systems in one order, from who won against whom: Davidson's model of ties.

Davidson, "On extending the Bradley-Terry model to accommodate ties in paired comparison experiments", 1970. A
system has a strength theta; of two, the first wins with a chance of exp(theta_1) / Z, the second with
exp(theta_2) / Z, and 2 nu exp((theta_1 + theta_2) / 2) / Z is the chance of a tie. Each question has a nu of
its own, and questions weigh alike, however many answers they have.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int

from mgie.errors import DataError
from mgie.evaluation.comparing.bootstrap import LEVEL

DRAWS = 1000
ELO = 400 / math.log(10)
"""Points of a unit of theta; the mean of all systems has 1000."""
MEAN = 1000
TIES = (-12.0, 8.0)
"""Where the logarithm of nu may lie: without a tie, and with nothing else, it has no end."""
STEPS, CLOSE = 100, 1e-10

Penalty = Literal["centred", "last"]
"""What is held small (a normal prior of deviation 1): strengths less their mean, so that names play no part;
or, as GEditBench v2 (2026) does it, less that of the last system by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Match:
    """Two systems that were compared once."""

    first: str
    second: str
    outcome: Literal["first", "second", "tie"]
    question: str = ""
    cluster: str = ""
    """Matches of one cluster are no independent samples, and are drawn together."""


OUTCOMES = ("first", "second", "tie")


def rank(
    matches: Sequence[Match], *, seed: int, draws: int = DRAWS, penalty: Penalty = "centred"
) -> dict[str, Any]:
    """Of each system, the strongest first: theta, elo and its 95 % interval (drawn from whole clusters), how
    many matches. Raises DataError where systems were not all compared, over others at least."""
    names = sorted({name for match in matches for name in (match.first, match.second)})
    _check_linked(names, matches)
    questions = sorted({match.question for match in matches})
    clusters = sorted({match.cluster for match in matches})
    places = {name: place for place, name in enumerate(names)}
    numbers = {cluster: place for place, cluster in enumerate(clusters)}
    tallies = np.zeros((len(clusters), len(questions), len(names), len(names), 3))
    for match in matches:
        one, two = places[match.first], places[match.second]
        outcome = OUTCOMES.index(match.outcome)
        if one > two:
            one, two, outcome = two, one, (1, 0, 2)[outcome]
        tallies[numbers[match.cluster], questions.index(match.question), one, two, outcome] += 1
    strengths = davidson(tallies.sum(axis=0), penalty=penalty)
    generator = np.random.Generator(np.random.PCG64(seed))
    drawn = []
    for _ in range(draws if len(clusters) > 1 else 0):
        times = np.bincount(generator.integers(0, len(clusters), len(clusters)), minlength=len(clusters))
        drawn.append(davidson(np.tensordot(times, tallies, axes=1), penalty=penalty))
    tail = (1 - LEVEL) / 2
    spans = np.quantile(drawn, [tail, 1 - tail], axis=0) if drawn else None
    told = {
        name: {
            "theta": float(strengths[place]), "elo": MEAN + ELO * float(strengths[place]),
            "low": None if spans is None else MEAN + ELO * float(spans[0, place]),
            "high": None if spans is None else MEAN + ELO * float(spans[1, place]),
            "matches": sum(name in (match.first, match.second) for match in matches),
        }
        for name, place in places.items()
    }  # fmt: skip
    order = sorted(told, key=lambda name: (-told[name]["theta"], name))
    return {name: told[name] for name in order}


def davidson(
    tallies: Float[np.ndarray, "q s s 3"], *, penalty: Penalty = "centred"
) -> Float[np.ndarray, " s"]:
    """Strengths of systems, with a mean of 0, from how often the first of two won, lost and tied; entries of
    the first before the second in the order of systems count."""
    count, questions = tallies.shape[1], tallies.shape[0]
    pairs = [(one, two) for one in range(count) for two in range(one + 1, count)]
    design = np.zeros((questions, len(pairs), 3, count + questions))
    for place, (one, two) in enumerate(pairs):
        design[:, place, 0, one] = design[:, place, 1, two] = 1
        design[:, place, 2, [one, two]] = 0.5
    for question in range(questions):
        design[question, :, 2, count + question] = 1
    seen = np.stack([tallies[:, one, two] for one, two in pairs], axis=1)  # q p 3
    totals = seen.sum(axis=(1, 2))
    weights = np.divide(totals.mean(), totals, out=np.zeros(questions), where=totals > 0)
    seen = seen * weights[:, None, None]
    # The likelihood knows differences of strengths only: the last one is held, and put right at the end.
    free: Int[np.ndarray, " f"] = np.array([*range(count - 1), *range(count, count + questions)])
    held = np.zeros((count + questions, count + questions))
    held[:count, :count] = np.eye(count)
    if penalty == "centred":
        held[:count, :count] -= 1 / count
    where = np.zeros(count + questions)
    for _ in range(STEPS):
        step = _step(design, seen, where, held)[free]
        if np.abs(step).max() < CLOSE:
            break
        before, shorter = _loss(design, seen, where, held), 1.0
        while True:
            there = where.copy()
            there[free] += shorter * step
            there[count:] = np.clip(there[count:], *TIES)
            if _loss(design, seen, there, held) <= before or shorter < 1e-6:
                break
            shorter /= 2
        moved = np.abs(there - where).max()
        where = there
        if moved < CLOSE:
            break
    return where[:count] - where[:count].mean()


def _chances(design: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each outcome its chance, and the logarithm of that."""
    logits = design @ where
    logits[..., 2] += math.log(2)
    most = logits.max(axis=-1, keepdims=True)
    logs = logits - most - np.log(np.exp(logits - most).sum(axis=-1, keepdims=True))
    return np.exp(logs), logs


def _loss(design: np.ndarray, seen: np.ndarray, where: np.ndarray, held: np.ndarray) -> float:
    return float(0.5 * where @ held @ where - (seen * _chances(design, where)[1]).sum())


def _step(design: np.ndarray, seen: np.ndarray, where: np.ndarray, held: np.ndarray) -> np.ndarray:
    """Newton's step. Of what nobody has seen it is 0."""
    chances, _ = _chances(design, where)
    totals = seen.sum(axis=-1, keepdims=True)
    mean = (chances[..., None] * design).sum(axis=2)
    gradient = held @ where - ((seen - totals * chances)[..., None] * design).sum(axis=(0, 1, 2))
    weighted = (totals * chances)[..., None] * design
    hessian = held + np.einsum("qpox,qpoy->xy", weighted, design)
    hessian -= np.einsum("qp,qpx,qpy->xy", totals[..., 0], mean, mean)
    last = len(where) - design.shape[0] - 1
    free = [place for place in range(len(where)) if place != last]
    step = np.zeros(len(where))
    inner = hessian[np.ix_(free, free)] + 1e-9 * np.eye(len(free))
    step[free] = -np.linalg.solve(inner, gradient[free])
    return step


def _check_linked(names: Sequence[str], matches: Sequence[Match]) -> None:
    beside: dict[str, set[str]] = {name: set() for name in names}
    for match in matches:
        beside[match.first].add(match.second)
        beside[match.second].add(match.first)
    reached, open_ = set(), list(names[:1])
    while open_:
        name = open_.pop()
        if name not in reached:
            reached.add(name)
            open_ += sorted(beside[name])
    if lost := [name for name in names if name not in reached]:
        raise DataError(
            f"{names[0]} and {lost[0]} were never compared, nor over others: expected pages that link all "
            "systems; ask about one more pair."
        )


def as_rows(ranking: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The order as a table, headings first."""
    cells = [["system", "matches", "Elo (from to)"]]
    for name, each in ranking.items():
        span = "" if each["low"] is None else f" ({each['low']:.0f} to {each['high']:.0f})"
        cells.append([name, str(each["matches"]), f"{each['elo']:.0f}{span}"])
    return cells
