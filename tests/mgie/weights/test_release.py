import filecmp
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load_file, save_file

from llava_patch.loading import LISTED
from mgie.diffusion.process import FlowProcess
from mgie.errors import ConfigError, DeviceError, WeightsError
from mgie.pipeline import MGIEPipeline
from mgie.prompts import visual_ids
from mgie.weights.release import fetch, read_release, write_release

HEAD = "edit_head/model.safetensors"


@pytest.fixture
def folder(release, tmp_path) -> Path:
    return write_release(release, tmp_path / "release")


def files(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def change(path: Path, **values) -> None:
    """Put values into a JSON file; None removes a key."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def test_the_folder_is_a_diffusers_folder(release, folder: Path):
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md", "edit_head", "llava", "manifest.json", "model_index.json",
        "run.yaml", "scheduler", "unet", "vae",
    ]  # fmt: skip
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "MGIEPipeline"
    assert index["_encoder"] == {"kind": "llava", "question": release.prompts.template}
    assert index["_denoiser"] == {"kind": "unet", "source_scaled": False}
    assert index["_process"]["kind"] == "variance"
    assert index["_process"]["schedule"]["beta_end"] == release.process.schedule.config.beta_end
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: diffusers") and "(LLaVA) looks" in card and "A UNet of" in card
    assert not [file for file in files(folder) if file.endswith((".bin", ".pt", ".py", ".pkl"))]


@pytest.mark.parametrize("name", ["FlowMapEulerDiscreteScheduler", "LTXEulerAncestralRFScheduler"])
def test_a_process_is_read_and_not_guessed_from_the_sampler(release, tmp_path: Path, name: str):
    flow = FlowProcess(FlowMatchEulerDiscreteScheduler(shift=2.5))
    write_release(replace(release, process=flow, scheduler=flow.sampler(name)), tmp_path / "flow")
    process = read_release(tmp_path / "flow").process
    assert type(process) is FlowProcess and process.schedule.config.shift == 2.5
    said = {key for key in process.schedule.config if key not in process.schedule.config._use_default_values}
    assert "shift" in said and "max_shift" not in said, "samplers have other defaults"


def test_an_index_from_before_the_process_was_noted_is_read(folder: Path):
    before = read_release(folder).process
    change(folder / "model_index.json", _process=None)
    process = read_release(folder, verify=False).process
    assert type(process) is type(before) and process.predicts == before.predicts
    assert torch.equal(process.schedule.alphas_cumprod, before.schedule.alphas_cumprod)


def test_no_file_tells_where_it_was_made(folder: Path, base):
    made_at = [str(path).encode() for path in (*base.values(), folder)]
    for file in files(folder):
        if not file.endswith(".safetensors"):
            content = (folder / file).read_bytes()
            assert not [place for place in made_at if place in content], file


def test_what_is_read_is_what_was_written(release, folder: Path, tensors):
    again = read_release(folder)
    ours, theirs = tensors(release), tensors(again)
    assert ours.keys() == theirs.keys()
    assert not [name for name in ours if not torch.equal(ours[name], theirs[name])]
    assert again.settings == release.settings
    assert again.run_yaml == release.run_yaml
    schedule = release.scheduler.config
    assert {name: schedule[name] for name in schedule if not name.startswith("_")} == {
        name: value for name, value in again.scheduler.config.items() if not name.startswith("_")
    }
    assert not [
        part
        for part in (
            again.editor.encoder.llava,
            again.editor.denoiser.unet,
            again.editor.codec.vae,
            again.editor.encoder.edit_head,
        )
        if part.training
    ]


def test_loading_and_saving_gives_the_same_bytes(folder: Path, tmp_path):
    MGIEPipeline.from_pretrained(folder).save_pretrained(tmp_path / "again")
    assert files(folder) == files(tmp_path / "again")
    same, other, failed = filecmp.cmpfiles(folder, tmp_path / "again", files(folder), shallow=False)
    assert (other, failed) == ([], [])
    assert HEAD in same


def test_another_type_is_the_file_s_values_in_that_type(release, folder: Path, tensors):
    half = tensors(read_release(folder, dtype=torch.bfloat16))
    for name, tensor in tensors(release).items():
        assert torch.equal(half[name], tensor.to(torch.bfloat16)), name


def test_an_older_release_is_replaced_and_nothing_else_is(release, folder: Path, tmp_path):
    (folder / "README.md").write_text("of the older release")
    write_release(release, folder)
    assert "of the older" not in (folder / "README.md").read_text()
    (folder / "notes.txt").write_text("dear")
    with pytest.raises(ConfigError, match=r"notes\.txt in it was not written with it"):
        write_release(release, folder)
    (folder / "notes.txt").unlink()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "file").write_text("dear")
    for place in ("mine", "file"):
        with pytest.raises(ConfigError, match=r"was not written here|is a file"):
            write_release(release, tmp_path / place)
    assert files(tmp_path / "mine") == ["letter.txt"]


def test_a_link_to_a_folder_stays_one(release, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for _ in range(2):
        write_release(release, tmp_path / "link")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "link"]
        assert (tmp_path / "link").is_symlink() and (tmp_path / "disk" / "model_index.json").is_file()


@pytest.mark.parametrize("older", [True, False])
def test_a_failure_leaves_what_was_there(release, folder: Path, tmp_path, monkeypatch, older: bool):
    before = {file: (folder / file).read_bytes() for file in files(folder)}
    out = folder if older else tmp_path / "new"

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release.editor.codec.vae, "save_pretrained", full)
    with pytest.raises(DeviceError, match="the disk is full"):
        write_release(release, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]
    assert {file: (folder / file).read_bytes() for file in files(folder)} == before


def test_tensors_that_do_not_fit_are_listed_in_one_error(folder: Path):
    tensors = load_file(folder / HEAD)
    tensors["strange"] = tensors.pop("hid2feat.bias")
    tensors["query"] = tensors["query"][:, :-1].contiguous()
    save_file(tensors, folder / HEAD)
    with pytest.raises(WeightsError) as error:
        read_release(folder, verify=False)
    for part in ("3 tensors differ", "missing hid2feat.bias", "unexpected strange", "misshapen query"):
        assert part in str(error.value)


def test_long_lists_are_cut(folder: Path):
    save_file({"query": torch.zeros(10**6)}, folder / HEAD)  # as large as the head is
    with pytest.raises(WeightsError, match=r"; and \d+ more") as error:
        read_release(folder, verify=False)
    assert str(error.value).count("missing") == LISTED


@pytest.mark.parametrize(
    ("file", "spoil", "sentence"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "holds a FluxPipeline"),
        ("scheduler/scheduler_config.json", {"_class_name": "os.system"}, "names the scheduler 'os.system'"),
        ("edit_head/config.json", {"width": None}, "describes no edit head"),
        ("edit_head/config.json", {"colour": 3}, "describes no edit head"),
        ("edit_head/config.json", {"heads": 0}, "describes no edit head"),
        ("scheduler/scheduler_config.json", {"beta_schedule": "x"}, "describes no schedule"),
        ("unet/config.json", {"cross_attention_dim": "x"}, "describes no UNet2DConditionModel"),
        ("model_index.json", {"unet": 3}, "has the settings unet, which this version"),
    ],
)
def test_foreign_configurations(folder: Path, file: str, spoil: dict, sentence: str):
    change(folder / file, **spoil)
    with pytest.raises(WeightsError, match=sentence):
        MGIEPipeline.from_pretrained(folder, verify=False)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("model_index.json", "has no model_index.json"),
        ("unet/config.json", "has no config.json"),
        ("unet/diffusion_pytorch_model.safetensors", "holds no weights"),
        ("llava/tokenizer.model", "has no tokenizer.model"),
        ("llava/preprocessor_config.json", "has no preprocessor_config.json"),
        ("llava/vision_tower/config.json", "has no config.json"),
    ],
)
def test_missing_files(folder: Path, file: str, sentence: str):
    (folder / file).unlink()
    with pytest.raises(WeightsError, match=sentence):
        read_release(folder, verify=False)


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("model_index.json", "cannot be read"),
        ("vae/diffusion_pytorch_model.safetensors", "damaged or cut short"),
        ("llava/model.safetensors", "damaged or cut short"),
    ],
)
def test_truncated_files(folder: Path, file: str, sentence: str):
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=sentence):
        read_release(folder, verify=False)


def test_neither_a_folder_nor_on_the_hub(tmp_path):
    assert fetch(tmp_path) == tmp_path
    with pytest.raises(WeightsError, match="there is no release folder nobody/nothing, and the hub"):
        fetch("nobody/nothing", local_files_only=True)


def test_a_tokenizer_without_visual_tokens(release, base):
    from llava_patch.processor import Processor

    assert len(visual_ids(release.prompts.processor, 8)) == 8
    with pytest.raises(WeightsError, match=r"\[IMG0\]"):
        visual_ids(Processor.from_pretrained(base["llava"]), 8)


def test_a_unet_that_sees_no_source_is_refused(folder: Path):
    weights, name = folder / "unet" / "diffusion_pytorch_model.safetensors", "conv_in.weight"
    found = load_file(weights)
    channels = json.loads((folder / "unet" / "config.json").read_text())["out_channels"]
    save_file(found | {name: found[name][:, :channels].contiguous()}, weights)
    change(folder / "unet" / "config.json", in_channels=channels)
    with pytest.raises(WeightsError, match=rf"takes {channels} channels, .* expected twice as many"):
        read_release(folder, verify=False)
