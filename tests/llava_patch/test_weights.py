import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_patch import Llava, LlavaTokenizer, Processor, load_llava, save_llava, start_llava
from llava_patch.errors import DeviceError, UserError, WeightsError
from llava_patch.shards import read_tensors, write_tensors
from llava_patch.weights import from_published, to_published


def quiet(folder: Path, **options) -> tuple[Llava, LlavaTokenizer]:
    return load_llava(folder, progress=False, **options)


def as_pickles(folder: Path, count: int, extra: dict[str, torch.Tensor] | None = None) -> None:
    """Turn a folder's weights into `count` pickled shards, as LLaVA was published."""
    content = load_file(folder / "model.safetensors") | (extra or {})
    (folder / "model.safetensors").unlink()
    for place in range(count):
        part = {
            name: value for number, (name, value) in enumerate(content.items()) if number % count == place
        }
        single = folder / "pytorch_model.bin"
        torch.save(
            part, single if count == 1 else folder / f"pytorch_model-{place + 1:05d}-of-{count:05d}.bin"
        )


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of a folder; dots are written as double underscores."""
    content = load_file(folder / "model.safetensors")
    for name, value in tensors.items():
        content.pop(name.replace("__", "."), None)
        if value is not None:
            content[name.replace("__", ".")] = value
    write_tensors(folder, content.items())


def equal(left: Llava, right: Llava) -> bool:
    ours, theirs = left.state_dict(), right.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_names_there_and_back(model: Llava):
    for name in model.state_dict():
        assert from_published(to_published(name)) == name
    assert (
        to_published("language_model.model.layers.0.mlp.up_proj.weight")
        == "model.layers.0.mlp.up_proj.weight"
    )
    assert (
        to_published("vision_tower.pre_layrnorm.bias") == "model.vision_tower.vision_model.pre_layrnorm.bias"
    )
    assert from_published("model.layers.0.self_attn.rotary_emb.inv_freq") is None
    with pytest.raises(WeightsError, match=r"edit\.weight is no tensor of LLaVA"):
        to_published("edit.weight")


def test_saved_and_loaded(model: Llava, folder: Path, tokenizer: LlavaTokenizer):
    loaded, read = quiet(folder)
    assert equal(loaded, model)
    assert read.added == tokenizer.added
    assert loaded.tokens == model.tokens
    assert loaded.config.to_published() == model.config.to_published() | {"torch_dtype": "float32"}


def test_everything_follows_from_files_and_configuration(model: Llava, folder: Path, processor, clip_pixels):
    loaded, _ = quiet(folder)
    for left, right in zip(loaded.named_buffers(), model.named_buffers(), strict=True):
        assert left[0] == right[0]
        assert torch.equal(left[1], right[1]), left[0]
    assert not any(value.is_meta for value in [*loaded.parameters(), *loaded.buffers()])
    ids, mask = processor.pad([processor.encode("what?").input_ids])
    assert torch.equal(loaded(ids, mask, clip_pixels(1)), model(ids, mask, clip_pixels(1)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_published_pickles_of_any_shard_count(model: Llava, folder: Path, count: int):
    frequencies = {f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.zeros(4) for n in (0, 1)}
    as_pickles(folder, count, extra=frequencies)
    assert equal(quiet(folder)[0], model)


def test_several_safetensors(model: Llava, tokenizer: LlavaTokenizer, tmp_path: Path):
    save_llava(model, tokenizer, tmp_path / "out", limit=10_000)
    assert (tmp_path / "out" / "model.safetensors.index.json").is_file()
    assert equal(quiet(tmp_path / "out")[0], model)


def test_one_shard_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch):
    as_pickles(folder, 4)
    earlier: list[weakref.ref] = []

    def watched(path: Path) -> dict[str, torch.Tensor]:
        alive = sum(reference() is not None for reference in earlier)
        assert alive <= 1, f"{alive} tensors of earlier files live beside {path}"
        tensors = read_tensors(path)
        earlier.extend(weakref.ref(value) for value in tensors.values())
        return tensors

    monkeypatch.setattr("llava_patch.shards.read_tensors", watched)
    quiet(folder)
    assert len(earlier) > 20


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_precision(model: Llava, folder: Path, tokenizer: LlavaTokenizer, tmp_path: Path, dtype: torch.dtype):
    loaded, _ = quiet(folder, dtype=dtype)
    assert {value.dtype for value in loaded.parameters()} == {dtype}
    assert torch.equal(loaded.projector.weight, model.projector.weight.to(dtype))
    # Rotary frequencies stay in single precision whatever the weights are.
    assert loaded.language_model.model.rotary_emb.inv_freq.dtype == torch.float32
    save_llava(loaded, tokenizer, tmp_path / "out")
    assert load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].dtype == dtype
    assert json.loads((tmp_path / "out" / "config.json").read_text())["torch_dtype"] == str(dtype)[6:]
    assert equal(quiet(tmp_path / "out", dtype=dtype)[0], loaded)


def test_each_part_in_its_own_precision(model: Llava, folder: Path, tmp_path: Path, vicuna: Path):
    """Frozen layers in half precision beside trained tables, say."""
    half, whole = torch.bfloat16, torch.float32
    types = {"": whole, "vision_tower": half, "language_model.model": half}
    types["language_model.model.embed_tokens"] = whole
    loaded, tokenizer = quiet(folder, dtype=types)
    for name, value in loaded.state_dict().items():
        kept = name.startswith(("projector.", "language_model.lm_head.")) or "embed_tokens" in name
        assert torch.equal(value, model.state_dict()[name].to(whole if kept else half)), name
        assert value.dtype == (whole if kept else half)
    assert loaded.language_model.model.rotary_emb.inv_freq.dtype == whole
    save_llava(loaded, tokenizer, tmp_path / "out")
    assert equal(quiet(tmp_path / "out", dtype=types)[0], loaded)
    assert json.loads((tmp_path / "out/vision_tower/config.json").read_text())["torch_dtype"] == "bfloat16"
    options = {"vision_tower": folder / "vision_tower", "vision_layer": -2, "progress": False}
    started, _ = start_llava(vicuna, dtype=types, **options)
    assert {started.vision_tower.dtype, started.projector.weight.dtype} == {half, whole}


def test_the_tower_elsewhere(model: Llava, folder: Path, tokenizer: LlavaTokenizer, tmp_path: Path):
    (folder / "vision_tower").rename(tmp_path / "clip")
    with pytest.raises(WeightsError, match="vision_tower"):
        quiet(folder)
    loaded, _ = quiet(folder, vision_tower=tmp_path / "clip")
    assert equal(loaded, model)
    save_llava(loaded, tokenizer, tmp_path / "out", tower=False)
    assert not (tmp_path / "out" / "vision_tower").exists()
    assert equal(quiet(tmp_path / "out")[0], model)


def test_a_whole_clip_folder_is_a_tower_too(model: Llava, folder: Path):
    tower = folder / "vision_tower"
    config = json.loads((tower / "config.json").read_text())
    (tower / "config.json").write_text(
        json.dumps({"model_type": "clip", "vision_config": config, "text_config": {}})
    )
    change(
        tower,
        text_model__final_layer_norm__weight=torch.zeros(3),
        logit_scale=torch.zeros(1),
        visual_projection__weight=torch.zeros(2, 2),
        vision_model__embeddings__position_ids=torch.zeros(1, 5, dtype=torch.long),
    )
    assert equal(quiet(folder)[0], model)


def test_a_tower_as_transformers_saves_it(model: Llava, folder: Path, tmp_path: Path):
    model.vision_tower.save_pretrained(tmp_path / "clip")
    assert equal(quiet(folder, vision_tower=tmp_path / "clip")[0], model)


def test_others_may_read_what_was_written(folder: Path):
    plain = folder.parent / "plain"
    plain.write_text("")
    for path in (*folder.rglob("*"), folder):
        if path.is_file():
            assert path.stat().st_mode == plain.stat().st_mode, path
        else:
            assert path.stat().st_mode & 0o555 == 0o555


def test_one_error_lists_every_tensor_that_does_not_fit(folder: Path):
    change(
        folder,
        model__norm__weight=None,
        model__mm_projector__weight=torch.zeros(16, 9),
        model__mm_projector__bias=torch.zeros(16),
        edit_head__query=torch.zeros(1),
    )
    change(folder / "vision_tower", vision_model__pre_layrnorm__bias=None)
    with pytest.raises(WeightsError) as caught:
        quiet(folder)
    message = str(caught.value)
    assert "4 tensors differ" in message
    assert "missing model.norm.weight" in message
    assert "unexpected edit_head.query in model.safetensors" in message
    assert "misshapen model.mm_projector.weight in model.safetensors: [16, 9], expected [16, 8]" in message
    assert "missing model.vision_tower.vision_model.pre_layrnorm.bias" in message


@pytest.mark.parametrize(
    ("file", "key", "value"),
    [
        ("config.json", None, []),
        ("config.json", "mm_vision_select_layer", "x"),
        ("config.json", "head_dim", 0),
        ("config.json", "hidden_act", "x"),
        ("config.json", "rope_theta", None),
        ("vision_tower/config.json", None, 3),
        ("vision_tower/config.json", "image_size", None),
        ("vision_tower/config.json", "patch_size", 0),
        ("vision_tower/config.json", "hidden_act", "x"),
        ("preprocessor_config.json", None, None),
        ("preprocessor_config.json", "size", "x"),
        ("preprocessor_config.json", "image_mean", None),
        ("preprocessor_config.json", "resample", "x"),
        ("added_tokens.json", "<im_patch>", "x"),
    ],
)
def test_configurations_of_nothing(folder: Path, processor, file: str, key: str | None, value: object):
    processor.save_pretrained(folder)
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(value if key is None else content | {key: value}))
    with pytest.raises(UserError):
        quiet(folder)
        Processor.from_pretrained(folder)


def test_a_folder_without_its_tokens(folder: Path):
    (folder / "added_tokens.json").write_text("{}")
    with pytest.raises(WeightsError, match="lacks <im_patch>, <im_start>, <im_end>"):
        quiet(folder)


def test_a_tokenizer_larger_than_the_tables(folder: Path, tokenizer: LlavaTokenizer):
    tokenizer.add_tokens(["[A]"])
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=f"{len(tokenizer)} tokens.*{len(tokenizer) - 1}"):
        quiet(folder)


@pytest.fixture
def vicuna(folder: Path, tmp_path: Path) -> Path:
    """A language model's folder: no image tokens, no projector, no word about a tower."""
    plain = LlavaTokenizer.from_pretrained(Path(__file__).parent.parent / "golden" / "mgie" / "tokenizer")
    out = tmp_path / "vicuna"
    plain.save_pretrained(out)
    content = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in content.items() if "mm_projector" not in name}
    for table in ("model.embed_tokens.weight", "lm_head.weight"):
        kept[table] = kept[table][: len(plain)]
    write_tensors(out, kept.items())
    config = json.loads((folder / "config.json").read_text())
    config = {name: value for name, value in config.items() if "mm_" not in name}
    (out / "config.json").write_text(json.dumps(config | {"model_type": "llama", "vocab_size": len(plain)}))
    return out


