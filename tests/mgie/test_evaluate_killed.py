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
from judged_data import three, write_imgedit, write_script
from processes import Started

from mgie.errors import DataError
from mgie.evaluate import evaluate
from mgie.evaluation import run_folder
from mgie.evaluation.finished import read_report
from mgie.evaluation.judges.answers import Answers

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


@pytest.mark.parametrize("stage", STAGES)
def test_each_stage_is_killed_and_goes_on(stage, whole, tmp_path):
    """Three times in this stage; a report that was told by halves is said to be unfinished."""
    out, draw = tmp_path / "run", random.Random(stage)
    for before in STAGES[: STAGES.index(stage)]:
        run(out, stage=before)
    kills = [
        killed(lambda: run(out, stage=stage), tmp_path / "notes", draw.uniform(0.05, 0.5)) for _ in range(3)
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


def test_judging_is_killed_and_no_answer_is_paid_for_twice(tmp_path):
    """What a report says does not depend on how often it was begun, but for how many answers were new."""
    write_imgedit(tmp_path)
    script = write_script(tmp_path / "script.json", ("Which of the two", "A"), ("*", three(4, 3, 3)))

    def judged(out):
        return evaluate(
            f"pictures:{tmp_path / 'gen'}", suite="imgedit", data=tmp_path / "data", out=out, judge=script,
            judge_controls=2, unpinned=True,
        )  # fmt: skip

    def slow(out) -> int:
        append = Answers._append

        def slow_append(self, *told):
            append(self, *told)
            time.sleep(SLOW)

        Answers._append = slow_append
        judged(out)
        return 0

    first = judged(tmp_path / "whole")
    draw, out, kills = random.Random(2), tmp_path / "run", 0
    for _ in range(4):
        process = Started(lambda: slow(out), tmp_path / "notes")
        time.sleep(draw.uniform(0.05, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        kills += process.code() == -signal.SIGKILL
    last = judged(out)
    assert kills and last["new_answers"] < first["new_answers"]
    told = [
        {name: value for name, value in json.loads((place / "results.json").read_text()).items()
         if name not in ("seconds", "new_answers")}
        for place in (tmp_path / "whole", out)
    ]  # fmt: skip
    assert told[0] == told[1]
    for name in ("items.jsonl", "report.md"):
        assert (tmp_path / "whole" / name).read_bytes() == (out / name).read_bytes()
    lines = (tmp_path / "run.answers.jsonl").read_text().splitlines()
    assert len(lines) == len({json.loads(line)["key"] for line in lines}) == first["new_answers"]
