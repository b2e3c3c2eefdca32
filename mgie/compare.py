"""`mgie evaluate A B`: finished reports are compared, by numbers and by people.

mgie evaluate _ckpt/report-a _ckpt/report-b --out _ckpt/compared
mgie evaluate _ckpt/report-a _ckpt/report-b --ab _ckpt/page --out _ckpt/compared
mgie evaluate _ckpt/compared --results _ckpt/answers --out _ckpt/people
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llava_patch.folders import check_out, whole_folder
from mgie.errors import ConfigError
from mgie.evaluation.comparing import report as comparison
from mgie.evaluation.finished import pair_up, read_reports
from mgie.evaluation.people import answers
from mgie.evaluation.people.ab import AB, KEY, write_ab
from mgie.evaluation.report import REPORT

HEEDED = ("reports", "ab", "results", "out", "seed")
"""All options of `mgie evaluate` that a comparison looks at, and --count where people are asked."""


def compare_reports(
    reports: Sequence[str | Path],
    out: str | Path,
    given: Sequence[str] = (),
    *,
    ab: str | Path | None = None,
    results: str | Path | None = None,
    seed: int = 1,
    count: int = 200,
) -> dict[str, Any]:
    """Compare finished reports in a folder `out`, and write a blind page of two of them to `ab`; or, with
    `results`, tell what people answered on the page of the comparison that is named.

    `given` are options that were asked for; what a comparison does not heed is refused. Raises ConfigError,
    and DataError for folders that hold no report, or that cannot be compared.
    """
    # Everything that can be wrong is wrong now.
    for name in given:
        if name not in HEEDED and not (name == "count" and ab):
            raise ConfigError(
                f"{name} has no place beside {', '.join(map(str, reports))}: words without an option are "
                "finished reports, and these are compared as they are; leave it out."
            )
    check_out(out, kind=REPORT)
    if results:
        if ab or len(reports) > 1:
            raise ConfigError(
                "results are of one blind page: name the folder of the comparison that made it alone."
            )
        return _answered(reports[0], results, out, seed=seed)
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
                key = write_ab(page, runs, paired.keys, count=count, seed=seed)
            (folder / KEY).write_text(json.dumps(key, indent=2) + "\n", encoding="utf-8")
            facts |= {"ab": str(Path(ab, "index.html")), "tasks": len(key["tasks"])}
    print(comparison.as_text(facts))
    return facts | {"report": str(Path(out, "report.html"))}


def _answered(report: str | Path, results: str | Path, out: str | Path, *, seed: int) -> dict[str, Any]:
    """What people answered, in a report of its own."""
    key = answers.read_key(Path(report))
    facts = answers.judge_answers(key, answers.read_answers(results, key), seed=seed)
    with whole_folder(out, kind=REPORT) as folder:
        answers.write_answers(folder, facts)
    print(answers.as_text(facts))
    return facts | {"report": str(Path(out, "report.md"))}
