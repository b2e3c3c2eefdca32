import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel

from mgie.config import RECIPES
from mgie.errors import ConfigError, WeightsError
from mgie.models.codec import Codec
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.weights.limits import Limits, check_release, free_memory

CPU = torch.device("cpu")


@pytest.fixture
def release(tmp_path):
    """A release without a single weight: only what says how it is built."""
    for part in ("unet", "vae", "scheduler"):
        ignored = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(RECIPES / "tiny_base" / "sd" / part, tmp_path / part, ignore=ignored)
    (tmp_path / "model_index.json").write_text(
        '{"_class_name": "MGIEPipeline", "_encoder": {"kind": "llava"}, "_denoiser": {"kind": "unet"}}'
    )
    return tmp_path


def ask(model, steps=None, size=None, pictures=1):
    check_release(model, steps=steps, size=size, pictures=pictures, dtype=torch.float32, device=CPU)


def test_what_can_be_passes(release):
    ask(release)
    ask(release, steps=1000, size=16, pictures=25)
    ask("somebody/a-hub-id", steps=10**4, size=1)  # the pipeline asks again


def test_what_cannot_be_is_refused(release):
    with pytest.raises(ConfigError, match="steps=1001: expected at most 1000"):
        ask(release, steps=1001)
    with pytest.raises(ConfigError, match="size=15: expected at least 16"):
        ask(release, size=15)
    with pytest.raises(ConfigError, match=r"need at least [\d.]+ GB of memory, and [\d.]+ GB are free"):
        ask(release, size=16384, pictures=100)


def test_what_is_said_to_fit_is_all_that_fits():
    with torch.device("meta"):
        unet = UNet2DConditionModel(
            in_channels=8, out_channels=4, block_out_channels=(320, 640, 1280, 1280), layers_per_block=1
        )
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
    limits = Limits.of(UNetDenoiser(unet), Codec(vae), {"num_train_timesteps": 1000})
    assert limits == Limits(steps=1000, multiple=64, numbers=3 * 256)
    pixels = free_memory(CPU) // (limits.numbers * 4)
    limits.check_memory(pixels // 2, dtype=torch.float32, device=CPU)
    with pytest.raises(ConfigError, match="choose a smaller size"):
        limits.check_memory(pixels * 2, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize("content", [{"block_out_channels": 3}, {"block_out_channels": []}])
def test_a_configuration_that_says_nothing(release, content):
    (release / "vae" / "config.json").write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=r"vae/config\.json describes no AutoencoderKL"):
        ask(release)
