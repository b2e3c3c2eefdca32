"""The small base from its first stage to its files, each stage two steps long."""

import importlib
import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mgie.build import build_editor, build_teacher
from mgie.config import load_run
from mgie.errors import WeightsError
from mgie.toy.pairs import DESCRIBE, ToyPairs
from mgie.toy.world import Scene
from mgie.weights import checkpoint

pretrain = importlib.import_module("mgie.toy.pretrain")
STEPS = 2


@pytest.fixture
def settings(tmp_path, monkeypatch) -> dict:
    """Settings of very short stages, in a folder of their own."""
    settings = yaml.safe_load(pretrain.SETTINGS.read_text())
    settings["sentences"] = 2000
    for stage in settings["stages"].values():
        stage["train"] |= {"samples": 4 * STEPS, "batch_size": 4, "micro_batch_size": 4}
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(pretrain, "SETTINGS", file)
    monkeypatch.chdir(tmp_path)
    return settings


def trained(stage: str, ema: bool = True) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(pretrain.Path(pretrain.FOLDER) / stage)
    assert found is not None
    return checkpoint.load_tensors(found, ema=ema)


def test_all_stages_and_the_export(settings, tmp_path):
    done = pretrain.train()
    assert {stage: facts["steps"] for stage, facts in done.items()} == dict.fromkeys(
        settings["stages"], STEPS
    )
    assert pretrain.train(stage="codec")["codec"]["samples"] == 4 * STEPS  # and not again
    pretrain.export(out="base")

    # Later stages began where earlier ones ended.
    for before, after, prefix in (("look", "speak", ""), ("words", "painter", "denoiser.unet.")):
        old, new = trained(before), trained(after, ema=False)
        moved = [float((old[name] - new[name]).abs().max()) for name in old if name.startswith(prefix)]
        assert 0 < max(moved) < 0.02

    # What the files hold is what was trained, and the recipe takes it.
    unet = load_file("base/sd/unet/diffusion_pytorch_model.safetensors")
    for name, tensor in unet.items():
        assert torch.equal(tensor, trained("painter")[f"denoiser.unet.{name}"].half())
    run = load_run(
        "tiny",
        [
            f"--model.encoder.llava={tmp_path}/base/llava",
            f"--model.denoiser.diffusion={tmp_path}/base/sd",
            f"--model.encoder.edit_head.queries={settings['pooled']}",
        ],
    )
    parts = build_editor(run)
    teacher = build_teacher(run, parts)
    assert teacher is not None
    table = trained("painter")["encoder.text_model.embeddings.token_embedding.weight"]
    assert torch.equal(teacher.text_model.get_input_embeddings().weight, table.half().float())


def test_a_stage_that_comes_too_early_names_the_one_it_needs(settings):
    assert settings
    for stage, first in (("speak", "look"), ("painter", "codec")):
        with pytest.raises(WeightsError, match=f"pretrain train --stage {first}"):
            pretrain.train_stage(stage)


def test_a_pair_is_always_the_same_lesson(settings):
    run = pretrain.stage_run("look", settings, threads=1)
    processor = pretrain.new_llava(settings)[1]
    look, speak = (pretrain.Lessons(run, processor, describe=describe) for describe in (True, False))
    pairs = list(ToyPairs(60, seed=1))
    seen = {"described": 0, "once": 0, "twice": 0}
    for pair in pairs:
        asked, said = look.words(pair)
        assert look.words(pair) == (asked, said)
        if asked != pair.instruction:
            assert (asked, said) == (DESCRIBE, str(Scene.from_json(pair.meta["before"])))
            seen["described"] += 1
        asked, said = speak.words(pair)
        assert asked == pair.instruction and said.startswith(pair.expressive)
        seen["once" if said == pair.expressive else "twice"] += 1
    assert all(seen.values()), json.dumps(seen)
