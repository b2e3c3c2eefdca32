"""Learning to read before painting: a text encoder tells what will be where.

A painter's error teaches reading late: after 260 000 pairs it painted the first thing of a scene right in
nine of ten, and the second in three of a hundred (docs/log.md).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Int
from torch import Tensor, nn

from mgie.models.encoders.clip_text import ClipTextEncoder
from mgie.tokens import IGNORE
from mgie.toy import photos
from mgie.toy.lessons import BaseExamples
from mgie.toy.things import COLOURS, FORMS, PLACES, SIZES, SURFACES
from mgie.toy.world import GROUNDS, PATTERNS, Scene
from mgie.training.task import AbstractTask
from mgie.types import Batch, Draws, EditPair, Example, Losses, Term

AT_A_PLACE: tuple[tuple[str, ...], ...] = (
    ("as it was", "nothing", "a thing"), tuple(FORMS), tuple(SIZES), tuple(COLOURS), tuple(SURFACES),
)  # fmt: skip
"""What is told of each of the nine places, and if it is a new thing, how that looks."""
AT_ALL: tuple[tuple[str, ...], ...] = (
    ("as it was", *PATTERNS, "photo"), ("as it was", "", *GROUNDS),
    ("none", *photos.EVERY), ("", *photos.REGIONS),
)  # fmt: skip
"""What is told of the whole picture: the backdrop's pattern and colour, an operation and where it is."""
TOLD = len(PLACES) + len(AT_ALL)
"""So many states tell something; others are left to what paints."""


def what_is_where(pair: EditPair) -> tuple[Int[Tensor, "9 5"], Int[Tensor, " 4"]]:
    """Numbers in AT_A_PLACE for each place, and in AT_ALL; IGNORE where nothing new is to be told of."""
    places, everywhere = torch.full((len(PLACES), len(AT_A_PLACE)), IGNORE), torch.zeros(len(AT_ALL)).long()
    places[:, 0] = 0
    if pair.meta["world"] == "photo":
        everywhere[2] = AT_ALL[2].index(pair.kind)
        everywhere[3] = AT_ALL[3].index(pair.meta.get("region", ""))
        return places, everywhere
    after = Scene.from_json(pair.meta["after"])
    before = Scene.from_json(pair.meta["before"]) if "before" in pair.meta else None
    now, then = ({each.place: each for each in scene.things} if scene else {} for scene in (after, before))
    for row, place in zip(places, PLACES, strict=True):
        thing = now.get(place)
        if thing is None:
            row[0] = int(before is None or place in then)
        elif thing != then.get(place):
            row[0] = 2
            looks = (thing.form, thing.size, thing.colour, thing.surface)
            row[1:] = torch.tensor(
                [names.index(look) for names, look in zip(AT_A_PLACE[1:], looks, strict=True)]
            )
    if before is None or before.backdrop != after.backdrop:
        everywhere[0] = AT_ALL[0].index(after.backdrop.pattern)
        everywhere[1] = AT_ALL[1].index(after.backdrop.colour)
    return places, everywhere


class Readings(BaseExamples):
    """Words without pictures, and what they tell."""

    def __call__(self, pair: EditPair, rng: object = None, features: object = None) -> Example:
        """One pair's words."""
        del rng, features
        assert self.processor is not None
        asked, answer = self.words(pair)
        encoded = self.processor.encode(asked, answer, images=0, max_length=self.run.data.max_length)
        nothing, places, everywhere = torch.zeros(3, 8, 8), *what_is_where(pair)
        return Example(
            input_ids=torch.tensor(encoded.input_ids), labels=torch.tensor(encoded.labels),
            clip_pixels=torch.zeros(0, 3, 1, 1), read_at=torch.zeros(0, dtype=torch.long), source=nothing,
            has_source=False, target=nothing, key=pair.key,
            extras={"places": places, "everywhere": everywhere},
        )  # fmt: skip

    def together(self, extras: Sequence[Mapping[str, Tensor]], mask: object) -> dict[str, Tensor]:
        """Rows of what is told."""
        del mask
        return {name: torch.stack([each[name] for each in extras]) for name in ("places", "everywhere")}


class Reader(nn.Module):
    """A text encoder, and for each state that tells something what is read off it."""

    def __init__(self, encoder: ClipTextEncoder):
        super().__init__()
        self.encoder = encoder
        width = encoder.condition_width
        told = [sum(map(len, AT_A_PLACE))] * len(PLACES) + [*map(len, AT_ALL)]
        self.heads = nn.ModuleList(nn.Linear(width, numbers) for numbers in told)

    def forward(self, batch: Batch) -> list[Tensor]:
        """Logits of each state."""
        states = self.encoder.encode(batch).condition.tokens
        return [head(states[:, number]) for number, head in enumerate(self.heads)]


class ReadTask(AbstractTask):
    """Learn to tell what will be where from words alone."""

    weights: Mapping[str, float] = {"place": 1.0, "looks": 1.0, "everywhere": 0.3}

    def __init__(self, encoder: ClipTextEncoder):
        super().__init__()
        self.editor = Reader(encoder)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Places, new things (where there is none, nothing is divided), samples."""
        places = batch.extras["places"]
        new = int((places[..., 1] != IGNORE).sum())
        return {"place": len(places) * len(PLACES), "looks": max(new, 1), "everywhere": len(places)}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """Cross-entropies: whether a place has changed, how a new thing looks, what is told of all."""
        del draws
        logits, counts = self.editor(batch), self.counts(batch)
        at_places = torch.stack(logits[: len(PLACES)], dim=1).flatten(0, 1)
        changed, *looks = at_places.split([*map(len, AT_A_PLACE)], dim=-1)
        was, *looked = batch.extras["places"].flatten(0, 1).unbind(1)
        sums = {
            "place": _entropy([changed], [was]),
            "looks": _entropy(looks, looked),
            "everywhere": _entropy(logits[len(PLACES) :], batch.extras["everywhere"].unbind(1)),
        }
        return {name: Term(sum=each, count=counts[name]) for name, each in sums.items()}


def _entropy(logits: Sequence[Tensor], numbers: Sequence[Tensor]) -> Tensor:
    """Sum of the cross-entropies of all that is told."""
    told = zip(logits, numbers, strict=True)
    found = [nn.functional.cross_entropy(*each, ignore_index=IGNORE, reduction="sum") for each in told]
    return torch.stack(found).sum()
