"""Reports of several systems -> which is better by what, and how sure one can be of it."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float

from mgie.evaluation.comparing.bootstrap import DRAWS, Clusters, detectable, holm, interval, p_value
from mgie.evaluation.figures import Better, figure
from mgie.evaluation.finished import CONTROL_ROWS, Key, Paired, Report
from mgie.evaluation.judges.rubric import find_rubric, rubric_names
from mgie.evaluation.published.protocol import find_protocol, protocol_names

LIKELY = 0.05
"""A p value above it: two systems are not told apart."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One metric, and how its number of an item is had."""

    name: str
    better: Better | None
    average: str = "micro"


def value_of(name: str, row: Mapping[str, Any]) -> tuple[float | None, float]:
    """An item's part of a figure: what is summed above and below the line. None: it has none."""
    scores = row["scores"]
    if name in ("right", "control_right"):
        return (None if row.get(name) is None else float(row[name])), 1.0
    if name == "said_exactly":
        return (float(row["said"].strip() == row["expected"]) if row["expected"] else None), 1.0
    if name == "l1_ratio":
        return scores.get("l1"), scores.get("copy_l1", math.nan)
    weight = float(row.get("of", {}).get(name, 1))  # of how many instances in a picture it is the mean
    return (scores[name] * weight if name in scores else None), weight


def metrics_of(runs: Sequence[Report], keys: Sequence[Key]) -> list[Measured]:
    """What the reports can be compared by, in a fixed order: verdicts first, then scores."""
    suite, rows = runs[0].facts["suite"], [run.items[key] for run in runs for key in keys]
    if suite in protocol_names():
        return [
            Measured(name, metric.better, metric.average)
            for name, metric in find_protocol(suite).metrics.items()
        ]
    if suite in rubric_names():
        return [
            Measured(name, "higher", number.average) for name, number in find_rubric(suite).numbers.items()
        ]
    scored = sorted({name for row in rows for name in row["scores"]} - {"copy_l1"})
    names = ["right", "control_right", "l1_ratio", "said_exactly", *scored]
    have = [name for name in names if any(value_of(name, row)[0] is not None for row in rows)]
    if "l1_ratio" in have and not any(value_of("l1_ratio", row)[1] > 0 for row in rows):
        have.remove("l1_ratio")
    return [Measured(name, figure(name).better) for name in have]


def compare(runs: Sequence[Report], paired: Paired, *, seed: int, draws: int = DRAWS) -> dict[str, Any]:
    """Of each view and metric: each system's value, each pair's difference and its wins, with 95 % intervals.

    Returns reports, suite, protocol, seed, draws, seeds, n, unpaired, warnings, views: view -> n, clusters,
    metrics: metric -> better, n, left_out, values, controls, differences, wins, best, level; of
    reports of one system by several seeds also over_seeds. An item counts for a
    metric where all systems have a finite number of it; the others are counted in `left_out`.
    """
    views: dict[str, Any] = {}
    seeds = seeds_of(runs)
    for view in dict.fromkeys(view for view, _ in paired.keys):
        keys = [key for key in paired.keys if key[0] == view]
        clusters = [runs[0].items[key]["cluster"] or key[1] for key in keys]
        found = {
            metric.name: _compared(metric, runs, keys, clusters, seed=seed, draws=draws)
            for metric in metrics_of(runs, keys)
        }
        for name, metric in found.items():
            metric["controls"] = {} if runs[0].name in paired.unpaired else _controls(runs[0], view, name)
            values = [each["value"] for each in metric["values"].values()]
            if seeds and values:
                over = {"mean": statistics.fmean(values), "deviation": statistics.stdev(values)}
                metric["over_seeds"] = over
        views[view] = {"n": len(keys), "clusters": len(set(clusters)), "metrics": found}
    warnings = [
        f"{len(keys)} items of {name} have no partner and were left out, such as {', '.join(keys[:3])}"
        for name, keys in paired.unpaired.items()
    ]
    if not all(runs[0].items[key]["cluster"] for key in paired.keys):
        warnings.append("the reports do not say which items belong together, so each counted by itself")
    for view, each in views.items():
        if each["clusters"] < 20:
            warnings.append(
                f"intervals of fewer than 20 clusters mean little{f' (view {view})' * bool(view)}"
            )
    return {
        "reports": {run.name: _told(run) for run in runs}, "suite": runs[0].facts["suite"],
        "protocol": _measured_by(runs[0]), "seed": seed, "draws": draws,
        "seeds": seeds, "n": len(paired.keys), "unpaired": paired.unpaired, "warnings": warnings,
        "views": views,
    }  # fmt: skip


def seeds_of(runs: Sequence[Report]) -> list[int]:
    """The seeds of reports that were made by one system and differ in nothing else. Empty for other ones."""
    made = [dict(run.facts["making"]) for run in runs]
    seeds = [each.pop("seed", None) for each in made]
    one = made[0].get("weights") and all(each == made[0] for each in made[1:])
    known = [seed for seed in seeds if isinstance(seed, int)]
    return known if one and len(set(known)) == len(runs) else []


