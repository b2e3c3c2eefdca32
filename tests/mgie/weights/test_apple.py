import json
import shutil
import weakref
from pathlib import Path

import pytest
import torch
from torch import Tensor

from llava_patch.folders import MANIFEST
from llava_patch.shards import read_tensors
from llava_patch.weights import to_published
from mgie.errors import WeightsError
from mgie.pipeline import MGIEPipeline
from mgie.prompts import visual_ids
from mgie.weights.apple import (
    MLLM,
    UNET,
    is_training_checkpoint,
    read_apple,
    read_training_checkpoint,
    write_apple,
)
from mgie.weights.release import read_release, write_release

# The library's Euler scheduler speaks to numpy in a way that numpy is about to change.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

EMBEDDINGS = "model.embed_tokens.weight"


@pytest.fixture
def folder(release, tmp_path) -> Path:
    """As it was published: without a manifest."""
    folder = write_apple(release, tmp_path / "mgie_7b")
    (folder / MANIFEST).unlink()
    return folder


def load(path: Path) -> dict[str, Tensor]:
    return torch.load(path, weights_only=True)


def change(path: Path, **values: object) -> None:
    """Put values into a file of tensors; None removes one. Dots in names are written as two underscores."""
    content = load(path) | {name.replace("__", "."): value for name, value in values.items()}
    torch.save({name: value for name, value in content.items() if value is not None}, path)


def test_the_files_hold_what_the_demo_reads(release, folder: Path):
    mllm, unet = load(folder / MLLM), load(folder / UNET)
    head = {f"edit_head.{name}" for name in release.editor.encoder.edit_head.state_dict()}
    assert set(mllm) == {EMBEDDINGS, "lm_head.weight", "emb"} | head
    assert set(unet) == set(release.editor.denoiser.unet.state_dict())
    assert {tensor.dtype for tensor in (*mllm.values(), *unet.values())} == {torch.float16}
    assert mllm["emb"].shape == (1, 8, release.editor.encoder.llava.config.language.hidden_size)
    ids = list(visual_ids(release.prompts.processor, 8))
    assert torch.equal(mllm["emb"][0], mllm[EMBEDDINGS][ids])


def test_what_is_read_is_what_was_written_in_half_precision(release, folder: Path, base, heads, tensors):
    again = read_apple(folder, **base, heads=heads, progress=False)
    ours, theirs = tensors(release), tensors(again)
    assert ours.keys() == theirs.keys()
    stored = (
        "encoder.edit_head.",
        "denoiser.unet.",
        "encoder.llava.language_model.model.embed_tokens",
        "encoder.llava.language_model.lm_head",
    )
    for name, tensor in ours.items():
        expected = tensor.half().float() if name.startswith(stored) else tensor
        assert torch.equal(theirs[name], expected), name
    assert again.editor.encoder.edit_head.config == release.editor.encoder.edit_head.config
    assert again.prompts.processor.tokenizer.added == release.prompts.processor.tokenizer.added


def test_both_directions_give_the_same_bits(folder: Path, base, heads, tmp_path):
    again = write_apple(read_apple(folder, **base, heads=heads, progress=False), tmp_path / "again")
    for file in (MLLM, UNET):
        ours, theirs = load(folder / file), load(again / file)
        assert list(ours) == list(theirs)
        assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]


@pytest.mark.parametrize(
    ("predicts", "sampler"), [("epsilon", "EulerAncestralDiscreteScheduler"), ("sample", "DDIMScheduler")]
)
def test_the_pipeline_opens_it(folder: Path, base, tmp_path, predicts: str, sampler: str):
    diffusion = shutil.copytree(base["diffusion"], tmp_path / "diffusion")
    config = diffusion / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"prediction_type": predicts}))
    pipeline = MGIEPipeline.from_pretrained(folder, **base | {"diffusion": diffusion})
    assert type(pipeline.scheduler).__name__ == sampler
    assert (pipeline.config.num_inference_steps, pipeline.config.guidance_scale) == (100, 7.5)
    pipeline.save_pretrained(tmp_path / "release")
    assert MGIEPipeline.from_pretrained(tmp_path / "release").config.max_new_tokens == 96


