"""A run is measured on the way, which changes nothing of it, and keeps the checkpoint that was best."""

import json
import shutil

import pytest
import torch
from processes import together

from mgie.config import load_run
from mgie.errors import ConfigError, DataError
from mgie.evaluation.in_training import EvaluateConfig, Watch
from mgie.extract import extract
from mgie.train import train
from mgie.weights import checkpoint

MEASURED = ("--evaluate.every=8", "--evaluate.count=6", "--evaluate.batch_size=2", "--train.ema=0.5")


def lines(run):
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def learnt(run):
    """Files of tensors of the last checkpoint, and the losses of the log."""
    found = checkpoint.latest(run.folder)
    tensors = {path.name: path.read_bytes() for path in sorted(found.glob("*.safetensors"))}
    return tensors, [line["loss_edit"] for line in lines(run) if "loss_edit" in line]


def test_measuring_changes_not_one_bit_of_a_run(tiny_run):
    plain = tiny_run("--name=plain", "--train.ema=0.5")
    watched = tiny_run("--name=watched", *MEASURED, "--evaluate.best=l1")
    train(plain)
    generator = torch.random.get_rng_state()
    train(watched)
    assert torch.equal(torch.random.get_rng_state(), generator)
    assert learnt(plain) == learnt(watched)
    told = [line for line in lines(watched) if "evaluate/pairs/l1" in line]
    assert [line["samples"] for line in told] == [8, 16]
    for line in told:
        folder = watched.folder / "evaluations" / f"{line['samples']:010d}"
        facts = json.loads((folder / "results.json").read_text())
        assert (
            (facts["n"], facts["l1"])
            == (6, line["evaluate/pairs/l1"])
            == (line["evaluate/pairs/n"], facts["l1"])
        )
    values = {line["samples"]: line["evaluate/pairs/l1"] for line in told}
    assert checkpoint.latest(watched.folder / "best").name == f"{min(values, key=values.get):010d}"
    extract(watched.folder / "best", out=watched.folder.parent / "release")


def test_it_is_the_averaged_weights_that_are_measured(tiny_run):
    """What the best checkpoint's release makes afterwards is what was measured on the way."""
    from mgie.evaluate import evaluate

    run = tiny_run(*MEASURED, "--evaluate.best=l1", "--evaluate.suite=toy", samples=8)
    train(run)
    release = run.folder.parent / "release"
    extract(run.folder / "best", out=release)
    asked = {"suite": "toy", "count": 6, "batch_size": 2, "control": False, "device": "cpu"}
    facts = evaluate(release, out=run.folder.parent / "report", **asked)
    (line,) = [line for line in lines(run) if "evaluate/toy/l1" in line]
    assert facts["l1"] == line["evaluate/toy/l1"] and facts["right"] == line["evaluate/toy/right"]
    outputs = sorted((run.folder / "evaluations").rglob("own/*.png"))
    assert len(outputs) == 6
    for path in outputs:
        assert path.read_bytes() == (run.folder.parent / "report/outputs/own" / path.name).read_bytes()


def test_two_processes_measure_as_one(tiny_run, tmp_path):
    words = ["train", "--config", "tiny"]
    alone = tiny_run(*MEASURED, "--name=alone", "--train.micro_batch_size=2", samples=8)
    train(alone)
    keys = {
        "data.path": alone.data.path, "out": alone.out, "name": "both", "data.workers": 0,
        "train.samples": 8, "train.batch_size": 4, "train.micro_batch_size": 2, "train.threads": 1,
        "log.every": 4, "save.every": 8, "preview.every": 0,
    }  # fmt: skip
    words += [f"--{key}={value}" for key, value in keys.items()] + list(MEASURED)
    assert [each.code() for each in together(words, tmp_path / "notes")] == [0, 0]
    outputs = [alone.folder.parent / name / "evaluations/0000000008" for name in ("alone", "both")]
    one, two = ([path.name for path in sorted(out.rglob("own/*.png"))] for out in outputs)
    assert one == two and len(one) == 6
    values = [json.loads((out / "results.json").read_text())["l1"] for out in outputs]
    assert values[0] == pytest.approx(values[1], rel=1e-3)  # training itself rounds otherwise


def test_a_run_that_goes_over_a_place_again_measures_again(tiny_run):
    run = tiny_run(*MEASURED, "--evaluate.best=l1")
    train(run)
    before = learnt(run), [line for line in lines(run) if "evaluate/pairs/l1" in line]
    shutil.rmtree(checkpoint.latest(run.folder))
    (run.folder / "evaluations/0000000016/results.json").write_text("{")
    kept = checkpoint.latest(run.folder / "best").name
    train(run)
    assert (learnt(run), [line for line in lines(run) if "evaluate/pairs/l1" in line]) == before
    assert checkpoint.latest(run.folder / "best").name == kept


def test_how_a_run_is_measured_may_change_on_the_way(tiny_run):
    train(tiny_run(samples=8))
    train(tiny_run(*MEASURED[:3], samples=16))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("--evaluate.best=fid", r"evaluate.best is 'fid': expected one of said_exactly, l1_ratio"),
        ("--evaluate.best=right", "evaluate.best is 'right'"),
        ("--evaluate.metrics=[lpips]", "no metric 'lpips'"),
        ("--evaluate.count=0", "count"),
        ("--evaluate.suite=magicbrush", "suite"),
    ],
)
def test_what_cannot_be_measured_is_told_with_the_recipe(wrong, says):
    with pytest.raises(ConfigError, match=says):
        load_run("tiny", [wrong])


def test_pairs_that_are_not_there_are_told_before_anything_is_trained(tiny_run):
    run = tiny_run(*MEASURED, "--evaluate.data=nowhere")
    with pytest.raises(DataError, match="nowhere"):
        train(run)
    assert not (run.folder / "checkpoints").exists()


@pytest.mark.parametrize(
    ("best", "before", "now", "makes_way"),
    [
        ("l1", 0.2, 0.1, True), ("l1", 0.1, 0.2, False), ("l1", 0.1, 0.1, False), ("psnr", 20, 21, True),
        ("psnr", 21, 20, False), ("l1_ratio", 0.5, None, False), ("said_exactly", 0.5, 0.6, True),
    ],
)  # fmt: skip
def test_which_checkpoint_is_the_best(best, before, now, makes_way, toy_data, tmp_path):
    config = EvaluateConfig(every=4, best=best, metrics=("psnr",), count=2)
    watch = Watch(config, tmp_path, data=str(toy_data), size=64)
    same = {"suite": "pairs", "n": 2, "seed": 1, "data_sha256": "ab"}
    kept = tmp_path / "best/checkpoints/0000000004"
    watch.place(4).mkdir(parents=True)
    (watch.place(4) / "results.json").write_text(json.dumps(same | {best: before}))
    assert watch.is_best(8, same | {best: now}, kept) == makes_way
    assert watch.is_best(8, same | {best: now}, None) == (now is not None)
    assert watch.is_best(8, same | {best: now, "data_sha256": "cd"}, kept) == (now is not None)
