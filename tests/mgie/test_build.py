import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler
from safetensors.torch import load_file, save_file
from torch import Tensor

from mgie.build import Parts, build_editor, build_release, build_teacher
from mgie.build_data import build_batches
from mgie.config import RECIPES, RunConfig, load_run
from mgie.data.shards import write_arrow
from mgie.data.stored_pairs import FORMATS
from mgie.errors import ConfigError, DataError, UserError, WeightsError
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.encoders.llava import LlavaEncoder
from mgie.tokens import visual_tokens
from mgie.toy.pairs import ToyPairs
from mgie.weights.release import read_release, write_release

BASE = RECIPES / "tiny_base"
VISUAL = 8
"""Visual tokens of the recipe `tiny`."""


@pytest.fixture
def run(tiny_run: Callable[..., RunConfig]) -> RunConfig:
    return tiny_run()


def encoder_of(parts: Parts) -> LlavaEncoder:
    assert isinstance(parts.editor.encoder, LlavaEncoder)
    return parts.editor.encoder


def head_of(parts: Parts) -> dict[str, Tensor]:
    return encoder_of(parts).edit_head.state_dict()


def same(one: dict[str, Tensor], two: dict[str, Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def published(folder: Path) -> dict[str, Tensor]:
    """All tensors of the files in a folder, by their published names."""
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


def test_every_tensor_of_the_base_is_in_the_editor_as_the_file_has_it(run):
    """docs/coming-from-ml-mgie.md, Q1: the reference initialised the UNet anew after reading it."""
    parts = build_editor(run)
    editor, llava = parts.editor, encoder_of(parts).llava
    assert isinstance(editor.denoiser, UNetDenoiser)
    rows = len(parts.prompts.processor.tokenizer) - VISUAL
    built = {
        "unet": editor.denoiser.unet.state_dict(),
        "vae": editor.codec.vae.state_dict(),
        "llava": {
            **{f"model.{name}": value for name, value in llava.language_model.model.state_dict().items()},
            **{f"model.mm_projector.{name}": value for name, value in llava.projector.state_dict().items()},
            "lm_head.weight": llava.language_model.lm_head.weight[:rows],
        },
        "vision_tower": {
            f"vision_model.{name}": value for name, value in llava.vision_tower.state_dict().items()
        },
    }
    built["llava"]["model.embed_tokens.weight"] = llava.language_model.model.embed_tokens.weight[:rows]
    for part, folder in (
        ("unet", BASE / "sd" / "unet"),
        ("vae", BASE / "sd" / "vae"),
        ("llava", BASE / "llava"),
        ("vision_tower", BASE / "llava" / "vision_tower"),
    ):
        files = {name: value.float() for name, value in published(folder).items()}
        assert files.keys() == built[part].keys(), part
        for name, value in files.items():
            assert torch.equal(value, built[part][name]), f"{part}: {name}"
    assert all(parameter.dtype == torch.float32 for parameter in editor.parameters())


def test_only_the_visual_tokens_have_new_rows(run):
    parts = build_editor(run)
    encoder, tokenizer = encoder_of(parts), parts.prompts.processor.tokenizer
    config = json.loads((BASE / "llava" / "config.json").read_text())
    before = config["vocab_size"]
    assert encoder.llava.vocabulary == len(tokenizer) == before + VISUAL
    assert encoder.visual_ids == tuple(range(before, before + VISUAL))
    assert encoder.visual_ids == tuple(tokenizer.id_of(name) for name in visual_tokens(VISUAL))
    for table in (
        encoder.llava.language_model.model.embed_tokens.weight,
        encoder.llava.language_model.lm_head.weight,
    ):
        assert table.shape[0] == before + VISUAL
        assert table[before:].std().item() == pytest.approx(config["initializer_range"], rel=0.1)


def test_groups_are_read_in_types_of_their_own(run, tmp_path):
    """A type is that of a group and of no other; values are the file's, in that type."""
    write_release(build_release(build_editor(run), run), tmp_path / "release")
    for read in (partial(build_editor, run), partial(read_release, tmp_path / "release")):
        whole = read().editor
        for group in whole.groups():
            editor = read(dtype={"": torch.bfloat16, group: torch.float32}).editor
            assert {p.dtype for p in editor.groups()[group]} == {torch.float32}
            others = (p for name, members in editor.groups().items() if name != group for p in members)
            assert {p.dtype for p in others} == {torch.bfloat16}
            for name, parameter in editor.named_parameters():
                assert torch.equal(parameter, whole.get_parameter(name).to(parameter.dtype))


def test_the_seed_decides_what_is_new_and_nothing_else(run, tiny_run):
    state = torch.get_rng_state()
    one = build_editor(run)
    assert torch.equal(torch.get_rng_state(), state), "a build must not draw from the global generator"
    torch.rand(3)
    again, other = build_editor(run), build_editor(tiny_run("--seed=1"))
    assert same(head_of(one), head_of(again))
    assert not same(head_of(one), head_of(other))
    left, right = (encoder_of(parts).llava.state_dict() for parts in (one, other))
    differ = [name for name in left if not torch.equal(left[name], right[name])]
    assert differ == ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"]
    assert same(encoder_of(one).llava.state_dict(), encoder_of(again).llava.state_dict())
    assert same(one.editor.denoiser.state_dict(), other.editor.denoiser.state_dict())


def test_gradient_checkpointing_is_the_language_models(tiny_run):
    for asked in (False, True):
        run = tiny_run(f"--train.gradient_checkpointing={str(asked).lower()}")
        llava = encoder_of(build_editor(run)).llava
        for part, expected in ((llava.language_model, asked), (llava.vision_tower, False)):
            assert any(getattr(m, "gradient_checkpointing", False) for m in part.modules()) is expected


@pytest.mark.parametrize("part", ["encoder.llava", "denoiser.diffusion"])
def test_a_part_that_is_not_there_is_a_sentence(tiny_run, tmp_path, part):
    with pytest.raises(UserError, match="nothing-here"):
        build_editor(tiny_run(f"--model.{part}={tmp_path / 'nothing-here'}"))


def test_a_language_side_with_foreign_tensors_is_refused(tiny_run, tmp_path):
    shutil.copytree(BASE / "llava", tmp_path / "llava")
    tensors = published(BASE / "llava")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "llava" / "model.safetensors")
    with pytest.raises(WeightsError, match=r"missing model\.norm\.weight"):
        build_editor(tiny_run(f"--model.encoder.llava={tmp_path / 'llava'}"))


def test_processes_share_each_step(tiny_run):
    run = tiny_run("--train.micro_batch_size=2")
    prompts = build_editor(run).prompts
    shares = [next(build_batches(run, prompts, rank=rank, world=2).steps()) for rank in (0, 1)]
    alone = next(build_batches(run, prompts, rank=0, world=1).steps())
    assert [[micro.positions for micro in share] for share in shares] == [[(0, 1)], [(2, 3)]]
    keys = [micro.keys for share in shares for micro in share]
    assert keys == [micro.keys for micro in alone]


def test_a_release_carries_the_recipes_sampling(tiny_run, tmp_path):
    run = tiny_run("--sampling.steps=7", "--sampling.guidance=2.5", "--sampling.image_guidance=1.25")
    parts = build_editor(run)
    release = build_release(parts, run)
    assert release.settings["num_inference_steps"] == 7
    assert (release.settings["guidance_scale"], release.settings["image_guidance_scale"]) == (2.5, 1.25)
    assert (release.prompts.template, release.settings["size"]) == (run.model.encoder.question, run.data.size)
    assert type(release.scheduler) is DDIMScheduler
    for name in ("prediction_type", "beta_schedule", "rescale_betas_zero_snr", "timestep_spacing"):
        assert release.scheduler.config[name] == parts.process.schedule.config[name]
    assert release.editor.encoder.llava is encoder_of(parts).llava
    assert release.prompts.processor is parts.prompts.processor
    (tmp_path / "again.yaml").write_text(release.run_yaml)
    assert load_run(str(tmp_path / "again.yaml")) == run


def test_a_teacher_comes_with_the_weight_of_its_loss(tiny_run):
    run = tiny_run("--train.align_weight=0")
    assert build_teacher(run, build_editor(run)) is None
    run = tiny_run("--train.align_weight=1")
    teacher = build_teacher(run, build_editor(run))
    assert teacher is not None and teacher.pooled
    assert same(teacher.text_model.state_dict(), published(BASE / "sd" / "text_encoder"))


def test_a_teacher_that_reads_other_words_is_refused(tiny_run):
    run = tiny_run("--model.encoder.edit_head.queries=65")
    with pytest.raises(ConfigError, match="65 queries: expected the same vocabulary and at most 60"):
        build_teacher(run, build_editor(run))


@pytest.mark.parametrize(("split", "instruction"), [("train", "by <image>"), ("test", "brighten <source>")])
def test_pairs_with_pictures_in_their_instructions_are_refused_before_they_come(
    tiny_run, tmp_path, split, instruction
):
    pairs = [replace(pair, key=f"{n}") for n, pair in enumerate(ToyPairs(6, seed=1, split=split))]
    odd = replace(pairs[2], instruction=instruction, pictures=(pairs[0].target,) * ("<image>" in instruction))
    sets = {name: ToyPairs(6, seed=1, split=name) for name in ("train", "test")}
    sets[split] = [*pairs[:2], odd]
    for name, several in sets.items():
        facts = write_arrow(((pair, (64, 64)) for pair in several), tmp_path, name)
        sets[name] = asdict(facts)
    (tmp_path / "facts.json").write_text(json.dumps({"format": FORMATS[-1], "splits": sets}))
    run = tiny_run(f"--data.path={tmp_path}", "--preview.every=4", "--preview.count=3")
    parts = build_editor(run)
    with pytest.raises(DataError, match=rf"1 of 3 pairs of .*{split} have pictures .* such as 2"):
        build_batches(run, parts.prompts, rank=0, world=1)
    if split == "test":
        few = replace(run, preview=replace(run.preview, count=2))
        build_batches(few, parts.prompts, rank=0, world=1)
