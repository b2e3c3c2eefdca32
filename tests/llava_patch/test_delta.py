import json
from functools import partialmethod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llava_patch import apply_delta, load_llava, make_delta
from llava_patch.errors import WeightsError
from llava_patch.shards import TensorFolder, write_tensors

TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def read(folder: Path) -> dict[str, torch.Tensor]:
    tensors = TensorFolder(folder, progress=False)
    return {name: tensors[name] for name in tensors.shapes}


@pytest.fixture(params=[torch.float16, torch.float32], ids=str)
def target(request: pytest.FixtureRequest, folder: Path) -> Path:
    content = {name: value.to(request.param) for name, value in read(folder).items()}
    write_tensors(folder, content.items())
    return folder


@pytest.fixture
def base(target: Path, bare_tokenizer, tmp_path: Path) -> Path:
    """A language model near the target's, with fewer rows and without a projector, in other shards."""
    out = tmp_path / "base"
    bare_tokenizer.save_pretrained(out)
    generator = torch.Generator().manual_seed(4)
    content = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    for name, value in read(target).items():
        if "mm_projector" not in name:
            noise = torch.randn(value.shape, generator=generator) * 0.1
            content[name] = (value.float() + noise).to(value.dtype)[: -3 if name in TABLES else None]
    for place in (0, 1):
        part = {name: value for number, (name, value) in enumerate(content.items()) if number % 2 == place}
        torch.save(part, out / f"pytorch_model-{place + 1:05d}-of-00002.bin")
    return out


def make(base: Path, target: Path, out: Path):
    return make_delta(base, target, out, progress=False)


def apply(base: Path, delta: Path, out: Path):
    return apply_delta(base, delta, out, progress=False)


@pytest.mark.parametrize("block", [5000, 40000])
def test_there_and_back_bit_for_bit(base: Path, target: Path, tmp_path: Path, monkeypatch, block: int):
    """However few rows are widened at a time; the tables' added rows lie in blocks without a partner."""
    monkeypatch.setattr("llava_patch.delta.BLOCK", block)
    widened = []
    monkeypatch.setattr(torch.Tensor, "to", partialmethod(watched_to, torch.Tensor.to, widened))
    made = make(base, target, tmp_path / "delta")
    assert made.taken == ["model.mm_projector.bias", "model.mm_projector.weight"]
    applied = apply(base, tmp_path / "delta", tmp_path / "out")
    assert (applied.added, applied.taken) == (made.added, made.taken)
    before, after = read(target), read(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        assert torch.equal(after[name], value), name
    assert not (tmp_path / "out" / "delta.json").exists()
    assert max(widened) <= block
    monkeypatch.undo()
    load_llava(tmp_path / "out", progress=False)


def watched_to(tensor: torch.Tensor, to, widened: list[int], *args, **options) -> torch.Tensor:
    """Tensor.to, noting how many rows are made wider at a time."""
    result = to(tensor, *args, **options)
    if result.element_size() > tensor.element_size():
        widened.append(len(result))
    return result


def test_the_published_rule(base: Path, target: Path, tmp_path: Path):
    make(base, target, tmp_path / "delta")
    (tmp_path / "delta" / "delta.json").unlink()
    generator = torch.Generator().manual_seed(5)
    delta = {
        name: torch.randn(value.shape, generator=generator).to(value.dtype)
        for name, value in read(target).items()
    }
    write_tensors(tmp_path / "delta", delta.items())
    apply(base, tmp_path / "delta", tmp_path / "out")
    bases, merged = read(base), read(tmp_path / "out")
    assert torch.equal(merged["model.mm_projector.weight"], delta["model.mm_projector.weight"])
    assert torch.equal(merged["model.norm.weight"], bases["model.norm.weight"] + delta["model.norm.weight"])
    for name in TABLES:
        assert torch.equal(merged[name][:-3], bases[name] + delta[name][:-3])
        assert torch.equal(merged[name][-3:], delta[name][-3:])
    assert "model.layers.0.self_attn.rotary_emb.inv_freq" not in merged


def test_another_base_with_a_record(base: Path, target: Path, tmp_path: Path):
    make(base, target, tmp_path / "delta")
    path = base / "pytorch_model-00001-of-00002.bin"
    content = torch.load(path, weights_only=True)
    name = sorted(content)[-1]
    content[name].view(-1)[0] += 1
    torch.save(content, path)
    with pytest.raises(WeightsError, match=f"is not the base that .* was made for: {name} has other values"):
        apply(base, tmp_path / "delta", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_whole_weights_are_no_delta(base: Path, target: Path, tmp_path: Path):
    with pytest.raises(WeightsError, match="holds whole weights"):
        apply(base, target, tmp_path / "out")


def rewrite(base: Path, **changes: torch.Tensor | None) -> None:
    content = {name: value.clone() for name, value in read(base).items()}
    for path in base.glob("*.bin"):
        path.unlink()
    for name, value in changes.items():
        content.pop(name.replace("__", "."), None)
        if value is not None:
            content[name.replace("__", ".")] = value
    write_tensors(base, content.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model__norm__weight": None}, r"has model\.norm\.weight, but the base .* has no such tensor"),
        ({"model__norm__weight": torch.zeros(9)}, r"the shape \[16\] in .*, but \[9\] in the base"),
        ({"lm_head__weight": torch.zeros(40000, 16)}, r"but \[40000, 16\] in the base"),
        ({"model__layers__2__mlp__up_proj__weight": torch.zeros(2)}, "has 1 tensors that .* lacks"),
    ],
)
def test_bases_of_another_shape(base: Path, target: Path, tmp_path: Path, changes: dict, message: str):
    make(base, target, tmp_path / "delta")
    rewrite(base, **changes)
    with pytest.raises(WeightsError, match=message):
        apply(base, tmp_path / "delta", tmp_path / "out")
    with pytest.raises(WeightsError, match=message):
        make(base, target, tmp_path / "other")
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "other").exists()


