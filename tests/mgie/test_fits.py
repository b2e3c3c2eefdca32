"""What `--dry_run --gpu` tells, held against the memory that a process really takes."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from mgie.config import load_run
from mgie.errors import ConfigError
from mgie.fits import Need, fits, needs, rehearsed, sizes
from mgie.training.optim import choose_trained

NEAR = 0.1
"""How far the estimate may be from what is measured."""

MEASURE = """
import json, sys
from pathlib import Path
import torch
from mgie.config import load_run
from mgie.fits import rehearsal, sizes
from mgie.training.optim import choose_trained

def told(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(name))

torch.set_num_threads(1)
run = load_run("tiny")
editor = sizes(run).to_empty(device="cpu").train()
for tensor in (*editor.parameters(), *editor.buffers()):
    tensor.data.zero_()
choose_trained(editor, editor.groups(), run.train.groups)
rehearsal(run, editor, 1)  # kernels are made
editor.zero_grad()
before = told("VmRSS")
Path("/proc/self/clear_refs").write_text("5")
rehearsal(run, editor, int(sys.argv[1]))
print(json.dumps(told("VmHWM") - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_the_estimate_of_a_step_is_near_what_it_takes(root):
    samples = 48
    run = load_run("tiny")
    editor = sizes(run)
    trained = choose_trained(editor, editor.groups(), run.train.groups)
    expected = rehearsed(run, editor, samples) + sum(4 * each.numel() for each in trained.values())
    # Memory that is freed goes back at once, so that no page is counted that nothing holds.
    giving = {"MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_TRIM_THRESHOLD_": "16384", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(samples)], env=os.environ | giving | {"PYTHONPATH": str(root)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    measured = json.loads(done.stdout)
    print(f"expected {expected >> 20} MiB, measured {measured >> 20} MiB")
    assert abs(expected / measured - 1) < NEAR


def test_engines_share_out_what_their_papers_say():
    need = Need(frozen=800, trained=400, activations={1: 100}, averaged=True)
    one = {engine: need.rows(engine, 4) for engine in ("ddp", "zero1", "zero2", "zero3", "fsdp2")}
    assert one["ddp"] == {"parameters": 1200, "gradients": 800, "optimizer": 1200}
    assert one["zero1"] == {"parameters": 1200, "gradients": 400, "optimizer": 300}
    assert one["zero2"] == {"parameters": 1200, "gradients": 100, "optimizer": 300}
    assert one["zero3"] == one["fsdp2"] == {"parameters": 300, "gradients": 100, "optimizer": 300}
    assert need.rows("ddp", 1)["gradients"] == 400 and need.total("zero3", 4, 1) == 800


def test_a_recipe_is_told_whether_it_fits_and_what_would_make_it(monkeypatch):
    run = load_run("tiny", ["--train.batch_size=4", "--train.micro_batch_size=4"])

    def known(changed, micros):
        light = "lora_denoiser" in changed.train.groups
        return Need(
            frozen=2 << 30, trained=(1 << 20) if light else (1 << 30), averaged=False,
            activations={size: size << 29 for size in micros},
        )  # fmt: skip

    monkeypatch.setattr("mgie.fits.needs", known)
    assert "| ddp | 4 | 3.00 | 1.00 | 2.00 | 2.00 | 8.00 | yes |" in fits(run, "9GiB")
    assert "It fits as it is" in fits(run, "9GiB")
    assert "--train.strategy ddp --train.micro_batch_size 2" in fits(run, "8.5GiB")
    assert "--train.groups [lora]" in fits(run, "4GiB")
    assert "nor with any change" in fits(run, "2GiB")


@pytest.mark.parametrize("gpu", ["24", "big", "24GiB GiB", "-1GiB"])
def test_another_word_for_a_gpu_is_refused(gpu):
    with pytest.raises(ConfigError, match="expected memory such as 24GiB"):
        fits(load_run("tiny"), gpu)


@pytest.mark.parametrize("gpu", ["0GiB", "8x512MiB", "1GiB"])
def test_a_card_of_which_nothing_is_left_is_refused(gpu):
    with pytest.raises(ConfigError, match="take 1 GiB of it, and nothing is left; expected more, such as"):
        fits(load_run("tiny"), gpu)


def test_only_trained_weights_have_gradients_and_moments():
    run = load_run("tiny", ["--train.groups=[new_tokens_only]", "--optim.lrs={}", "--data.max_length=96"])
    need = needs(run, (1,))
    with torch.device("meta"):
        everything = sum(4 * p.numel() for p in sizes(run).parameters())
    rows = 2 * 8 * 128 * 4
    assert need.frozen + need.trained == everything + rows
    assert 0 < need.trained < everything and need.activations[1] > 0


def test_muon_keeps_one_moment_of_its_matrices_and_shares_nothing_out():
    run = load_run("tiny", ["--train.groups=[edit_head]", "--optim.lrs={}", "--data.max_length=96"])
    turning = replace(run, optim=replace(run.optim, muon=0.01))
    plain, need = needs(run, (1,)), needs(turning, (1,))
    with torch.device("meta"):
        head = sizes(run).encoder.edit_head
    matrices = [layer.weight for layer in head.modules() if isinstance(layer, torch.nn.Linear)]
    assert plain.turned == 0 < need.turned == sum(4 * each.numel() for each in matrices)
    less = plain.rows("ddp", 1)["optimizer"] - need.rows("ddp", 1)["optimizer"]
    assert less == need.turned and need.trained == plain.trained
    assert "| zero3 |" in fits(run, "2x24GiB") and "| zero3 |" not in fits(turning, "2x24GiB")
