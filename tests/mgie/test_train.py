import json
import os
import shutil
import signal
import time
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from PIL import Image
from safetensors.torch import load_file
from torch.overrides import TorchFunctionMode

from mgie.build import build_editor, frozen_short
from mgie.config import dump_run
from mgie.diffusion.process import VarianceProcess
from mgie.errors import ConfigError, WeightsError
from mgie.extract import extract
from mgie.prepare import prepare
from mgie.train import train
from mgie.training.task import EditTask
from mgie.types import Term
from mgie.weights import checkpoint
from mgie.weights.release import read_release

SPLIT = 1e-5
"""Losses of a step split over processes or micro-batches differ by the order of sums; measured below 2e-6."""

WARMING = ("--optim.lr=1.0e-4", "--optim.lrs={}")
"""The rates of the recipe's first steps: so short a run has no warm-up of its own, and AdamW's first steps at
full rate make 2e-5 of a rounding."""

SHORT = 0.05
"""By which part losses in bfloat16 may differ in four steps; measured below 0.02, of what is large."""
SMALL = 3e-3
"""By how much losses in bfloat16 may differ that are nearly nothing; measured 1.6e-3 of 0.03."""

STEADY, ROUNDING = 6, 3e-3
"""Steps in which single precision stays near double, and how near: measured 3e-4 and 9e-4 on two machines."""


def losses(run) -> list[tuple[float, float]]:
    lines = (run.folder / "log.jsonl").read_text().splitlines()
    return [(line["loss_ce"], line["loss_edit"]) for line in map(json.loads, lines)]


def tensors(run, name="trained") -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run.folder)
    assert found is not None
    return load_file(found / f"{name}.safetensors")


def assert_same_bits(one, two, name: str = "trained") -> None:
    """Both runs have come to exactly the same tensors."""
    left, right = tensors(one, name), tensors(two, name)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_a_run_leaves_its_facts_log_and_checkpoints(tiny_run):
    run = tiny_run()
    facts = train(run)
    named = {"loss_ce", "loss_edit", "loss_align"}
    assert facts.keys() == {"run_dir", "steps", "samples", "skipped", "seconds", *named}
    assert (facts["steps"], facts["samples"]) == (4, 16)
    assert len(losses(run)) == 4
    assert losses(run)[-1] == (facts["loss_ce"], facts["loss_edit"])
    settled = replace(run, data=replace(run.data, features=()))  # none is stored
    assert (run.folder / "run.yaml").read_text() == dump_run(settled)


def test_the_same_seed_gives_the_same_bytes(tiny_run):
    one, two = tiny_run("--name=one"), tiny_run("--name=two")
    train(one), train(two)
    assert_same_bits(one, two)


@pytest.mark.parametrize("keys", [(), ("--optim.muon=0.01",)], ids=["adamw", "muon"])
def test_a_resumed_run_equals_an_uninterrupted_one(tiny_run, keys):
    whole, parted = tiny_run("--name=whole", *keys), tiny_run("--name=parted", *keys)
    train(whole)
    # The length decides the learning rates, so the run is stopped in the middle, not made shorter.
    with pytest.raises(KeyboardInterrupt):
        interrupt_at(parted, samples=8)
    assert checkpoint.load_state(checkpoint.latest(parted.folder)).samples == 8
    train(parted)
    for file in ("trained", "ema", "optimizer"):
        assert_same_bits(whole, parted, file)
    assert losses(whole) == losses(parted)


def interrupt_at(run, samples: int) -> None:
    """Train, and press Ctrl-C while the step after `samples` is taken."""
    from mgie.training.log import RunLog

    step = RunLog.step

    def press(self, state, **facts):
        step(self, state, **facts)
        if state.samples == samples - run.train.batch_size:
            os.kill(os.getpid(), signal.SIGINT)

    RunLog.step = press
    try:
        train(run)
    finally:
        RunLog.step = step


def test_a_finished_run_is_left_alone_and_another_one_is_refused(tiny_run, capsys):
    run = tiny_run()
    first = train(run)
    began = time.time()
    assert "new: " in capsys.readouterr().err
    assert train(run) == first
    said = capsys.readouterr().err
    assert f"goes on from {run.folder}/checkpoints/0000000016 at sample 16." in said
    assert "complete: all 16 samples are done." in said
    assert checkpoint.latest(run.folder).stat().st_mtime < began
    with pytest.raises(ConfigError, match=r"optim\.lr=[\d.]+, now optim\.lr=0\.5"):
        train(tiny_run("--optim.lr=0.5"))


def test_micro_batches_change_nothing(tiny_run):
    whole, split = (
        tiny_run(*WARMING, "--name=whole"),
        tiny_run(*WARMING, "--name=split", "--train.micro_batch_size=2"),
    )
    train(whole), train(split)
    torch.testing.assert_close(losses(whole), losses(split), rtol=SPLIT, atol=SPLIT)


@pytest.fixture
def tasks(monkeypatch) -> list[EditTask]:
    """The tasks that are trained, as they are in the end."""
    made = []

    def make(*args, **options) -> EditTask:
        made.append(EditTask(*args, **options))
        return made[-1]

    monkeypatch.setattr("mgie.train.EditTask", make)
    return made


