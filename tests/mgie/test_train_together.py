"""Several processes train what one would. The least of each kind runs with every test; the rest is marked
`dist`, and starts as many as PROCESSES says."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from processes import together
from safetensors.torch import load_file

from mgie.config import RunConfig, dump_run
from mgie.weights import checkpoint

PROCESSES = int(os.environ.get("PROCESSES", "2"))

GENTLE = ("--optim.lr=1.0e-4", "--optim.lrs={}", "--optim.warmup=0", "--optim.schedule=constant")
"""Each of a few steps counts, but AdamW makes little of what is all rounding."""

SPLIT = 1e-5
"""Losses of a step split over processes or micro-batches differ by the order of sums; measured below 2e-6."""

SHARED = 1e-4
"""Weights after runs that share out differ by the order of sums: a step of 1e-4, for AdamW makes a step of a
gradient that is all rounding; measured below 2e-6 but for a few of 16384 values, those 6.3e-5 at most."""

SHORT = 5e-3
"""The same for losses in bfloat16, relative; measured below 2e-3 (ZeRO 3)."""


def losses(run: RunConfig) -> list[tuple[float, float]]:
    lines = (run.folder / "log.jsonl").read_text().splitlines()
    return [(line["loss_ce"], line["loss_edit"]) for line in map(json.loads, lines)]


def tensors(run: RunConfig, name: str = "trained") -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run.folder)
    assert found is not None
    _, saved = checkpoint.load(found)
    return {"trained": saved.trained, "ema": saved.ema or {}, "optimizer": saved.optimizer}[name]


def sharing(make: Callable[..., RunConfig], strategy: str, *overrides: str, steps: int = 2) -> RunConfig:
    """A run of steps of two micro-batches, with a checkpoint and a preview in the middle and at the end."""
    batch = 4 * PROCESSES
    half = batch * steps // 2
    return make(
        *GENTLE, f"--train.strategy={strategy}", f"--train.batch_size={batch}", "--train.micro_batch_size=2",
        "--train.ema=0.5", f"--log.every={batch}", f"--save.every={half}", f"--preview.every={half}",
        "--preview.count=2", *overrides, samples=steps * batch,
    )  # fmt: skip


@pytest.fixture(scope="module")
def alone(tiny_recipe, tmp_path_factory) -> RunConfig:
    """What one process makes of it."""
    run = sharing(partial(tiny_recipe, tmp_path_factory.mktemp("alone")), "ddp")
    train_in(1, run)
    return run


def written(run: RunConfig) -> Path:
    """The run as a recipe beside its folder."""
    path = run.folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_run(run))
    return path


def train_in(processes: int, run: RunConfig) -> None:
    """Train on the CPU."""
    if run.train.strategy.startswith(
        "zero"
    ):  # read before the processes are forked, with what it reads later
        pytest.importorskip("deepspeed.runtime.zero.muon.muon_optimizer")
    words = ["train", "--config", str(written(run))]
    runs = together(words, run.folder.with_suffix(".said"), processes)
    assert [each.code() for each in runs] == [0] * processes, "\n".join(each.said for each in runs)


def goes_on(run: RunConfig, out: Path, strategy: str) -> RunConfig:
    """The run as it stood in the middle, elsewhere, to be gone on with under `strategy`."""
    again = replace(run, out=str(out), train=replace(run.train, strategy=strategy))
    shutil.copytree(run.folder, again.folder)
    last = checkpoint.latest(again.folder)
    assert last is not None
    shutil.rmtree(last)
    return again


def assert_same_state(one: RunConfig, many: RunConfig) -> None:
    """Both runs have come to the same losses, weights, averages and moments."""
    torch.testing.assert_close(losses(one), losses(many), rtol=SPLIT, atol=SPLIT)
    for file in ("trained", "ema", "optimizer"):
        torch.testing.assert_close(tensors(many, file), tensors(one, file), rtol=0, atol=SHARED)


def assert_same_pictures(one: RunConfig, many: RunConfig, *, count: int) -> None:
    """What the previews of `many` show differs by rounding at most."""
    names = [path.name for path in sorted((many.folder / "previews").iterdir())]
    assert len(names) == count
    for name in names:
        left, right = (np.asarray(Image.open(run.folder / "previews" / name), int) for run in (one, many))
        assert abs(left - right).max() <= 1


@pytest.mark.parametrize("strategy", ["ddp", "zero2", "fsdp2"])
def test_together_as_alone(alone, tiny_run, strategy):
    many = sharing(tiny_run, strategy)
    train_in(PROCESSES, many)
    assert_same_state(alone, many)
    assert_same_pictures(alone, many, count=2)


def test_what_one_has_begun_others_go_on_with(alone, tmp_path):
    """And share out all that can be."""
    many = goes_on(alone, tmp_path / "many", "zero3")
    shutil.rmtree(many.folder / "previews")
    train_in(PROCESSES, many)
    assert_same_state(alone, many)
    assert_same_pictures(alone, many, count=1)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_what_was_begun_together_is_gone_on_with(tiny_recipe, tmp_path, strategy):
    one = sharing(partial(tiny_recipe, tmp_path / "one"), "ddp", steps=4)
    many = sharing(partial(tiny_recipe, tmp_path / "many"), strategy, steps=4)
    train_in(1, one)
    train_in(PROCESSES, many)
    assert_same_state(one, many)
    assert_same_pictures(one, many, count=2)
    lone, again = goes_on(many, tmp_path / "lone", "ddp"), goes_on(many, tmp_path / "again", strategy)
    train_in(1, lone)
    assert_same_state(one, lone)
    train_in(PROCESSES, again)
    assert_same_state(one, again)


@pytest.mark.dist
def test_torchrun_starts_them(alone, tiny_run):
    many = sharing(tiny_run, "ddp")
    words = [
        sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={PROCESSES}", "--master_port=0",
        "--rdzv_backend=c10d", "--rdzv_endpoint=localhost:0",
        "-m", "mgie", "train", "--config", written(many),
    ]  # fmt: skip
    subprocess.run(words, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert_same_state(alone, many)


@pytest.mark.dist
def test_what_was_shared_out_is_extracted_where_deepspeed_is_not(alone, tiny_run, tmp_path):
    many = sharing(tiny_run, "zero3")
    train_in(PROCESSES, many)
    script = (
        "import sys; sys.modules['deepspeed'] = None; from mgie.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    for form in ("release", "apple"):
        outs = [tmp_path / f"{form}{number}" for number in range(2)]
        for run, out in zip((alone, many), outs):
            words = ["extract", str(run.folder), "--out", str(out), "--format", form]
            subprocess.run(
                [sys.executable, "-c", script, *words], check=True, capture_output=True, timeout=300
            )
        files = [
            path.relative_to(outs[0]) for path in outs[0].rglob("*") if path.suffix in (".safetensors", ".pt")
        ]
        assert len(files) >= 2
        for file in files:
            left, right = ((load_file if form == "release" else torch.load)(out / file) for out in outs)
            # Apple's files are in half precision: one step of it.
            torch.testing.assert_close(right, left, rtol=0 if form == "release" else 1e-3, atol=SHARED)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_sharing_out_in_bfloat16(tiny_recipe, tmp_path, strategy):
    one = sharing(partial(tiny_recipe, tmp_path / "one"), "ddp", "--train.precision=bf16")
    many = sharing(partial(tiny_recipe, tmp_path / "many"), strategy, "--train.precision=bf16")
    train_in(1, one)
    train_in(PROCESSES, many)
    torch.testing.assert_close(losses(one)[:1], losses(many)[:1], rtol=SPLIT, atol=0)
    torch.testing.assert_close(losses(one), losses(many), rtol=SHORT, atol=0)
    assert all(value.dtype == torch.float32 for value in tensors(many).values())


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
def test_frozen_weights_in_bfloat16(tiny_recipe, tmp_path, strategy):
    frozen = (
        "--train.groups=[edit_head, denoiser]",
        "--train.precision=bf16",
        "--train.frozen_dtype=bfloat16",
    )
    one = sharing(partial(tiny_recipe, tmp_path / "one"), "ddp", *frozen)
    many = sharing(partial(tiny_recipe, tmp_path / "many"), strategy, *frozen)
    train_in(1, one)
    train_in(PROCESSES, many)
    torch.testing.assert_close(losses(one), losses(many), rtol=SHORT, atol=0)
    assert len(list((many.folder / "previews").iterdir())) == 2
    assert all(value.dtype == torch.float32 for value in tensors(many).values())


@pytest.mark.dist
def test_frozen_weights_are_shared_out_too(tiny_recipe, tmp_path):
    frozen = ("--train.groups=[edit_head, denoiser]", "--train.gradient_checkpointing=true")
    one = sharing(partial(tiny_recipe, tmp_path / "one"), "ddp", *frozen)
    many = sharing(partial(tiny_recipe, tmp_path / "many"), "zero3", *frozen)
    train_in(1, one)
    train_in(PROCESSES, many)
    assert_same_state(one, many)
