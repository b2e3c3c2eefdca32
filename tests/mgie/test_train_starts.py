"""How runs begin, go on and end otherwise than by themselves: from others' tensors, with other data, longer,
with steps left out."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import mgie.train as story
from llava_patch.folders import MANIFEST
from mgie.build import build_editor
from mgie.cli import main
from mgie.config import ModelConfig, RunConfig, dump_run, load_run
from mgie.errors import ConfigError, WeightsError
from mgie.extract import extract
from mgie.prepare import prepare
from mgie.train import train
from mgie.weights import checkpoint
from mgie.weights.release import read_release

SHORT = {
    "data.workers": 0, "train.batch_size": 4, "train.micro_batch_size": 4, "train.threads": 1, "log.every": 4,
    "save.every": 4, "preview.every": 0, "train.samples": 8,
}  # fmt: skip


def options(data, out, *overrides: str) -> list[str]:
    return [f"--{key}={value}" for key, value in SHORT.items()] + [
        f"--data.path={data}", f"--out={out}", *overrides
    ]  # fmt: skip


@pytest.fixture(scope="module")
def done(toy_data, tmp_path_factory):
    """A finished run of two steps."""
    run = load_run("tiny", options(toy_data, tmp_path_factory.mktemp("runs")))
    train(run)
    return run


@pytest.fixture
def again(done, tmp_path):
    """It, as a copy that a test may go on with, with these changes."""

    def make(*overrides: str):
        run = load_run("tiny", options(done.data.path, tmp_path / "runs", *overrides))
        if not run.folder.exists():
            shutil.copytree(done.folder, run.folder)
        return run

    return make


def newest(run) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run.folder)
    assert found is not None
    return checkpoint.load_tensors(found)


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


@pytest.fixture
def spoilt(monkeypatch):
    """Make the noise of these steps no numbers, so that their gradients are none."""

    def make(*steps: int) -> None:
        draw_for = story.draw_for

        def spoil(run, parts, batch):
            draws = draw_for(run, parts, batch)
            bad = batch.positions[0] // run.train.batch_size in steps
            return replace(draws, noise=draws.noise * float("nan")) if bad else draws

        monkeypatch.setattr(story, "draw_for", spoil)

    return make


def test_a_step_that_is_not_finite_is_left_out_and_told(tiny_run, spoilt, capsys):
    spoilt(1)
    run = tiny_run("--save.every=4", "--save.keep=9")
    facts = train(run)
    assert (facts["steps"], facts["samples"], facts["skipped"]) == (4, 16, 1)
    assert "1 steps left out: their gradient was not finite" in capsys.readouterr().err
    assert [line["skipped"] for line in lines(run)] == [0, 1, 1, 1]
    assert lines(run)[1]["grad_norm"] is None
    assert lines(run)[1]["loss_edit"] == lines(run)[0]["loss_edit"]  # nothing was measured meanwhile
    # While steps are left out nothing is saved.
    assert [path.name for path in sorted((run.folder / "checkpoints").iterdir())] == [
        f"{samples:010d}" for samples in (4, 12, 16)
    ]
    for file in ("trained", "ema", "optimizer"):
        tensors = load_file(checkpoint.latest(run.folder) / f"{file}.safetensors")
        assert all(tensor.isfinite().all() for tensor in tensors.values())
    counts = {float(value) for name, value in tensors.items() if name.endswith("|step")}
    assert counts == {3.0}


def test_a_row_of_them_ends_the_run_and_the_last_good_checkpoint_stays(tiny_run, spoilt):
    spoilt(*range(2, 99))
    run = tiny_run("--save.every=4", samples=80)
    with pytest.raises(ConfigError, match=r"not finite for 8 steps in a row.* --name .*lower optim\.lr"):
        train(run)
    assert checkpoint.load_state(checkpoint.latest(run.folder)).samples == 8
    # What the sentence advises is taken.
    better = tiny_run("--name=better", "--optim.lr=1e-5", f"--model.start={run.folder}", samples=4)
    assert train(better)["skipped"] == 0


def test_other_data_under_the_same_name_is_refused(again, toy_data, tmp_path):
    prepare("toy", tmp_path / "other", seed=4, count=10, test=2, size=64, progress=False)
    run = again(f"--data.path={tmp_path / 'other'}")
    before = (run.folder / "log.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"learnt from other data than .*other has now.*another --name"):
        train(run)
    assert (run.folder / "log.jsonl").read_bytes() == before
    shutil.copytree(toy_data, tmp_path / "moved")
    assert train(again(f"--data.path={tmp_path / 'moved'}"))["samples"] == 8


def test_a_finished_run_is_extended_and_never_shortened(again, capsys):
    assert train(again("--train.samples=12"))["samples"] == 12
    assert "12 samples in 3 steps instead of 8 samples (the learning rate" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"has done 12 samples already, and the run shall have 8"):
        train(again())


@pytest.mark.parametrize(
    "wrong",
    [
        "--sampling.scheduler=DDIMSheduler",
        "--sampling.steps=1001",
        "--sampling.scheduler=VQDiffusionScheduler",
    ],
)
def test_what_cannot_be_extracted_is_not_trained(tiny_run, wrong):
    run = tiny_run(wrong)
    with pytest.raises(ConfigError, match=r"sampling\.(scheduler|steps)"):
        train(run)
    assert not (run.folder / "log.jsonl").exists()


def test_sampling_is_mended_when_a_run_is_extracted(again, tmp_path, capsys):
    run = again()
    found = checkpoint.latest(run.folder)
    broken = (found / "run.yaml").read_text().replace("scheduler: DDIMScheduler", "scheduler: DDIMSheduler")
    (found / "run.yaml").write_text(broken)
    (found / MANIFEST).write_text(_manifest(found))
    words = ["extract", str(run.folder), "--out", str(tmp_path / "release")]
    assert main(words) == 2
    assert main([*words, "--sampling.scheduler=DDPMScheduler", "--sampling.steps", "7"]) == 0
    release = read_release(tmp_path / "release")
    assert type(release.scheduler).__name__ == "DDPMScheduler"
    assert release.settings["num_inference_steps"] == 7
    capsys.readouterr()
    assert main([*words, "--sampling.stepz", "7"]) == 2
    assert "sampling.steps" in capsys.readouterr().err


def _manifest(folder) -> str:
    from llava_patch.folders import file_hash

    files = {path.name: path for path in folder.iterdir() if path.name != MANIFEST}
    facts = {name: {"size": path.stat().st_size, "sha256": file_hash(path)} for name, path in files.items()}
    return json.dumps({"kind": checkpoint.CHECKPOINT, "files": facts})


@pytest.mark.parametrize("kind", ["run", "release"])
def test_what_diverged_is_not_extracted(again, tmp_path, kind):
    run = again()
    place = checkpoint.latest(run.folder)
    if kind == "release":
        extract(run.folder, out=tmp_path / "old")
        file = tmp_path / "old" / "edit_head" / "model.safetensors"
    else:
        file = place / "ema.safetensors"
    tensors = load_file(file)
    next(iter(tensors.values())).view(-1)[0] = float("nan")
    save_file(tensors, file, metadata={"format": "pt"})
    if kind == "run":
        (place / MANIFEST).write_text(_manifest(place))
    with pytest.raises(WeightsError, match=r"not finite|another SHA-256"):
        extract(tmp_path / "old" if kind == "release" else run.folder, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_run_begins_with_another_one_s_tensors_and_keeps_those_it_does_not_train(again, tmp_path):
    old = newest(again())
    groups = ("--train.groups=[edit_head]", "--optim.lrs={}", "--optim.lr=1e-6", "--train.ema=null")
    data, out = again().data.path, tmp_path / "runs"
    first, second = (
        load_run("tiny", options(data, out, *groups, f"--name={name}")) for name in ("first", "second")
    )
    first = replace(first, model=replace(first.model, start=str(again().folder)))
    train(first)
    heads = {name for name in old if ".edit_head." in name}
    assert newest(first).keys() == heads
    assert all((newest(first)[name] - old[name]).abs().max() < 1e-4 for name in heads)
    begun = checkpoint.load_begun(checkpoint.latest(first.folder))
    assert begun.keys() <= old.keys() - heads  # without those that no step has moved
    assert "denoiser.unet.conv_in.weight" in begun
    assert all(torch.equal(begun[name], old[name]) for name in begun)

    # The old run is not needed any more: to go on, to be begun with, to be extracted.
    shutil.rmtree(again().folder)
    recorded = load_run(str(first.folder / "run.yaml")).model.start
    assert recorded == f"{tmp_path}/runs/tiny/checkpoints/{8:010d}"
    assert train(replace(first, model=replace(first.model, start=None)))["samples"] == 8
    extract(first.folder, out=tmp_path / "release")
    unet = read_release(tmp_path / "release").editor.denoiser.unet
    assert torch.equal(unet.conv_in.weight.detach(), old["denoiser.unet.conv_in.weight"])

    # A release does as well, and what is as the parts have it is not kept twice.
    train(replace(second, model=replace(second.model, start=str(tmp_path / "release"))))
    assert checkpoint.load_begun(checkpoint.latest(second.folder)).keys() <= begun.keys()


def test_a_run_begins_with_a_file_of_tensors(again, tmp_path):
    """Of some of an editor's parameters, in half precision; the others are as the parts have them."""
    trained = newest(again())
    heads = {name: tensor.half() for name, tensor in trained.items() if ".edit_head." in name}
    save_file(heads, tmp_path / "head.safetensors")
    groups = ("--train.groups=[denoiser]", "--optim.lrs={}", "--train.ema=null", "--name=begun")
    run = load_run("tiny", options(again().data.path, tmp_path / "runs", *groups))
    run = replace(run, model=replace(run.model, start=str(tmp_path / "head.safetensors")))
    train(run)
    begun = checkpoint.load_begun(checkpoint.latest(run.folder))
    assert begun.keys() == heads.keys()
    assert all(torch.equal(begun[name], heads[name].float()) for name in heads)

    (tmp_path / "head.safetensors").write_bytes(b"no tensors")
    with pytest.raises(WeightsError, match=r"head\.safetensors"):
        train(replace(run, name="broken"))


