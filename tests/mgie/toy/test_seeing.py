"""Learning to see: what a pair's scene tells of patches, and a tower that learns to tell it."""

import importlib
from dataclasses import replace

import pytest
import torch
import yaml
from PIL import ImageOps

from mgie.data.batches import collate
from mgie.data.images import decode
from mgie.tokens import IGNORE
from mgie.toy import photos
from mgie.toy.pairs import ToyPairs
from mgie.toy.parts import new_llava, new_process
from mgie.toy.seeing import OF_ALL, ON_A_PATCH, SeeTask, Sights, what_is_seen
from mgie.toy.world import Scene
from mgie.training.draws import draws_for
from mgie.types import Batch, Draws, EditPair

pretrain = importlib.import_module("mgie.toy.pretrain")


@pytest.fixture(scope="module")
def settings() -> dict:
    """Settings with a small vocabulary."""
    return yaml.safe_load(pretrain.SETTINGS.read_text()) | {"sentences": 2000, "begin": None}


@pytest.fixture(scope="module")
def pairs() -> list[EditPair]:
    return list(ToyPairs(40, seed=5, kinds=("recolour", "swap", "background", "sepia", "mirror")))


def batch_of(settings: dict, pairs: list[EditPair]) -> Batch:
    builder = Sights(pretrain.stage_run("see", settings, threads=1), new_llava(settings)[1])
    examples = [builder(pair) for pair in pairs]
    batch = collate(examples, positions=tuple(range(len(pairs))), pad_id=builder.pad_id)
    return replace(batch, extras=builder.together([each.extras for each in examples], batch.mask))


def draws(settings: dict, batch: Batch) -> Draws:
    """Nothing that counts."""
    return draws_for(0, batch.positions, latent_shape=(1, 1, 1), process=new_process(settings), shift=1.0)


@pytest.mark.parametrize("side", [8, 16])
def test_what_is_told_of_a_patch_is_the_thing_on_it(pairs, side):
    seen = set()
    for pair in pairs:
        patches, everywhere = what_is_seen(pair, side)
        words = [names[number] for names, number in zip(OF_ALL, everywhere.tolist(), strict=True)]
        seen.add(words[0])
        if pair.meta["world"] == "photo":
            picture = decode(pair.source, name=pair.key)
            told = (photos.tone(picture), photos.tone(ImageOps.invert(picture)))
            assert (words[0], " ".join(words[2:4]), " ".join(words[4:])) == ("no scene", *told)
            assert not patches[:, 0].any() and (patches[:, 1:] == IGNORE).all()
            continue
        scene = Scene.from_json(pair.meta["before"])
        assert words == [scene.backdrop.pattern, scene.backdrop.colour, "", "", "", ""]
        rows, left = patches.reshape(side, side, -1), torch.ones(side, side, dtype=torch.bool)
        for thing in scene.things:
            # The middle of a thing lies where four patches meet, and the patch two away from it is free.
            x, y = round(side * thing.x / 64), round(side * thing.y / 64)
            looks = ["a thing", thing.form, thing.size, thing.colour, thing.surface, thing.place]
            for row, column in ((y - 1, x - 1), (y - 1, x), (y, x - 1), (y, x)):
                numbers = rows[row, column].tolist()
                assert looks == [names[each] for names, each in zip(ON_A_PATCH, numbers, strict=True)]
            reach = side // 8 * 2
            left[max(y - reach, 0) : y + reach, max(x - reach, 0) : x + reach] = False
        assert not rows[..., 0][left].any() and (rows[..., 1][left] == IGNORE).all()
    assert {"photo", "flat", "no scene"} <= seen


def test_a_small_thing_covers_four_patches_and_a_large_one_twelve(pairs):
    """Of 8 by 8: a small thing lies on most of four, a large one on a third of the eight beside them, too."""
    seen = set()
    for pair in (pair for pair in pairs if pair.meta["world"] == "scene"):
        things = Scene.from_json(pair.meta["before"]).things
        if len(things) == 1:
            seen.add((things[0].size, int(what_is_seen(pair, 8)[0][:, 0].sum())))
    assert seen == {("small", 4), ("large", 12)}


def test_the_losses_are_those_of_each_patch_by_itself(settings, pairs):
    torch.manual_seed(0)
    task = SeeTask(new_llava(settings)[0]).double()
    batch = batch_of(settings, pairs[:3])
    batch = replace(batch, clip_pixels=batch.clip_pixels.double())
    with torch.no_grad():
        losses = task(batch, draws(settings, batch))
        features = task.editor.llava.features(batch.clip_pixels)
        logits = task.editor.head(features / features.square().mean(-1, keepdim=True).sqrt())
    assert losses.keys() == task.weights.keys() == task.counts(batch).keys()
    sums, counts = [0.0] * 3, [0] * 3
    for row, pair in enumerate(pairs[:3]):
        patches, everywhere = what_is_seen(pair, 8)
        for patch in range(64):
            told = [*patches[patch].tolist(), *everywhere.tolist()]
            split = logits[row, patch].split([*map(len, ON_A_PATCH), *map(len, OF_ALL)])
            for number, (each, right) in enumerate(zip(split, told, strict=True)):
                if right != IGNORE:
                    which = 0 if number == 0 else 1 if number < len(ON_A_PATCH) else 2
                    sums[which] -= float(each.log_softmax(0)[right])
            counts = [counts[0] + 1, counts[1] + int(patches[patch, 1] != IGNORE), counts[2] + 1]
    for name, wanted, count in zip(("thing", "looks", "everywhere"), sums, counts, strict=True):
        assert float(losses[name].sum) == pytest.approx(wanted, rel=1e-5)
        assert losses[name].count == task.counts(batch)[name] == count


def test_it_learns_to_see(settings, pairs):
    """A few pictures by heart; all of the tower learns that its features come from."""
    torch.manual_seed(0)
    task = SeeTask(new_llava(settings)[0])
    task.editor.llava.vision_tower.requires_grad_(True)
    batch = batch_of(settings, pairs[:4])
    optimizer = torch.optim.AdamW(task.parameters(), lr=2e-3)
    totals = []
    for _ in range(40):
        losses = task(batch, draws(settings, batch))
        total = task.weighted(losses, task.counts(batch))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    assert totals[0] > 10 and totals[-1] < 1
