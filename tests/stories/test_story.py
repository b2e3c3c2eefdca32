"""A user's way through the verbs, at the smallest size: prepare, train, stop, go on, extract, edit, judge."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from mgie.cli import main
from mgie.toy.photos import photo

STEPS, BATCH = 20, 4
RUN = [
    "--config", "tiny", "--data.path", "_data/toy", "--data.workers", "0", "--train.threads", "1",
    "--train.samples", str(STEPS * BATCH), "--train.batch_size", str(BATCH),
    "--train.micro_batch_size", str(BATCH), "--log.every", str(BATCH), "--save.every", str(4 * BATCH),
    "--preview.every", str(STEPS * BATCH),
]  # fmt: skip


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """An empty folder to work in, as a user has it."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("story")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture(autouse=True)
def _inside(here):
    assert Path.cwd() == here


def facts_of(capsys, *words: str) -> dict:
    """What a command that must succeed says in JSON."""
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def pixels(path: str) -> np.ndarray:
    """A picture as an array, y x 3."""
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_1_prepare(capsys):
    words = ("prepare", "toy", "--out", "_data/toy", "--count", "48", "--test", "8", "--size", "64")
    facts = facts_of(capsys, *words)
    assert (facts["splits"]["train"]["rows"], facts["splits"]["test"]["rows"]) == (48, 8)
    assert main(["prepare", "--check", "_data/toy"]) == 0


def test_2_train_is_stopped_and_goes_on(capsys, root):
    command = [sys.executable, "-m", "mgie", "train", *RUN]
    environment = os.environ | {"PYTHONPATH": str(root)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    lines = Path("_ckpt/runs/tiny/log.jsonl")
    while not lines.exists() or lines.read_text().count("\n") < 6:
        assert process.poll() is None, process.stderr and process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from here" in said
    done = json.loads(lines.read_text().splitlines()[-1])["samples"]
    assert 6 * BATCH <= done < STEPS * BATCH

    facts = facts_of(capsys, "train", *RUN)
    assert (facts["steps"], facts["samples"]) == (STEPS, STEPS * BATCH)
    whole = facts_of(capsys, "train", *RUN, "--name", "whole")
    assert (facts["loss_ce"], facts["loss_edit"]) == (whole["loss_ce"], whole["loss_edit"])
    one, two = (
        load_file(f"_ckpt/runs/{name}/checkpoints/{STEPS * BATCH:010d}/trained.safetensors")
        for name in ("tiny", "whole")
    )
    assert one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)
    assert pixels(f"_ckpt/runs/tiny/previews/{STEPS * BATCH:010d}.png").shape[1] > 4 * 32


def test_3_extract(capsys):
    facts = facts_of(capsys, "extract", "_ckpt/runs/tiny", "--out", "_ckpt/tiny")
    assert facts and Path("_ckpt/tiny/model_index.json").is_file()


def test_4_edit(capsys):
    photo("cat").save("cat.jpg")
    words = ("edit", "cat.jpg", "make it black and white", "--model", "_ckpt/tiny")
    facts_of(capsys, *words, "--out", "out.png")
    facts_of(capsys, *words, "--out", "again.png")
    assert pixels("out.png").std() > 0
    assert (pixels("out.png") == pixels("again.png")).all()


def test_5_evaluate(capsys):
    words = ("evaluate", "--model", "_ckpt/tiny", "--suite", "toy", "--count", "8", "--out", "_ckpt/report")
    facts = facts_of(capsys, *words)
    assert facts["n"] == 8
    assert 0 <= facts["right"] <= 1 and 0 <= facts["control_right"] <= 1 and facts["l1_ratio"] > 0
    assert {path.name for path in Path("_ckpt/report").iterdir()} >= {
        "results.json", "items.jsonl", "report.md", "report.html", "sheet.png",
    }  # fmt: skip
