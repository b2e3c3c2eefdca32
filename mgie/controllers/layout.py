"""Several things at once, each in its place: regions with phrases as a plan for attention.

Each phrase is heard by itself where its region lies. Without weights a fuser merges what the layers make of
them, in any denoiser whose attention can be hooked; where there are blocks of MIGC or MIGC++ (Zhou et al.,
CVPR 2024, TPAMI 2024), these do it in their layers, for the first part of the sampling.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mgie.controllers.base import AbstractController, Setting
from mgie.controllers.layout_blocks import AbstractLayoutBlock, Instances, fused
from mgie.controllers.layout_masks import background, instance_masks, made_visible, reduced
from mgie.controllers.layout_options import LayoutOptions, LayoutWay
from mgie.controllers.masking import as_bias
from mgie.diffusion.guidance import same_shape
from mgie.errors import ConfigError, WeightsError
from mgie.types import AttentionCall, Condition, ControlBatch, ControlPlan, Rows, Site, Size

Attend = Callable[[AttentionCall], Tensor]
Masks = tuple[Float[Tensor, "b n h w"], Float[Tensor, "b 1 h w"]]
"""Of the instances, and of the background."""


class LayoutBlocks(nn.Module):
    """Trained blocks, each with the attention that it takes the place of."""

    def __init__(
        self,
        blocks: Mapping[str, AbstractLayoutBlock],
        *,
        way: LayoutWay | None = None,
        reader: nn.Module | None = None,
    ):
        """By names such as "mid_block.attentions.0.transformer_blocks.0.attn2"; `way` is the one that they
        were trained for, `reader` a PhraseReader, for editors whose own encoder has no state for each
        phrase."""
        super().__init__()
        self.way, self.reader = way or LayoutWay(), reader
        # A ModuleDict takes no dots.
        self.blocks = nn.ModuleDict({site.replace(".", "-"): block for site, block in blocks.items()})

    @property
    def by_site(self) -> dict[str, AbstractLayoutBlock]:
        """The blocks by the names of their attentions."""
        return {key.replace("-", "."): block for key, block in self.blocks.items()}  # pyright: ignore

    @property
    def most(self) -> int:
        """How many regions a picture may have."""
        return min(block.most for block in self.by_site.values())

    def check(self, attentions: Mapping[str, tuple[int, int]]) -> None:
        """Hold the blocks to a denoiser's attentions to words: by name, the width of each and that of what it
        hears. Raises WeightsError."""
        for site, block in self.by_site.items():
            own = (block.config.width, block.config.condition_width)
            if attentions.get(site) != own:
                there = attentions.get(site)
                told = "no such layer" if there is None else f"one of {there[0]} that hears {there[1]}"
                raise WeightsError(
                    f"the layout's block for {site} is {own[0]} wide and hears phrases of {own[1]}, and the "
                    f"denoiser has {told} there: use blocks that were made for this denoiser."
                )


class LayoutController(AbstractController):
    """Regions with phrases as a plan. It is made for each call, around what was trained, if anything was."""

    def __init__(self, options: LayoutOptions, *, blocks: LayoutBlocks | None = None, depth: int = 3):
        """`depth`: how often the denoiser halves its latents."""
        super().__init__()
        self.options = options.over(LayoutWay() if blocks is None else blocks.way)
        self.trained, self.depth = blocks, depth

    def plan(self, controls: ControlBatch, setting: Setting) -> ControlPlan:
        """Blocks at their sites first, then the fuser; elsewhere the fuser; all of it for the rows T alone.

        Masks are made once. Warns of regions thinner than a layer's grid. Raises ConfigError for phrases that
        nobody has read, and for denoisers that such layouts were never made for.
        """
        options = self.options
        blocks = {} if self.trained is None or not options.until else self.trained.by_site
        if not controls.present.any():
            return ControlPlan()
        layout = self.placed(controls, setting)
        if layout.missed.any():
            picture, region = layout.missed.nonzero()[0].tolist()
            warnings.warn(
                f"{int(layout.missed.sum())} regions are thinner than the grid of some layers, such as "
                f"region {region + 1} of picture {picture + 1}: there they have the one cell in their "
                "middle; draw them larger, or paint at a larger size.",
                stacklevel=2,
            )
        if blocks and layout.pooled is None:
            raise ConfigError(
                "the blocks of a layout need one state for each phrase, and this editor's encoder gives "
                "none: give them as a folder with a text encoder (`mgie extract FILE --format controller "
                "--diffusion DIR --out FOLDER`), or set layout.until to 0 for the fuser alone."
            )
        hooks: list[BlockShading | Fusing] = []
        if blocks:
            hooks.append(BlockShading(layout=layout, blocks=blocks, during=(0.0, options.until)))
        if options.fuse_until:
            hooks.append(Fusing(layout=layout, but=frozenset(blocks), during=(0.0, options.fuse_until)))
        if blocks and options.until < options.fuse_until:
            during = (options.until, options.fuse_until)
            hooks.append(Fusing(layout=layout, sites=frozenset(blocks), during=during))
        return ControlPlan(attention=tuple(hooks))

    def placed(self, controls: ControlBatch, setting: Setting) -> "Placed":
        """The instances, ready for all layers. Raises ConfigError as `plan` does."""
        phrases, condition = setting.phrases, setting.context.condition
        rows = controls.present.numel()
        if phrases is None or len(phrases.tokens) != rows:
            told = "none" if phrases is None else f"{len(phrases.tokens)} rows"
            raise ConfigError(
                f"of the phrases of a layout {told} were read: expected {rows}, one for each region and each "
                "place without one; read them first."
            )
        if condition.pooled is not None:
            raise ConfigError(
                "this denoiser is told one state for all words beside its tokens, as SDXL's: no layout was "
                "ever published for such; leave the regions out, or take another editor."
            )
        pixels = setting.pixels if setting.source is None else tuple(setting.source.shape[-2:])
        assert pixels is not None, "who asks for new pictures says how large"
        device = condition.tokens.device
        whole = instance_masks(controls.boxes, controls.present, (pixels[0], pixels[1]), controls.stencils)
        masks, behind = reduced(whole, setting.grid), reduced(background(whole), setting.grid)
        null = same_shape(setting.context)[1] if self.options.around == "nothing" else None
        layers, missed = self._at_layers(masks, behind, controls, setting.grid)
        return Placed(
            phrases=phrases,
            pooled=None if phrases.pooled is None else phrases.pooled.unflatten(0, controls.present.shape),
            boxes=controls.boxes.float().to(device),
            present=controls.present.to(device),
            scales=controls.scales.to(device),
            masks={grid: (some.to(device), rest.to(device)) for grid, (some, rest) in layers.items()},
            missed=missed,
            null=null,
        )

    def _at_layers(
        self, masks: Tensor, behind: Tensor, controls: ControlBatch, grid: Size
    ) -> tuple[dict[Size, Masks], Bool[Tensor, "b n"]]:
        """Masks at the sizes of the denoiser's layers, and which regions some grid misses."""
        found: dict[Size, Masks] = {}
        missed = torch.zeros_like(controls.present)
        for _ in range(self.depth + 1):
            small = reduced(masks, grid)
            if self.options.visible:
                seen = made_visible(small, controls.boxes, controls.present)
                missed |= (seen != small).flatten(2).any(-1)
                small = seen
            found[grid] = (small, reduced(behind, grid))
            grid = ((grid[0] + 1) // 2, (grid[1] + 1) // 2)
        return found, missed


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Placed:
    """The instances of a call, ready for all of its layers; present ones first, padding behind."""

    phrases: Condition
    """A row for each instance of each sample, padding included."""
    pooled: Float[Tensor, "b n e"] | None
    boxes: Float[Tensor, "b n 4"]
    present: Bool[Tensor, "b n"]
    scales: Float[Tensor, "b n 3"]
    masks: Mapping[Size, Masks]
    """By the height and width of layers."""
    missed: Bool[Tensor, "b n"]
    """Whose masks vanish in the grid of some layer, where they have one cell instead."""
    null: Condition | None = None
    """What is heard outside instead of the words for the whole, if anything: a row a sample."""

    @property
    def some(self) -> Bool[Tensor, "b 1 1"]:
        """Which samples have an instance."""
        return rearrange(self.present.any(1), "b -> b 1 1")

    def shaded(
        self, call: AttentionCall, attend: Attend, whole: Float[Tensor, "b p c"]
    ) -> Float[Tensor, "b n1 p c"]:
        """What the layer makes of the words for the whole, as it is known, and of each instance's."""
        told = call.rows.of("T")
        batch, count = self.present.shape
        states = call.states[told]
        first = whole
        if self.null is not None:
            first = attend(_heard(call, states, self.null, replace(call.rows, names=("T",))))
        rows = Rows(names=("T",), batch=batch, copies=count)
        each = attend(_heard(call, states.repeat_interleave(count, 0), self.phrases, rows))
        return torch.cat([first[:, None], rearrange(each, "(b n) p c -> b n p c", b=batch)], dim=1)

    def instances(self, grid: Size, like: Tensor) -> Instances:
        """As a layer with such states sees them."""
        masks, behind = self.masks[grid]
        pooled = self.boxes.new_zeros(*self.present.shape, 0) if self.pooled is None else self.pooled
        return Instances(
            pooled=pooled.to(like.dtype), boxes=self.boxes, masks=masks, background=behind,
            present=self.present, scales=self.scales,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class BlockShading:
    """A trained block in the place of an attention."""

    layout: Placed
    blocks: Mapping[str, AbstractLayoutBlock]
    """By the name of the attention."""
    slots: Int[Tensor, "b s"] | None = None
    """In training, which slot each slot of the aggregation is compared as; None: none is moved."""
    during: tuple[float, float] = (0.0, 1.0)
    order: int = 20

    def wants(self, site: Site) -> bool:
        """Where it has a block."""
        return site.name in self.blocks

    def __call__(self, call: AttentionCall, attend: Attend) -> Float[Tensor, "r p c"]:
        """All rows as they are, then those of T anew. What the block gives is what the layer gives."""
        block = partial(self.blocks[call.site.name], order=self.slots)
        return _in_rows_told(call, attend, self.layout, block)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Fusing:
    """The fuser around attention to the words; it has no weights."""

    layout: Placed
    sites: frozenset[str] | None = None
    """Names of the attentions. None: all."""
    but: frozenset[str] = frozenset()
    """Those that it leaves to others."""
    during: tuple[float, float] = (0.0, 1.0)
    order: int = 20

    def wants(self, site: Site) -> bool:
        """Attention to the words."""
        return site.cross and site.name not in self.but and (self.sites is None or site.name in self.sites)

    def __call__(self, call: AttentionCall, attend: Attend) -> Float[Tensor, "r p c"]:
        """All rows as they are, then those of T anew."""
        return _in_rows_told(
            call, attend, self.layout,
            lambda shaded, _, instances: fused(shaded, instances.masks, instances.scale(0, shaded)),
        )  # fmt: skip


def _in_rows_told(
    call: AttentionCall,
    attend: Attend,
    layout: Placed,
    put_together: Callable[[Tensor, Tensor, Instances], Tensor],
) -> Float[Tensor, "r p c"]:
    """Attention of all rows, with those of T put together anew from shadings, states and instances; samples
    without instances keep their bits."""
    out = attend(call)
    if "T" not in call.rows.names:
        return out
    told = call.rows.of("T")
    shaded = layout.shaded(call, attend, out[told])
    found = put_together(shaded, call.states[told], layout.instances(call.grid, shaded))
    found = torch.where(layout.some, found.to(out.dtype), out[told])
    return torch.cat([out[: told.start], found, out[told.stop :]])


def _heard(call: AttentionCall, states: Tensor, words: Condition, rows: Rows) -> AttentionCall:
    """The call of some rows that hear these words."""
    bias = None if words.mask is None else as_bias(words.mask[:, None], states.dtype)
    return replace(call, states=states, context=call.heard(words.tokens), bias=bias, rows=rows)