def test_one_file_at_a_time_and_none_behind_the_model(folder: Path, base, heads, tmp_path, monkeypatch):
    """Memory: the model and one file. Of the diffusion side's own UNet not even the file is needed."""
    earlier: list[weakref.ref] = []

    def watched(path: Path) -> dict[str, Tensor]:
        assert not any(reference() is not None for reference in earlier), f"tensors live beside {path}"
        tensors = read_tensors(path)
        earlier.extend(weakref.ref(value) for value in tensors.values())
        return tensors

    monkeypatch.setattr("mgie.weights.apple.read_tensors", watched)
    diffusion = Path(shutil.copytree(base["diffusion"], tmp_path / "sd"))
    for weights in (diffusion / "unet").glob("*.safetensors"):
        weights.unlink()
    options = base | {"diffusion": diffusion}
    again = read_apple(folder, **options, heads=heads, dtype=torch.float16, progress=False)
    assert len(earlier) > 100 and not any(reference() is not None for reference in earlier)
    # Rewriting the file in place changes nothing that was loaded.
    before = again.editor.denoiser.unet.conv_in.weight.clone()
    (folder / UNET).write_bytes(bytes((folder / UNET).stat().st_size))
    assert torch.equal(again.editor.denoiser.unet.conv_in.weight, before) and before.any()


# `emb`.


@pytest.mark.parametrize("form", ["(1, 8, d)", "(8, d)", "absent"])
def test_any_form_of_the_visual_tokens_rows(release, folder: Path, base, heads, form: str):
    emb = load(folder / MLLM)["emb"]
    change(folder / MLLM, emb={"(1, 8, d)": emb, "(8, d)": emb[0], "absent": None}[form])
    again = read_apple(folder, **base, heads=heads, progress=False)
    assert again.editor.encoder.edit_head.own_embeddings is None
    rows = again.editor.encoder.llava.language_model.model.embed_tokens.weight[
        list(visual_ids(release.prompts.processor, 8))
    ]
    assert torch.equal(rows, emb[0].float())


def test_rows_that_differ_from_the_table_are_kept_with_a_warning(folder: Path, base, heads, tmp_path):
    emb = load(folder / MLLM)["emb"] + 1
    change(folder / MLLM, emb=emb)
    with pytest.warns(UserWarning, match="emb in .* differs from the visual tokens' rows"):
        again = read_apple(folder, **base, heads=heads, progress=False)
    assert torch.equal(again.editor.encoder.edit_head.own_embeddings, emb[0].float())
    assert torch.equal(load(write_apple(again, tmp_path / "apple") / MLLM)["emb"], emb)
    kept = read_release(write_release(again, tmp_path / "release"))
    assert torch.equal(kept.editor.encoder.edit_head.own_embeddings, emb[0].float())


# What does not fit.


def refused(folder: Path, base, heads: int) -> str:
    with pytest.raises(WeightsError) as error:
        read_apple(folder, **base, heads=heads, progress=False)
    return str(error.value)


def test_rows_of_another_shape(folder: Path, base, heads):
    change(folder / MLLM, emb=torch.zeros(7, 4))
    assert "emb in" in refused(folder, base, heads)


def test_a_file_for_another_width(folder: Path, base, heads):
    narrow = {name: load(folder / MLLM)[name][:, :-1] for name in (EMBEDDINGS, "lm_head.weight")}
    change(folder / MLLM, **{name.replace(".", "__"): tensor for name, tensor in narrow.items()})
    said = refused(folder, base, heads)
    assert EMBEDDINGS in said and "misshapen" in said and "belong together" in said


def test_a_file_for_a_wider_language_model(folder: Path, base, heads):
    width = load(folder / MLLM)["edit_head.llm2hid.weight"].shape[1]
    other = {
        name: torch.zeros(*tensor.shape[:-1], width + 2)
        for name, tensor in load(folder / MLLM).items()
        if name in (EMBEDDINGS, "lm_head.weight", "edit_head.llm2hid.weight")
    }
    change(folder / MLLM, emb=None, **{name.replace(".", "__"): tensor for name, tensor in other.items()})
    said = refused(folder, base, heads)
    assert f"is for a language model of width {width + 2}" in said and f"has {width}: use" in said


@pytest.mark.parametrize("name", ["edit_head.query", "edit_head.llm2hid.weight", "lm_head.weight"])
def test_tensors_of_other_axes(folder: Path, base, heads, name: str):
    change(folder / MLLM, **{name.replace(".", "__"): torch.zeros(128)})
    assert f"misshapen {name}: [128], expected" in refused(folder, base, heads)


