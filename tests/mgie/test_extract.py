import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from llava_patch.folders import MANIFEST, file_hash
from mgie.build import build_editor
from mgie.config import load_run
from mgie.errors import ConfigError, WeightsError
from mgie.extract import extract
from mgie.pipeline import MGIEPipeline
from mgie.train import train
from mgie.weights import checkpoint as checkpoints
from mgie.weights.apple import MLLM, OWN_LLAVA, UNET
from mgie.weights.parts import resolve
from mgie.weights.release import read_release

# The library's Euler scheduler speaks to numpy in a way that numpy is about to change.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def tiny_options(data, out) -> list[str]:
    """Of a run of four steps with a checkpoint in the middle."""
    fixed = {
        "data.path": data, "data.workers": 0, "out": out, "train.samples": 8,
        "train.batch_size": 2, "train.micro_batch_size": 2, "train.threads": 1, "log.every": 2,
        "save.every": 4, "preview.every": 0, "train.ema": 0.5, "optim.lrs": "{}",
    }  # fmt: skip
    return [f"--{key}={value}" for key, value in fixed.items()]


@pytest.fixture(scope="module")
def trained(toy_data, tmp_path_factory):
    run = load_run("tiny", tiny_options(toy_data, tmp_path_factory.mktemp("runs")))
    train(run)
    return run.folder


@pytest.fixture
def run_dir(trained, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(trained, tmp_path / "run")


def release_tensors(folder) -> dict[str, torch.Tensor]:
    """A release's tensors by their names in an editor."""
    release = read_release(folder)
    parts = {
        "encoder.llava.": release.editor.encoder.llava,
        "encoder.edit_head.": release.editor.encoder.edit_head,
        "denoiser.unet.": release.editor.denoiser.unet,
        "codec.vae.": release.editor.codec.vae,
    }
    return {
        prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.state_dict().items()
    }


@pytest.mark.parametrize("ema", [True, False])
def test_a_release_holds_the_trained_tensors_and_the_base_s_others(trained, tmp_path, ema: bool):
    facts = extract(trained, out=tmp_path / "release", ema=ema)
    found = checkpoints.latest(trained)
    stored = load_file(found / ("ema.safetensors" if ema else "trained.safetensors"))
    untrained = build_editor(load_run(str(found / "run.yaml"))).editor.state_dict()
    ours = release_tensors(tmp_path / "release")
    assert ours.keys() == untrained.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, stored.get(name, untrained[name])), name
    assert facts == {
        "out": str(tmp_path / "release"), "format": "release", "run_dir": str(trained),
        "checkpoint": found.name, "samples": 8, "ema": ema, "trained": len(stored),
    }  # fmt: skip


def test_it_edits_as_the_recipe_says(trained, tmp_path):
    extract(trained, out=tmp_path / "release")
    sampling = load_run(str(trained / "run.yaml")).sampling
    pipeline = MGIEPipeline.from_pretrained(tmp_path / "release")
    assert pipeline.config.num_inference_steps == sampling.steps
    assert pipeline.config.guidance_scale == sampling.guidance
    assert type(pipeline.scheduler).__name__ == sampling.scheduler
    assert pipeline.size == load_run(str(trained / "run.yaml")).data.size
    assert (tmp_path / "release" / "run.yaml").read_text().startswith("name: tiny")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_release_in_half_precision(trained, tmp_path, dtype: str):
    for name, kind in (("whole", None), ("half", dtype)):
        extract(trained, out=tmp_path / name, dtype=kind)
    whole, half = (
        {path.relative_to(folder): load_file(path) for path in sorted(folder.rglob("*.safetensors"))}
        for folder in (tmp_path / "whole", tmp_path / "half")
    )
    assert whole.keys() == half.keys() and len(whole) >= 4
    for path, tensors in whole.items():
        for name, tensor in tensors.items():
            assert torch.equal(half[path][name], tensor.to(getattr(torch, dtype))), (path, name)


def test_apple_s_files_are_half_precision(trained, tmp_path):
    with pytest.raises(ConfigError, match="Apple's files are float16"):
        extract(trained, out=tmp_path / "apple", format="apple", dtype="float32")


def test_an_older_checkpoint_by_its_name(trained, tmp_path, capsys):
    names = sorted(path.name for path in (trained / "checkpoints").iterdir())
    facts = extract(trained, out=tmp_path / "release", checkpoint=names[0])
    assert (facts["checkpoint"], facts["samples"]) == (names[0], int(names[0]))
    out = tmp_path / "release"
    told = f"mgie: from {trained / 'checkpoints' / names[0]}, after 4 of 8 samples, to a release in float32"
    assert capsys.readouterr().err.startswith(f"{told}: {out}.\n")
    extract(trained, out=out, dtype="float16")
    assert f"to a release in float16: {out}, in place of the older one.\n" in capsys.readouterr().err
    with pytest.raises(WeightsError, match=f"has no checkpoint 77: expected latest or one of {names[0]}"):
        extract(trained, out=tmp_path / "release", checkpoint="77")


