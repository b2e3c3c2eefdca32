"""Learning to read: what a pair's words tell of places, and a text encoder that learns to tell it."""

import importlib
from dataclasses import replace

import pytest
import torch
import yaml

from mgie.data.batches import collate
from mgie.tokens import IGNORE
from mgie.toy.pairs import ToyPairs
from mgie.toy.parts import new_llava, new_process, new_reader
from mgie.toy.reading import AT_A_PLACE, AT_ALL, Readings, ReadTask, what_is_where
from mgie.toy.things import PLACES
from mgie.toy.world import Scene
from mgie.training.draws import draws_for
from mgie.types import Batch, Draws, EditPair

pretrain = importlib.import_module("mgie.toy.pretrain")
KINDS = ("paint", "recolour", "remove", "move", "swap", "two", "background", "sharpen", "sepia")


@pytest.fixture(scope="module")
def settings() -> dict:
    """Settings with a small vocabulary."""
    return yaml.safe_load(pretrain.SETTINGS.read_text()) | {"sentences": 2000, "begin": None}


@pytest.fixture(scope="module")
def pairs() -> list[EditPair]:
    return list(ToyPairs(60, seed=5, kinds=KINDS))


def batch_of(settings: dict, pairs: list[EditPair]) -> Batch:
    run = pretrain.stage_run("read", settings, threads=1)
    builder = Readings(run, new_llava(settings)[1])
    examples = [builder(pair) for pair in pairs]
    batch = collate(examples, positions=tuple(range(len(pairs))), pad_id=builder.pad_id)
    return replace(batch, extras=builder.together([each.extras for each in examples], batch.mask))


def draws(settings: dict, batch: Batch) -> Draws:
    """Nothing that counts."""
    return draws_for(0, batch.positions, latent_shape=(1, 1, 1), process=new_process(settings), shift=1.0)


def test_what_is_told_is_what_the_scenes_say(pairs):
    """A scene is rebuilt from the one before and what is told of it."""
    seen = set()
    for pair in pairs:
        places, everywhere = what_is_where(pair)
        pattern, colour, operation, region = (
            names[number] for names, number in zip(AT_ALL, everywhere.tolist(), strict=True)
        )
        seen.add((pair.kind, operation != "none"))
        if pair.meta["world"] == "photo":
            assert (operation, region) == (pair.kind, pair.meta.get("region", ""))
            assert not places[:, 0].any() and (places[:, 1:] == IGNORE).all()
            continue
        after = Scene.from_json(pair.meta["after"])
        before = Scene.from_json(pair.meta["before"]) if pair.source else None
        found = {thing.place: thing.look for thing in before.things} if before else {}
        for place, row in zip(PLACES, places.tolist(), strict=True):
            if row[0] == 1:
                found.pop(place, None)
            if row[0] == 2:
                form, size, colour_of, surface = (
                    names[number] for names, number in zip(AT_A_PLACE[1:], row[1:], strict=True)
                )
                found[place] = (size, surface, colour_of, form)
            else:
                assert row[1:] == [IGNORE] * 4
        assert found == {thing.place: thing.look for thing in after.things}
        if before and before.backdrop == after.backdrop:
            assert pattern == colour == "as it was"
        else:
            assert (pattern, colour) == (after.backdrop.pattern, after.backdrop.colour)
    assert seen == {(kind, kind in ("sharpen", "sepia")) for kind in KINDS}


def test_the_losses_are_those_of_each_place_by_itself(settings, pairs):
    torch.manual_seed(0)
    task = ReadTask(new_reader(settings, new_llava(settings)[1].tokenizer)).double()
    batch = batch_of(settings, pairs[:6])
    with torch.no_grad():
        losses = task(batch, draws(settings, batch))
        states = task.editor.encoder.encode(batch).condition.tokens
    heads = [head.requires_grad_(False) for head in task.editor.heads]
    assert losses.keys() == task.weights.keys() == task.counts(batch).keys()
    assert states.shape[1] == settings["edit_head"]["queries"]
    wanted, sums, counts = [what_is_where(pair) for pair in pairs[:6]], [0.0] * 5, [0] * 5
    for row, (places, _) in enumerate(wanted):
        for number in range(len(PLACES)):
            logits = heads[number](states[row, number]).split([*map(len, AT_A_PLACE)])
            for what, (each, right) in enumerate(zip(logits, places[number].tolist(), strict=True)):
                if right != IGNORE:
                    sums[what] -= float(each.log_softmax(0)[right])
                    counts[what] += 1
    assert float(losses["place"].sum) == pytest.approx(sums[0], abs=1e-9)
    assert float(losses["looks"].sum) == pytest.approx(sum(sums[1:]), abs=1e-9)
    rest = 0.0
    for number in range(len(AT_ALL)):
        for row, (_, everywhere) in enumerate(wanted):
            logits = heads[len(PLACES) + number](states[row, len(PLACES) + number])
            rest -= float(logits.log_softmax(0)[int(everywhere[number])])
    assert float(losses["everywhere"].sum) == pytest.approx(rest, abs=1e-9)
    wanted_counts = {"place": counts[0], "looks": counts[1], "everywhere": 6}
    assert counts[0] == 54 and len({*counts[1:]}) == 1
    assert {name: term.count for name, term in losses.items()} == task.counts(batch) == wanted_counts


def test_it_learns_to_read(settings, pairs):
    """A few sentences by heart; all of the text model learns."""
    torch.manual_seed(0)
    task = ReadTask(new_reader(settings, new_llava(settings)[1].tokenizer))
    batch = batch_of(settings, pairs[:4])
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    totals = []
    for _ in range(40):
        losses = task(batch, draws(settings, batch))
        total = task.weighted(losses, task.counts(batch))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[0] > 5 and totals[-1] < 0.5
    assert all(each.grad is not None and each.grad.any() for each in task.editor.encoder.parameters())
