"""Systems in one order, by a judge's verdicts on pairs of their pictures.

mgie evaluate pictures:A pictures:B --suite gedit_v2 --data DIR --judge local:DIR --out DIR
"""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from llava_patch.folders import check_out, whole_folder
from mgie.devices import Dtype, find_device, find_dtype
from mgie.errors import ConfigError
from mgie.evaluation.comparing.ranking import DRAWS, as_rows, rank
from mgie.evaluation.judges.answers import beside, open_answers
from mgie.evaluation.judges.base import Judge
from mgie.evaluation.judges.data import Item, find_outputs, identity, read_pair_items
from mgie.evaluation.judges.kinds import JudgeOptions, open_judge
from mgie.evaluation.judges.pair_rubric import PairRubric, find_pair_rubric, with_pair_prompts
from mgie.evaluation.judges.pairs import Decided, decide, duels
from mgie.evaluation.judges.rubric import OWN
from mgie.evaluation.page import document, html_table, text
from mgie.evaluation.report import REPORT, as_markdown, markdown, printable
from mgie.evaluation.subset import Subset
from mgie.lines import say

PICTURES = "pictures:"
PAIRS = "pairs.json"
"""In the folder of such a report: its figures. Verdicts are in pairs.jsonl."""
HEEDED = ("reports", "suite", "data", "out", "subset", "unpinned", "seed", "device", "dtype")
"""All options of `mgie evaluate` that it looks at, and those of judging but these."""
UNHEEDED = ("judge_repeats", "judge_controls")
LOST_AT_MOST = 0.01
"""Share of duels without a verdict above which no order is told."""
FLIPS_AT_MOST = 0.25
"""Share of pairs in which the place decided above which a judge is not usable."""


def judge_pairs(
    models: Sequence[str],
    suite: str,
    data: str | Path | None,
    out: str | Path,
    options: JudgeOptions,
    given: Sequence[str],
    *,
    device: str | None = None,
    dtype: Dtype = "float32",
    subset: Subset | None = None,
    unpinned: bool = False,
    seed: int = 1,
) -> dict[str, Any]:
    """The order of systems by a judge's verdicts on their ready pictures, in a report: systems, rubric,
    judge, ranking, pairs, counted. `given` are options that were asked for; those that nothing heeds are
    refused."""
    # Everything that can be wrong is wrong now, before anything is asked.
    rubric = find_pair_rubric(suite)
    folders = _check_asked(models, suite, data, options, given)
    assert data is not None
    check_out(out, kind=REPORT)
    whole = items = read_pair_items(rubric, Path(data), unpinned=unpinned)
    if subset:
        subset.check((item.key for item in whole), suite)
        items = [item for item in whole if item.key in subset.keys]
    if options.prompts is not None:
        rubric = with_pair_prompts(rubric, options.prompts)
    outputs = {name: find_outputs(folder, items)[0] for name, folder in folders.items()}
    judge = open_judge(options, find_device(device), find_dtype(dtype))
    kept = None if options.judge.startswith("replay:") else Path(options.answers or beside(out))
    if host := getattr(judge, "host", None):
        say(f"pictures and words are sent to {host}.")

    # Ask.
    asked = duels(rubric, items, list(folders))
    with open_answers(kept, budget=options.budget) as answers:
        there = f"{len(answers.kept)} answers are there already"
        say(f"{len(asked)} pairs of {suite} are judged by {options.judge} in {out}; {there}.")
        with tqdm(total=len(asked), desc=f"ask {judge.label}", unit="pair") as progress:
            decided = list(decide(rubric, judge, answers, asked, outputs, progress.update))
        served, tokens, new = dict(answers.models()), answers.tokens(), answers.new

    # Tell.
    facts = {
        "suite": suite, "systems": {name: str(folder) for name, folder in folders.items()},
        "rubric": f"{rubric.identity} {subset.identity}" if subset else rubric.identity,
        "rubric_sha256": rubric.sha256, "judge": dict(judge.identity), "label": judge.label,
        "orders": rubric.orders, "served_by": served, "tokens": tokens, "new_answers": new,
        "items": len(items),
        "items_sha256": identity(items), "seed": seed, "unpinned": _notes(rubric, judge, whole, items),
        **figures(rubric, decided, seed=seed), **(subset.facts() if subset else {}),
    }  # fmt: skip
    with whole_folder(out, kind=REPORT) as folder:
        write_pairs(folder, facts, decided)
    print(as_text(facts))
    return facts | {"report": str(Path(out, "report.html"))}


def _check_asked(
    models: Sequence[str], suite: str, data: str | Path | None, options: JudgeOptions, given: Sequence[str]
) -> dict[str, Path]:
    """System -> where its pictures lie. Raises ConfigError."""
    if len(models) < 2 or not all(str(model).startswith(PICTURES) for model in models):
        raise ConfigError(
            f"{suite} puts systems side by side and {' '.join(map(str, models)) or 'none'} came: name two or "
            "more behind `mgie evaluate`, each as pictures:DIR, with the official names of files inside."
        )
    for name in given:
        if name not in HEEDED and (name in UNHEEDED or not name.startswith("judge")):
            raise ConfigError(f"{name} has no place here: {suite} has pairs of ready pictures judged.")
    if data is None:
        raise ConfigError(f"{suite} needs its published data: give --data DIR.")
    if not options.judge:
        raise ConfigError(f"{suite} needs a judge: give --judge, such as local:_ckpt/judge.")
    folders = [Path(str(model).removeprefix(PICTURES)) for model in models]
    last = [folder.resolve().name for folder in folders]
    names = [name if last.count(name) == 1 else str(folder) for name, folder in zip(last, folders)]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ConfigError(f"{PICTURES}{twice[0]} is named twice: name each system once.")
    return dict(zip(names, folders))