def test_a_checkpoint_named_by_hand_is_verified_and_a_skipped_one_is_told(run_dir, tmp_path, capsys):
    found = checkpoints.latest(run_dir)
    (found / "trained.safetensors").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"trained\.safetensors has 7 bytes"):
        extract(run_dir, out=tmp_path / "release", checkpoint=found.name)
    assert extract(run_dir, out=tmp_path / "release")["samples"] == 4
    assert f"skipped {found} (damaged: " in capsys.readouterr().err


def test_apple_s_files(trained, tmp_path):
    extract(trained, out=tmp_path / "apple", format="apple")
    stored = load_file(checkpoints.latest(trained) / "ema.safetensors")
    unet = torch.load(tmp_path / "apple" / UNET, weights_only=True)
    mllm = torch.load(tmp_path / "apple" / MLLM, weights_only=True)
    assert torch.equal(unet["conv_in.weight"], stored["denoiser.unet.conv_in.weight"].half())
    assert torch.equal(mllm["edit_head.query"], stored["encoder.edit_head.query"].half())
    assert sorted(path.name for path in (tmp_path / "apple").iterdir()) == [OWN_LLAVA, MANIFEST, MLLM, UNET]


# What the library's scheduler does to numpy.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_apple_s_folder_holds_all_that_was_trained(trained, tmp_path):
    """The recipe trains the language model's layers, which the two files have no place for."""
    run = load_run(str(trained / "run.yaml"))
    extract(trained, out=tmp_path / "release")
    extract(trained, out=tmp_path / "apple", format="apple")
    whole = read_release(tmp_path / "release")
    again = MGIEPipeline.from_pretrained(tmp_path / "apple", diffusion=resolve(run.model.denoiser.diffusion))
    theirs = again.editor.state_dict()
    for key, tensor in whole.editor.state_dict().items():
        assert torch.equal(theirs[key].half(), tensor.half()), key


def test_apple_s_two_files_are_enough_for_what_the_original_trains(toy_data, tmp_path):
    run = load_run("tiny", [*tiny_options(toy_data, tmp_path), "--train.groups=[embeddings,edit_head]"])
    train(run)
    extract(run.folder, out=tmp_path / "apple", format="apple")
    assert sorted(path.name for path in (tmp_path / "apple").iterdir()) == [MANIFEST, MLLM, UNET]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": {"encoder": {"edit_head": {"heads": 2}}}}, "the edit head has 2 heads"),
        ({"train": {"groups": ["codec", "edit_head"]}}, "the VAE was trained"),
    ],
)
def test_what_apple_s_layout_does_not_tell(run_dir, tmp_path, changes: dict, reason: str):
    """Its readers would take four heads and a published VAE without a word."""
    last = max((run_dir / "checkpoints").iterdir())
    content = yaml.safe_load((last / "run.yaml").read_text())
    for section, values in changes.items():
        for key, value in values.items():
            content[section][key] = merged(content[section][key], value)
    (last / "run.yaml").write_text(yaml.safe_dump(content))
    manifest = json.loads((last / MANIFEST).read_text())
    path = last / "run.yaml"
    manifest["files"]["run.yaml"] = {"size": path.stat().st_size, "sha256": file_hash(path)}
    (last / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=reason):
        extract(run_dir, out=tmp_path / "apple", format="apple")


def merged(old, new):
    if not isinstance(new, dict):
        return new
    return old | {key: merged(old.get(key), value) for key, value in new.items()}


def test_each_format_becomes_the_other_bit_for_bit(trained, tmp_path):
    parts = {"diffusion": resolve(load_run("tiny").model.denoiser.diffusion)}
    extract(trained, out=tmp_path / "apple", format="apple")
    extract(tmp_path / "apple", out=tmp_path / "release", **parts)
    edited = MGIEPipeline.from_pretrained(tmp_path / "release")(
        Image.new("RGB", (40, 32)), "make it dark", seed=0, num_inference_steps=1
    )
    assert edited.images[0].size == (40, 32)
    extract(tmp_path / "release", out=tmp_path / "again", format="apple")
    extract(tmp_path / "again", out=tmp_path / "twice", **parts)
    for file in (MLLM, UNET):
        ours, theirs = (torch.load(tmp_path / name / file, weights_only=True) for name in ("apple", "again"))
        assert list(ours) == list(theirs)
        assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    extract(trained, out=tmp_path / "half", dtype="float16")
    half, ours, theirs = (release_tensors(tmp_path / name) for name in ("half", "release", "twice"))
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    # All that Apple's folder holds; the VAE came from elsewhere in full precision.
    assert not [name for name in half if "codec" not in name and not torch.equal(half[name], theirs[name])]