def test_a_head_for_another_unet(folder: Path, base, heads):
    head = {name: tensor[:5] for name, tensor in load(folder / MLLM).items() if "hid2feat" in name}
    change(folder / MLLM, **{name.replace(".", "__"): tensor for name, tensor in head.items()})
    said = refused(folder, base, heads)
    assert "the encoder's condition has width 5 and the denoiser takes" in said


def test_without_the_llava_folder_beside_it(folder: Path, base, heads):
    said = refused(folder, {"diffusion": base["diffusion"]}, heads)
    assert f"there is no LLaVA folder {folder.parent / 'LLaVA-7B-v1'}" in said


def test_strange_and_missing_names(folder: Path, base, heads):
    change(folder / MLLM, edit_head__query=None, model__norm__weight=torch.zeros(3))
    said = refused(folder, base, heads)
    assert "missing edit_head.query" in said and "unexpected model.norm.weight" in said


def test_a_unet_of_another_model(folder: Path, base, heads):
    change(folder / UNET, conv_in__bias=None)
    assert "missing conv_in.bias" in refused(folder, base, heads)


def test_a_head_that_its_attention_heads_do_not_divide(folder: Path, base):
    assert "which 3 heads do not divide" in refused(folder, base, 3)


def test_a_llava_folder_that_has_the_visual_tokens_already(release, folder: Path, base, heads, tmp_path):
    write_release(release, tmp_path / "release")
    read, again = (
        read_apple(folder, **(base | {"llava": llava}), heads=heads, progress=False)
        for llava in (base["llava"], tmp_path / "release" / "llava")
    )
    assert read.prompts.processor.tokenizer.added == again.prompts.processor.tokenizer.added
    theirs = again.editor.encoder.state_dict()
    for name, tensor in read.editor.encoder.state_dict().items():
        assert torch.equal(theirs[name], tensor), name


@pytest.mark.parametrize("file", [MLLM, UNET])
def test_damaged_missing_and_dangerous_files(folder: Path, base, heads, file: str):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    assert "damaged or cut short" in refused(folder, base, heads)
    torch.save({"weights": torch.zeros(2), "path": Path("/")}, folder / file)
    assert "other than tensors" in refused(folder, base, heads)
    (folder / file).unlink()
    assert "is missing" in refused(folder, base, heads)


# Training checkpoints of the original.


def original(release, folder: Path, shards: int) -> Path:
    """A training checkpoint as the original program saves it: everything, in a number of shards."""
    names = {to_published(name): tensor for name, tensor in release.editor.encoder.llava.state_dict().items()}
    for part in ("encoder.edit_head", "denoiser.unet", "codec.vae"):
        prefix = part.split(".")[1] + "."
        tensors = release.editor.get_submodule(part).state_dict()
        names |= {prefix + name: tensor for name, tensor in tensors.items()}
    folder.mkdir()
    listed = sorted(names)
    for number in range(shards):
        shard = {name: names[name].clone() for name in listed[number::shards]}
        file = "pytorch_model.bin" if shards == 1 else f"pytorch_model-{number + 1:05d}-of-{shards:05d}.bin"
        torch.save(shard, folder / file)
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_trained_tensors_are_taken_from_any_number_of_shards(release, tmp_path, shards: int):
    run = original(release, tmp_path / "run", shards)
    assert is_training_checkpoint(run) and not is_training_checkpoint(tmp_path)
    mllm, unet = read_training_checkpoint(run, progress=False)
    write_apple(release, tmp_path / "apple")
    assert mllm.keys() == load(tmp_path / "apple" / MLLM).keys() - {"emb"}
    assert all(
        torch.equal(tensor, unet[name]) for name, tensor in release.editor.denoiser.unet.state_dict().items()
    )
    assert unet.keys() == release.editor.denoiser.unet.state_dict().keys()


def test_a_checkpoint_without_a_shard_or_without_an_editor(release, tmp_path):
    run = original(release, tmp_path / "run", 3)
    (run / "pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(WeightsError, match="has 2 of 3 shards; fetch the missing ones"):
        read_training_checkpoint(run, progress=False)
    (tmp_path / "other").mkdir()
    torch.save({"model.norm.weight": torch.zeros(3)}, tmp_path / "other" / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="holds no trained editor"):
        read_training_checkpoint(tmp_path / "other", progress=False)