def figures(rubric: PairRubric, decided: Sequence[Decided], *, seed: int) -> dict[str, Any]:
    """Ranking (over all questions, and by each), wins of each pair, and how often the place decided. Too many
    verdicts that could not be read leave no ranking."""
    matches = [match for each in decided if (match := each.match())]
    lost = len(decided) - len(matches)
    facts: dict[str, Any] = {"counted": {"pairs": len(decided), "unreadable": lost}, "ranking": {}}
    if lost <= LOST_AT_MOST * len(decided):
        for name in ("all questions", *rubric.prompts):
            own = [match for match in matches if name in ("all questions", match.question)]
            facts["ranking"][name] = rank(own, seed=seed, draws=DRAWS, penalty=rubric.penalty)
    tally: dict[tuple[str, str, str], Counter[str]] = {}
    for match in matches:
        tally.setdefault((match.question, match.first, match.second), Counter())[match.outcome] += 1
    facts["pairs"] = [
        {"question": question, "first": first, "second": second, "won": found["first"],
         "tied": found["tie"], "lost": found["second"]}
        for (question, first, second), found in sorted(tally.items())
    ]  # fmt: skip
    turned = [each for each in decided if len(each.verdicts) == 2 and None not in each.verdicts]
    if turned:
        facts["flips"] = sum(len(set(each.verdicts)) > 1 for each in turned) / len(turned)
    return facts


def _notes(rubric: PairRubric, judge: Judge, whole: Sequence[Item], items: Sequence[Item]) -> list[str]:
    """Why figures may not stand beside published ones."""
    found = [
        "the wording of the prompts" if rubric.wording == OWN else "the wording of the prompts, a file's"
    ]
    known = f"{' or '.join(rubric.judges)}, and for consistency by PVC-Judge"
    if judge.identity.get("model") not in rubric.judges:
        found.append(f"the judge (published figures are by {known})")
    else:
        found.append("the judge of consistency (published figures are by PVC-Judge)")
    if rubric.counts.get("items") != len(whole):
        found.append("the data")
    if len(items) != len(whole):
        found.append(f"the number of items ({len(items)} of {len(whole)}, by --subset)")
    return found


def write_pairs(folder: Path, facts: dict[str, Any], decided: Sequence[Decided]) -> None:
    """Write all forms of the report into a folder that is there."""
    whole = json.dumps(facts, indent=2, ensure_ascii=False) + "\n"
    (folder / PAIRS).write_text(whole, encoding="utf-8", errors="backslashreplace")
    rows = [
        {
            "key": each.duel.item.key, "question": each.duel.question, "first": each.duel.first,
            "second": each.duel.second, "outcome": each.outcome, "verdicts": each.verdicts,
            "answers": each.texts,
        }
        for each in decided
    ]  # fmt: skip
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "pairs.jsonl").write_text(lines, encoding="utf-8", errors="backslashreplace")
    title = printable(f"{', '.join(facts['systems'])} by {facts['rubric']}")
    (folder / "report.md").write_text(
        f"# {markdown(title)}\n\n{as_text(facts)}\n", encoding="utf-8", errors="backslashreplace"
    )
    body = "".join(html_table(cells, caption=caption) for caption, cells in _tables(facts))
    body += "".join(f"<p>{text(line)}</p>" for line in _below(facts))
    (folder / "report.html").write_text(document(title, body, "report"), encoding="utf-8")


def as_text(facts: dict[str, Any]) -> str:
    """The report as Markdown."""
    parts = [f"{markdown(caption)}\n\n{as_markdown(cells)}" for caption, cells in _tables(facts)]
    return "\n\n".join([*parts, *map(markdown, _below(facts))])


def _tables(facts: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    found = [(f"Order by {name}", as_rows(ranking)) for name, ranking in facts["ranking"].items()]
    cells = [["question", "systems", "won", "tied", "lost"]]
    for each in facts["pairs"]:
        named = printable(f"{each['first']} - {each['second']}")
        cells.append([each["question"], named, *(str(each[kind]) for kind in ("won", "tied", "lost"))])
    return [*found, ("Verdicts", cells)]


def _below(facts: dict[str, Any]) -> list[str]:
    lines = [
        f"Rubric {facts['rubric']}; judge {facts['label']}; {facts['items']} items, seed {facts['seed']}."
    ]
    lost, total = facts["counted"]["unreadable"], facts["counted"]["pairs"]
    if lost:
        lines.append(f"Of {total} pairs {lost} have no verdict that could be read; they count for nobody.")
    if not facts["ranking"]:
        lines.append(f"No order is told, for more than {LOST_AT_MOST:.0%} of the pairs have no verdict.")
    if "flips" in facts:
        lines.append(f"In {facts['flips']:.1%} of pairs the two orders disagree; these are ties.")
        if facts["flips"] > FLIPS_AT_MOST:
            lines.append("This judge is not usable here: the place of a picture decides too often.")
    if facts["orders"] == "one":
        lines.append("Each pair was asked about in one order: how much the judge likes a place is unknown.")
    return lines + [f"Not as published: {reason}." for reason in facts["unpinned"]]
