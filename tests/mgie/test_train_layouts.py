"""Blocks for layouts, trained: beside a Stable Diffusion, and beside an editor that speaks."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from layout_data import SITE, write_layouts, write_stable
from PIL import Image
from processes import together
from safetensors.torch import load_file
from small_pipelines import WIDTH

from mgie.build import build_editor, build_layout
from mgie.build_data import build_batches
from mgie.config import RunConfig, dump_run, load_run
from mgie.controllers.layout_blocks import LayoutBlockConfig, MIGCBlock
from mgie.data.stored_pairs import StoredPairs
from mgie.errors import ConfigError, DataError
from mgie.extract import extract
from mgie.pipeline import MGIEPipeline
from mgie.prepare import prepare
from mgie.train import draw_for, train
from mgie.training.optim import choose_trained
from mgie.training.task import EditTask
from mgie.types import Region
from mgie.weights import checkpoint
from mgie.weights.migc import read_blocks, write_blocks

REGIONS = [Region(phrase="red", box=(0.0, 0.0, 0.5, 1.0)), Region(phrase="blue", box=(0.5, 0.0, 1.0, 1.0))]
FEW = {"num_inference_steps": 2, "seed": 3, "output_type": "pt", "regions": REGIONS}
SPLIT = 1e-5
"""Losses of a step split over processes differ by the order of sums; measured below 1e-6."""


@pytest.fixture(scope="module")
def stable(tmp_path_factory) -> Path:
    return write_stable(tmp_path_factory.mktemp("stable"))


@pytest.fixture(scope="module")
def painted(tmp_path_factory) -> Path:
    """Pairs without a source."""
    return write_layouts(tmp_path_factory.mktemp("painted") / "pairs", edits=False)


@pytest.fixture(scope="module")
def edited(tmp_path_factory) -> Path:
    return write_layouts(tmp_path_factory.mktemp("edited") / "pairs")


def settled(config: str, out: Path, data: Path, *overrides: str, samples: int = 16) -> RunConfig:
    fixed = {
        "data.path": data, "data.workers": 0, "out": out, "train.samples": samples, "train.batch_size": 4,
        "train.micro_batch_size": 4, "train.threads": 1, "log.every": 4, "save.every": 8, "preview.every": 0,
    }  # fmt: skip
    return load_run(config, [f"--{key}={value}" for key, value in fixed.items()] + list(overrides))


@pytest.fixture
def beside_stable(tmp_path, stable, painted) -> Callable[..., RunConfig]:
    """The recipe migc_sd15 at small size."""
    small = (
        f"--model.release={stable}", "--data.size=16", "--train.epochs=null", "--train.precision=fp32",
        "--train.layout.sites=[mid_block]", "--train.layout.inhibit_sites=[up_blocks.1]",
        "--train.denoiser_checkpointing=none", "--sampling.scheduler=DDIMScheduler",
        "--data.max_length=12", "--sampling.steps=2",
    )  # fmt: skip
    return partial(settled, "migc_sd15", tmp_path / "runs", painted, *small)


@pytest.fixture
def beside_tiny(tmp_path, edited) -> Callable[..., RunConfig]:
    """The recipe tiny with blocks instead of all that it trains."""
    small = (
        "--train.groups=[layout]", "--train.layout.sites=[mid_block]", "--train.align_weight=0",
        "--train.layout.words=builtin:tiny_base/sd", "--train.layout.pooled=1", "--optim.lrs={}",
        "--train.layout.inhibit_weight=0", "--train.layout.way.around=nothing",
        "--train.layout.way.wording=a {phrase} appears", "--data.max_length=192",
    )  # fmt: skip
    return partial(settled, "tiny", tmp_path / "runs", edited, *small)


def tensors(run: RunConfig, name: str = "trained") -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run.folder)
    assert found is not None
    return load_file(found / f"{name}.safetensors")


def losses(run: RunConfig, name: str) -> list[float]:
    lines = map(json.loads, (run.folder / "log.jsonl").read_text().splitlines())
    return [line[f"loss_{name}"] for line in lines]


@pytest.mark.parametrize("kind", ["migc", "migc++"])
def test_a_run_its_resumption_and_what_is_extracted(beside_stable, stable, kind, tmp_path):
    run = beside_stable(f"--train.layout.kind={kind}")
    facts = train(run)
    assert facts["samples"] == 16 and facts["loss_inhibit"] > 0
    trained = tensors(run)
    assert trained and all(name.startswith("controllers.layout.blocks.mid_block-") for name in trained)

    # Stopped in the middle and gone on with, to the bit.
    short = beside_stable(f"--train.layout.kind={kind}", "--name=resumed", samples=8)
    train(short)
    train(beside_stable(f"--train.layout.kind={kind}", "--name=resumed"))
    for name in ("trained", "optimizer"):
        one, other = tensors(run, name), tensors(short, name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)

    # A release, the blocks alone, and the published file within, paint the same.
    extract(run.folder, out=tmp_path / "release", sampling={"steps": 2})
    facts = extract(run.folder, out=tmp_path / "alone", format="controller")
    assert facts["format"] == "controller"
    blocks = read_blocks(tmp_path / "alone/model.safetensors", heads=2)
    (block,) = blocks.values()
    assert list(blocks) == [SITE]
    for name, value in block.state_dict().items():
        assert torch.equal(value, trained[f"controllers.layout.blocks.{SITE.replace('.', '-')}.{name}"])
    plain = MGIEPipeline.from_pretrained(stable)(None, "a cat", **FEW).images
    made = MGIEPipeline.from_pretrained(tmp_path / "release")(None, "a cat", **FEW).images
    worn = MGIEPipeline.from_pretrained(stable, controller=tmp_path / "alone")(None, "a cat", **FEW).images
    assert torch.equal(made, worn) and not torch.equal(made, plain)
    with pytest.raises(ConfigError, match="has no blocks for regions"):
        extract(stable_release(stable, tmp_path), out=tmp_path / "none", format="controller")


def test_a_published_file_brings_along_who_reads_its_phrases(stable, tmp_path):
    torch.manual_seed(1)
    made = MIGCBlock(LayoutBlockConfig(width=32, condition_width=WIDTH, heads=8))
    path = write_blocks({SITE: made}, tmp_path / "migc.ckpt")
    with pytest.raises(ConfigError, match="name Stable Diffusion's --diffusion"):
        extract(path, out=tmp_path / "alone", format="controller")
    extract(path, out=tmp_path / "alone", format="controller", diffusion=str(stable))
    few = FEW | {"num_inference_steps": 1}
    one = MGIEPipeline.from_pretrained(stable, controller=path)(None, "a cat", **few).images
    other = MGIEPipeline.from_pretrained(stable, controller=tmp_path / "alone")
    assert other.editor.controllers.for_layout.reader is not None
    assert torch.equal(other(None, "a cat", **few).images, one)


def stable_release(stable: Path, folder: Path) -> Path:
    MGIEPipeline.from_pretrained(stable).save_pretrained(folder / "plain")
    return folder / "plain"


@pytest.mark.parametrize("kind", ["migc", "migc++"])
def test_a_few_steps_lower_the_loss(beside_stable, kind):
    run = beside_stable(f"--train.layout.kind={kind}", "--train.drop.text=0")
    parts, optimizer = build_editor(run), None
    layout = build_layout(run, parts)
    task = EditTask(parts.editor, parts.process, drop=run.train.drop, layout=layout)
    trained = choose_trained(parts.editor, parts.editor.groups(), run.train.groups)
    batches = build_batches(run, parts.prompts, rank=0, world=1, editor=parts.editor)
    (batch,) = next(iter(batches.steps(0, 4)))
    draws = draw_for(run, parts, batch)
    before = {name: value.clone() for name, value in parts.editor.state_dict().items()}
    optimizer, told = torch.optim.AdamW(trained.values(), lr=3e-3), []
    for _ in range(50):
        found = task(batch, draws)
        loss = task.weighted(found, task.counts(batch))
        told.append(loss.item())
        loss.backward()
        assert all(each.grad is not None for each in trained.values())
        optimizer.step()
        optimizer.zero_grad()
    assert told[-1] < 0.97 * told[0] and min(told) > 0
    moved = {
        name for name, value in parts.editor.state_dict().items() if not torch.equal(value, before[name])
    }
    assert moved == set(trained)


def test_blocks_begin_as_copies_and_the_fuser(beside_stable):
    parts = build_editor(beside_stable("--train.layout.kind=migc++"))
    block = parts.editor.controllers.for_layout.by_site[SITE]
    frozen, itself = parts.editor.denoiser.beside(SITE)
    assert torch.equal(block.ea.to_k.weight, frozen.to_k.weight) and block.gamma == 0
    assert torch.equal(block.la.to_q.weight, itself.to_q.weight)
    plain = build_editor(beside_stable("--train.layout.init=plain")).editor.controllers.for_layout
    assert not torch.equal(plain.by_site[SITE].ea.to_k.weight, frozen.to_k.weight)


@pytest.mark.parametrize(
    "strategy",
    ["ddp", *(pytest.param(each, marks=pytest.mark.dist) for each in ("zero2", "zero3", "fsdp2"))],
)
def test_two_processes_learn_what_one_does(beside_stable, tmp_path, strategy):
    gentle = ("--optim.lr=1.0e-4", "--train.micro_batch_size=2")
    run = beside_stable(*gentle, samples=8)
    train(run)
    shared = beside_stable(*gentle, "--name=shared", f"--train.strategy={strategy}", samples=8)
    recipe = tmp_path / "shared.yaml"
    recipe.write_text(dump_run(shared))
    started = together(["train", "--config", str(recipe)], tmp_path / "notes")
    assert [each.code() for each in started] == [0, 0], started[0].said
    for name in ("edit", "inhibit"):
        assert losses(shared, name) == pytest.approx(losses(run, name), rel=SPLIT)
    (_, one), (_, other) = (
        checkpoint.load(found) for found in map(checkpoint.latest, (run.folder, shared.folder))
    )
    assert one.trained.keys() == other.trained.keys()
    assert all(torch.allclose(one.trained[key], other.trained[key], atol=3e-5) for key in one.trained)


def test_checkpointing_gives_the_same_gradients(beside_stable):
    found = {}
    for how in ("none", "whole"):
        run = beside_stable(f"--train.denoiser_checkpointing={how}", "--train.layout.kind=migc++")
        parts = build_editor(run)
        task = EditTask(parts.editor, parts.process, drop=run.train.drop, layout=build_layout(run, parts))
        trained = choose_trained(parts.editor, parts.editor.groups(), run.train.groups)
        torch.nn.init.constant_(parts.editor.controllers.for_layout.by_site[SITE].gamma, 0.5)
        batches = build_batches(run, parts.prompts, rank=0, world=1, editor=parts.editor)
        (batch,) = next(iter(batches.steps(0, 4)))
        loss = task.weighted(task(batch, draw_for(run, parts, batch)), task.counts(batch))
        found[how] = torch.autograd.grad(loss, list(trained.values()))
    for one, other in zip(found["none"], found["whole"]):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_bfloat16(beside_stable):
    run = beside_stable("--train.precision=bf16", samples=4)
    assert train(run)["skipped"] == 0 and all(value.isfinite().all() for value in tensors(run).values())


def test_an_editor_that_speaks(beside_tiny, edited, tmp_path):
    """The painter's own text encoder reads the phrases; the blocks' folder brings it along."""
    run = beside_tiny(
        "--validation.every=8", "--validation.count=2", "--preview.every=8", "--preview.count=2"
    )
    train(run)
    assert set(tensors(run)) == {
        name for name in tensors(run) if name.startswith("controllers.layout.blocks.")
    }
    extract(run.folder, out=tmp_path / "release")
    extract(run.folder, out=tmp_path / "alone", format="controller")
    assert (tmp_path / "alone/text_encoder/config.json").is_file()
    assert (tmp_path / "alone/tokenizer/tokenizer.model").is_file()
    photo = StoredPairs(edited, "train")[0]
    pipeline = MGIEPipeline.from_pretrained(tmp_path / "release")
    assert pipeline.editor.controllers.for_layout.way.around == "nothing"
    picture = decoded(photo.source)
    few = {"num_inference_steps": 2, "seed": 3, "max_new_tokens": 4, "output_type": "pt"}
    regions = list(photo.regions)
    made = pipeline(picture, "do it", regions=regions, **few).images
    # Nothing is heard around, so other words change nothing; other phrases do.
    assert torch.equal(made, pipeline(picture, "paint it as the boxes say", regions=regions, **few).images)
    turned = [replace(region, phrase="small dotted green star") for region in regions]
    assert not torch.equal(made, pipeline(picture, "do it", regions=turned, **few).images)
    long = [Region(phrase="red " * 60, box=(0.0, 0.0, 0.5, 0.5))]
    with pytest.raises(DataError, match="the text encoder reads"):
        pipeline(picture, "do it", regions=long, **few)


def decoded(data: bytes):
    from mgie.data.images import decode

    return decode(data, name="it")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("--train.layout.sites=[mid_blok]", "layout.sites has mid_blok, where .* nothing would be trained"),
        ("--train.layout.inhibit_sites=[down_blocks.7]", "train.layout.inhibit_sites has down_blocks.7"),
        ("--train.layout.words=builtin:tiny_base/sd", "the editor's own reads the phrases"),
        ("--train.layout.way.wording=a thing", "has {phrase} 0 times"),
        ("--train.layout.most=29", "train.layout.most=29"),
        ("--compat=reference", "compat=reference"),
    ],
)
def test_what_a_run_with_blocks_cannot_be(beside_stable, override, told):
    with pytest.raises(ConfigError, match=told):
        train(beside_stable(override))


def test_what_an_editor_that_speaks_needs(beside_tiny, toy_data):
    with pytest.raises(ConfigError, match=r"gives no state for each phrase: name a diffusers folder"):
        train(beside_tiny("--train.layout.words=null"))
    with pytest.raises(ConfigError, match=r"each of the text encoder's tokens has seen the whole phrase"):
        train(beside_tiny("--train.layout.inhibit_weight=0.1"))
    with pytest.raises(DataError, match=r"no pair of .* has regions, so it would learn nothing"):
        train(beside_tiny(f"--data.path={toy_data}"))


def test_blocks_of_a_release_are_trained_further(beside_stable, tmp_path):
    run = beside_stable(samples=4)
    train(run)
    extract(run.folder, out=tmp_path / "release")
    more = f"--model.release={tmp_path / 'release'}"
    with pytest.raises(ConfigError, match="the release has blocks already"):
        train(beside_stable(more, "--name=more"))
    further = beside_stable(more, "--name=more", "--train.layout.sites=[]", samples=4)
    train(further)
    assert tensors(further).keys() == tensors(run).keys()


def test_pairs_with_a_source_are_for_editors(beside_stable, edited):
    with pytest.raises(DataError, match="have a picture before the edit, and this denoiser sees none"):
        train(beside_stable(f"--data.path={edited}"))


def test_previews_of_own_photos_are_for_editors(beside_stable, tmp_path):
    Image.new("RGB", (24, 16), "red").save(tmp_path / "mine.png")
    (tmp_path / "mine.csv").write_text("photo,instruction\nmine.png,make it dark\n")
    with pytest.raises(
        ConfigError, match=r"preview\.photos is for editors, and this denoiser sees no picture"
    ):
        train(beside_stable("--preview.every=4", f"--preview.photos={tmp_path / 'mine.csv'}"))


def test_stored_features_and_regions_go_together(beside_tiny, edited, tmp_path):
    stored = tmp_path / "stored"
    run = beside_tiny(f"--data.path={stored}", "--data.features=[]", samples=8)
    recipe = tmp_path / "store.yaml"
    recipe.write_text(dump_run(run))
    how = {"store": "vae,clip", "model": str(recipe), "precision": "float32"}
    prepare(f"pairs:{edited}", stored, **how, progress=False)
    train(run)
    again = beside_tiny(f"--data.path={stored}", "--name=stored", samples=8)
    train(again)
    assert losses(again, "edit") == pytest.approx(losses(run, "edit"), rel=1e-3)
