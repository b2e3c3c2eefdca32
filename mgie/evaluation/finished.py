"""Finished report folders, read back, and the items that several have in common."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mgie.data.files import MALFORMED, is_name, read_json, reason, regular
from mgie.errors import DataError
from mgie.evaluation.run_folder import PLAN, RESULTS

Key = tuple[str, str]
"""View and key of an item; suites of this program have one view, without a name."""
SCALES = {"guidance_scale": "guidance", "image_guidance_scale": "image guidance"}
"""Settings whose change is a curve."""
CONTROL_ROWS = ("copy", "oracle")
"""Rows beside the system's: the picture before the edit, given back, and the target itself."""
SAME = 1e-6
"""How far the figures of an untouched picture may lie apart in two reports of the same data."""
EXPECTED = "the folder of a report that `mgie evaluate` wrote, with results.json and items.jsonl"


@dataclass(frozen=True, kw_only=True)
class Report:
    """One report."""

    name: str
    """What it is called beside others."""
    folder: Path
    facts: Mapping[str, Any]
    items: Mapping[Key, Mapping[str, Any]]
    """The system's outputs, in the order of the report."""
    copies: Mapping[Key, Mapping[str, float]] = field(default_factory=dict)
    """What the untouched pictures scored."""

    def control(self, row: str, view: str, metric: str) -> float | None:
        """A number of doing nothing (`copy`) or of the target (`oracle`), over all items of the report. None
        where it does not tell."""
        found: Any = self.facts.get("rows", self.facts.get("baselines"))
        for name in (row, view, metric) if view else (row, metric):
            found = found.get(name) if isinstance(found, Mapping) else None
        return float(found) if isinstance(found, (int, float)) and math.isfinite(found) else None

    def picture(self, key: Key, role: str) -> Path | None:
        """Where an item's `source`, `output` or `target` lies, if the report kept it."""
        told = self.items[key].get("pictures", {}).get(role)
        return self.folder / told if told else None


def read_reports(folders: Sequence[str | Path]) -> list[Report]:
    """Reports, each under a name of its own: its folder's, or the whole path where two are alike. Raises
    DataError."""
    paths = [Path(folder) for folder in folders]
    last = [path.resolve().name for path in paths]
    names = [name if last.count(name) == 1 else str(path) for name, path in zip(last, paths)]
    names = [
        name if names.count(name) == 1 else f"{name} ({names[: place + 1].count(name)})"
        for place, name in enumerate(names)
    ]
    return [read_report(path, name) for path, name in zip(paths, names)]


def read_report(folder: Path, name: str) -> Report:
    """One report. Raises DataError where the folder holds none, or a damaged one."""
    if not (folder / RESULTS).exists() and (folder / PLAN).is_file():
        raise DataError(
            f"{folder} is an evaluation that is not finished (it has {PLAN} and no {RESULTS}): run its "
            "command again, all shards of it, and compare then."
        )
    if not (folder / RESULTS).exists():
        raise DataError(f"{folder} has no {RESULTS}: expected {EXPECTED}.")
    facts = read_json(folder / RESULTS, _facts, EXPECTED)
    items: dict[Key, Mapping[str, Any]] = {}
    copies: dict[Key, Mapping[str, float]] = {}
    path = folder / "items.jsonl"
    try:
        lines = regular(path).read_text(encoding="utf-8").split("\n")  # other ends of lines are words
    except MALFORMED as error:
        raise DataError(f"{path} cannot be read ({reason(error)}): expected {EXPECTED}.") from error
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            row = _row(json.loads(line))
        except MALFORMED as error:
            raise DataError(f"{path}, line {number}: {reason(error)}; expected {EXPECTED}.") from error
        key, place = (row["view"], row["key"]), row.get("row", "outputs")
        if place == "copy":
            copies[key] = row["scores"]
        elif place == "outputs":
            if key in items:
                raise DataError(f"{path}, line {number}: {row['key']} is there twice; expected {EXPECTED}.")
            items[key] = row
            if "row" not in row and "copy_l1" in row["scores"]:
                copies[key] = {"l1": row["scores"]["copy_l1"]}
    if not items:
        raise DataError(f"{path} tells of no item: expected {EXPECTED}.")
    return Report(name=name, folder=folder, facts=facts, items=items, copies=copies)


