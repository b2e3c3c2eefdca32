"""A small part of benchmarks/chaos.py: no silence, no traceback, no hang; and how each of them is told."""

import os
import subprocess
import sys

import pytest

EVERY = 90
"""One in so many tries: some two dozen, of all kinds."""


def test_some_of_every_kind_of_chaos(root, tmp_path):
    command = [
        sys.executable,
        "benchmarks/chaos.py",
        "--every",
        str(EVERY),
        "--report",
        tmp_path / "chaos.md",
    ]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    text = (tmp_path / "chaos.md").read_text()
    for kind in ("kills", "signals", "corruptions", "inputs", "numbers", "data", "shares"):
        assert f"| {kind}: " in text
    assert "What did not end well" not in text


@pytest.fixture
def laboratory(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "benchmarks")
    from attacks import laboratory

    return laboratory


@pytest.mark.parametrize(
    ("code", "err", "wrong", "result"),
    [
        (0, "", "", "done"),
        (0, "", "a picture is gone", "silent"),
        (2, "mgie: no such file; check the path.\n", "", "sentence"),
        (2, "train: 10%|#\rtrain: 20%|#\r           \rmgie: no such file.\n", "", "sentence"),
        (2, "train:  20%|##  | 3/9mgie: no such file.\n", "", "traceback"),
        (2, "train:  20%|##  | 3/9\rmgie: no.\n", "", "traceback"),
        (2, "usage: mgie\n", "", "traceback"),
        (1, "Traceback (most recent call last):\nValueError\n", "", "traceback"),
        (2, "Traceback (most recent call last):\nmgie: no such file.\n", "", "traceback"),
        (-11, "", "", "traceback"),
        (None, "", "", "hang"),
    ],
)
def test_how_an_end_is_judged(laboratory, code, err, wrong, result):
    ran = laboratory.Ran(words=[], code=code, out="", err=err, seconds=1.0)
    assert laboratory.judge(ran, wrong).result == result


def test_the_worst_of_two_ends_counts(laboratory):
    ends = [laboratory.Found(result=result) for result in ("sentence", "silent", "done")]
    assert laboratory.worst(*ends).result == "silent"
