"""The small recipes for pictures in instructions, `tiny_mige` and `tiny_pictures`: trained, gone on with,
shared out, extracted, asked."""

import json
from functools import partial

import pytest
import torch
from processes import together

from mgie.build import build_editor
from mgie.build_data import build_batches
from mgie.config import dump_run, load_run
from mgie.data.images import decode
from mgie.extract import extract
from mgie.pipeline import MGIEPipeline
from mgie.prepare import prepare
from mgie.toy.pairs import ToyPairs
from mgie.train import train
from mgie.weights import checkpoint

KINDS = {"tiny_mige": ("toy", "toy:pictures", "toy:shown"), "tiny_pictures": ("toy", "toy:pictures")}
SHARED = 3e-5
"""Weights after two steps on one process and on two differ by the order of sums; AdamW makes a step of a
gradient that is all rounding."""
recipes = pytest.mark.parametrize("recipe", KINDS)


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    place = tmp_path_factory.mktemp("sets")
    for kind in KINDS["tiny_mige"]:
        prepare(kind, place / kind.replace("toy:", ""), count=10, test=2, size=64, progress=False)
    return place


@pytest.fixture
def short(sets, tmp_path):
    """A recipe, two steps of four pairs, with a checkpoint after each."""

    def make(recipe, name, *more):
        folders = [sets / kind.replace("toy:", "") for kind in KINDS[recipe]]
        fixed = {
            "name": name, "out": tmp_path, "data.path": folders[1], "data.workers": 0,
            "data.mixture": json.dumps({str(folder): 1 for folder in folders}), "train.threads": 1,
            "train.samples": 8, "train.batch_size": 4, "train.micro_batch_size": 1, "log.every": 4,
            "save.every": 4, "optim.lr": 1e-4, "optim.lrs": "{}", "optim.warmup": 0,
            "optim.schedule": "constant",
        }  # fmt: skip
        if recipe == "tiny_pictures":
            fixed["model.start"] = "builtin:tiny_base/aligned.safetensors"
        return load_run(recipe, [f"--{key}={value}" for key, value in fixed.items()] + list(more))

    return make


def image(data):
    return decode(data, name="")


def learnt(run):
    return checkpoint.load_tensors(checkpoint.latest(run.folder))


@recipes
def test_it_is_gone_on_with_extracted_and_asked(short, recipe, tmp_path):
    whole, halved = short(recipe, "whole"), short(recipe, "halved")
    train(whole)
    train(halved)
    last = checkpoint.latest(halved.folder)
    last.rename(tmp_path / "aside")
    train(halved)
    tensors, again = learnt(whole), learnt(halved)
    assert tensors.keys() == again.keys() and all(torch.equal(tensors[name], again[name]) for name in tensors)
    before = dict(build_editor(whole).editor.named_parameters())
    moved = {name for name, value in tensors.items() if not torch.equal(value, before[name])}
    groups = {name.removesuffix("_tower") for name in whole.train.groups}
    wanted = {"pooling", "fusion", "qformer"} & groups or {"references"}
    assert all(any(f"encoder.{each}" in name for name in moved) for each in wanted), wanted

    release = extract(whole.folder, out=tmp_path / "release")["out"]
    pipeline = MGIEPipeline.from_pretrained(release)
    pipeline.set_progress_bar_config(disable=True)
    pair = ToyPairs(1, seed=0, split="test", kinds=["pictures"])[0]
    paint = partial(pipeline, image(pair.source), pair.instruction, seed=0, max_new_tokens=2)
    shown, other = (
        paint(images=[image(each.pictures[0])], output_type="latent").images
        for each in (pair, ToyPairs(2, seed=1, split="test", kinds=["pictures"])[1])
    )
    assert not torch.equal(torch.as_tensor(shown), torch.as_tensor(other))


@pytest.mark.dist
@recipes
def test_two_processes_learn_as_one(short, recipe, tmp_path):
    """Micro-batches of one pair: many have no picture inside, and the other process may have one."""
    one, many = short(recipe, "one"), short(recipe, "many")
    train(one)
    (tmp_path / "many.yaml").write_text(dump_run(many))
    runs = together(["train", "--config", str(tmp_path / "many.yaml")], tmp_path / "said", 2)
    assert [each.code() for each in runs] == [0, 0], "\n".join(each.said for each in runs)
    torch.testing.assert_close(learnt(many), learnt(one), rtol=0, atol=SHARED)


def test_the_words_that_teach_are_those_that_are_said(short):
    """The teacher reads them apart: MIGE's encoder is never told what comes about."""
    run = short("tiny_mige", "taught")
    parts = build_editor(run)
    said = "the red circle becomes a blue star"
    assert not parts.prompts.conversation("make it blue", said, sizes=[(64, 64)], max_length=99).extras
    parts.prompts.taught = True
    batch = build_batches(run, parts.prompts, rank=0, world=1, editor=parts.editor)[0, 4]
    words = batch.extras["said"]
    assert len(words) == 4 and (words >= 0).any(dim=1).all()
    told = parts.prompts.conversation("make it blue", said, sizes=[(64, 64)], max_length=99)
    plain = parts.prompts.question("make it blue", sizes=[(64, 64)])
    assert told.input_ids == plain.input_ids
    assert parts.prompts.tokenizer.decode(told.extras["said"]).strip() == said