def test_a_language_model_is_no_llava(vicuna: Path, folder: Path):
    with pytest.raises(UserError, match="does not say mm_vision_tower"):
        quiet(vicuna)
    with pytest.raises(UserError, match="does not say mm_vision_select_layer"):
        quiet(vicuna, vision_tower=folder / "vision_tower")


def test_a_llava_folder_without_projector(folder: Path):
    change(folder, model__mm_projector__weight=None, model__mm_projector__bias=None)
    with pytest.raises(WeightsError, match=r"missing model\.mm_projector\.weight"):
        quiet(folder)


def test_a_llava_begins_with_a_language_model(model: Llava, vicuna: Path, folder: Path, tmp_path: Path):
    options = {"vision_tower": folder / "vision_tower", "vision_layer": -2, "progress": False}
    started, tokenizer = start_llava(vicuna, **options)
    assert list(tokenizer.added) == ["<im_patch>", "<im_start>", "<im_end>"]
    assert started.vocabulary == len(tokenizer)
    ours, theirs = started.language_model.state_dict(), model.language_model.state_dict()
    for name, value in theirs.items():
        rows = -3 if name in ("model.embed_tokens.weight", "lm_head.weight") else None
        assert torch.equal(ours[name][:rows], value[:rows]), name
    assert torch.equal(start_llava(vicuna, **options)[0].projector.weight, started.projector.weight)
    assert not torch.equal(
        start_llava(vicuna, seed=1, **options)[0].projector.weight, started.projector.weight
    )
    assert all(value.isfinite().all() for value in started.parameters())
    save_llava(started, tokenizer, tmp_path / "out")
    assert equal(quiet(tmp_path / "out")[0], started)


def test_nothing_is_left_when_saving_fails(
    model: Llava, tokenizer: LlavaTokenizer, tmp_path: Path, monkeypatch
):
    def full(*_args: object, **_options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llava_patch.shards.save_file", full)
    with pytest.raises(DeviceError, match="the disk is full"):
        save_llava(model, tokenizer, tmp_path / "out")
    assert not list(tmp_path.iterdir())
