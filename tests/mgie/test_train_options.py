"""Options of a recipe that make a step smaller or faster: what they do, and that they teach the same."""

import json
from typing import Any

import pytest
import torch
from small_task import as_wide_as

from mgie.build import build_editor
from mgie.build_data import build_batches
from mgie.errors import ConfigError
from mgie.prepare import prepare
from mgie.train import draw_for, train
from mgie.training.optim import choose_trained
from mgie.training.task import EditTask
from mgie.weights.llava_part import attention_here

SAME = 1e-5
"""Losses whose sums are in another order; measured below 2e-6."""


def losses(run) -> list[tuple[float, float]]:
    lines = map(json.loads, (run.folder / "log.jsonl").read_text().splitlines())
    return [(line["loss_ce"], line["loss_edit"]) for line in lines]


def assert_same_losses(one, two) -> None:
    for left, right in zip(losses(one), losses(two), strict=True):
        assert left == pytest.approx(right, rel=SAME, abs=SAME)


@pytest.fixture
def plain(tiny_run):
    run = tiny_run("--name=plain", samples=8)
    train(run)
    return run


def recomputing(run) -> tuple[int, int, int]:
    """How many layers of the language model and blocks of the denoiser recompute, and how many such there
    are in the denoiser."""
    editor: Any = build_editor(run).editor
    layers = [layer.gradient_checkpointing for layer in editor.encoder.llava.language_model.model.layers]
    unet = editor.denoiser.unet
    blocks = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
    return sum(layers), sum(getattr(block, "gradient_checkpointing", False) for block in blocks), len(blocks)


def test_activations_are_recomputed_as_asked_and_no_number_changes(tiny_run, plain):
    count = len(build_editor(plain).editor.encoder.llava.language_model.model.layers)  # type: ignore[attr-defined]
    layers, blocks, every = recomputing(plain)
    assert (layers, blocks) == (0, 0) and count >= 2
    recomputed, painter = "--train.gradient_checkpointing=true", "--train.denoiser_checkpointing"
    for name, words, expected in (
        ("half", (recomputed, "--train.checkpointing_every=2"), (-(-count // 2), 0)),
        ("selective", (f"{painter}=selective",), (0, 2)),
        ("all", (recomputed, f"{painter}=whole"), (count, every)),
    ):
        run = tiny_run(f"--name={name}", *words, samples=8)
        assert recomputing(run)[:2] == expected, name
        train(run)
        assert_same_losses(plain, run)


def test_kernels_of_attention_teach_the_same(tiny_run, plain):
    for kernel in ("eager", "sdpa"):
        run = tiny_run(f"--name={kernel}", f"--model.encoder.attention={kernel}", samples=8)
        train(run)
        assert_same_losses(plain, run)
    encoder: Any = build_editor(plain).editor.encoder
    assert encoder.llava.language_model.config._attn_implementation == "sdpa"


def test_a_kernel_that_cannot_be_is_a_sentence(tiny_run):
    with pytest.raises(
        ConfigError, match=r"attention 'flash_attention_2' cannot be used here .*choose 'sdpa'"
    ):
        train(tiny_run("--model.encoder.attention=flash_attention_2"))


@pytest.mark.parametrize("wanted", ["eager", "sdpa", "flash_attention_2"])
def test_a_kernel_that_is_named_is_taken(wanted):
    assert attention_here(wanted, torch.float32) == wanted
    assert attention_here("auto", torch.float32) == "sdpa"


def test_conversations_without_padding_teach_the_same(tiny_run, plain):
    """In double precision, all that is trained; and as a run."""
    found, widths = {}, {}
    for packed in ("true", "false"):
        run = tiny_run(f"--name={packed}", f"--model.encoder.packed={packed}", samples=8)
        train(run)
        assert_same_losses(plain, run)
        parts = build_editor(run, dtype=torch.float64)
        trained = choose_trained(parts.editor, parts.editor.groups(), run.train.groups)
        (batch,) = next(iter(build_batches(run, parts.prompts, rank=0, world=1).steps(0, 4)))
        assert not batch.mask.all()
        task = EditTask(parts.editor, parts.process, drop=run.train.drop)
        read: list[tuple[int, ...]] = []
        task.editor.encoder.llava.language_model.model.layers[0].register_forward_pre_hook(  # type: ignore
            lambda _, given, read=read: read.append(tuple(given[0].shape[:2]))
        )
        losses = task(*(as_wide_as(record, torch.float64) for record in (batch, draw_for(run, parts, batch))))
        loss = task.weighted(losses, task.counts(batch))
        found[packed] = [loss.detach(), *torch.autograd.grad(loss, list(trained.values()))]
        widths[packed] = (read, batch.mask)
    (one_row, mask), (padded, _) = widths["true"], widths["false"]
    assert one_row == [(1, int(mask.sum()))] and padded == [tuple(mask.shape)]
    for one, other in zip(found["true"], found["false"], strict=True):
        assert (one - other).abs().max() <= 1e-6 * other.abs().max()


def test_conversations_are_packed_where_flash_attention_is(tiny_run):
    encoder: Any = build_editor(tiny_run()).editor.encoder
    assert not encoder.packs
    encoder.llava.language_model.config._attn_implementation = "flash_attention_2"
    assert encoder.packs
    encoder.packed = False
    assert not encoder.packs


def test_packing_what_is_read_without_gradients_is_refused(tiny_run):
    words = ("--train.groups=[new_tokens_only]", "--optim.lrs={}", "--model.encoder.packed=true")
    with pytest.raises(ConfigError, match=r"saves more than their padding; leave model\.encoder\.packed out"):
        train(tiny_run(*words))


def test_what_is_stored_is_taken_where_nothing_trained_would_change_it(tiny_run, tmp_path, capsys):
    stored = tmp_path / "stored"
    shape = {"seed": 3, "count": 24, "test": 4, "size": 64, "progress": False}
    prepare("toy", stored, store="vae,clip", model="tiny", precision="float32", **shape)
    data, told = f"--data.path={stored}", "takes stored features: vae, clip (data.features=[] for none)."
    taking, computing = tiny_run("--name=taking", data), tiny_run("--name=none", data, "--data.features=[]")
    train(taking)
    assert told in capsys.readouterr().err
    assert "features:\n  - vae\n  - clip\n" in (taking.folder / "run.yaml").read_text()
    train(computing)
    assert "stored features" not in capsys.readouterr().err
    for left, right in zip(losses(taking), losses(computing), strict=True):
        assert left == pytest.approx(right, rel=1e-3)
    train(tiny_run("--name=mirrored", data, "--data.flip=0.5", samples=4))
    assert "stored features" not in capsys.readouterr().err