def test_another_vocabulary(base: Path, target: Path, tmp_path: Path):
    (base / "tokenizer.model").write_bytes(b"other")
    with pytest.raises(WeightsError, match=r"different tokenizer\.model"):
        make(base, target, tmp_path / "delta")


def test_differences_that_need_more_room(base: Path, target: Path, tmp_path: Path):
    # A weight near zero beside a large one of the base: their half-precision difference would forget it.
    rewrite(
        base, model__norm__weight=torch.full((16,), 1000.0, dtype=read(target)["model.norm.weight"].dtype)
    )
    content = read(target) | {
        "model.norm.weight": torch.full((16,), 1e-3).to(read(target)["lm_head.weight"].dtype)
    }
    write_tensors(target, {name: value.clone() for name, value in content.items()}.items())
    made = make(base, target, tmp_path / "delta")
    assert "model.norm.weight" in made.widened
    apply(base, tmp_path / "delta", tmp_path / "out")
    after = load_file(tmp_path / "out" / "model.safetensors")["model.norm.weight"]
    assert torch.equal(after, content["model.norm.weight"])
    assert after.dtype == content["model.norm.weight"].dtype


def test_weights_that_are_no_numbers(base: Path, target: Path, tmp_path: Path):
    content = {name: value.clone() for name, value in read(target).items()}
    content["model.norm.weight"][0] = float("nan")
    write_tensors(target, content.items())
    with pytest.raises(WeightsError, match="no difference that restores it"):
        make(base, target, tmp_path / "delta")


def test_a_damaged_record(base: Path, target: Path, tmp_path: Path):
    make(base, target, tmp_path / "delta")
    (tmp_path / "delta" / "delta.json").write_text(json.dumps({"base": 3}))
    with pytest.raises(WeightsError, match="is damaged"):
        apply(base, tmp_path / "delta", tmp_path / "out")
