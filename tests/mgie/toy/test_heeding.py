"""Learning where to look: a loss of one head, which changes nothing that is painted."""

import importlib
import math
from dataclasses import replace

import pytest
import torch
import yaml

from mgie.config import RunConfig
from mgie.data.batches import collate
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.models.editor import Editor
from mgie.toy.heeding import HEED, PaintTask, astray, shares_of_places
from mgie.toy.lessons import BaseExamples
from mgie.toy.pairs import ToyPairs
from mgie.toy.parts import new_codec, new_llava, new_process, new_reader, new_unet
from mgie.toy.things import PLACES, Thing
from mgie.training.draws import draws_for
from mgie.training.task import EditTask
from mgie.types import Batch, Draws

pretrain = importlib.import_module("mgie.toy.pretrain")


@pytest.fixture
def settings() -> dict:
    """Settings with a small vocabulary and a narrow UNet."""
    settings = yaml.safe_load(pretrain.SETTINGS.read_text()) | {"sentences": 2000, "begin": None}
    settings["vae"]["latent_channels"] = 16
    settings["unet"] |= {"in_channels": 32, "out_channels": 16, "block_out_channels": [40, 48]}
    return settings


@pytest.fixture
def run(settings) -> RunConfig:
    return pretrain.stage_run("painter", settings, threads=1)


@pytest.fixture
def editor(settings) -> Editor:
    torch.manual_seed(0)
    encoder = new_reader(settings, new_llava(settings)[1].tokenizer)
    return Editor(encoder=encoder, denoiser=UNetDenoiser(new_unet(settings)), codec=new_codec(settings))


@pytest.fixture
def batch(settings, run) -> Batch:
    builder = BaseExamples(run, new_llava(settings)[1])
    examples = [builder(pair) for pair in ToyPairs(6, seed=5, kinds=("add", "paint", "recolour"))]
    return collate(examples, positions=tuple(range(6)), pad_id=builder.pad_id)


@pytest.fixture
def draws(settings, batch) -> Draws:
    shape = new_codec(settings).latent_shape(64, 64)
    return draws_for(0, batch.positions, latent_shape=shape, process=new_process(settings), shift=1.0)


def test_a_cell_lies_in_the_place_of_a_thing_there():
    shares = shares_of_places(8, 8)
    for cell, row in enumerate(shares):
        y, x = divmod(cell, 8)
        thing = Thing(form="star", size="small", colour="red", surface="plain", x=8 * x + 4, y=8 * y + 4)
        assert row.tolist() == [float(name == thing.place) for name in PLACES]


def test_a_cell_between_places_lies_in_both():
    shares = shares_of_places(4, 4).reshape(4, 4, 9)
    assert shares[0, 0].tolist() == [1.0] + [0.0] * 8
    assert shares[1, 0].tolist() == [0.5, 0, 0, 0.5, 0, 0, 0, 0, 0]
    assert shares[2, 3].tolist() == [0, 0, 0, 0, 0, 0.5, 0, 0, 0.5]
    assert shares[1, 2].tolist() == [0, 0.25, 0.25, 0, 0.25, 0.25, 0, 0, 0]


@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (8, 4)])
def test_the_loss_is_the_cross_entropy_of_what_the_first_head_looks_at(editor, grid):
    attn = editor.denoiser.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    states, heard = torch.randn(3, math.prod(grid), attn.query_dim), torch.randn(3, 16, 128)
    with torch.no_grad():
        lost = astray(attn, states, heard, grid)
        asked, keys = attn.head_to_batch_dim(attn.to_q(states)), attn.head_to_batch_dim(attn.to_k(heard))
        looked = attn.get_attention_scores(asked, keys).unflatten(0, (3, attn.heads))[:, 0]  # b p q
    wanted = 0.0
    for sample in looked:
        for position, row in zip(sample, shares_of_places(*grid), strict=True):
            wanted -= float((row * position[:9].log()).sum()) / math.prod(grid)
    assert float(lost) == pytest.approx(wanted, rel=1e-4)


def test_it_watches_every_attention_to_words_and_paints_the_same(settings, run, editor, batch, draws):
    plain = EditTask(editor, new_process(settings), drop=run.train.drop)(batch, draws)
    task = PaintTask(editor, new_process(settings), drop=run.train.drop, heed_weight=0.5)
    watched = task(batch, draws)
    assert torch.equal(watched["edit"].sum, plain["edit"].sum)
    assert watched.keys() == task.weights.keys() == task.counts(batch).keys() == plain.keys() | {HEED}
    assert watched[HEED].count == task.counts(batch)[HEED] == 6
    watched[HEED].sum.backward()
    queries = {
        name: parameter
        for name, parameter in editor.denoiser.named_parameters()
        if name.endswith("attn2.to_q.weight")
    }
    assert all(each.grad is not None and each.grad.any() for each in queries.values())
    last = queries["unet.up_blocks.1.attentions.1.transformer_blocks.0.attn2.to_q.weight"].grad
    assert last is not None and not last[len(last) // 4 :].any()  # the other heads are free


def test_it_learns_where_to_look(settings, run, editor, batch, draws):
    """Of words that are told, in few steps, and with the source as the only sign of where it is."""
    task = PaintTask(editor, new_process(settings), drop=replace(run.train.drop, both=0.0), heed_weight=1.0)
    optimizer = torch.optim.Adam(editor.denoiser.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        losses.append(task(batch, draws)[HEED].sum / 6)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.6 * losses[0]
