"""The small base from its first stage to its files, each stage two steps long."""

import importlib
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file

from mgie.build import begin_run, build_editor, build_teacher
from mgie.config import load_run
from mgie.data.images import decode
from mgie.errors import ConfigError, WeightsError
from mgie.toy.copying import begin_with_copying
from mgie.toy.lessons import Crops, Lessons
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
    settings["vae"]["latent_channels"] = 16
    settings["unet"] |= {"in_channels": 32, "out_channels": 16, "block_out_channels": [40, 48]}
    for stage in settings["stages"].values():
        stage["train"] |= {"samples": 4 * STEPS, "batch_size": 4, "micro_batch_size": 4}
    file = tmp_path / "settings.yaml"
    file.write_text(yaml.safe_dump(settings))
    monkeypatch.setattr(pretrain, "SETTINGS", file)
    monkeypatch.chdir(tmp_path)
    return pretrain.read_settings()


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
    for before, after, prefix in (
        ("look", "speak", ""),
        ("draw", "place", "denoiser.unet."),
        ("place", "painter", "denoiser.unet."),
        ("painter", "together", "denoiser.unet."),
    ):
        old, new = trained(before), trained(after, ema=False)
        moved = [float((old[name] - new[name]).abs().max()) for name in old if name.startswith(prefix)]
        assert 0 < max(moved) < 0.02

    # What the files hold is what was trained, and the recipe takes it.
    unet = load_file("base/sd/unet/diffusion_pytorch_model.safetensors")
    for name, tensor in unet.items():
        assert torch.equal(tensor, trained("together")[f"denoiser.unet.{name}"].half())
    run = load_run(
        "tiny",
        [
            f"--model.encoder.llava={tmp_path}/base/llava",
            f"--model.denoiser.diffusion={tmp_path}/base/sd",
            f"--model.encoder.edit_head.queries={settings['edit_head']['queries']}",
        ],
    )
    # The tower sees as it learnt to before speaking.
    file = load_file("base/llava/vision_tower/model.safetensors")
    tower = {name.removeprefix("vision_model."): tensor for name, tensor in file.items()}
    seen = {name.removeprefix("llava.vision_tower."): each for name, each in trained("see").items()}
    assert seen.keys() - tower.keys() == {"head.weight", "head.bias"}
    assert all(torch.equal(tower[name], seen[name].half()) for name in seen.keys() & tower.keys())
    parts = build_editor(run)
    teacher = build_teacher(run, parts)
    assert teacher is not None
    assert teacher.pooled == settings["edit_head"]["queries"]
    table = trained("read")["encoder.text_model.embeddings.token_embedding.weight"]
    assert torch.equal(teacher.text_model.get_input_embeddings().weight, table.half().float())

    aligned, learnt = load_file("base/aligned.safetensors"), trained("together")
    assert {name.split(".")[1] for name in aligned} == {"edit_head", "llava"}
    for name, tensor in aligned.items():
        assert torch.equal(tensor, learnt[name].half())
    table = "language_model.model.embed_tokens.weight"
    words = load_file("base/llava/model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(words, learnt[f"encoder.llava.{table}"][:-8].half())
    run = replace(run, model=replace(run.model, start="base/aligned.safetensors"))
    _, left = begin_run(run, parts, "no data")
    assert not left
    begun = dict(parts.editor.named_parameters())
    assert all(torch.equal(begun[name], tensor.float()) for name, tensor in aligned.items())

    # Another run goes on from the files, with no stage before it.
    shutil.rmtree(pretrain.FOLDER)
    for stage, prefix in (("painter", "denoiser.unet."), ("codec", "vae.")):
        pretrain.train(stage=stage, begin="base")
        old = load_file(
            f"base/sd/{'unet' if stage == 'painter' else 'vae'}/diffusion_pytorch_model.safetensors"
        )
        new = trained(stage, ema=False)
        moved = [float((tensor.float() - new[prefix + name]).abs().max()) for name, tensor in old.items()]
        assert 0 < max(moved) < 0.05
    pretrain.export(out="again", begin="base")  # what was not trained is as it was
    for file in ("llava/model.safetensors", "aligned.safetensors"):
        one, other = (load_file(f"{name}/{file}") for name in ("base", "again"))
        assert all(torch.equal(one[name], other[name]) for name in one)
    for file in pretrain.Path("again").rglob("config.json"):
        assert '"base' not in file.read_text()  # nor where it began
    pretrain.Path("base/aligned.safetensors").unlink()
    with pytest.raises(WeightsError, match="train --stage align"):  # an untrained head is not exported
        pretrain.export(out="third", begin="base")


def test_a_stage_that_comes_too_early_names_the_one_it_needs(settings):
    assert settings
    for stage, first in (("look", "see"), ("painter", "codec")):
        with pytest.raises(WeightsError, match=f"pretrain train --stage {first}"):
            pretrain.train_stage(stage)


def test_a_base_to_begin_with_must_be_one(settings):
    assert settings
    with pytest.raises(WeightsError, match="begin=nowhere: there is no base"):
        pretrain.train(begin="nowhere")


def test_a_new_unet_paints_its_source(settings):
    unet = UNet2DConditionModel(**settings["unet"])
    source, noise, words = torch.randn(4, 16, 8, 8), torch.randn(4, 16, 8, 8), torch.randn(4, 8, 128)

    def error() -> float:
        with torch.no_grad():
            painted = unet(torch.cat([noise, 0.3 * source], 1), 999, encoder_hidden_states=words).sample
        return float((painted - source).square().mean())

    assert error() > 0.9
    begin_with_copying(unet)
    assert error() < 0.05
    with pytest.raises(ConfigError, match="24 at first, 2 groups cannot begin with copying"):
        begin_with_copying(UNet2DConditionModel(**settings["unet"] | {"block_out_channels": [24, 48]}))


def test_a_crop_has_what_changes(settings):
    run = pretrain.stage_run("draw", settings, threads=1)
    crops = Crops(run, None)
    for pair in ToyPairs(30, seed=2, kinds=settings["stages"]["draw"]["kinds"]):
        before, after = (decode(each, name="") for each in (pair.source, pair.target))
        seen, edited = crops.seen(before, after)
        assert seen.size == edited.size == (32, 32)
        whole, cropped = (
            np.abs(np.asarray(one, int) - np.asarray(other, int)).sum()
            for one, other in ((before, after), (seen, edited))
        )
        assert whole == cropped > 0
        boxes = [(x, y, x + 32, y + 32) for x in range(0, 40, 8) for y in range(0, 40, 8)]
        assert any(
            np.array_equal(before.crop(box), seen) and np.array_equal(after.crop(box), edited)
            for box in boxes
        )


def test_a_pair_is_always_the_same_lesson(settings):
    run = pretrain.stage_run("look", settings, threads=1)
    processor = pretrain.new_llava(settings)[1]
    look, speak = (Lessons(run, processor, describe=describe) for describe in (True, False))
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
