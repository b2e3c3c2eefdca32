"""`mgie evaluate A B`: finished reports are compared, by numbers and by people.

mgie evaluate _ckpt/report-a _ckpt/report-b --out _ckpt/compared
mgie evaluate _ckpt/report-a _ckpt/report-b --ab _ckpt/page --out _ckpt/compared
mgie evaluate _ckpt/compared --results _ckpt/answers --out _ckpt/people

Answers to several pages, such as A against B, B against C and A against C, put all their systems in order.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_patch.folders import check_out, whole_folder
from mgie.errors import ConfigError
from mgie.evaluation.comparing import report as comparison
from mgie.evaluation.comparing.ranking import rank
from mgie.evaluation.finished import pair_up, read_reports
from mgie.evaluation.judges.pair_rubric import pair_rubric_names
from mgie.evaluation.people import answers, outcome
from mgie.evaluation.people.ab import AB, KEY, Asked, write_ab
from mgie.evaluation.report import REPORT

HEEDED = ("reports", "ab", "results", "out", "seed")
"""All options of `mgie evaluate` that a comparison looks at, and --count and --questions where people
are asked."""


def compare_reports(
    reports: Sequence[str | Path],
    out: str | Path,
    given: Sequence[str] = (),
    *,
    ab: str | Path | None = None,
    results: str | Path | None = None,
    questions: Asked = "own",
    seed: int = 1,
    count: int = 200,
) -> dict[str, Any]:
    """Compare finished reports in a folder `out`, and write a blind page of two of them to `ab`; or, with
    `results`, tell what people answered on the page of the comparison that is named.

    `given` are options that were asked for; what a comparison does not heed is refused. Raises ConfigError,
    and DataError for folders that hold no report, or that cannot be compared.
    """
    # Everything that can be wrong is wrong now.
    if ready := [str(report) for report in reports if str(report).startswith("pictures:")]:
        raise ConfigError(
            f"{ready[0]} are pictures and no finished report: measure each system by itself, --model "
            f"{ready[0]}, and name the reports; side by side pictures are judged by "
            f"{', '.join(pair_rubric_names())}."
        )
    for name in given:
        if name not in HEEDED and not (name in ("count", "questions") and ab):
            raise ConfigError(
                f"{name} has no place beside {', '.join(map(str, reports))}: words without an option are "
                "finished reports, and these are compared as they are; leave it out."
            )
    if Path(out).resolve() in [Path(report).resolve() for report in reports]:
        raise ConfigError(f"{out} is one of the reports that are named: choose another --out.")
    check_out(out, kind=REPORT)
    if results:
        if ab:
            raise ConfigError(
                "results are of blind pages that were made before: leave ab out, and name the folders of the "
                "comparisons that made them."
            )
        return _answered(reports, results, out, seed=seed)
    if len(reports) < 2:
        raise ConfigError(f"{reports[0]} is one report: name two or more to compare them.")
    if ab and len(reports) > 2:
        raise ConfigError(f"a blind page shows two systems, and {len(reports)} are named: name two.")
    if ab:
        check_out(ab, kind=AB)
        if Path(ab).resolve().is_relative_to(Path(out).resolve()):
            raise ConfigError(
                f"{ab} lies in {out}, where the key will be: choose another folder for the page."
            )
    runs = read_reports(reports)
    paired = pair_up(runs)

    # Compare, and ask.
    with whole_folder(out, kind=REPORT) as folder:
        facts = comparison.write_comparison(folder, runs, paired, seed=seed)
        if ab:
            with whole_folder(ab, kind=AB) as page:
                key = write_ab(page, runs, paired.keys, count=count, seed=seed, questions=questions)
            (folder / KEY).write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
            facts |= {"ab": str(Path(ab, "index.html")), "tasks": len(key["tasks"])}
    print(comparison.as_text(facts))
    return facts | {"report": str(Path(out, "report.html"))}


def _answered(
    reports: Sequence[str | Path], results: str | Path, out: str | Path, *, seed: int
) -> dict[str, Any]:
    """What people answered on the pages of comparisons, in a report of its own; of several pages also the
    order of all their systems."""
    keys = [answers.read_key(Path(report)) for report in reports]
    raters = answers.read_answers(results, *keys)
    pages = [answers.judge_answers(key, own, seed=seed) for key, own in zip(keys, raters)]
    facts: dict[str, Any] = {"pages": pages, "seed": seed, "draws": pages[0]["draws"]}
    if len(pages) > 1:
        matches = [match for key, own in zip(keys, raters) for match in answers.matches_of(key, own)]
        asked = dict.fromkeys(match.question for match in matches)
        facts["ranking"] = {"all questions": rank(matches, seed=seed)} | {
            each: rank([match for match in matches if match.question == each], seed=seed) for each in asked
        }
    found = {Path(report).resolve().name: outcome.read_numbers(Path(report)) for report in reports}
    with whole_folder(out, kind=REPORT) as folder:
        outcome.write_outcome(folder, facts, {name: each for name, each in found.items() if each})
    print(outcome.as_text(facts))
    told = facts if len(pages) > 1 else facts | pages[0]
    return told | {"report": str(Path(out, "report.html"))}