def test_what_a_run_cannot_begin_with_is_refused(again, tmp_path):
    def start(where, *overrides: str):
        run = load_run("tiny", options(again().data.path, tmp_path / "runs", "--name=new", *overrides))
        return train(replace(run, model=replace(run.model, start=str(where))))

    with pytest.raises(WeightsError, match="expected the folder of a run that has a checkpoint"):
        start(tmp_path)
    with pytest.raises(WeightsError, match=r"misshapen encoder\.edit_head"):
        start(again().folder, "--model.encoder.edit_head.width=64")
    with pytest.raises(ConfigError, match=r"model\.start=\S+, now model\.start="):
        train(replace(again(), model=replace(again().model, start=str(tmp_path / "elsewhere"))))


def test_a_run_over_a_release_goes_on_and_is_extracted_over_that_release_only(again, tmp_path):
    """Of such a run only what is trained is in its checkpoints: the rest must be what it was."""
    extract(again().folder, out=tmp_path / "release")
    groups = ("--train.groups=[edit_head]", "--optim.lrs={}", "--preview.every=0", "--name=over")
    run = load_run("tiny", options(again().data.path, tmp_path / "runs", *groups))
    run = replace(
        run, compat="reference", model=ModelConfig(release=str(tmp_path / "release")),
        train=replace(run.train, align_weight=0.0, timestep_shift=1.0, samples=4),
    )  # fmt: skip
    assert load_run(str(written(run, tmp_path))) == run
    parts = build_editor(run)
    assert parts.editor.encoder.compat == parts.prompts.compat == "reference"
    train(run)
    longer = replace(run, train=replace(run.train, samples=8))
    assert train(longer)["samples"] == 8
    # It may lie elsewhere.
    shutil.move(tmp_path / "release", tmp_path / "moved")
    with pytest.raises(ConfigError, match="expected --release"):
        extract(run.folder, out=tmp_path / "out", llava="elsewhere")
    with pytest.raises(WeightsError, match=r"there is no release in .*--release of `mgie extract`"):
        extract(run.folder, out=tmp_path / "out")
    extract(run.folder, out=tmp_path / "out", release=str(tmp_path / "moved"))
    made, old = (read_release(tmp_path / name).editor for name in ("out", "moved"))
    assert torch.equal(made.denoiser.unet.conv_in.weight, old.denoiser.unet.conv_in.weight)
    # Another one in its place is none of its.
    extract(again().folder, out=tmp_path / "release", ema=False)
    for going_on in (lambda: train(replace(longer, train=run.train)), lambda: extract(run.folder, out="out")):
        with pytest.raises(WeightsError, match="trained over another release"):
            going_on()


def written(run: RunConfig, folder: Path) -> Path:
    """The run as a recipe."""
    (folder / "again.yaml").write_text(dump_run(run))
    return folder / "again.yaml"
