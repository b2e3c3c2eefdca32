"""How regions with phrases may be painted, and how blocks for them are learnt."""

from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from llava_patch.ranges import Range
from mgie.errors import ConfigError
from mgie.ranges import Share, Weight

Around = Literal["words", "nothing"]
PHRASE = "{phrase}"
"""What stands for a region's phrase in a wording."""


@dataclass(frozen=True, kw_only=True)
class LayoutWay:
    """How regions with phrases are painted, all of it said. Blocks carry the way they were trained for."""

    until: Share = 0.5
    """The part of the sampling, from its start, in which trained blocks act, where the editor has some."""
    fuse_until: Share = 1.0
    """The same of the fuser, which needs no weights: in all layers where no block acts."""
    around: Around = "words"
    """What is heard outside the regions: the words for the whole picture, or nothing."""
    visible: bool = True
    """Whether a region that is thinner than a layer's grid has one cell there; without, it has none."""
    wording: str = PHRASE
    """What the text encoder is told of each phrase, as the denoiser is used to being told it. Of blocks
    alone: without some, phrases are instructions."""

    def __post_init__(self) -> None:
        """A wording has one place for the phrase. Raises ConfigError."""
        if self.wording.count(PHRASE) != 1:
            raise ConfigError(
                f"the wording {self.wording!r} has {PHRASE} {self.wording.count(PHRASE)} times: expected it "
                "once, where a region's phrase belongs."
            )


def worded(way: LayoutWay, phrase: str) -> str:
    """A phrase in the wording of blocks."""
    return way.wording.replace(PHRASE, phrase)


@dataclass(frozen=True, kw_only=True)
class LayoutOptions:
    """How regions with phrases are painted. None: as the editor's blocks were trained; without some, until
    0.5 and fuse_until 1, words around, and all regions visible."""

    until: Share | None = None
    """The part of the sampling, from its start, in which trained blocks act, where the editor has some."""
    fuse_until: Share | None = None
    """The same of the fuser, which needs no weights: in all layers where no block acts."""
    around: Around | None = None
    """What is heard outside the regions: the words for the whole picture, or nothing."""
    visible: bool | None = None
    """Whether a region that is thinner than a layer's grid has one cell there; without, it has none."""

    def over(self, way: LayoutWay) -> LayoutWay:
        """The way, but for what is said here."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        said = {name: value for name, value in given.items() if value is not None}
        return LayoutWay(**{each.name: said.get(each.name, getattr(way, each.name)) for each in fields(way)})


@dataclass(frozen=True, kw_only=True)
class LayoutTraining:
    """What the group `layout` of a run trains: blocks of MIGC or MIGC++ beside a denoiser that stays as it is
    (Zhou et al., CVPR 2024, TPAMI 2024)."""

    kind: Literal["migc", "migc++"] = "migc++"
    """MIGC++'s begin as the fuser alone; MIGC's have no such beginning."""
    sites: tuple[str, ...] = ()
    """Beginnings of the names of the attentions that get a block. None: those of a release that has blocks,
    or the published ones, mid_block and up_blocks.1."""
    init: Literal["copied", "plain"] = "copied"
    """New blocks' attentions: copies of the frozen ones that they work beside, or new."""
    words: str | None = None
    """Diffusers folder whose text encoder reads the phrases, for editors whose own encoder is none."""
    pooled: Annotated[int, Range(ge=1, le=4096)] | None = None
    """So many last states of that text encoder are kept, as its denoiser was trained; None: all."""
    most: Annotated[int, Range(ge=1, le=28)] = 6
    """Regions of a sample; of more, so many are drawn."""
    drop: Share = 0.0
    """Share of the samples whose regions are left out while the words stay; besides, who is told no words is
    told no regions."""
    inhibit_weight: Weight = 0.1
    """Weight, beside the painting's, of the loss that keeps phrases out of what lies outside their regions; 0
    for none."""
    inhibit_sites: tuple[str, ...] = ("up_blocks.1",)
    """Beginnings of the names of the attentions whose maps that loss looks at; published: those of 16 x 16
    positions on the way up."""
    way: LayoutWay = field(default_factory=LayoutWay)
    """How a release paints with the blocks; they are learnt over all of the diffusion times, with the fuser
    in the other layers unless way.fuse_until is 0."""