def test_frozen_parts_are_neither_changed_nor_saved(tiny_run, tasks):
    run = tiny_run("--train.groups=[edit_head]", "--model.start=null", "--optim.lrs={}")
    train(run)
    assert {name.split(".")[1] for name in tensors(run)} == {"edit_head"}
    before = dict(build_editor(run).editor.named_parameters())
    changed = {
        name for name, p in tasks[0].editor.named_parameters() if not torch.equal(p.cpu(), before[name])
    }
    assert changed == tensors(run).keys()


FROZEN = (*WARMING, "--train.precision=bf16", "--train.groups=[embeddings, edit_head, denoiser]")


def test_frozen_parts_are_kept_in_bfloat16(tiny_run, tasks, tmp_path):
    """What comes of it is nearly what float32 makes; what is trained, and what is extracted, is float32."""
    short = tiny_run(
        *FROZEN, "--name=short", "--train.frozen_dtype=bfloat16", "--preview.every=8", "--preview.count=2"
    )
    long = tiny_run(*FROZEN, "--name=long", "--train.frozen_dtype=float32")
    train(short), train(long)
    for task, dtype in zip(tasks, (torch.bfloat16, torch.float32)):
        parameters = list(task.parameters())
        assert {p.dtype for p in parameters if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in parameters if not p.requires_grad} == {dtype}
    assert losses(short) != losses(long)
    np.testing.assert_allclose(losses(short), losses(long), rtol=SHORT, atol=SMALL)
    assert len(list((short.folder / "previews").iterdir())) == 2
    for file in ("trained", "ema", "optimizer"):
        assert {tensor.dtype for tensor in tensors(short, file).values()} == {torch.float32}

    # It goes on as if it had not been stopped, and its release has the frozen parts as they were given.
    shutil.rmtree(checkpoint.latest(short.folder))
    before = losses(short)
    train(short)
    assert losses(short) == before
    extract(short.folder, out=tmp_path / "release")
    given, released = build_editor(short).editor, read_release(tmp_path / "release")
    for name, tensor in released.editor.codec.vae.named_parameters():
        assert torch.equal(tensor, given.codec.vae.get_parameter(name))


def test_frozen_parts_are_read_in_bfloat16(tiny_run, tasks, monkeypatch):
    """They are never in memory in float32, so nothing is left to be shortened."""
    monkeypatch.setattr("mgie.train.cast_frozen", lambda *_: None)
    train(tiny_run(*FROZEN, "--model.start=null", "--train.frozen_dtype=bfloat16"))
    dtypes = {(p.requires_grad, p.dtype) for p in tasks[0].editor.parameters()}
    assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}


def test_where_frozen_parts_are_kept_in_bfloat16_by_themselves(tiny_run):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    plain, short = tiny_run(), tiny_run("--train.precision=bf16")
    asked = tiny_run("--train.precision=bf16", "--train.frozen_dtype=bfloat16")
    long = tiny_run("--train.precision=bf16", "--train.frozen_dtype=float32")
    on = [[frozen_short(run, device) for device in (cpu, gpu)] for run in (plain, short, asked, long)]
    assert on == [[False, False], [False, True], [True, True], [False, False]]


def test_a_diverged_run_stops_and_says_so(tiny_run):
    with pytest.raises(ConfigError, match="diverged"):
        train(tiny_run("--optim.lr=1e9", "--optim.warmup=0.01", "--optim.clip=1e9"))


def test_bfloat16_trains(tiny_run):
    short, exact = tiny_run("--name=short", "--train.precision=bf16"), tiny_run("--name=exact")
    train(short), train(exact)
    assert losses(short) != losses(exact)
    np.testing.assert_allclose(losses(short), losses(exact), rtol=SHORT)
    for file in ("trained", "ema", "optimizer"):
        assert {tensor.dtype for tensor in tensors(short, file).values()} == {torch.float32}


class NothingSingle(TorchFunctionMode):
    """What asks for single precision (schedules, norms, the embedding of time) gets double."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        def wider(value):
            return torch.float64 if value is torch.float32 else value

        func = torch.Tensor.double if func is torch.Tensor.float else func
        kwargs = {name: wider(value) for name, value in (kwargs or {}).items()}
        return func(*map(wider, args), **kwargs)


class InDouble(EditTask):
    """The task in double precision, with its schedule and its teacher."""

    def __init__(self, editor, process, **options):
        with NothingSingle():
            process = VarianceProcess(DDPMScheduler.from_config(process.schedule.config))
        super().__init__(editor, process, **options)
        with NothingSingle():
            self.double()

    def forward(self, batch, draws):
        def doubled(record):
            values = {f.name: getattr(record, f.name) for f in fields(record)}
            floats = {
                n: v.double() for n, v in values.items() if torch.is_tensor(v) and v.is_floating_point()
            }
            return replace(record, **floats)

        with NothingSingle():
            return super().forward(doubled(batch), doubled(draws))


class WithPull(EditTask):
    """A task with one loss more: everything about it stands here."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.weights = {**self.weights, "pull": 0.25}

    def forward(self, batch, draws):
        head = self.editor.encoder.edit_head
        pull = sum(parameter.square().sum() for parameter in head.parameters()) * len(batch.keys)
        return {**super().forward(batch, draws), "pull": Term(sum=pull, count=len(batch.keys))}


