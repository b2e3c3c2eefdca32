"""Runs that train little: rows of new tokens, adapters; resumed, extracted, begun with."""

import json
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_task import as_wide_as

from mgie.build import Parts, build_editor, make_trainable
from mgie.build_data import build_batches
from mgie.config import load_run
from mgie.errors import ConfigError
from mgie.extract import extract
from mgie.train import draw_for, train
from mgie.training.optim import choose_trained
from mgie.training.task import EditTask
from mgie.weights import checkpoint
from mgie.weights.release import read_release

SAME = 1e-6
"""How far gradients of the visual tokens' rows may be from those of one pass over all, relative to their
norm. In double precision they are the same to the bit; single precision is 1e-5 and 7e-6 away from those."""


@pytest.fixture
def new_tokens(tiny_run):
    return lambda *more: tiny_run("--train.groups=[new_tokens_only]", "--optim.lrs={denoiser: 1e-4}", *more)


@pytest.fixture
def lora(tiny_run):
    return lambda *more: tiny_run("--train.groups=[lora, edit_head]", "--optim.lrs={}", *more)


def tensors(run, name="trained") -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run.folder)
    assert found is not None
    return load_file(found / f"{name}.safetensors")


def lines(run) -> list[dict]:
    return [json.loads(line) for line in (run.folder / "log.jsonl").read_text().splitlines()]


def learnt(run) -> list[dict]:
    """The lines of a run without what its machine says."""
    of_the_machine = {"samples_per_second", "data_wait", "memory_gib", "tflops"}
    return [{name: line[name] for name in line.keys() - of_the_machine} for line in lines(run)]


def built(run, dtype: torch.dtype = torch.float32) -> Parts:
    parts = build_editor(run, dtype=dtype)
    make_trainable(run, parts.editor)
    choose_trained(parts.editor, parts.editor.groups(), run.train.groups)
    return parts


def gradients(run, parts: Parts, monkeypatch, *, cached: bool) -> tuple[list[torch.Tensor], float]:
    """Those of the rows of both tables after one micro-batch, and the loss; by way of the cache or not."""
    encoder = parts.editor.encoder
    if not cached:
        monkeypatch.setattr(type(encoder), "learns_rows_alone", property(lambda _: False))
    task = EditTask(parts.editor, parts.process, drop=run.train.drop)
    batches = build_batches(run, parts.prompts, rank=0, world=1)
    (batch,) = next(iter(batches.steps(0, 4)))
    losses = task(*(as_wide_as(record, encoder.dtype) for record in (batch, draw_for(run, parts, batch))))
    loss = task.weighted(losses, task.counts(batch))
    rows = parts.editor.groups()["new_tokens"]
    found = list(torch.autograd.grad(loss, rows))
    monkeypatch.undo()
    return found, loss.item()


def test_rows_learn_the_same_without_a_backward_pass_through_the_prompt(new_tokens, monkeypatch):
    """The gradients in single precision are as far from the true ones as those of a pass over all."""
    run, found, losses = new_tokens(), {}, []
    for dtype in (torch.float64, torch.float32):
        parts = built(run, dtype)
        assert parts.editor.encoder.learns_rows_alone
        for cached in (True, False):
            found[dtype, cached], loss = gradients(run, parts, monkeypatch, cached=cached)
            losses.append(loss)
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-6)
    for table in range(2):
        true = found[torch.float64, False][table]
        assert true.shape[0] == 8 and true.norm() > 0
        away = {key: ((each[table] - true).norm() / true.norm()).item() for key, each in found.items()}
        assert away[torch.float64, True] < SAME
        assert away[torch.float32, True] < max(2 * away[torch.float32, False], SAME)


def test_nothing_before_the_visual_tokens_has_a_graph(new_tokens):
    run = new_tokens()
    parts = built(run)
    (batch,) = next(iter(build_batches(run, parts.prompts, rank=0, world=1).steps(0, 4)))
    seen: list[tuple[int, bool]] = []

    def look(_, states) -> None:
        seen.append((states[0].shape[1], torch.is_grad_enabled()))

    layer = parts.editor.get_submodule("encoder.llava.language_model.model.layers.0")
    layer.register_forward_pre_hook(
        lambda _, states: seen.append((states[0].shape[1], torch.is_grad_enabled()))
    )
    parts.editor.encoder.encode(batch)
    (prefix, without), (rest, with_graph) = seen
    assert (without, with_graph) == (False, True)
    assert rest < 16 < prefix


