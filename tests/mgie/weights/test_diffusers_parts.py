import json
import shutil
import weakref
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderDC, AutoencoderKL, AutoencoderTiny, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import CLIPTextModel

from llava_patch.shards import read_tensors
from mgie.errors import WeightsError
from mgie.weights.diffusers_parts import (
    empty_unet,
    load_diffusion,
    load_scheduler,
    load_text_model,
    load_vae,
)

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


OTHERS = {
    "tiny": lambda channels: AutoencoderTiny(
        encoder_block_out_channels=(4, 4), decoder_block_out_channels=(4, 4), num_encoder_blocks=(0, 1),
        num_decoder_blocks=(1, 0), latent_channels=channels,
    ),
    "dc": lambda channels: AutoencoderDC(
        encoder_block_out_channels=(16, 16), decoder_block_out_channels=(16, 16), latent_channels=channels,
        encoder_layers_per_block=(0, 1), decoder_layers_per_block=(0, 1), encoder_qkv_multiscales=((), ()),
        decoder_qkv_multiscales=((), ()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_a_folder_may_hold_another_autoencoder(folder: Path, kind: str):
    channels = json.loads((folder / "vae" / "config.json").read_text())["latent_channels"]
    shutil.rmtree(folder / "vae")
    other = OTHERS[kind](channels)
    other.save_pretrained(folder / "vae")
    _, vae, _ = load_diffusion(folder)
    assert type(vae) is type(other)
    assert all(torch.equal(vae.state_dict()[name], tensor) for name, tensor in other.state_dict().items())


def test_an_autoencoder_that_is_none_of_these(folder: Path):
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"_class_name": "VQModel"}))
    with pytest.raises(WeightsError, match="class VQModel: expected one of AutoencoderKL, AutoencoderTiny"):
        load_diffusion(folder)


def test_only_the_input_of_a_text_to_image_unet_is_widened(folder: Path):
    before = narrow(folder).state_dict()
    unet, _, _ = load_diffusion(folder)
    channels, after = unet.config.out_channels, unet.state_dict()
    assert unet.config.in_channels == 2 * channels
    assert torch.equal(after["conv_in.weight"][:, :channels], before["conv_in.weight"])
    assert not after["conv_in.weight"][:, channels:].any()
    others = [name for name in before if name != "conv_in.weight"]
    assert not [name for name in others if not torch.equal(after[name], before[name])]


class Seen(TorchDispatchMode):
    """The types in which tensors of more than `size` numbers come to be."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.types = size, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() > self.size and not result.is_meta:
            self.types.add(result.dtype)
        return result


def test_each_part_in_its_own_type_and_in_no_other_on_the_way(folder: Path):
    """Stored in float16 here: a float32 copy would have to be made."""
    with Seen(size=2000) as seen:
        unet, vae, _ = load_diffusion(folder, dtype=torch.bfloat16, vae_dtype=torch.float16)
        words = load_text_model(folder, dtype=torch.bfloat16)
    assert seen.types - {torch.uint8} == {torch.float16, torch.bfloat16}  # bytes of a file
    for part, model, dtype in (
        ("unet", unet, torch.bfloat16), ("vae", vae, torch.float16), ("text_encoder", words, torch.bfloat16)
    ):  # fmt: skip
        (file,) = (folder / part).glob("*.safetensors")
        stored, loaded = load_file(file), model.state_dict()
        assert {tensor.dtype for tensor in loaded.values()} == {dtype}
        assert not [name for name in stored if not torch.equal(stored[name].to(dtype), loaded[name])]
    assert load_vae(folder, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert load_diffusion(folder, dtype=torch.bfloat16)[1].dtype == torch.bfloat16


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


def in_pickles(folder: Path, count: int) -> dict[str, torch.Tensor]:
    """Turn a part's weights into `count` pickled shards."""
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    for number in range(count):
        name = f"diffusion_pytorch_model-{number + 1:05d}-of-{count:05d}.bin"
        torch.save({key: tensors[key] for key in sorted(tensors)[number::count]}, folder / name)
    return tensors


def test_pickled_shards_one_at_a_time(folder: Path, monkeypatch, capsys):
    stored = in_pickles(folder / "unet", 3)
    earlier: list[weakref.ref] = []

    def watched(path: Path) -> dict[str, torch.Tensor]:
        assert sum(reference() is not None for reference in earlier) <= 1, f"tensors live beside {path}"
        tensors = read_tensors(path)
        earlier.extend(weakref.ref(value) for value in tensors.values())
        return tensors

    monkeypatch.setattr("llava_patch.shards.read_tensors", watched)
    loaded = load_diffusion(folder, progress=True)[0].state_dict()
    assert len(earlier) > len(stored) == len(loaded)
    assert not [name for name in stored if not torch.equal(stored[name], loaded[name])]
    assert "loading unet" in capsys.readouterr().err
    (folder / "unet" / "diffusion_pytorch_model-00002-of-00003.bin").unlink()
    with pytest.raises(WeightsError, match="has 2 of 3 shards; fetch the missing ones"):
        load_diffusion(folder)


