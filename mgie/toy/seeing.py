"""Learning to see before speaking: a vision tower tells of each patch what is there.

Words teach seeing late: after 200 000 answers a tower took a circle for a square; told of each patch what
lies on it, a new one knew better after 13 000 pictures (docs/log.md).
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Int
from PIL import ImageOps
from torch import Tensor, nn

from llava_patch.model import Llava
from mgie.data.images import decode
from mgie.tokens import IGNORE
from mgie.toy import photos
from mgie.toy.lessons import BaseExamples
from mgie.toy.things import COLOURS, FORMS, PLACES, SIZES, SURFACES, Thing
from mgie.toy.world import GROUNDS, PATTERNS, Scene
from mgie.training.task import AbstractTask
from mgie.types import Batch, Draws, EditPair, Example, Losses, Term

ON_A_PATCH: tuple[tuple[str, ...], ...] = (
    ("nothing", "a thing"), tuple(FORMS), tuple(SIZES), tuple(COLOURS), tuple(SURFACES), tuple(PLACES),
)  # fmt: skip
"""What is told of each patch, and if a thing lies on it, how it looks and in which place its middle is."""
OF_ALL: tuple[tuple[str, ...], ...] = (
    (*PATTERNS, "photo", "no scene"), ("", *GROUNDS),
    ("", *photos.LIGHTS), ("", *photos.TONES), ("", *photos.LIGHTS), ("", *photos.TONES),
)  # fmt: skip
"""What is told of the whole picture, by each patch: a scene's backdrop; light and tone of a photograph, and
of its negative."""
COVERED = 0.3
"""So much of a patch a thing's square has to cover."""


def what_is_seen(pair: EditPair, side: int) -> tuple[Int[Tensor, "p 6"], Int[Tensor, " 6"]]:
    """Numbers in ON_A_PATCH for each of `side` x `side` patches of the source, row by row, and in OF_ALL;
    IGNORE where there is no thing to tell of."""
    assert pair.source is not None
    patches = torch.full((side, side, len(ON_A_PATCH)), IGNORE)
    patches[..., 0] = 0
    if pair.meta["world"] == "photo":
        picture = decode(pair.source, name=pair.key)
        tones = [photos.tone(each).split() for each in (picture, ImageOps.invert(picture))]
        told = ["no scene", "", *tones[0], *tones[1]]
    else:
        scene = Scene.from_json(pair.meta["before"])
        told = [scene.backdrop.pattern, scene.backdrop.colour, "", "", "", ""]
        for thing in scene.things:
            looks = ("a thing", thing.form, thing.size, thing.colour, thing.surface, thing.place)
            patches[covered(thing, side)] = _numbers(ON_A_PATCH, looks)
    return patches.flatten(0, 1), _numbers(OF_ALL, told)


def covered(thing: Thing, side: int) -> Bool[Tensor, "y x"]:
    """Which of `side` x `side` patches a thing's square covers."""
    left, top, right, bottom = (side * edge for edge in thing.box)
    first = torch.arange(side)
    across, down = (
        (torch.clamp(first + 1, max=end) - torch.clamp(first, min=start)).clamp(min=0)
        for start, end in ((left, right), (top, bottom))
    )
    return down[:, None] * across >= COVERED


def _numbers(names: Sequence[tuple[str, ...]], words: Sequence[str]) -> Int[Tensor, " _"]:
    return torch.tensor([each.index(word) for each, word in zip(names, words, strict=True)])


class Sights(BaseExamples):
    """Pictures without words, and what is seen in them."""

    def __call__(self, pair: EditPair, rng: object = None, features: object = None) -> Example:
        """One pair's source."""
        del rng, features
        assert self.processor is not None and pair.source is not None
        clip_pixels = self.processor.clip_pixels(decode(pair.source, name=pair.key))
        patches, everywhere = what_is_seen(pair, round(self.processor.patches**0.5))
        word, nothing = torch.zeros(1, dtype=torch.long), torch.zeros(3, 8, 8)
        return Example(
            input_ids=word, labels=word + IGNORE, clip_pixels=clip_pixels[None], read_at=word[:0],
            source=nothing, has_source=True, target=nothing, key=pair.key,
            extras={"patches": patches, "everywhere": everywhere},
        )  # fmt: skip

    def together(self, extras: Sequence[Mapping[str, Tensor]], mask: object) -> dict[str, Tensor]:
        """Rows of what is seen."""
        del mask
        return {name: torch.stack([each[name] for each in extras]) for name in ("patches", "everywhere")}


class Seer(nn.Module):
    """A language side's tower, and what is read off each of its features."""

    def __init__(self, llava: Llava):
        super().__init__()
        self.llava = llava
        told = sum(map(len, ON_A_PATCH)) + sum(map(len, OF_ALL))
        self.head = nn.Linear(llava.projector.in_features, told)

    def forward(self, batch: Batch) -> tuple[Tensor, ...]:
        """Logits of all that is told, by each patch."""
        features = self.llava.features(batch.clip_pixels)
        logits = self.head(nn.functional.rms_norm(features, features.shape[-1:]))
        return logits.split([*map(len, ON_A_PATCH), *map(len, OF_ALL)], dim=-1)

    def seeing(self) -> list[nn.Parameter]:
        """What learns: the head, and the tower up to the layer that gives its features."""
        tower, layer = self.llava.vision_tower, self.llava.config.vision_layer
        unused = (*tower.encoder.layers[tower.config.num_hidden_layers + layer + 1 :], tower.post_layernorm)
        left = {id(each) for module in unused for each in module.parameters()}
        return [*self.head.parameters(), *(each for each in tower.parameters() if id(each) not in left)]


class SeeTask(AbstractTask):
    """Learn to tell what is where in a picture."""

    weights: Mapping[str, float] = {"thing": 1.0, "looks": 1.0, "everywhere": 1.0}

    def __init__(self, llava: Llava):
        super().__init__()
        self.editor = Seer(llava)

    def counts(self, batch: Batch) -> dict[str, int]:
        """Patches, those with a thing (where there is none, nothing is divided), patches."""
        patches = batch.extras["patches"][..., 1]
        on_things = int((patches != IGNORE).sum())
        return {"thing": patches.numel(), "looks": max(on_things, 1), "everywhere": patches.numel()}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        """Cross-entropies: whether there is a thing, how it looks, what is told of all."""
        del draws
        logits, counts = self.editor(batch), self.counts(batch)
        patches, everywhere = batch.extras["patches"], batch.extras["everywhere"]
        right = torch.cat([patches, everywhere[:, None].expand(-1, patches.shape[1], -1)], dim=-1)
        sums = [
            nn.functional.cross_entropy(
                each.flatten(0, 1), right[..., number].flatten(), ignore_index=IGNORE, reduction="sum"
            )
            for number, each in enumerate(logits)
        ]
        things = len(ON_A_PATCH)
        found = {
            "thing": sums[0], "looks": torch.stack(sums[1:things]).sum(),
            "everywhere": torch.stack(sums[things:]).sum(),
        }  # fmt: skip
        return {name: Term(sum=each, count=counts[name]) for name, each in found.items()}
