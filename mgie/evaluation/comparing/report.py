"""Finished reports -> a folder that compares them: tables, plots, one page with pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgie.data.images import decode_plain
from mgie.errors import DataError
from mgie.evaluation.comparing.differences import compare
from mgie.evaluation.figures import Figure, figure
from mgie.evaluation.finished import CONTROL_ROWS, SCALES, Key, Paired, Report
from mgie.evaluation.page import html_table, text, write_page
from mgie.evaluation.plots import Point, plot
from mgie.evaluation.report import as_markdown, markdown, printable

COMPARED = "compare.json"
"""In the folder of a comparison: its figures."""
TRADES = (("sim_direction", "sim_image"), ("clip_dir", "clip_im"), ("clip_t", "clip_i"))
"""What is followed against what is kept, as InstructPix2Pix's figure 8 plots them (Brooks et al. 2023)."""
Tables = list[tuple[str, list[list[str]]]]


def write_comparison(folder: Path, runs: Sequence[Report], paired: Paired, *, seed: int) -> dict[str, Any]:
    """Write all forms of a comparison into a folder that is there; its facts (`compare`). Raises DataError
    where a report's picture is gone."""
    facts = compare(runs, paired, seed=seed)
    whole = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / COMPARED).write_text(whole, encoding="utf-8", errors="backslashreplace")
    (folder / "report.md").write_text(f"# {markdown(_title(facts))}\n\n{as_text(facts)}\n", encoding="utf-8")
    drawn = plots(facts, runs)
    for name, svg in drawn.items():
        (folder / f"{name}.svg").write_text(svg, encoding="utf-8")
    copied = with_pictures(folder, runs, paired.keys)
    seen = [key for key in paired.keys if any(run.items[key]["pictures"] for run in copied)] or paired.keys
    note = f"{len(seen)} of {len(paired.keys)} items" + (
        ", with pictures." if copied[0].items[seen[0]]["pictures"] else "; these reports hold no pictures."
    )
    head = "".join(html_table(cells, caption=caption) for caption, cells in tables(facts))
    head += "".join(f'<p class="wrong">Note: {text(each)}.</p>' for each in facts["warnings"])
    head += f"<p>{text(' '.join(_how(facts)))}</p>"
    for svg in drawn.values():
        head += f'<figure class="plot">{svg.replace(_XMLNS, "")}</figure>'
    write_page(
        folder / "report.html",
        copied,
        seen,
        title=_title(facts),
        head=f"{head}<h2>Items</h2><p>{text(note)}</p>",
    )
    return facts


_XMLNS = ' xmlns="http://www.w3.org/2000/svg"'  # a file needs it, a page does not


def with_pictures(folder: Path, runs: Sequence[Report], keys: Sequence[Key]) -> list[Report]:
    """The reports with their pictures copied into the folder; what all share is copied once. Raises DataError
    where one is gone."""
    items: list[dict[Key, Mapping[str, Any]]] = [{} for _ in runs]
    (folder / "pictures").mkdir()
    for number, key in enumerate(keys):
        shared = {}
        for role in ("source", "target"):
            lying = next((path for run in runs if (path := run.picture(key, role))), None)
            if lying:
                shared[role] = _copied(lying, folder, f"{number:04d}_{role}.png")
        for place, run in enumerate(runs):
            pictures = dict(shared)
            if lying := run.picture(key, "output"):
                pictures["output"] = _copied(lying, folder, f"{number:04d}_output_{place + 1}.png")
            items[place][key] = {**run.items[key], "pictures": pictures}
    return [replace(run, folder=folder, items=found) for run, found in zip(runs, items)]


def _copied(lying: Path, folder: Path, name: str) -> str:
    if not lying.is_file():
        raise DataError(f"{lying} is gone, and its report names it: expected it there; measure again.")
    data = lying.read_bytes()
    decode_plain(data, name=str(lying))  # a page would show a damaged one as nothing
    (folder / "pictures" / name).write_bytes(data)
    return f"pictures/{name}"