def test_only_rows_head_and_painter_change_and_the_release_has_them_in_its_tables(new_tokens, tmp_path):
    run = new_tokens()
    train(run)
    trained = tensors(run)
    rows = {name: tensor for name, tensor in trained.items() if name.endswith(".rows")}
    assert len(rows) == 2 and all(len(each) == 8 for each in rows.values())
    assert not [name for name in trained if "language_model" in name and name not in rows]
    extract(run.folder, out=tmp_path / "release", ema=False)
    after: Any = read_release(tmp_path / "release").editor.encoder
    first: Any = build_editor(run).editor.encoder
    model, before = after.llava.language_model, first.llava.language_model
    for name, own in rows.items():
        table = model.get_submodule(name.removeprefix("encoder.llava.language_model.").removesuffix(".rows"))
        assert torch.equal(table.weight[-8:], own)
    table, old = (each.model.embed_tokens.weight for each in (model, before))
    assert torch.equal(table[:-8], old[:-8])
    assert not torch.equal(model.lm_head.weight[-8:], before.lm_head.weight[-8:])


@pytest.mark.parametrize("kind", ["new_tokens", "lora"])
def test_such_a_run_goes_on_bit_for_bit(kind, request, tmp_path):
    make = request.getfixturevalue(kind)
    whole, parted = make("--name=whole"), make("--name=parted")
    train(whole)
    train(parted)
    for found in (parted.folder / "checkpoints").glob("*16"):
        found.rename(tmp_path / "aside")
    train(parted)
    assert learnt(parted) == learnt(whole)
    for name in ("trained", "optimizer", "ema"):
        one, two = tensors(whole, name), tensors(parted, name)
        assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_run_begins_with_rows_of_another_one(new_tokens, tiny_run):
    first = tiny_run("--name=first")
    train(first)
    table = tensors(first)["encoder.llava.language_model.model.embed_tokens.weight"]
    run = new_tokens("--name=second", f"--model.start={first.folder}", "--optim.lr=1e-12",
                     "--optim.lrs={denoiser: 1e-12}")  # fmt: skip
    train(run)
    rows = tensors(run)["encoder.llava.language_model.model.embed_tokens.rows"]
    torch.testing.assert_close(rows, table[-8:])


def test_adapters_are_trained_and_nothing_beneath_them(lora):
    run = lora()
    train(run)
    names = list(tensors(run))
    assert any("language_model" in name for name in names) and any("unet" in name for name in names)
    assert all(".lora_" in name or "edit_head" in name for name in names)
    assert all(tensor.norm() > 0 for name, tensor in tensors(run).items() if "lora_B" in name)


def test_merged_and_kept_apart_are_the_same_editor(lora, tmp_path):
    run = lora()
    train(run)
    extract(run.folder, out=tmp_path / "merged")
    extract(run.folder, out=tmp_path / "apart", adapters="apart")
    assert (tmp_path / "apart" / "adapters" / "denoiser" / "adapter_config.json").is_file()
    cards = [(tmp_path / name / "README.md").read_text() for name in ("merged", "apart")]
    assert ["kept apart in\n`adapters/denoiser`" in card for card in cards] == [False, True]
    assert "kept apart" not in read_release(tmp_path / "apart").card
    one, two = (read_release(tmp_path / name).editor.state_dict() for name in ("merged", "apart"))
    plain = build_editor(run).editor.state_dict()
    assert one.keys() == two.keys() == plain.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)
    changed = {name for name in one if not torch.equal(one[name], plain[name])}
    assert any(name.endswith("q_proj.weight") for name in changed) and any("to_q" in name for name in changed)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--train.groups=[lora]", "--train.lora.denoiser=[to_qq]"], r"names to_qq.*train nothing.*to_q"),
        (["--train.groups=[lora]", "--train.lora.language_model=[]"], r"names no layer"),
        (["--train.groups=[lora, denoiser]"], r"lora_denoiser and denoiser"),
        (["--train.groups=[new_tokens_only, lm_head]"], r"new_tokens and lm_head"),
        (["--train.groups=[loras]"], r"loras.*has the groups"),
    ],
)
def test_what_would_train_nothing_or_twice_is_refused(tiny_run, words, said):
    with pytest.raises(ConfigError, match=said):
        train(tiny_run("--optim.lrs={}", *words))


def test_names_that_stand_for_groups_are_written_out():
    run = load_run("tiny", ["--train.groups=[reference]", "--optim.lrs={}"])
    assert run.train.groups == ("embeddings", "lm_head", "edit_head", "denoiser")
    assert load_run("tiny", ["--train.groups=[qlora]", "--optim.lrs={}"]).train.lora.bits == 4


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="it is installed here")
def test_few_bits_name_the_package_that_is_missing(tiny_run):
    with pytest.raises(ConfigError, match="needs the package bitsandbytes"):
        train(tiny_run("--train.groups=[qlora]", "--optim.lrs={}"))


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("bits", [4, 8])
def test_a_frozen_language_model_in_few_bits_trains_and_its_release_is_whole(tiny_run, tmp_path, bits):
    run = tiny_run("--train.groups=[qlora, edit_head]", f"--train.lora.bits={bits}", "--optim.lrs={}")
    train(run)
    extract(run.folder, out=tmp_path / "release")
    released = read_release(tmp_path / "release").editor.state_dict()
    assert released.keys() == build_editor(run).editor.state_dict().keys()
    assert {tensor.dtype for tensor in released.values() if tensor.is_floating_point()} == {torch.float32}
