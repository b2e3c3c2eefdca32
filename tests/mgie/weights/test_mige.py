"""Its numbers and the 1451 published entries are held by tests/parity/test_mige.py."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from mgie.asked import release_of
from mgie.errors import ConfigError, WeightsError
from mgie.extract import extract
from mgie.pipeline import MGIEPipeline
from mgie.weights.mige import IDS, POSITIONS, TABLES, Heads, read_mige, write_mige
from mgie.weights.mige_part import read_published, write_published
from mgie.weights.release import read_release, write_release

HEADS = Heads(vision=2, qformer=2, fusion=2, transformer=2)


def content(path: Path) -> dict[str, Tensor]:
    held = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    return held.get("state_dict", held)


@pytest.fixture
def file(mige, tmp_path) -> Path:
    return write_mige(mige.editor.encoder, mige.editor.denoiser, tmp_path / "mige.safetensors")


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_was_written_is_read_and_written_bit_by_bit(mige, tmp_path, suffix):
    editor = mige.editor
    first = write_mige(editor.encoder, editor.denoiser, tmp_path / f"first{suffix}")
    encoder, denoiser = read_mige(first, heads=HEADS)
    for ours, theirs in ((encoder, editor.encoder), (denoiser, editor.denoiser)):
        state, held = ours.state_dict(), theirs.state_dict()
        assert state.keys() == held.keys() and all(torch.equal(state[name], held[name]) for name in held)
    assert encoder.text.shared.weight is encoder.text.encoder.embed_tokens.weight
    second = content(write_mige(encoder, denoiser, tmp_path / f"second{suffix}"))
    one = content(first)
    assert one.keys() == second.keys() and all(torch.equal(one[name], second[name]) for name in one)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"first{suffix}", f"second{suffix}"]


def test_what_the_file_of_the_authors_has_around_its_weights(mige, tmp_path):
    path = write_mige(mige.editor.encoder, mige.editor.denoiser, tmp_path / "model.pth")
    torch.save({"state_dict": content(path), "epoch": 3, "optimizer": {"state": {}}}, path)
    encoder, _ = read_mige(path, heads=HEADS)
    assert torch.equal(encoder.query_tokens, mige.editor.encoder.query_tokens)


def test_constants_and_what_is_there_twice_may_be_missing(file):
    tensors = content(file)
    del tensors[IDS], tensors[TABLES[0]]
    save_file(tensors, file)
    encoder, _ = read_mige(file, heads=HEADS)
    assert torch.equal(encoder.text.shared.weight, tensors[TABLES[1]])
    assert encoder.qformer.config.max_position_embeddings == 512


def test_all_that_differs_is_listed_by_its_published_name(file):
    tensors = content(file)
    del tensors["blocks.1.attn.qkv.bias"], tensors["y_embedder.y_embedding"]
    tensors["FFM.stranger"] = torch.zeros(1)
    tensors["t5_proj.bias"] = torch.zeros(3)
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=r"sizes of MIGE's parts \(KeyError: 'y_embedder"):
        read_mige(file, heads=HEADS)
    save_file(tensors | {"y_embedder.y_embedding": torch.zeros(48, 24)}, file)
    with pytest.raises(WeightsError, match="3 tensors differ") as error:
        read_mige(file, heads=HEADS)
    for told in ("missing blocks.1.attn.qkv.bias", "unexpected FFM.stranger", "misshapen t5_proj.bias"):
        assert told in str(error.value)


@pytest.mark.parametrize(("name", "wrong"), [(POSITIONS, "table of places"), (TABLES[0], "T5 has one table")])
def test_constants_are_looked_at(file, name, wrong):
    tensors = content(file)
    tensors[name] = tensors[name] + 1
    save_file(tensors, file)
    with pytest.raises(WeightsError, match=wrong):
        read_mige(file, heads=HEADS)


def test_other_heads_and_other_files_are_refused(file, tmp_path):
    with pytest.raises(WeightsError, match="does not tell the sizes"):
        read_mige(file, heads=Heads(vision=3))
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(WeightsError, match="expected its published file"):
        read_mige(tmp_path / "other.safetensors")


def test_a_bias_of_keys_has_no_place_in_the_file(mige, tmp_path):
    with torch.no_grad():
        mige.editor.encoder.vision.encoder.layers[1].self_attn.qkv.bias += 1
    with pytest.raises(WeightsError, match=r"layers.1.self_attn.qkv.bias has a bias of its keys"):
        write_mige(mige.editor.encoder, mige.editor.denoiser, tmp_path / "mige.pth")
    assert not list(tmp_path.iterdir())


def test_a_release_holds_all_of_it(mige, tmp_path):
    folder = write_release(mige, tmp_path / "release")
    again = read_release(folder)
    ours, theirs = (each.editor.state_dict() for each in (mige, again))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert type(again.scheduler) is type(mige.scheduler) and again.settings == mige.settings
    text = "replace the circle in <source> by <image>"
    asked = [each.question(text, sizes=[(28, 28)] * 2) for each in (mige.prompts, again.prompts)]
    assert asked[0] == asked[1]
    assert again.editor.codec.space.source_scaled
    write_release(again, tmp_path / "twice")
    for path in sorted(folder.rglob("*.safetensors")):
        assert path.read_bytes() == (tmp_path / "twice" / path.relative_to(folder)).read_bytes()


def test_the_published_folder_opens_over_the_parts_that_it_needs(mige, tmp_path, monkeypatch):
    folder, beside = tmp_path / "published", write_release(mige, tmp_path / "pixart")
    folder.mkdir()
    write_mige(mige.editor.encoder, mige.editor.denoiser, folder / "model.pth")
    release = read_published(folder, diffusion=beside, heads=HEADS)
    assert release.prompts.templates == "released" and release.prompts.edge == 28
    assert release.settings == {
        "size": 32, "num_inference_steps": 60, "guidance_scale": 5.0, "image_guidance_scale": 1.0
    }  # fmt: skip
    monkeypatch.setattr("mgie.weights.mige.PUBLISHED", HEADS)
    assert release_of(folder) == str(folder)
    pipeline = MGIEPipeline.from_pretrained(folder, diffusion=beside)
    assert torch.equal(pipeline.encoder.null, mige.editor.encoder.null)
    with pytest.raises(WeightsError, match="no folder vae"):
        read_published(folder, diffusion=folder, heads=HEADS)


def test_the_command_turns_each_layout_into_the_other(mige, tmp_path, monkeypatch):
    """A release made of the published file is trained further, and goes back to the authors' programs."""
    for module in ("mige", "mige_part"):
        monkeypatch.setattr(f"mgie.weights.{module}.PUBLISHED", HEADS)
    beside = write_release(mige, tmp_path / "pixart")
    facts = extract(beside, out=tmp_path / "published", format="mige")
    assert (facts["format"], facts["out"]) == ("mige", str(tmp_path / "published"))
    extract(tmp_path / "published", out=tmp_path / "release", diffusion=str(beside))
    again = read_release(tmp_path / "release")
    ours, theirs = (each.editor.state_dict() for each in (mige, again))
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.prompts.templates == "released" and again.settings["num_inference_steps"] == 60
    with pytest.raises(ConfigError, match=r"model\.pth has no LLaVA"):
        extract(tmp_path / "published", out=tmp_path / "other", llava="x")
    with pytest.raises(WeightsError, match="no folder vae"):
        extract(tmp_path / "published", out=tmp_path / "other", diffusion=str(tmp_path / "published"))


def test_what_the_published_file_does_not_hold_is_no_such_file(mige, release, tmp_path):
    with pytest.raises(ConfigError, match="but this editor is a LlavaEncoder with a UNetDenoiser; use"):
        write_published(release, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"has Heads\(vision=2.* its readers take Heads\(vision=16"):
        write_published(mige, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"the VAE was trained, which model\.pth does not hold"):
        write_published(mige, tmp_path / "out", trained=("codec", "fusion"))
    assert not (tmp_path / "out").exists()
