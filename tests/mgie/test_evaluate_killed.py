"""SIGKILL at random moments of each stage, of shards and of judging: the bytes in the end are the same."""

import json
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from evaluated import Noisy, Unneeded, content
from judged_data import three, write_imgedit, write_pairs, write_script
from processes import Started

from mgie.errors import DataError
from mgie.evaluate import evaluate
from mgie.evaluation import run_folder
from mgie.evaluation.finished import read_report
from mgie.evaluation.judges.answers import Answers

SYSTEMS = {"one": 100, "two": 200, "three": 300}
STAGES = ("generate", "score", "report")
SLOW = 0.03
"""Seconds after each file that is written, so that a kill meets a stage at work."""


def run(out, system=None, **options):
    return evaluate(
        system or Noisy(), out=out, **({"suite": "toy", "count": 7, "seed": 5, "batch_size": 2} | options)
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """An evaluation that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(out)
    return out


def slowly(do):
    """The same with a pause after each file; in a process of its own."""

    def patched() -> int:
        put, sync = run_folder.RunFolder.put, run_folder.sync

        def slow_put(self, name, data):
            put(self, name, data)
            time.sleep(SLOW)

        def slow_sync(path):
            sync(path)
            time.sleep(SLOW)

        run_folder.RunFolder.put, run_folder.sync = slow_put, slow_sync
        do()
        return 0

    return patched


def killed(do, notes, seconds) -> bool:
    """Whether it was killed before its end."""
    process = Started(slowly(do), notes)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    return process.code() == -signal.SIGKILL


KILLS = [3, pytest.param(15, marks=pytest.mark.slow)]


@pytest.mark.parametrize("count", KILLS)
@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_is_killed_and_goes_on(stage, count, whole, tmp_path):
    """So often in this stage; a report that was told by halves is said to be unfinished."""
    out, draw = tmp_path / "run", random.Random(f"{stage} {count}")
    for before in STAGES[: STAGES.index(stage)]:
        run(out, stage=before)
    kills = [
        killed(lambda: run(out, stage=stage), tmp_path / "notes", draw.uniform(0.05, 0.5))
        for _ in range(count)
    ]
    assert any(kills)
    if (out / "plan.json").exists() and not (out / "results.json").exists():
        with pytest.raises(DataError, match="is an evaluation that is not finished"):
            read_report(out, "a")
    run(out, Noisy() if stage == "generate" else Unneeded())
    assert content(out) == content(whole)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_a_finished_report_that_is_killed_while_it_is_told_anew_is_unfinished_or_whole(whole, tmp_path):
    out, draw, seen = tmp_path / "run", random.Random(3), set()
    shutil.copytree(whole, out)
    for _ in range(4):
        killed(lambda: run(out, stage="report", metrics=()), tmp_path / "notes", draw.uniform(0.2, 0.9))
        try:
            assert len(read_report(out, "a").items) == 7
            seen.add("whole")
        except DataError as error:
            assert "is an evaluation that is not finished" in str(error)
            seen.add("unfinished")
    assert seen
    run(out, Unneeded())
    assert content(out) == content(whole)


def test_two_shards_are_killed_in_turn(whole, tmp_path):
    out, draw = tmp_path / "run", random.Random(11)
    for shard in ("1/2", "2/2", "1/2", "2/2"):
        killed(lambda shard=shard: run(out, shard=shard), tmp_path / "notes", draw.uniform(0.1, 0.6))
    run(out, shard="2/2")
    run(out, shard="1/2")
    assert content(out) == content(whole)


def judged(folder, suite, out):
    """Items of ImgEdit, or pairs of GEditBench v2's pictures."""
    pairs = suite == "gedit_v2"
    rules = [("Which of the two", "A"), ("*", three(4, 3, 3))]
    if pairs:
        rules = [("add 1", '{"winner": "tie"}'), ("*", '{"winner": "A"}')]
    asked = {"judge": write_script(folder / "script.json", *rules), "unpinned": True, "data": folder / "data"}
    if pairs:
        return evaluate(
            reports=[f"pictures:{folder / name}" for name in SYSTEMS], suite=suite, out=out, **asked
        )
    return evaluate(f"pictures:{folder / 'gen'}", suite=suite, out=out, judge_controls=2, **asked)


def judged_slowly(folder, suite, out):
    """The same with a pause after each answer and each file of the report; in a process of its own."""

    def patched() -> int:
        append, write = Answers._append, Path.write_text

        def slow_append(self, *told):
            append(self, *told)
            time.sleep(SLOW)

        def slow_write(self, *told, **options):
            write(self, *told, **options)
            time.sleep(SLOW)

        Answers._append, Path.write_text = slow_append, slow_write
        judged(folder, suite, out)
        return 0

    return patched


def answered(out) -> int:
    """How many answers are in its file."""
    kept = out.with_name(f"{out.name}.answers.jsonl")
    return kept.read_bytes().count(b"\n") if kept.exists() else 0


@pytest.mark.parametrize("count", [4, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("suite", ["imgedit", "gedit_v2"])
def test_judging_is_killed_and_no_answer_is_paid_for_twice(suite, count, tmp_path, monkeypatch):
    """What a report says does not depend on how often it was begun, but for how many answers were new; it is
    there whole or not at all."""
    monkeypatch.setattr("mgie.evaluation.judges.pair_report.DRAWS", 10)  # a thousand take a second
    write_imgedit(tmp_path) if suite == "imgedit" else write_pairs(tmp_path, SYSTEMS)
    facts, lines = ("results.json", "items.jsonl") if suite == "imgedit" else ("pairs.json", "pairs.jsonl")
    first = judged(tmp_path, suite, tmp_path / "whole")
    draw, out, kills = random.Random(f"{suite} {count}"), tmp_path / "run", 0
    for _ in range(count):
        process = Started(judged_slowly(tmp_path, suite, out), tmp_path / "notes")
        wanted = answered(out) + draw.randrange(1, 5)
        while answered(out) < min(wanted, first["new_answers"]):
            time.sleep(0.002)
        time.sleep(draw.uniform(0, 0.2))
        os.kill(process.pid, signal.SIGKILL)
        kills += process.code() == -signal.SIGKILL
        assert not out.exists() or {facts, lines, "report.md", "report.html"} <= set(os.listdir(out))
    last = judged(tmp_path, suite, out)
    assert kills and last["new_answers"] < first["new_answers"]
    told = [
        {name: value for name, value in json.loads((place / facts).read_text()).items()
         if name not in ("seconds", "new_answers")}
        for place in (tmp_path / "whole", out)
    ]  # fmt: skip
    assert told[0] == told[1]
    for name in (lines, "report.md"):
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes()
    answers = (tmp_path / "run.answers.jsonl").read_text().splitlines()
    assert len(answers) == len({json.loads(line)["key"] for line in answers}) == first["new_answers"]
