"""Answers outlive a kill, and none is paid for twice."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from mgie.errors import ConfigError, DataError
from mgie.evaluation.judges.answers import open_answers, recorded
from mgie.evaluation.judges.base import Answer, Ask, Picture, key_of


class Counts:
    """A judge that counts how often it was asked."""

    label, together, steady = "counts", 1, False

    def __init__(self, text="4", status="ok", **identity):
        self.identity = {"kind": "test", "model": "m", **identity}
        self.said, self.asked = Answer(text=text, status=status, model="m-1", usage={"tokens": 5}), 0

    def answer(self, ask, key):
        assert key == key_of(self.identity, ask)
        self.asked += 1
        time.sleep(0.01)
        return self.said


ASK = Ask(parts=("how good?", Picture(data=b"1234")), settings={"max_tokens": 9})


def test_the_same_question_is_asked_once_and_for_good(tmp_path):
    judge = Counts(text="4 \ud800 ü\n\u2028")
    for _ in range(2):
        with open_answers(tmp_path / "a.jsonl") as answers:
            assert answers.once(judge, ASK) == judge.said == answers.once(judge, ASK)
            assert dict(answers.models()) == {"m-1": 1} and answers.tokens() == {"tokens": 5}
    assert judge.asked == 1 and len((tmp_path / "a.jsonl").read_bytes().splitlines()) == 1


def test_many_threads_with_one_question_ask_once(tmp_path):
    judge = Counts()
    with open_answers(tmp_path / "a.jsonl") as answers:
        threads = [threading.Thread(target=answers.once, args=(judge, ASK)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert judge.asked == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(ASK, repeat=1),
        replace(ASK, attempt=1),
        replace(ASK, system="be strict"),
        replace(ASK, settings={"max_tokens": 10}),
        replace(ASK, parts=("how good!", ASK.parts[1])),
        replace(ASK, parts=(ASK.parts[1], "how good?")),
        replace(ASK, parts=("how good?", Picture(data=b"1235"))),
        replace(ASK, parts=("how good?", Picture(data=b"1234", mime="image/jpeg"))),
        replace(ASK, parts=("how good?", Picture(data=b"1234", detail="high"))),
    ],
)
def test_another_question_is_another_question(tmp_path, other):
    judge = Counts()
    with open_answers(tmp_path / "a.jsonl") as answers:
        answers.once(judge, ASK)
        answers.once(judge, other)
        answers.once(Counts(dtype="bfloat16"), ASK)
    assert judge.asked == 2 and len(answers.kept) == 3


def test_an_answer_that_never_came_is_not_kept_and_a_refusal_is(tmp_path):
    with open_answers(tmp_path / "a.jsonl") as answers:
        for judge in (Counts(status="error"), Counts(status="refused", url="x")):
            answers.once(judge, ASK)
            answers.once(judge, ASK)
            assert judge.asked == (2 if judge.said.status == "error" else 1)


def test_every_cut_of_the_file_loses_at_most_the_last_answer(tmp_path):
    path = tmp_path / "a.jsonl"
    with open_answers(path) as answers:
        for repeat in range(3):
            answers.once(Counts(), replace(ASK, repeat=repeat))
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == 10]
    for cut in range(0, len(whole) + 1, 7):
        path.write_bytes(whole[:cut])
        kept = sum(end <= cut for end in ends)
        with open_answers(path) as answers:
            assert len(answers.kept) == kept and answers.torn == cut - ([0, *ends])[kept]
            answers.once(Counts(), replace(ASK, repeat=9))
        with open_answers(path) as answers:
            assert len(answers.kept) == kept + 1 and answers.torn == 0


@pytest.mark.parametrize(
    "change", [lambda line: line.replace(b'"4"', b'"5"'), lambda _: b"{}", lambda _: b"\xff"]
)
def test_a_damaged_line_is_refused_by_its_number(tmp_path, change):
    path = tmp_path / "a.jsonl"
    with open_answers(path) as answers:
        for repeat in range(3):
            answers.once(Counts(), replace(ASK, repeat=repeat))
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], change(lines[1]), *lines[2:]]))
    with pytest.raises(DataError, match=r"a.jsonl, line 2 is damaged"), open_answers(path):
        pass


def test_two_processes_do_not_pay_twice(tmp_path):
    path = tmp_path / "a.jsonl"
    with open_answers(path), pytest.raises(ConfigError, match="in use by process"), open_answers(path):
        pass


def test_what_was_recorded_names_who_answered(tmp_path):
    with open_answers(tmp_path / "a.jsonl") as answers:
        answers.once(Counts(), ASK)
        answers.once(Counts(), replace(ASK, repeat=1))
        answers.once(Counts(dtype="x"), ASK)
    known, judges = recorded(tmp_path / "a.jsonl")
    assert len(known) == 3 and len(judges) == 2
    with pytest.raises(DataError, match="cannot be read"):
        recorded(tmp_path / "none.jsonl")


ENDLESS = """
import sys, itertools
from pathlib import Path
from dataclasses import replace
from mgie.evaluation.judges.answers import open_answers
from mgie.evaluation.judges.base import Answer, Ask
class Judge:
    identity, label, together, steady = {"kind": "test"}, "", 1, False
    def answer(self, ask, key):
        print(ask.repeat, flush=True)
        return Answer(text="x" * 5000)
with open_answers(Path(sys.argv[1])) as answers:
    for repeat in itertools.count():
        answers.once(Judge(), Ask(parts=("q",), repeat=repeat))
"""


def test_a_kill_loses_at_most_what_was_being_asked(tmp_path):
    path = tmp_path / "a.jsonl"
    asked = 0
    for _ in range(2):
        running = subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(path)], stdout=subprocess.PIPE, text=True, env=os.environ
        )
        assert running.stdout
        for _ in range(20):
            last = int(running.stdout.readline())
        os.kill(running.pid, signal.SIGKILL)
        said = [last, *map(int, running.stdout.read().split())]
        running.wait()
        running.stdout.close()
        with open_answers(path) as answers:
            kept = len(answers.kept)
        assert kept >= max(said) and kept > asked  # all but the one at work
        asked = kept
    # The second process asked for none of what the first one had.
    assert min(said) >= 19
    assert all(json.loads(line)["sha256"] for line in path.read_bytes().splitlines())
