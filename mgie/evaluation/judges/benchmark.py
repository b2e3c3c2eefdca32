"""A system's pictures of a judged benchmark -> a report: numbers, noise, controls, answers."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image
from tqdm import tqdm

from llava_patch.folders import check_out, whole_folder
from mgie.data.images import decode_plain
from mgie.devices import Dtype, find_device, find_dtype
from mgie.errors import ConfigError
from mgie.evaluation.judges.answers import Answers, beside, open_answers
from mgie.evaluation.judges.asking import Shown, check_prompts, put, questions
from mgie.evaluation.judges.base import Judge
from mgie.evaluation.judges.controls import (
    Pair,
    both_orders,
    chosen,
    control_facts,
    control_pictures,
    verdict_of,
)
from mgie.evaluation.judges.data import SORTED, Item, find_outputs, identity, read_items
from mgie.evaluation.judges.kinds import JudgeOptions, open_judge
from mgie.evaluation.judges.page import as_judged, lines, write_judged
from mgie.evaluation.judges.results import Judged, by_group, counted, gathered, noise, summary
from mgie.evaluation.judges.rubric import OWN, Rubric, find_rubric, with_prompts
from mgie.evaluation.report import PAGED, REPORT, chosen_places, keep_pictures
from mgie.evaluation.subset import Subset
from mgie.lines import say

PICTURES = "pictures:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """What a judge said of a system."""

    judged: list[Judged]
    """The outputs."""
    rows: dict[str, list[Judged]]
    """The controls."""
    pairs: list[Pair]
    repeats: int
    """How often each question was put to the judge."""


def judge_pictures(
    model: Any,
    suite: str,
    data: str | Path | None,
    out: str | Path,
    options: JudgeOptions,
    device: str | None = None,
    dtype: Dtype = "float32",
    given: Sequence[str] = (),
    *,
    subset: Subset | None = None,
    unpinned: bool = False,
) -> dict[str, Any]:
    """The figures of ready pictures by a rubric and a judge, in a report: model, rubric, judge, numbers,
    noise, controls. `given` are options that were asked for; of them only `dtype`, the judge's, is heeded."""
    # Everything that can be wrong is wrong now, before anything is asked.
    rubric, model = find_rubric(suite), str(model)
    data = _check_asked(model, suite, data, options, given)
    check_out(out, kind=REPORT)
    started = time.monotonic()
    items = whole = read_items(rubric, data, unpinned=unpinned)
    part: list[str] = []
    if subset:
        subset.check((item.key for item in whole), suite)
        items = [item for item in whole if item.key in subset.keys]
        part = [subset.note(len(items), len(whole))]
    if options.prompts is not None:
        rubric = with_prompts(rubric, options.prompts, frozenset(item.kind for item in items))
    check_prompts(rubric, items)
    named = whole if whole[0].names[0].startswith(SORTED) else items
    outputs, shared = find_outputs(Path(model.removeprefix(PICTURES)), named)
    judge = open_judge(options, find_device(device), find_dtype(dtype))
    replayed = options.judge.startswith("replay:")
    kept = None if replayed else Path(options.answers or beside(out))
    if host := getattr(judge, "host", None):
        say(f"pictures and words are sent to {host}.")

    # Ask, and tell.
    with open_answers(kept, budget=options.budget) as answers:
        if answers.torn:
            say(f"{kept}: a torn last line of {answers.torn} bytes was dropped.")
        there = f"{len(answers.kept)} answers are there already"
        say(f"{len(items)} pictures of {suite} are judged by {options.judge} in {out}; {there}.")
        told = tell(rubric, judge, answers, items, outputs, options)
        facts = {
            "model": model, "suite": suite, "rubric": identity_of(rubric, subset),
            "rubric_sha256": rubric.sha256, "judge": dict(judge.identity),
            "served_by": dict(answers.models()), "tokens": answers.tokens(),
            "new_answers": answers.new, "items_sha256": identity(items), "shared_outputs": shared,
            "unpinned": notes(rubric, judge, whole) + part, **figures(rubric, judge, told),
            "seconds": round(time.monotonic() - started, 1), **(subset.facts() if subset else {}),
        }  # fmt: skip
    rows = [*told.judged, *(each for judged in told.rows.values() for each in judged)]
    written, shown = lines(rubric, rows, items), {item.key: item for item in items}
    with whole_folder(out, kind=REPORT) as folder:
        for place in chosen_places([each.kind for each in told.judged], PAGED):
            key = written[place]["key"]
            written[place]["pictures"] = keep_pictures(folder, place, _pictures(shown[key], outputs[key]))
        write_judged(folder, facts, written)
    print(as_judged(facts))
    return facts | {"report": str(Path(out, "report.html"))}