def _facts(found: Any) -> dict[str, Any]:
    """What `results.json` tells, with numbers where numbers are looked for."""
    if not isinstance(found, dict) or not isinstance(found.get("suite"), str) or "model" not in found:
        raise ValueError("it tells of no model and suite")
    mappings = {name: dict(found.get(name) or {}) for name in ("settings", "weights", "making")}
    costs = [found.get("seconds_per_edit"), *(mappings["settings"].get(scale) for scale in SCALES)]
    if any(isinstance(cost, bool) or not isinstance(cost, (int, float, type(None))) for cost in costs):
        raise ValueError("seconds_per_edit or a scale among its settings is no number")
    return found | mappings


def _row(found: Any) -> dict[str, Any]:
    """One line, with numbers as numbers. Files of pictures lie in the report's own folder."""
    told = {str(name): value for name, value in found.items()}
    row = told | {"key": str(told["key"]), "view": str(told.get("view", ""))}
    row["of"] = {str(name): float(count) for name, count in (told.get("of") or {}).items()}
    if not {told.get("right"), told.get("control_right")} <= {True, False, None}:
        raise ValueError("right and control_right are true, false or null")
    row |= {
        name: str(told.get(name) or "") for name in ("kind", "instruction", "expected", "said", "cluster")
    }
    row["scores"] = {
        str(name): float("nan" if value is None else value) for name, value in told["scores"].items()
    }
    pictures = {str(role): str(path) for role, path in told.get("pictures", {}).items()}
    for path in pictures.values():
        if not is_name(path):
            raise ValueError(f"{path!r} names no file in the report")
    return row | {"pictures": pictures}


@dataclass(frozen=True, kw_only=True)
class Paired:
    """What several reports have in common."""

    keys: list[Key]
    """Items that all of them tell of, in the order of the first."""
    unpaired: dict[str, list[str]]
    """Report -> items that another one lacks."""


def pair_up(runs: Sequence[Report]) -> Paired:
    """The items that reports share. Raises DataError where they were measured in different ways or on other
    data, with what differs."""
    first = runs[0]
    for other in runs[1:]:
        for what in ("suite", "protocol", "protocol_sha256", "rubric", "judge"):
            ours, theirs = first.facts.get(what), other.facts.get(what)
            if ours != theirs:
                raise DataError(
                    f"{first.folder} and {other.folder} differ in {what} ({ours} and {theirs}): only "
                    "reports of one suite and protocol can be compared; measure both in one way."
                )
        _same_weights(first, other)
        for key in first.items:
            if key in other.items:
                _same_item(key, first, other)
    shared = [key for key in first.items if all(key in run.items for run in runs[1:])]
    if not shared:
        told = ", ".join(str(run.folder) for run in runs)
        raise DataError(
            f"{told} have no item in common: expected reports of the same data, made with the same --data, "
            "--seed and --size."
        )
    common = set(shared)
    unpaired = {run.name: [_called(key) for key in run.items if key not in common] for run in runs}
    return Paired(keys=shared, unpaired={name: keys for name, keys in unpaired.items() if keys})


def _same_weights(first: Report, other: Report) -> None:
    ours, theirs = (run.facts.get("weights") or {} for run in (first, other))
    for model in ours.keys() & theirs.keys():
        if ours[model] != theirs[model]:
            raise DataError(
                f"{first.folder} and {other.folder} were measured with other weights of {model}: expected "
                f"the same; measure both with one --{model}."
            )


def _same_item(key: Key, first: Report, other: Report) -> None:
    """That an item is the same: what was asked, and what doing nothing scores."""
    ours, theirs = (run.items[key] for run in (first, other))
    differs = [name for name in ("instruction", "expected") if ours[name] != theirs[name]]
    copies = first.copies.get(key, {}), other.copies.get(key, {})
    for name in {"l1", "l2"} & copies[0].keys() & copies[1].keys():  # the same on every machine
        if not math.isclose(copies[0][name], copies[1][name], rel_tol=0, abs_tol=SAME):
            differs.append(f"{name} of the untouched picture")
    if differs:
        raise DataError(
            f"{first.folder} and {other.folder} differ in {differs[0]} of {_called(key)}: expected "
            "reports of the same data, made with the same --data, --seed and --size."
        )


def _called(key: Key) -> str:
    """An item's name for a person."""
    return " ".join(part for part in key if part)
