"""Learning to look at what is spoken of: which words are about which thing, and a head that is told so."""

import importlib
from dataclasses import replace

import pytest
import torch
import yaml
from torch import Tensor

from llava_patch.processor import Processor
from mgie.data.batches import collate
from mgie.tokens import IGNORE
from mgie.toy.pairs import DESCRIBE, ToyPairs
from mgie.toy.parts import new_llava, new_process
from mgie.toy.pointing import LAYER, PointedLessons, PointTask, spoken_of
from mgie.toy.seeing import covered
from mgie.toy.things import Thing
from mgie.toy.world import Backdrop, Scene
from mgie.training.draws import draws_for
from mgie.types import Batch, Draws, EditPair

pretrain = importlib.import_module("mgie.toy.pretrain")
KINDS = ("recolour", "move", "swap", "two", "add", "background", "paint", "sepia")


@pytest.fixture(scope="module")
def settings() -> dict:
    """Settings with a small vocabulary."""
    return yaml.safe_load(pretrain.SETTINGS.read_text()) | {"sentences": 2000, "begin": None}


@pytest.fixture(scope="module")
def processor(settings) -> Processor:
    return new_llava(settings)[1]


@pytest.fixture(scope="module")
def pairs() -> list[EditPair]:
    return list(ToyPairs(60, seed=6, kinds=KINDS))


@pytest.fixture
def lessons(settings, processor) -> PointedLessons:
    return PointedLessons(pretrain.stage_run("look", settings, threads=1), processor, describe=True)


def batch_of(lessons: PointedLessons, pairs: list[EditPair]) -> Batch:
    examples = [lessons(pair) for pair in pairs]
    batch = collate(examples, positions=tuple(range(len(pairs))), pad_id=lessons.pad_id)
    return replace(batch, extras=lessons.together([each.extras for each in examples], batch.mask))


def draws(settings: dict, batch: Batch) -> Draws:
    """Nothing that counts."""
    return draws_for(0, batch.positions, latent_shape=(1, 1, 1), process=new_process(settings), shift=1.0)


def test_words_are_about_the_things_they_name():
    star = Thing(form="star", size="small", colour="red", surface="plain", x=32, y=16)
    cross = Thing(form="cross", size="small", colour="blue", surface="dotted", x=48, y=16)
    scene = Scene(Backdrop(pattern="flat", colour="lime"), (star, cross))
    first = "the small dotted cross at the top right turns from blue to red"
    told = f"{first} and the star at the top moves to the left"
    parts = [(told[start:end], thing) for start, end, thing in spoken_of(told, scene)]
    assert parts == [
        (first, cross),
        (" and the star at the top moves to the left", star),
    ]
    assert [thing for *_, thing in spoken_of(str(scene), scene)] == [star, cross]
    assert not [*spoken_of("a large plain white heart at the bottom appears", scene)]


def test_every_word_of_a_lesson_has_the_patches_of_its_thing(lessons, processor, pairs):
    seen = set()
    for pair in pairs:
        example, (asked, said) = lessons(pair), lessons.words(pair)
        about = example.extras["about"]
        scene = Scene.from_json(pair.meta["before"]) if "before" in pair.meta else None
        words: dict[str, list[str]] = {}
        for at in range(len(about) - 1):
            if about[at].any():
                assert scene is not None and example.labels[at + 1] != IGNORE
                (thing,) = (each for each in scene.things if (covered(each, 8).flatten() == about[at]).all())
                words.setdefault(thing.place, []).append(
                    processor.tokenizer.decode([int(example.labels[at + 1])])
                )
        lesson = "describe" if asked == DESCRIBE else pair.kind
        twice = 1 + (lesson == pair.kind and said != pair.expressive)
        seen.add((lesson, twice))
        changed = scene.things if scene and asked == DESCRIBE else ()
        if scene and lesson in ("recolour", "move", "swap", "two"):
            after = Scene.from_json(pair.meta["after"]).things
            changed = [thing for thing in scene.things if thing not in after]
        assert sorted(words) == sorted(thing.place for thing in changed)
        for thing in changed:
            told = "".join(words[thing.place]).replace(" ", "")
            assert told.count(f"atthe{thing.place.replace(' ', '')}") >= twice
            assert all(word in told for word in (thing.form, thing.size))
    assert {("describe", 1), ("two", 1), ("move", 2), ("swap", 1), ("paint", 1), ("sepia", 1)} <= seen


def test_the_loss_is_what_the_head_looks_past(settings, lessons, pairs):
    """Beside attention as the library computes it."""
    torch.manual_seed(0)
    llava = new_llava(settings)[0]
    batch = batch_of(lessons, [pair for pair in pairs if pair.kind != "paint"][:3])
    task = PointTask(llava)
    with torch.no_grad():
        losses = task(batch, draws(settings, batch))
        llava.language_model.set_attn_implementation("eager")
        kept: list[Tensor] = []
        layer = llava.language_model.model.layers[LAYER].self_attn
        layer.register_forward_hook(lambda _, __, out: kept.append(out[1][:, 0]))
        again = PointTask(llava)(batch, draws(settings, batch))
    assert losses.keys() == task.weights.keys() == task.counts(batch).keys()
    wanted, count = 0.0, 0
    for row, about in enumerate(batch.extras["about"]):
        begin = batch.input_ids[row].tolist().index(llava.tokens.patch)
        for at in about.any(-1).nonzero()[:, 0].tolist():
            wanted -= float(kept[0][row, at, begin : begin + 64][about[at]].sum().log())
            count += 1
    assert float(losses["point"].sum) == pytest.approx(wanted, rel=1e-4)
    assert losses["point"].count == count > 20
    assert float(again["ce"].sum) == pytest.approx(float(losses["ce"].sum), rel=1e-4)


def test_it_learns_where_to_look(settings, lessons, pairs):
    torch.manual_seed(0)
    task = PointTask(new_llava(settings)[0])
    batch = batch_of(lessons, [pair for pair in pairs if pair.kind == "move"][:4])
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3)
    losses = []
    for _ in range(30):
        found = task(batch, draws(settings, batch))
        losses.append(float(found["point"].sum.detach()) / found["point"].count)
        optimizer.zero_grad()
        task.weighted(found, task.counts(batch)).backward()
        optimizer.step()
    assert losses[0] > 2 and losses[-1] < 0.5 * losses[0]
