"""Several processes that share out everything: they train little, measure on the way, are extracted alone."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from processes import together
from safetensors.torch import load_file

from mgie.config import RunConfig, dump_run
from mgie.extract import extract
from mgie.weights import checkpoint, shards

LITTLE = {
    "new_tokens": ("--train.groups=[new_tokens_only]", "--optim.lrs={}"),
    "lora": ("--train.groups=[lora, edit_head]", "--optim.lrs={}"),
}
SPLIT = 1e-5
"""Losses of a step split over processes differ by the order of sums; measured below 2e-6."""
SHARED = 1e-4
"""Weights after two steps likewise, as AdamW makes a step of a gradient that is all rounding."""


def short(make: Callable[..., RunConfig], name: str, *overrides: str) -> RunConfig:
    """A run of two steps of two micro-batches, with a checkpoint and a preview after each."""
    return make(
        "--optim.lr=1.0e-4", "--optim.warmup=0", "--optim.schedule=constant", "--train.batch_size=8",
        "--train.micro_batch_size=2", "--train.ema=0.5", "--log.every=8", "--save.every=8",
        "--preview.every=8", "--preview.count=2", f"--name={name}", *overrides, samples=16,
    )  # fmt: skip


def train_in(count: int, run: RunConfig) -> str:
    """Train on the CPU; what the first process says."""
    path = run.folder.with_suffix(".yaml")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dump_run(run))
    if run.train.strategy.startswith("zero"):  # read before anything is forked, with what it reads later
        pytest.importorskip("deepspeed.runtime.zero.muon.muon_optimizer")
    runs = together(["train", "--config", str(path)], run.folder.with_suffix(".said"), count)
    assert [each.code() for each in runs] == [0] * count, "\n".join(each.said for each in runs)
    return runs[0].said


def lines(run: RunConfig) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def tensors(run: RunConfig, kind: str = "trained") -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run.folder)
    assert found is not None
    _, saved = checkpoint.load(found)
    return {"trained": saved.trained, "ema": saved.ema or {}, "optimizer": saved.optimizer}[kind]


def assert_same(one: RunConfig, many: RunConfig) -> None:
    for left, right in zip(lines(one), lines(many), strict=True):
        for name in ("loss_ce", "loss_edit"):
            assert left[name] == pytest.approx(right[name], rel=SPLIT, abs=SPLIT)
    for kind in ("trained", "ema", "optimizer"):
        torch.testing.assert_close(tensors(many, kind), tensors(one, kind), rtol=0, atol=SHARED)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["ddp", "zero2", "zero3", "fsdp2"])
@pytest.mark.parametrize("kind", LITTLE)
def test_what_trains_little_is_shared_out_and_learns_as_one_alone(tiny_recipe, tmp_path, kind, strategy):
    make = partial(tiny_recipe, tmp_path)
    one = short(make, "one", *LITTLE[kind])
    many = short(make, "many", *LITTLE[kind], f"--train.strategy={strategy}")
    train_in(1, one)
    train_in(2, many)
    assert_same(one, many)
    # What the others have begun one alone goes on with.
    last = checkpoint.latest(many.folder)
    assert last is not None
    last.rename(tmp_path / "aside")
    train_in(1, many)
    assert_same(one, many)
    extract(many.folder, out=tmp_path / "release")


def test_shards_are_extracted_alone(tiny_recipe, tmp_path):
    """Without processes that meet, in a process that never had any."""
    make = partial(tiny_recipe, tmp_path)
    one, many = short(make, "one"), short(make, "many", "--train.strategy=fsdp2")
    train_in(1, one)
    train_in(2, many)
    found = checkpoint.latest(many.folder)
    assert found is not None and shards.are_in(found)
    for ema in ("true", "false"):
        words = [sys.executable, "-m", "mgie", "extract", str(many.folder), "--ema", ema]
        subprocess.run([*words, "--out", str(tmp_path / "of-shards")], check=True, timeout=300)
        extract(one.folder, out=tmp_path / "of-files", ema=ema == "true")
        files = sorted((tmp_path / "of-files").rglob("*.safetensors"))
        assert len(files) >= 3
        for file in files:
            other = tmp_path / "of-shards" / file.relative_to(tmp_path / "of-files")
            torch.testing.assert_close(load_file(other), load_file(file), rtol=0, atol=SHARED)


@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_what_is_shared_out_is_measured_on_the_way_and_the_best_kept(tiny_recipe, tmp_path, strategy):
    make = partial(tiny_recipe, tmp_path)
    measured = ("--evaluate.every=8", "--evaluate.count=6", "--evaluate.batch_size=2", "--evaluate.best=l1")
    one = short(make, "one", *measured)
    many = short(make, "many", *measured, f"--train.strategy={strategy}")
    train_in(1, one)
    train_in(2, many)
    values = [[line["evaluate/pairs/l1"] for line in lines(run) if "evaluate/pairs/l1" in line]
              for run in (one, many)]  # fmt: skip
    assert len(values[0]) == 2 and values[1] == pytest.approx(values[0], rel=1e-3)
    best = [checkpoint.latest(run.folder / "best") for run in (one, many)]
    assert best[0] is not None and best[1] is not None and best[0].name == best[1].name
    torch.testing.assert_close(
        checkpoint.load_tensors(best[1], ema=True), checkpoint.load_tensors(best[0], ema=True),
        rtol=0, atol=SHARED,
    )  # fmt: skip
    extract(many.folder / "best", out=tmp_path / "release")


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["fsdp2", "zero3"])
def test_what_another_run_has_learnt_is_begun_with(tiny_recipe, tmp_path, strategy):
    make = partial(tiny_recipe, tmp_path)
    first = short(make, "first")
    train_in(1, first)
    begun = ("--train.groups=[edit_head]", "--optim.lrs={}", f"--model.start={first.folder}")
    one = short(make, "one", *begun)
    many = short(make, "many", *begun, f"--train.strategy={strategy}")
    train_in(1, one)
    train_in(2, many)
    assert_same(one, many)
    extract(one.folder, out=tmp_path / "one-release")
    extract(many.folder, out=tmp_path / "many-release")