def test_folders_that_a_run_began_with_may_have_moved(trained, tmp_path):
    llava = Path(shutil.copytree(resolve(load_run("tiny").model.encoder.llava), tmp_path / "LLaVA moved"))
    extract(trained, out=tmp_path / "release", llava=str(llava))
    assert load_run(str(tmp_path / "release" / "run.yaml")).model.encoder.llava == str(llava)
    extract(trained, out=tmp_path / "other")
    ours, theirs = release_tensors(tmp_path / "release"), release_tensors(tmp_path / "other")
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    with pytest.raises(WeightsError, match=r"gone has no config\.json"):
        extract(trained, out=tmp_path / "release", llava="gone")


def test_a_damaged_checkpoint_is_passed_over(run_dir, tmp_path):
    first, last = sorted((run_dir / "checkpoints").iterdir())
    (last / "trained.safetensors").write_bytes(b"cut")
    assert extract(run_dir, out=tmp_path / "release")["checkpoint"] == first.name


def test_a_checkpoint_of_another_model(run_dir, tmp_path):
    last = max((run_dir / "checkpoints").iterdir())
    tensors = load_file(last / "ema.safetensors")
    tensors["strange"] = tensors.pop("encoder.edit_head.query")
    save_file(tensors, last / "ema.safetensors")
    manifest = json.loads((last / MANIFEST).read_text())
    path = last / "ema.safetensors"
    manifest["files"][path.name] = {"size": path.stat().st_size, "sha256": file_hash(path)}
    (last / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(WeightsError, match=r"missing encoder.edit_head.query; unexpected strange"):
        extract(run_dir, out=tmp_path / "release")
    assert not (tmp_path / "release").exists()


def test_runs_that_are_none(tmp_path, trained):
    with pytest.raises(WeightsError, match="there is no run folder"):
        extract(tmp_path / "gone", out=tmp_path / "release")
    (tmp_path / "empty").mkdir()
    with pytest.raises(WeightsError, match=r"has no whole checkpoint: .* train first"):
        extract(tmp_path / "empty", out=tmp_path / "release")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ConfigError, match="was not written here"):
        extract(trained, out=tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "mine"]


@pytest.mark.parametrize("part", ["llava", "diffusion"])
def test_wrong_folders_are_told_before_large_files_are_read(tmp_path, part: str):
    (tmp_path / "pytorch_model.bin").write_bytes(b"nobody looks inside")
    model = load_run("tiny").model
    parts = {"llava": resolve(model.encoder.llava), "diffusion": resolve(model.denoiser.diffusion)}
    with pytest.raises(WeightsError, match=r"there is no (LLaVA folder|such folder)"):
        extract(tmp_path, out=tmp_path / "release", **parts | {part: str(tmp_path / "gone" / part)})


def test_a_checkpoint_of_the_original_needs_its_folders(tmp_path):
    torch.save({"edit_head.query": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(ConfigError, match="--llava, and the diffusers folder of its VAE with --diffusion"):
        extract(tmp_path, out=tmp_path / "release")


def test_what_a_killed_extract_left_is_gone_after_the_next(trained, tmp_path):
    command = [sys.executable, "-m", "mgie", "extract", str(trained), "--out", str(tmp_path / "release")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob(".release.*.mgie-partial/*")):
        assert process.poll() is None
        time.sleep(0.001)
    process.kill()
    process.wait()
    assert any(path.name.endswith("mgie-partial") for path in tmp_path.iterdir())
    extract(trained, out=tmp_path / "other")
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_release_is_compared_with_its_manifest_before_it_becomes_the_other(trained, tmp_path):
    extract(trained, out=tmp_path / "release")
    whole = (tmp_path / "release" / MANIFEST).read_text()
    for text in ("[]", "[" * 30_000):
        (tmp_path / "release" / MANIFEST).write_text(text)
        with pytest.raises(WeightsError, match="no manifest of a whole folder"):
            extract(tmp_path / "release", out=tmp_path / "apple", format="apple")
    (tmp_path / "release" / MANIFEST).write_text(whole)
    for text in ("a: " + "[" * 30_000, "[]", "{", "colour: 3"):
        (tmp_path / "release" / "run.yaml").write_text(text)
        with pytest.raises(WeightsError, match=r"run\.yaml .* set verify to false"):
            extract(tmp_path / "release", out=tmp_path / "apple", format="apple")
        with pytest.raises(ConfigError, match=r"recipe .*run\.yaml"):
            extract(tmp_path / "release", out=tmp_path / "apple", format="apple", verify=False)
    extract(trained, out=tmp_path / "apple", format="apple")
    content = bytearray((tmp_path / "apple" / UNET).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "apple" / UNET).write_bytes(content)
    with pytest.raises(WeightsError, match=r"unet\.pt is not what was written"):
        extract(tmp_path / "apple", out=tmp_path / "again", diffusion=str(tmp_path / "release"))
