"""A Stable Diffusion file in its authors' layout, written here name by name."""

from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor

from mgie.errors import WeightsError
from mgie.weights.diffusers_parts import empty_unet, load_diffusion, load_text_model

UNET_PLACES = {
    "time_embedding.linear_1.": "time_embed.0.",
    "time_embedding.linear_2.": "time_embed.2.",
    "conv_in.": "input_blocks.0.0.",
    "down_blocks.0.resnets.0.": "input_blocks.1.0.",
    "down_blocks.0.attentions.0.": "input_blocks.1.1.",
    "down_blocks.0.downsamplers.0.conv.": "input_blocks.2.0.op.",
    "down_blocks.1.resnets.0.": "input_blocks.3.0.",
    "down_blocks.1.attentions.0.": "input_blocks.3.1.",
    "mid_block.resnets.0.": "middle_block.0.",
    "mid_block.attentions.0.": "middle_block.1.",
    "mid_block.resnets.1.": "middle_block.2.",
    "up_blocks.0.resnets.0.": "output_blocks.0.0.",
    "up_blocks.0.attentions.0.": "output_blocks.0.1.",
    "up_blocks.0.resnets.1.": "output_blocks.1.0.",
    "up_blocks.0.attentions.1.": "output_blocks.1.1.",
    "up_blocks.1.resnets.0.": "output_blocks.2.0.",
    "up_blocks.1.attentions.0.": "output_blocks.2.1.",
    "up_blocks.1.resnets.1.": "output_blocks.3.0.",
    "up_blocks.1.attentions.1.": "output_blocks.3.1.",
    "conv_norm_out.": "out.0.",
    "conv_out.": "out.2.",
}
VAE_PLACES = {
    "encoder.down_blocks.0.resnets.0.": "encoder.down.0.block.0.",
    "encoder.down_blocks.0.downsamplers.0.": "encoder.down.0.downsample.",
    "encoder.down_blocks.1.resnets.0.": "encoder.down.1.block.0.",
    "decoder.up_blocks.0.resnets.0.": "decoder.up.1.block.0.",
    "decoder.up_blocks.0.resnets.1.": "decoder.up.1.block.1.",
    "decoder.up_blocks.0.upsamplers.0.": "decoder.up.1.upsample.",
    "decoder.up_blocks.1.resnets.0.": "decoder.up.0.block.0.",
    "decoder.up_blocks.1.resnets.1.": "decoder.up.0.block.1.",
}
for half in ("encoder", "decoder"):
    VAE_PLACES |= {
        f"{half}.mid_block.resnets.0.": f"{half}.mid.block_1.",
        f"{half}.mid_block.resnets.1.": f"{half}.mid.block_2.",
        f"{half}.mid_block.attentions.0.": f"{half}.mid.attn_1.",
        f"{half}.conv_norm_out.": f"{half}.norm_out.",
    }
RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def renamed(name: str, places: dict[str, str], inner: dict[str, str]) -> str:
    for new, old in places.items():
        if name.startswith(new):
            rest = name[len(new) :]
            part, _, leaf = rest.rpartition(".")
            return old + (f"{inner[part]}.{leaf}" if part in inner else rest)
    return name


def parts(kind: int) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Small ones, as Stable Diffusion 1 or 2 has them."""
    torch.manual_seed(kind)
    second = "CrossAttn" if kind == 2 else ""
    unet = UNet2DConditionModel(
        block_out_channels=(32, 32) if kind == 1 else (64, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", f"{second}DownBlock2D"),
        up_block_types=(f"{second}UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=8 if kind == 1 else (1, 1),
        use_linear_projection=kind == 2,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        scaling_factor=0.18215,
    )
    return unet, vae


def in_one(unet: UNet2DConditionModel, vae: AutoencoderKL) -> dict[str, Tensor]:
    """The tensors as the authors' programs save them, with what else lies beside them."""
    held = {
        "betas": torch.zeros(3),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": torch.zeros(2),
        "model_ema.decay": torch.zeros(()),
    }
    linear = unet.config.use_linear_projection
    upsampler = "output_blocks.1.2.conv." if linear else "output_blocks.1.1.conv."
    places = UNET_PLACES | {"up_blocks.0.upsamplers.0.conv.": upsampler}
    for name, tensor in unet.state_dict().items():
        inner = RESNET if ".resnets." in name else {}
        held[f"model.diffusion_model.{renamed(name, places, inner)}"] = tensor
    for name, tensor in vae.state_dict().items():
        inner = ATTENTION if ".attentions." in name else {"conv_shortcut": "nin_shortcut"}
        old = renamed(name, VAE_PLACES, inner)
        if ".attn_1." in old and old.endswith("weight") and ".norm." not in old:
            tensor = tensor[:, :, None, None]
        held[f"first_stage_model.{old}"] = tensor
    return {name: tensor.clone() for name, tensor in held.items()}