def test_pickles_that_hold_more_than_tensors(folder: Path):
    (folder / "unet" / WEIGHTS).unlink()
    content = {
        "conv_in.bias": Path("/"),
        "conv_in.weight": torch.zeros(5 * 10**6),
    }  # as large as they should be
    torch.save(content, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(WeightsError, match=r"unet cannot be loaded from .* holds something other than tens"):
        load_diffusion(folder)


def test_other_shapes_are_all_listed(folder: Path):
    tensors = load_file(folder / "unet" / WEIGHTS)
    for name in ("conv_out.bias", "conv_in.bias"):
        tensors[name] = torch.zeros(3)
    save_file(tensors, folder / "unet" / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"unet cannot be loaded from .* 2 tensors differ") as error:
        load_diffusion(folder)
    for name in ("conv_out.bias", "conv_in.bias"):
        assert f"misshapen {name} in {WEIGHTS}: [3], expected" in str(error.value)


@pytest.mark.parametrize(
    ("part", "content"),
    [
        ("unet/config.json", "3"),
        ("unet/config.json", '{"in_channels": "x"}'),
        ("vae/config.json", '{"act_fn": null}'),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": "x"}'),
    ],
)
def test_configurations_of_nothing(folder: Path, part: str, content: str):
    (folder / part).write_text(content)
    with pytest.raises(WeightsError, match=rf"cannot be loaded from .*{Path(part).name} (holds|describes)"):
        load_diffusion(folder)
    if part.startswith("unet"):
        with pytest.raises(WeightsError, match=r"cannot be loaded from .* (holds|describes)"):
            empty_unet(folder)


@pytest.mark.parametrize("pickled", [False, True])
def test_of_a_hub_s_files_only_those_that_are_read(base, tmp_path, monkeypatch, pickled: bool):
    hub = Path(shutil.copytree(base["diffusion"], tmp_path / "hub"))
    if pickled:
        in_pickles(hub / "unet", 1), in_pickles(hub / "vae", 2)
    for part in ("unet", "vae"):
        for other in ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.bin"):
            (hub / part / other).write_text("another precision")

    def fetch(name: str, *, allow_patterns: list[str]) -> str:
        assert name == "somebody/painter"
        for path in hub.rglob("*"):
            inside = path.relative_to(hub).as_posix()
            if path.is_file() and any(fnmatch(inside, pattern) for pattern in allow_patterns):
                (tmp_path / "here" / inside).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, tmp_path / "here" / inside)
        return str(tmp_path / "here")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    assert empty_unet("somebody/painter").conv_in.weight.is_meta
    assert not [path for path in tmp_path.glob("here/unet/*") if path.suffix != ".json"]
    ours, theirs = (
        load_diffusion(where)[0].state_dict() for where in (base["diffusion"], "somebody/painter")
    )
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    (hub / "text_encoder" / "model.fp16.safetensors").write_text("another precision")
    words = load_text_model("somebody/painter").state_dict()
    stored = load_file(hub / "text_encoder" / "model.safetensors")
    assert not [name for name in stored if not torch.equal(stored[name].float(), words[name])]
    assert not list(tmp_path.glob("here/*/*fp16*")) + list(tmp_path.glob("here/*/*non_ema*"))


def test_neither_a_folder_nor_on_the_hub(tmp_path):
    with pytest.raises(WeightsError, match=r"scheduler cannot be loaded from .* the hub does not give it"):
        load_diffusion(tmp_path / "gone")


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
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    with pytest.raises(WeightsError, match=r"vae cannot be loaded from .*vae/diffusion.* damaged or cut sh"):
        load_diffusion(folder)
    path.write_bytes(whole[:1000])
    with pytest.raises(WeightsError, match=r"vae cannot be loaded from .* of its weights have 1000 bytes"):
        load_diffusion(folder)


@torch.no_grad()
def test_a_text_encoder_under_its_older_names(folder: Path):
    """As Stable Diffusion 1.5 is published, with a constant beside its weights."""
    file = folder / "text_encoder" / "model.safetensors"
    stored = load_file(file)
    older = {f"text_model.{name}": tensor for name, tensor in stored.items()}
    older["text_model.embeddings.position_ids"] = torch.zeros(1, 24, dtype=torch.long)
    save_file(older, file, metadata={"format": "pt"})
    model = load_text_model(folder)
    loaded = model.state_dict()
    assert stored.keys() == loaded.keys() and not model.training
    assert not [name for name in stored if not torch.equal(stored[name].float(), loaded[name])]
    theirs = CLIPTextModel.from_pretrained(folder / "text_encoder", torch_dtype=torch.float32)
    ids = torch.arange(3, 11)[None]
    assert torch.equal(model(ids).last_hidden_state, theirs(ids).last_hidden_state)


def test_a_text_encoder_that_differs_from_its_configuration(folder: Path):
    file, config = (folder / "text_encoder" / name for name in ("model.safetensors", "config.json"))
    tensors = load_file(file)
    tensors["strange"] = tensors.pop("final_layer_norm.bias")
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"text_encoder cannot be loaded from .* 2 tensors differ"):
        load_text_model(folder)
    content = json.loads(config.read_text())
    for changes, sentence in (
        ({"num_hidden_layers": 10**5}, "asks for"),
        ({"hidden_size": "x"}, "describes no"),
        ({"num_attention_heads": 7}, "describes no"),
    ):
        config.write_text(json.dumps(content | changes))
        with pytest.raises(WeightsError, match=rf"text_encoder cannot be loaded from .* {sentence}"):
            load_text_model(folder)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(WeightsError, match=r"text_encoder cannot be loaded from .* \(it has no folder"):
        load_text_model(folder)