def _measured_by(run: Report) -> str:
    """The identity of a protocol, or of a rubric with its judge. Empty: a suite of this program."""
    facts = run.facts
    judged = f"{facts['rubric']} by {facts['controls']['judge']}" if facts.get("rubric") else ""
    return facts.get("protocol", judged)


def _controls(run: Report, view: str, metric: str) -> dict[str, float]:
    found = {row: run.control(row, view, metric) for row in CONTROL_ROWS}
    return {row: value for row, value in found.items() if value is not None}


def _told(run: Report) -> dict[str, Any]:
    facts = run.facts
    told = {name: facts[name] for name in ("seconds_per_edit", "settings", "unpinned") if facts.get(name)}
    return {"model": facts["model"], "folder": str(run.folder), "n": len(run.items)} | told


def _compared(
    metric: Measured,
    runs: Sequence[Report],
    keys: Sequence[Key],
    clusters: Sequence[str],
    *,
    seed: int,
    draws: int,
) -> dict[str, Any]:
    """One metric in one view."""
    parts = [[value_of(metric.name, run.items[key]) for key in keys] for run in runs]
    above = np.array([[math.nan if value is None else value for value, _ in row] for row in parts]).T  # i k
    below = np.array([[weight for _, weight in row] for row in parts]).T
    kept = (np.isfinite(above) & np.isfinite(below)).all(axis=1)
    left_out = {
        run.name: _lost(column) for run, column in zip(runs, above.T) if not np.isfinite(column).all()
    }
    facts: dict[str, Any] = {"better": metric.better, "n": int(kept.sum()), "left_out": left_out}
    if not kept.any():
        return facts | {"values": {}, "differences": [], "wins": [], "best": None, "level": []}
    kind, _, of = metric.average.partition(":")
    labels = {"kind": [runs[0].items[key]["kind"] for key in keys], "cluster": list(clusters)}
    # Clusters are those of the whole view, so that every metric has the same draws; what is left out weighs
    # nothing in them.
    group = Clusters(
        labels=tuple(clusters), groups=tuple(labels[of]) if kind == "macro" else None, seed=seed, draws=draws
    )
    above, below = np.where(kept[:, None], above, 0.0), np.where(kept[:, None], below, 0.0)
    pairs = list(combinations(range(len(runs)), 2))
    wins = [_wins(above[:, one], above[:, two], metric.better) * kept for one, two in pairs]
    differences = np.stack([above[:, one] - above[:, two] for one, two in pairs], axis=1)
    weights = np.stack([below[:, one] for one, _ in pairs], axis=1)
    ones = np.repeat(kept[:, None].astype(float), len(pairs), axis=1)
    values, drawn = group.ratios(
        np.concatenate([above, differences, np.stack(wins, axis=1)], axis=1),
        np.concatenate([below, weights, ones], axis=1),
    )
    found = [interval(float(value), row, group.count) for value, row in zip(values, drawn.T)]
    count = len(runs)
    facts["values"] = {run.name: asdict(each) for run, each in zip(runs, found)}
    facts["differences"], facts["wins"] = [], []
    sure = group.count > 1
    adjusted = holm([p_value(drawn[:, count + place]) for place in range(len(pairs))])
    for place, (one, two) in enumerate(pairs):
        named, row = {"first": runs[one].name, "second": runs[two].name}, drawn[:, count + place]
        told = {"p": p_value(row), "p_holm": adjusted[place], "detectable": detectable(row)} if sure else {}
        facts["differences"].append(named | asdict(found[count + place]) | told)
        if metric.better:
            tally = {name: int(((wins[place] == w) & kept).sum()) for name, w in _TALLY.items()}
            facts["wins"].append(named | asdict(found[count + len(pairs) + place]) | tally)
    return facts | _ranked(metric, facts, sure)


_TALLY = {"won": 1.0, "tied": 0.5, "lost": 0.0}


def _lost(column: Float[np.ndarray, " i"]) -> dict[str, int]:
    """Why items have no number, and how often."""
    counted = {"missing": int(np.isnan(column).sum()), "infinite": int(np.isinf(column).sum())}
    return {why: count for why, count in counted.items() if count}


def _wins(
    first: Float[np.ndarray, " i"], second: Float[np.ndarray, " i"], better: Better | None
) -> np.ndarray:
    """Of each item 1 where the first system is better, 1/2 where they are equal, 0 where it is worse."""
    lead = (second - first) if better == "lower" else (first - second)
    return (np.sign(lead) + 1) / 2


def _ranked(metric: Measured, facts: Mapping[str, Any], sure: bool) -> dict[str, Any]:
    """The best system, where it can be told from all others; else none, and those that are level with the
    one of the best value, in the order of the reports."""
    if not metric.better:
        return {"best": None, "level": []}
    values = {name: each["value"] for name, each in facts["values"].items()}
    first = (min if metric.better == "lower" else max)(values, key=values.__getitem__)
    level = {first}
    for each in facts["differences"]:
        names = {each["first"], each["second"]}
        if first in names and (not sure or each["p_holm"] > LIKELY):
            level |= names
    if level == {first}:
        return {"best": first, "level": []}
    return {"best": None, "level": [name for name in values if name in level]}