def test_a_new_loss_is_told_and_saved_like_the_others(tiny_run, monkeypatch):
    monkeypatch.setattr("mgie.train.EditTask", WithPull)
    run = tiny_run()
    facts = train(run)
    (line,) = (run.folder / "log.jsonl").read_text().splitlines()[-1:]
    saved = checkpoint.load_state(checkpoint.latest(run.folder)).losses
    assert facts["loss_pull"] == json.loads(line)["loss_pull"] == saved["pull"] > 0


def test_twenty_steps_give_the_golden_losses(tiny_run, golden, monkeypatch):
    """In double precision everywhere: there the losses are the same on every processor; in single precision
    the order of sums and the last digits of functions, which depend on its instructions, grow to percents
    within twenty steps."""
    single = tiny_run("--name=single", samples=80)
    train(single)
    monkeypatch.setattr("mgie.train.dtypes_to_read", lambda *_: torch.float64)
    monkeypatch.setattr("mgie.train.EditTask", InDouble)
    run = tiny_run("--name=golden", samples=80)
    train(run)
    golden(
        "losses/tiny_20_steps.txt",
        "".join(f"{n} {ce:.6f} {edit:.6f}\n" for n, (ce, edit) in enumerate(losses(run), 1)),
    )
    # And what a user's run computes is that.
    np.testing.assert_allclose(losses(single)[:STEADY], losses(run)[:STEADY], rtol=ROUNDING)


@pytest.mark.parametrize("recomputing", ["false", "true"])
def test_a_preview_shows_held_out_pairs_and_changes_nothing(tiny_run, recomputing):
    fixed = f"--train.gradient_checkpointing={recomputing}"
    plain, watched = (
        tiny_run(fixed, "--name=plain"),
        tiny_run(fixed, "--name=watched", "--preview.every=8", "--preview.count=2"),
    )
    train(plain), train(watched)
    assert [path.name for path in sorted((watched.folder / "previews").iterdir())] == [
        "0000000008.png",
        "0000000016.png",
    ]
    assert_same_bits(plain, watched)


def test_a_preview_paints_what_has_no_picture_before(tiny_run, tmp_path, monkeypatch):
    """It is never shown the target."""
    for name, colour in (("before", "blue"), ("after", "red")):
        Image.new("RGB", (32, 32), colour).save(tmp_path / f"{name}.png")
    rows = [{"key": f"{n}", "target": "after.png", "instruction": f"paint {n}"} for n in range(8)]
    rows = [row | ({"source": "before.png"} if n % 2 else {}) for n, row in enumerate(rows)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prepare(f"pairs:{tmp_path / 'rows.jsonl'}", tmp_path / "data", test=4, progress=False)
    shown = []
    monkeypatch.setattr("mgie.watch.sheet", lambda items, _: shown.extend(items) or Image.new("RGB", (9, 9)))
    options = ("--preview.every=8", "--preview.count=4")
    train(tiny_run(f"--data.path={tmp_path / 'data'}", *options, samples=8))
    new = {item.key: item.source is None for item in shown}
    assert new == {key: int(key) % 2 == 0 for key in new} and list(new.values()).count(True) == 2
    assert all(item.output.size == (64, 64) for item in shown)
    assert all(item.source.getpixel((5, 5)) == (0, 0, 255) for item in shown if item.source)


def test_lines_after_the_last_checkpoint_are_not_told_twice(tiny_run):
    run = tiny_run()
    train(run)
    shutil.rmtree(checkpoint.latest(run.folder))
    train(run)
    assert [json.loads(line)["samples"] for line in (run.folder / "log.jsonl").read_text().splitlines()] == [
        4,
        8,
        12,
        16,
    ]


def test_damaged_checkpoints_are_told_and_never_taken_for_none(tiny_run, capsys):
    run = tiny_run()
    train(run)
    told = (run.folder / "log.jsonl").read_text()
    (checkpoint.latest(run.folder) / "state.json").write_text("{}")
    capsys.readouterr()
    train(run)
    said = capsys.readouterr().err
    assert "skipped " in said and "0000000016 (damaged: " in said
    assert "0000000008 at sample 8." in said
    for found in (run.folder / "checkpoints").glob("0*"):
        (found / "manifest.json").write_text("{}")
    with pytest.raises(WeightsError, match="none of the checkpoints"):
        train(run)
    assert len((run.folder / "log.jsonl").read_text().splitlines()) == len(told.splitlines())


def test_gradient_checkpointing_changes_no_number(tiny_run):
    plain, again = tiny_run("--name=plain"), tiny_run("--name=again", "--train.gradient_checkpointing=true")
    train(plain), train(again)
    torch.testing.assert_close(losses(plain), losses(again), rtol=SPLIT, atol=SPLIT)