def _check_asked(
    model: str, suite: str, data: str | Path | None, options: JudgeOptions, given: Sequence[str]
) -> Path:
    """Where the data lie. Raises ConfigError for what is missing, or would not be heeded."""
    if unheeded := [name for name in given if name != "dtype"]:
        raise ConfigError(
            f"{unheeded[0]} has no place here: the rubric {suite} has ready pictures judged its own way."
        )
    if not model.startswith(PICTURES):
        raise ConfigError(
            f"--model is {model} and the rubric {suite} has ready pictures judged: say --model pictures:DIR, "
            "with the official names of files inside."
        )
    if data is None:
        raise ConfigError(f"the rubric {suite} needs its published data: give --data DIR.")
    if not options.judge:
        raise ConfigError(f"the rubric {suite} needs a judge: give --judge, such as local:_ckpt/judge.")
    return Path(data)


def _pictures(item: Item, output: Path) -> dict[str, Image]:
    """What a page shows of an item."""
    stored = {"source": item.sources[0], "output": output, "target": item.reference}
    return {role: decode_plain(each.read_bytes(), name=str(each)) for role, each in stored.items() if each}


def tell(
    rubric: Rubric,
    judge: Judge,
    answers: Answers,
    items: Sequence[Item],
    outputs: dict[str, Path],
    options: JudgeOptions,
) -> Told:
    """What the judge says of all outputs, and of the controls."""
    repeats = 1 if judge.steady else options.repeats or rubric.repeats
    asked = questions(rubric, [Shown(item=i, row="outputs", output=outputs[i.key]) for i in items], repeats)
    watched = chosen(items, options.controls)
    controls = questions(rubric, control_pictures(watched, outputs), 1)
    total = len(asked) + len(controls) + 2 * len(watched)
    with tqdm(total=total, desc=f"ask {judge.label}", unit="answer") as progress:
        done: Callable[[], Any] = progress.update
        judged = gathered(put(rubric, judge, answers, asked, done))
        rows: dict[str, list[Judged]] = {}
        for each in gathered(put(rubric, judge, answers, controls, done)):
            rows.setdefault(each.row, []).append(each)
        pairs = both_orders(rubric, judge, answers, watched, outputs, done)
    return Told(judged=judged, rows=rows, pairs=pairs, repeats=repeats)


def figures(rubric: Rubric, judge: Judge, told: Told) -> dict[str, Any]:
    """All numbers of a report."""
    return {
        "printed": rubric.printed and rubric.printed.facts(),
        "rows": {"outputs": summary(rubric, told.judged), **control_facts(rubric, told.rows)},
        "groups": by_group(rubric, told.judged), "counted": counted(told.judged),
        "repeats": told.repeats, "noise": noise(rubric, told.judged),
        "controls": verdict_of(rubric, told.rows, told.pairs, judge), "steady": judge.steady,
    }  # fmt: skip


def identity_of(rubric: Rubric, subset: Subset | None) -> str:
    """What stands beside every number."""
    return f"{rubric.identity} {subset.identity}" if subset else rubric.identity


def notes(rubric: Rubric, judge: Judge, items: Sequence[Item]) -> list[str]:
    """Why figures may not stand beside published ones."""
    found = []
    if rubric.wording == OWN:
        found.append("the wording of the prompts")
    elif rubric.wording.startswith("wording"):
        found.append("the wording of the prompts, which is that of a file nobody has pinned")
    if judge.identity.get("model") not in rubric.judges:
        found.append(f"the judge (published figures are by {' or '.join(rubric.judges)})")
    if "items" not in rubric.counts or rubric.counts["items"] != len(items):
        found.append("the data")
    return found
