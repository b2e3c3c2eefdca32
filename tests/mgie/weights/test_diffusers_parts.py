import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file

from mgie.errors import ConfigError, WeightsError
from mgie.weights.diffusers_parts import load_diffusion, load_sampler, load_scheduler

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(base, tmp_path) -> Path:
    """A folder of our own that a test may spoil."""
    return Path(shutil.copytree(base["diffusion"], tmp_path / "sd"))


def narrow(folder: Path) -> UNet2DConditionModel:
    """Put a UNet that was made for text alone into the folder."""
    content = json.loads((folder / "unet" / "config.json").read_text())
    unet = UNet2DConditionModel.from_config(content | {"in_channels": content["out_channels"]})
    unet.save_pretrained(folder / "unet")
    return unet


def test_every_tensor_equals_its_file(folder: Path):
    unet, vae, _ = load_diffusion(folder)
    for part, model in (("unet", unet), ("vae", vae)):
        stored, loaded = load_file(folder / part / WEIGHTS), model.state_dict()
        assert stored.keys() == loaded.keys()
        assert not [name for name in stored if not torch.equal(stored[name], loaded[name])]


def test_only_the_input_of_a_text_to_image_unet_is_widened(folder: Path):
    before = narrow(folder).state_dict()
    unet, _, _ = load_diffusion(folder)
    channels, after = unet.config.out_channels, unet.state_dict()
    assert unet.config.in_channels == 2 * channels
    assert torch.equal(after["conv_in.weight"][:, :channels], before["conv_in.weight"])
    assert not after["conv_in.weight"][:, channels:].any()
    others = [name for name in before if name != "conv_in.weight"]
    assert not [name for name in others if not torch.equal(after[name], before[name])]


def test_the_schedule_is_the_folder_s(folder: Path):
    _, _, schedule = load_diffusion(folder)
    stored = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert isinstance(schedule, DDPMScheduler)
    assert schedule.config.prediction_type == stored["prediction_type"]
    assert schedule.config.beta_end == stored["beta_end"]


def test_a_single_file_has_stable_diffusion_s_schedule():
    schedule = load_scheduler("v1-5-pruned.safetensors")
    assert (schedule.config.beta_start, schedule.config.beta_end) == (0.00085, 0.012)
    assert (schedule.config.beta_schedule, schedule.config.prediction_type) == ("scaled_linear", "epsilon")


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_what_differs_from_the_configuration_is_listed(folder: Path, part: str):
    tensors = load_file(folder / part / WEIGHTS)
    name = sorted(tensors)[0]
    tensors["strange"] = tensors.pop(name)
    save_file(tensors, folder / part / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(WeightsError) as error:
        load_diffusion(folder)
    assert f"missing {name}" in str(error.value) and "unexpected strange" in str(error.value)


def test_a_vae_with_the_older_names_of_its_attention(folder: Path):
    """As Stable Diffusion 1.5 and InstructPix2Pix are published."""
    vae = AutoencoderKL(
        block_out_channels=(32,), latent_channels=load_diffusion(folder)[0].config.out_channels
    )
    vae.save_pretrained(folder / "vae")
    stored = load_file(folder / "vae" / WEIGHTS)
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in stored.items():
        for new, old in older.items():
            name = name.replace(f".attentions.0.{new}.", f".attentions.0.{old}.")
        renamed[name] = tensor
    assert renamed.keys() != stored.keys()
    save_file(renamed, folder / "vae" / WEIGHTS, metadata={"format": "pt"})
    loaded = load_diffusion(folder)[1].state_dict()
    assert not [name for name in stored if not torch.equal(stored[name], loaded[name])]


def test_pickles_that_hold_more_than_tensors(folder: Path):
    (folder / "unet" / WEIGHTS).unlink()
    torch.save({"conv_in.bias": Path("/")}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match="unet cannot be loaded from"):
        load_diffusion(folder)


def test_another_shape(folder: Path):
    tensors = load_file(folder / "unet" / WEIGHTS)
    tensors["conv_out.bias"] = torch.zeros(3)
    save_file(tensors, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"unet cannot be loaded from .*conv_out"):
        load_diffusion(folder)


def test_parts_that_do_not_belong_together(folder: Path):
    content = json.loads((folder / "unet" / "config.json").read_text())
    other = UNet2DConditionModel.from_config(content | {"in_channels": 5})
    other.save_pretrained(folder / "unet")
    with pytest.raises(WeightsError, match=r"takes 5 and paints .* use parts that belong together"):
        load_diffusion(folder)


@pytest.mark.parametrize("part", ["unet", "vae", "scheduler"])
def test_missing_parts(folder: Path, part: str):
    shutil.rmtree(folder / part)
    with pytest.raises(WeightsError, match=f"{part} cannot be loaded from .* give a diffusers folder"):
        load_diffusion(folder)


def test_damaged_weights(folder: Path):
    path = folder / "vae" / WEIGHTS
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="vae cannot be loaded from"):
        load_diffusion(folder)


def test_samplers_by_name():
    schedule = DDPMScheduler(beta_end=0.012, prediction_type="sample", clip_sample=False)
    sampler = load_sampler("DDIMScheduler", schedule)
    assert isinstance(sampler, DDIMScheduler)
    assert (sampler.config.beta_end, sampler.config.prediction_type) == (0.012, "sample")
    for name in ("Nonsense", "UNet2DConditionModel"):
        with pytest.raises(ConfigError, match=f"sampling.scheduler is '{name}': expected a scheduler"):
            load_sampler(name, schedule)
