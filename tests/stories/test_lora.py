"""One's own pairs, as a newcomer teaches them: scripts/lora_24gb.sh at tiny size, twice."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mgie.build import build_editor, build_release
from mgie.config import load_run
from mgie.toy.pairs import ToyPairs
from mgie.weights.release import read_release, write_release

SMALL = (
    "--train.samples=16", "--train.batch_size=4", "--train.precision=fp32", "--train.frozen_dtype=null",
    "--data.size=32", "--data.max_length=128", "--data.workers=0", "--log.every=4", "--save.every=8",
    "--preview.every=0", "--sampling.scheduler=DDIMScheduler", "--sampling.steps=2", "--train.threads=1",
)  # fmt: skip
"""What the recipe for a 7B model becomes for the tiny one."""


@pytest.fixture
def pairs(tmp_path) -> Path:
    """Twenty pairs as somebody has them: two folders and a table."""
    folder = tmp_path / "my_pairs"
    rows = ["file,instruction,expressive"]
    for name in ("before", "after"):
        (folder / name).mkdir(parents=True)
    for number, pair in enumerate(ToyPairs(20, seed=5, kinds=["recolour", "remove", "sepia"])):
        assert pair.source is not None
        (folder / "before" / f"{number}.png").write_bytes(pair.source)
        (folder / "after" / f"{number}.png").write_bytes(pair.target)
        rows.append(f'{number}.png,"{pair.instruction}","{pair.expressive}"')
    (folder / "instructions.csv").write_text("\n".join(rows))
    return folder


@pytest.mark.slow
def test_a_newcomer_s_adapters_become_a_release_and_a_second_run_goes_on(root, pairs, tmp_path):
    run = load_run("tiny")
    write_release(build_release(build_editor(run), run), tmp_path / "release")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "mgie").write_text(f'#!/bin/sh\nexec {sys.executable} -m mgie "$@"\n')
    (tmp_path / "bin" / "mgie").chmod(0o755)
    words = [root / "scripts" / "lora_24gb.sh", pairs, tmp_path / "release", "mine", *SMALL]
    place = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(root),
             "DATA": str(tmp_path / "data"), "CKPT": str(tmp_path / "ckpt")}  # fmt: skip
    how: dict = {"env": os.environ | place, "cwd": tmp_path, "capture_output": True, "text": True}
    first, second = (subprocess.run(words, **how) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "complete: all 16 samples are done." in second.stderr
    log = (tmp_path / "ckpt" / "runs" / "mine" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["samples"] for line in log] == [4, 8, 12, 16]
    taught = read_release(tmp_path / "ckpt" / "mine").editor.state_dict()
    given = read_release(tmp_path / "release").editor.state_dict()
    assert taught.keys() == given.keys()
    changed = {name.split(".")[1] for name in taught if not taught[name].equal(given[name])}
    assert changed == {"llava", "unet"}


def test_without_words_it_says_what_it_wants(root):
    done = subprocess.run([root / "scripts" / "lora_24gb.sh"], capture_output=True, text=True)
    assert done.returncode == 2 and "expected PAIRS RELEASE NAME" in done.stderr