def save(held: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".ckpt":
        torch.save({"state_dict": held, "global_step": 470000, "epoch": 3}, path)
    else:
        save_file(held, path)
    return path


@pytest.mark.parametrize(("kind", "suffix"), [(1, ".safetensors"), (1, ".ckpt"), (2, ".safetensors")])
def test_every_tensor_equals_the_file_s(tmp_path, kind: int, suffix: str):
    ours = parts(kind)
    path = save(in_one(*ours), tmp_path / f"sd{suffix}")
    unet, vae, schedule = load_diffusion(path)
    for built, loaded in zip(ours, (unet, vae), strict=True):
        before, after = built.state_dict(), loaded.state_dict()
        assert before.keys() == after.keys()
        wide = "conv_in.weight"
        assert not [name for name in before if name != wide and not torch.equal(before[name], after[name])]
        for key in ("block_out_channels", "layers_per_block", "down_block_types", "up_block_types"):
            one, two = loaded.config[key], built.config[key]
            assert one == two or list(one) == list(two), key
    # The widened input; heads, which no tensor shows.
    assert torch.equal(unet.conv_in.weight[:, :4], ours[0].conv_in.weight)
    assert not unet.conv_in.weight[:, 4:].any()
    assert unet.mid_block.attentions[0].transformer_blocks[0].attn1.heads == (8 if kind == 1 else 1)
    half, _, _ = load_diffusion(path, dtype=torch.bfloat16)
    assert torch.equal(half.conv_out.weight, unet.conv_out.weight.bfloat16()) and half.dtype == torch.bfloat16
    assert (vae.config.scaling_factor, schedule.config.beta_end) == (0.18215, 0.012)


@torch.no_grad()
def test_it_paints_what_it_painted(tmp_path):
    ours, _ = parts(1)
    unet, _, _ = load_diffusion(save(in_one(*parts(1)), tmp_path / "sd.safetensors"))
    noisy, words = torch.randn(1, 4, 8, 8), torch.randn(1, 3, 12)
    expected = ours.eval()(noisy, 7, words).sample
    assert torch.allclose(unet.eval()(torch.cat([noisy, noisy], 1), 7, words).sample, expected, atol=1e-5)


def test_for_weights_from_elsewhere_only_sizes_are_taken(tmp_path):
    unet = empty_unet(save(in_one(*parts(1)), tmp_path / "sd.safetensors"))
    assert unet.conv_in.weight.is_meta and unet.conv_in.in_channels == 8


def refused(path: Path) -> str:
    with pytest.raises(WeightsError) as error:
        load_diffusion(path)
    return str(error.value)


def test_what_does_not_fit_is_listed(tmp_path):
    held = in_one(*parts(1))
    held["model.diffusion_model.strange"] = torch.zeros(1)  # the library passes over this one
    held["model.diffusion_model.input_blocks.1.0.out_layers.9.bias"] = torch.zeros(1)  # and takes this
    for name in ("out.2.bias", "input_blocks.2.0.op.bias"):
        del held[f"model.diffusion_model.{name}"]
    held["model.diffusion_model.out.0.bias"] = torch.zeros(3)
    said = refused(save(held, tmp_path / "sd.safetensors"))
    assert "5 tensors differ" in said and "unexpected strange" in said
    assert "missing conv_out.bias" in said and "missing down_blocks.0.downsamplers.0.conv.bias" in said
    assert "unexpected down_blocks.0.resnets.0.out_layers.9.bias" in said
    assert "misshapen conv_norm_out.bias in sd.safetensors: [3], expected [32]" in said


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"edit_head.query": torch.zeros(1)}, "it has edit_head.query", id="stranger"),
        pytest.param({"model.diffusion_model.label_emb.0.0.weight": torch.zeros(1)}, "labels", id="larger"),
    ],
)
def test_other_files(tmp_path, changes: dict, sentence: str):
    said = refused(save(in_one(*parts(1)) | changes, tmp_path / "sd.safetensors"))
    assert "is no file of Stable Diffusion 1 or 2" in said and sentence in said


def test_files_without_a_part(tmp_path):
    held = in_one(*parts(1))
    vae = {name: tensor for name, tensor in held.items() if name.startswith("first_stage_model.")}
    assert "it has no model.diffusion_model.*" in refused(save(vae, tmp_path / "vae.safetensors"))
    for name, value in (
        ("model.diffusion_model.out.2.weight", None),
        ("model.diffusion_model.input_blocks.1.0.in_layers.2.weight", torch.zeros(1, 32, 3, 3)),
        ("first_stage_model.encoder.conv_in.weight", None),
        ("first_stage_model.decoder.up.1.upsample.conv.bias", None),
    ):
        changed = {key: tensor for key, tensor in held.items() if key != name}
        changed |= {} if value is None else {name: value}
        said = refused(save(changed, tmp_path / "sd.safetensors"))
        assert "cannot be told" in said or "describes no" in said


def test_damaged_missing_and_dangerous_files(tmp_path):
    path = save(in_one(*parts(1)), tmp_path / "sd.safetensors")
    path.write_bytes(path.read_bytes()[:5000])
    assert "damaged or cut short" in refused(path)
    torch.save({"state_dict": {"a": torch.zeros(1)}, "callbacks": Path("/")}, tmp_path / "sd.ckpt")
    assert "something other than tensors" in refused(tmp_path / "sd.ckpt")
    assert "is missing" in refused(tmp_path / "none.ckpt")
    with pytest.raises(WeightsError, match="give a diffusers folder with text_encoder/"):
        load_text_model(tmp_path / "sd.ckpt")
