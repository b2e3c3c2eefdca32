import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_patch.folders import MANIFEST, file_hash
from mgie.errors import ConfigError, WeightsError
from mgie.pipeline import MGIEPipeline
from mgie.weights.intact import intact
from mgie.weights.release import RELEASE, fetch, read_release, write_release

DEEP = '{"a":' * 30_000 + "1" + "}" * 30_000


@pytest.fixture(scope="module")
def whole(release, tmp_path_factory) -> Path:
    return write_release(release, tmp_path_factory.mktemp("whole") / "release")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil; what it does not touch are links to the same files."""
    return shutil.copytree(whole, tmp_path / "release", copy_function=os.link)


def rewrite(path: Path, content: bytes | str) -> None:
    path.unlink(missing_ok=True)  # not the file that it is linked to
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def change(path: Path, **values) -> None:
    """Put values into a JSON file."""
    rewrite(path, json.dumps(json.loads(path.read_text()) | values))


def refused(folder: Path, match: str | None = None) -> str:
    """The one sentence that loading ends in, before anything is built; `intact` alone, for speed."""
    with pytest.raises(WeightsError, match=match) as caught, intact(folder, kind=RELEASE):
        pass
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
    return str(caught.value)


def damages(content: bytes) -> dict[str, bytes]:
    """What may happen to a file."""
    size = len(content)
    spoilt = {
        "cut": content[: size // 2],
        "one byte short": content[:-1],
        "empty": b"",
        "longer": content + b"\0",
    }
    for place in sorted({0, size // 7, size // 3, size // 2, size * 6 // 7, size - 1}):
        flipped = bytearray(content)
        flipped[place] ^= 1
        spoilt[f"byte {place} of {size}"] = bytes(flipped)
    return spoilt


def test_every_damage_of_every_file_is_one_sentence(folder: Path):
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "README.md"]
    assert len(files) >= 18
    silent = []
    for path in files:
        content = path.read_bytes()
        for what, spoilt in damages(content).items():
            rewrite(path, spoilt)
            try:
                refused(folder)
            except pytest.fail.Exception:
                silent.append(f"{path.name}: {what}")
        if path.name != MANIFEST:
            path.unlink()
            refused(folder, "is missing")
        rewrite(path, content)
    with intact(folder, kind=RELEASE):
        pass
    assert silent == [f"{MANIFEST}: one byte short"]  # the end of its last line


def test_two_files_that_changed_places(folder: Path):
    for one, other in (
        ("unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"),
        ("unet/config.json", "vae/config.json"),
    ):
        (folder / one).rename(folder / "x")
        (folder / other).rename(folder / one)
        (folder / "x").rename(folder / other)
        refused(folder, "bytes, expected|another SHA-256")


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "llava/vision_tower/model.safetensors"]
)
def test_other_values_that_would_load_are_refused_by_loading(folder: Path, name: str):
    tensors = load_file(folder / name)
    first = next(iter(tensors))
    tensors[first] = tensors[first] + 1
    (folder / name).unlink()
    save_file(tensors, folder / name, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"is not what was written .* or set verify to false"):
        MGIEPipeline.from_pretrained(folder)
    MGIEPipeline.from_pretrained(folder, verify=False)


def test_that_a_file_is_damaged_is_said_before_what_it_led_to(folder: Path):
    path = folder / "vae" / "diffusion_pytorch_model.safetensors"
    content = bytearray(path.read_bytes())
    content[12] ^= 1  # within the header: no tensor would fit any more
    rewrite(path, bytes(content))
    with pytest.raises(WeightsError, match="another SHA-256"), intact(folder, kind=RELEASE):
        raise WeightsError("9 tensors differ")
    with pytest.raises(KeyboardInterrupt), intact(folder, kind=RELEASE):
        raise KeyboardInterrupt


def test_the_card_may_be_edited_and_other_files_lie_beside(folder: Path):
    rewrite(folder / "README.md", "# mine")
    (folder / "samples").mkdir()
    for name in ("samples/a.png", ".gitattributes", "unet/.DS_Store"):
        (folder / name).write_text("x")
    with intact(folder, kind=RELEASE):
        pass


@pytest.mark.parametrize(
    "name",
    [
        "llava/model-00001-of-00001.safetensors",
        "llava/model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "mllm.pt",
        "vae/old/x.bin",
    ],
)
def test_files_that_would_be_read_instead(folder: Path, name: str):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("x")
    refused(folder, "was not written with it and might be read instead")


def test_a_folder_of_another_kind_and_one_without_hashes(folder: Path):
    content = json.loads((folder / MANIFEST).read_text())
    change(folder / MANIFEST, kind="report")
    refused(folder, "holds a report, expected a release")
    for facts in content["files"].values():
        del facts["sha256"]
    rewrite(folder / MANIFEST, json.dumps(content))
    refused(folder, "has no SHA-256 of")


@pytest.mark.parametrize("text", ["[]", "{}", "null", "\xff", DEEP, '{"kind": "release", "files": {}}'])
def test_manifests_that_are_none(folder: Path, text: str):
    rewrite(folder / MANIFEST, text.encode("latin-1"))
    refused(folder, "is no manifest of a whole folder")


def test_without_a_manifest_there_is_a_warning_and_without_verify_nothing(folder: Path, recwarn):
    (folder / MANIFEST).unlink()
    with intact(folder, kind=RELEASE, verify=False), intact(folder, kind=RELEASE, expected=False):
        assert not recwarn.list
    with pytest.warns(UserWarning, match=r"has no manifest\.json, so its files are taken as they are"):
        read_release(folder)


# Nothing in a release leads out of it.


def test_links_lead_nowhere_else(folder: Path, tmp_path: Path):
    (folder / "unet" / "config.json").rename(tmp_path / "config.json")
    (folder / "unet" / "config.json").symlink_to(tmp_path / "config.json")
    for verify in (True, False):
        with (
            pytest.raises(WeightsError, match=r"is a link to .*, out of its folder"),
            intact(folder, kind=RELEASE, verify=verify),
        ):
            pass
    (folder / "unet" / "config.json").unlink()
    (folder / "unet").rename(tmp_path / "unet")
    (folder / "unet").symlink_to(tmp_path / "unet")
    refused(folder, "is a link to")
    with intact(
        folder, kind=RELEASE, verify=False, expected=False
    ):  # as for Apple's files, put there by hand
        pass


def test_the_hub_s_cache_is_links_to_its_own_files(folder: Path, tmp_path: Path):
    home = tmp_path / "models--me--editor"
    (home / "blobs").mkdir(parents=True)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        blob = home / "blobs" / file_hash(path)
        shutil.copyfile(path, blob)
        link = home / "snapshots" / "0a1b" / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    read_release(home / "snapshots" / "0a1b")
    (home / "blobs" / file_hash(folder / "run.yaml")).write_text("x")
    refused(home / "snapshots" / "0a1b", "run.yaml has 1 bytes")


@pytest.mark.parametrize("named", ["/tmp", "../../tower", "openai/clip-vit-large-patch14", "unet", None])
def test_the_vision_tower_is_the_release_s_own(folder: Path, named: str | None):
    change(folder / "llava" / "config.json", mm_vision_tower=named)
    with pytest.raises(WeightsError, match=r"names the vision tower .* expected its own vision_tower"):
        read_release(folder, verify=False)


def test_a_tower_that_is_not_there_is_not_looked_for(folder: Path, tmp_path: Path, monkeypatch):
    (folder / "llava" / "vision_tower").rename(tmp_path / "vision_tower")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="expected its own vision_tower"):
        read_release(folder, verify=False)


def test_configurations_name_no_code(folder: Path, release):
    """What would be fetched from a hub and run is passed over; the caller says how attention is computed."""
    evil = {"attn_implementation": "kernels-community/evil", "_attn_implementation": "a/b",
            "_attn_implementation_internal": "a/b", "auto_map": {"AutoModel": "evil--x.Y"},
            "tokenizer_file": "/etc/passwd", "vocab_file": "../../x", "name_or_path": "a/b"}  # fmt: skip
    names = (
        "llava/config.json",
        "llava/vision_tower/config.json",
        "llava/tokenizer_config.json",
        "unet/config.json",
    )
    for name in names:
        change(folder / name, **evil)
    again = read_release(folder, verify=False)
    assert again.editor.encoder.llava.language_model.config._attn_implementation == "sdpa"
    assert again.editor.encoder.llava.vision_tower.config._attn_implementation == "sdpa"
    assert again.prompts.processor.tokenizer.encode("a b") == release.prompts.processor.tokenizer.encode(
        "a b"
    )
    with pytest.raises(
        ConfigError, match="attention 'kernels-community/x' is not known: expected one of sdpa"
    ):
        read_release(folder, verify=False, attention="kernels-community/x")


# No size is taken on trust.


@pytest.mark.parametrize(
    ("file", "values"),
    [
        ("llava/config.json", {"num_hidden_layers": 100_000}),
        ("llava/config.json", {"intermediate_size": 10**9}),
        ("llava/vision_tower/config.json", {"num_hidden_layers": 100_000}),
        ("unet/config.json", {"layers_per_block": 100_000}),
        ("unet/config.json", {"transformer_layers_per_block": 100_000}),
        ("vae/config.json", {"encoder_layers_per_block": [0, 1, 1, 100_000]}),
        ("edit_head/config.json", {"layers": 100_000}),
        ("edit_head/config.json", {"queries": 10**12}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**12}),
        ("llava/preprocessor_config.json", {"size": {"shortest_edge": 10**8}}),
    ],
)
def test_sizes_beyond_what_the_files_hold(folder: Path, file: str, values: dict):
    change(folder / file, **values)
    with pytest.raises((WeightsError, ConfigError), match=r"asks for .* but|describes no|shortest edge"):
        read_release(folder, verify=False)


@pytest.mark.parametrize(
    "file",
    ["model_index.json", "llava/config.json", "llava/tokenizer_config.json", "llava/preprocessor_config.json",
     "unet/config.json", "scheduler/scheduler_config.json", "edit_head/config.json"],
)  # fmt: skip
def test_deeply_nested_files(folder: Path, file: str):
    rewrite(folder / file, DEEP)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_release(folder, verify=False)


def test_a_text_that_is_none(folder: Path):
    rewrite(folder / "run.yaml", b"\xff\xfe")
    with pytest.raises(WeightsError, match="is no text in UTF-8"):
        read_release(folder, verify=False)


# What from_pretrained may be told.


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"torch_dtyp": torch.float16}, "no option torch_dtyp: did you mean torch_dtype"),
        ({"anything": 1}, "no option anything: expected some of torch_dtype"),
        ({"revision_": "v1"}, "no option revision_: did you mean revision"),
        ({"revision": "v1"}, "revision='v1' is for the hub, but .* is a folder here"),
        ({"force_download": True}, "force_download=True is for the hub"),
        ({"llava": "x"}, "llava and diffusion are for published files"),
    ],
)
def test_what_from_pretrained_cannot_heed(folder: Path, options: dict, sentence: str):
    with pytest.raises(ConfigError, match=sentence):
        MGIEPipeline.from_pretrained(folder, **options)


def test_options_of_the_hub_that_do_a_folder_no_harm(folder: Path):
    assert fetch(folder, revision=None, cache_dir="x", token="t", local_files_only=True) == folder