def as_text(facts: Mapping[str, Any]) -> str:
    """The comparison as Markdown."""
    parts = [f"{markdown(caption)}\n\n{as_markdown(cells)}" for caption, cells in tables(facts)]
    parts += [markdown(f"Note: {printable(each)}.") for each in facts["warnings"]]
    return "\n\n".join([*parts, markdown(" ".join(_how(facts)))])


def tables(facts: Mapping[str, Any]) -> Tables:
    """Of each view a table of values and one of differences, headings first, each with what it is of."""
    names, found = list(facts["reports"]), []
    for view, each in facts["views"].items():
        of = f"{f'View {view}: ' * bool(view)}{each['n']} items in {each['clusters']} clusters"
        beside = [
            row
            for row in CONTROL_ROWS
            if any(row in metric["controls"] for metric in each["metrics"].values())
        ]
        seeds = [f"over {len(facts['seeds'])} seeds"] if facts["seeds"] else []
        values, differences = [["metric", "n", *map(printable, names), *seeds, *beside]], [list(_HEADS)]
        for name, metric in each["metrics"].items():
            shown = figure(name, metric["better"])
            heading = shown.heading + {"higher": " ↑", "lower": " ↓", None: ""}[metric["better"]]
            row = [_with_rank(shown, metric, run) for run in names]
            row += [_over_seeds(shown, metric)] if seeds else []
            row += [_plain(shown, metric["controls"].get(row)) for row in beside]
            values.append([heading, str(metric["n"]), *row])
            wins = {(won["first"], won["second"]): won for won in metric["wins"]}
            for pair in metric["differences"]:
                both = pair["first"], pair["second"]
                differences.append([heading, *_difference(shown, pair, wins.get(both))])
        found += [(of, values), (f"Differences. {of}", differences)]
    return found


_HEADS: Sequence[str] = (
    "metric",
    "systems",
    "difference",
    "p (Holm)",
    "detectable",
    "wins of the first",
    "won, tied, lost",
)


def _with_rank(shown: Figure, metric: Mapping[str, Any], name: str) -> str:
    if name not in metric["values"]:
        return ""
    rank = " best" if name == metric["best"] else " level" if name in metric["level"] else ""
    return _between(metric["values"][name], shown.form) + rank


def _plain(shown: Figure, value: float | None) -> str:
    return "" if value is None else shown.form.format(value)


def _over_seeds(shown: Figure, metric: Mapping[str, Any]) -> str:
    """Mean and deviation of the reports of one system."""
    found = metric.get("over_seeds")
    return f"{_plain(shown, found['mean'])} ± {_plain(shown, found['deviation'])}" if found else ""


def _between(found: Mapping[str, Any], form: str) -> str:
    """A value with its interval."""
    value = form.format(found["value"])
    if found["low"] is None:
        return value
    return f"{value} ({form.format(found['low'])} to {form.format(found['high'])})"


def _difference(shown: Figure, pair: Mapping[str, Any], won: Mapping[str, Any] | None) -> list[str]:
    signed = shown.form.replace("{:", "{:+").replace(".0%", ".1%")
    row = [printable(f"{pair['first']} - {pair['second']}"), _between(pair, signed)]
    row += (
        [f"{pair['p_holm']:.4f}", signed.replace("+", "").format(pair["detectable"])]
        if "p" in pair
        else [""] * 2
    )
    if won is None:
        return [*row, "", ""]
    return [*row, _between(won, "{:.0%}"), f"{won['won']}, {won['tied']}, {won['lost']}"]


def _how(facts: Mapping[str, Any]) -> list[str]:
    """What a reader of the tables has to know."""
    lines = [
        f"In parentheses: 95 % intervals of {facts['draws']} draws of clusters, seed {facts['seed']}, the "
        "same draws for all systems; p values of one metric are adjusted for its pairs (Holm), not for the "
        "number of metrics. Detectable: the smallest difference that so many items can show. Best: told from "
        "all others. Level: none is best, and these cannot be told from the one of the best value."
    ]
    if any(metric["controls"] for each in facts["views"].values() for metric in each["metrics"].values()):
        lines.append("copy: the picture before the edit, given back; oracle: the target itself.")
    if facts["seeds"]:
        lines.append(
            "The reports are one system's, by other seeds: their mean, and the deviation between them."
        )
    for view, each in facts["views"].items():
        for name, metric in each["metrics"].items():
            for run, why in metric["left_out"].items():
                told = " and ".join(f"{count} {reason}" for reason, count in why.items())
                where = f" (view {view})" if view else ""
                lines.append(f"{figure(name).heading}{where} lacks items: {told} of {printable(run)}.")
    return lines + ([f"Protocol {facts['protocol']}."] if facts["protocol"] else [])


def _title(facts: Mapping[str, Any]) -> str:
    return printable(f"{', '.join(facts['reports'])} on {facts['suite']}: {facts['n']} items")


def plots(facts: Mapping[str, Any], runs: Sequence[Report]) -> dict[str, str]:
    """File's name -> SVG: quality against cost, quality against guidance, and what is followed against what
    is kept; each where the reports tell enough for it."""
    found = {}
    view, metrics = next(iter((view, each["metrics"]) for view, each in facts["views"].items()))
    main = next((name for name, each in metrics.items() if each["better"] and each["values"]), None)
    costs = {run.name: float(cost) for run in runs if (cost := run.facts.get("seconds_per_edit"))}
    of = f" ({view})" if view else ""
    if main and len(costs) > 1:
        series = [[_point(name, cost, metrics[main])] for name, cost in costs.items()]
        heading = figure(main).heading + of
        found["cost"] = plot(series, title=f"{heading} against cost", x="seconds per edit", y=heading)
    for setting, called in SCALES.items():
        scales = {run.name: (run.facts.get("settings") or {}).get(setting) for run in runs}
        told = sorted((float(scale), name) for name, scale in scales.items() if scale is not None)
        if len({scale for scale, _ in told}) < 2 or not main:
            continue
        line, heading = (
            [_point(name, scale, metrics[main]) for scale, name in told],
            figure(main).heading + of,
        )
        name = called.replace(" ", "_")
        found[name] = plot([line], title=f"{heading} against {called}", x=called, y=heading)
        for follows, keeps in TRADES:
            values = [metrics.get(metric, {}).get("values", {}) for metric in (follows, keeps)]
            if all(name in each for each in values for _, name in told):
                points = [
                    Point(name=f"{called} {scale:g}", x=values[0][name]["value"], y=values[1][name]["value"])
                    for scale, name in told
                ]
                found[f"{name}_curve"] = _trade([points], follows, keeps)
    return found | _curve_of_views(facts)


def _curve_of_views(facts: Mapping[str, Any]) -> dict[str, str]:
    """InstructPix2Pix's own curve: its views are the strengths of guidance by the picture."""
    views = facts["views"]
    for follows, keeps in TRADES[:1]:
        if len(views) < 2 or not all({follows, keeps} <= each["metrics"].keys() for each in views.values()):
            continue
        series = [
            [
                Point(
                    name=f"{name} {view}" if place in (0, len(views) - 1) else "",
                    x=x["value"],
                    y=y["value"],
                )
                for place, (view, each) in enumerate(views.items())
                if (x := each["metrics"][follows]["values"].get(name))
                and (y := each["metrics"][keeps]["values"].get(name))
            ]
            for name in facts["reports"]
        ]
        return {"views_curve": _trade([line for line in series if line], follows, keeps)}
    return {}


def _trade(series: Sequence[Sequence[Point]], follows: str, keeps: str) -> str:
    x, y = figure(follows).heading, figure(keeps).heading
    return plot(series, title=f"{y} against {x}", x=x, y=y)


def _point(name: str, x: float, metric: Mapping[str, Any]) -> Point:
    value = metric["values"][name]
    return Point(name=name, x=float(x), y=value["value"], low=value["low"], high=value["high"])
