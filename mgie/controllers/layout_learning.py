"""Layouts that are learnt: new blocks, a batch's regions as a plan, MIGC's inhibition loss.

The programs of MIGC and MIGC++ (Zhou et al., CVPR 2024, TPAMI 2024) were published without their training.
What the papers leave open is said where it is decided.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mgie.controllers.base import Setting
from mgie.controllers.layout import BlockShading, Fusing, LayoutBlocks, LayoutController, Placed
from mgie.controllers.layout_blocks import AbstractLayoutBlock, LayoutBlockConfig, MIGCBlock, MIGCPlusBlock
from mgie.controllers.layout_options import LayoutOptions, LayoutTraining
from mgie.errors import ConfigError
from mgie.types import AttentionCall, Context, ControlBatch, ControlPlan, Draws, Site, Size

KINDS: Mapping[str, type[AbstractLayoutBlock]] = {"migc": MIGCBlock, "migc++": MIGCPlusBlock}
PUBLISHED = ("mid_block", "up_blocks.1")
"""Beginnings of the names of the attentions that have a block in the published files."""
INHIBIT = "inhibit"
"""Name of the loss."""


def new_blocks(
    attentions: Mapping[str, tuple[int, int]],
    modules: Callable[[str], tuple[nn.Module, nn.Module]],
    training: LayoutTraining,
    *,
    seed: int,
) -> dict[str, AbstractLayoutBlock]:
    """Blocks for a denoiser's attentions to words, given with their widths and those of what they hear.

    `modules` gives an attention and the self-attention of the same transformer block: ea and la begin as
    copies of them, which starts from a sensible template, unless `init` is plain. What is new is drawn from
    `seed`. Raises ConfigError for sites that the denoiser does not have.
    """
    chosen = matching(attentions, training.sites or PUBLISHED, key="train.layout.sites")
    heads = {name: int(modules(name)[0].heads) for name in chosen}  # type: ignore[arg-type]
    if len(set(heads.values())) > 1:
        raise ConfigError(
            f"train.layout.sites are attentions with {', '.join(map(str, sorted(set(heads.values()))))} "
            "heads: blocks of one controller all have the same number; choose sites that do."
        )
    blocks: dict[str, AbstractLayoutBlock] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name in chosen:
            width, heard = attentions[name]
            config = LayoutBlockConfig(width=width, condition_width=heard, heads=heads[name])
            blocks[name] = KINDS[training.kind](config)
    for name, block in blocks.items() if training.init == "copied" else ():
        to_words, to_itself = modules(name)
        block.ea.load_state_dict(to_words.state_dict())
        block.la.load_state_dict(to_itself.state_dict())
    return blocks


def matching(names: Mapping[str, Any], beginnings: tuple[str, ...], *, key: str) -> list[str]:
    """The names that begin as one of `beginnings` says. Raises ConfigError for one that none begins with."""
    for beginning in beginnings:
        if not any(_begins(name, beginning) for name in names):
            there = dict.fromkeys(name.split(".transformer_blocks")[0] for name in names)
            raise ConfigError(
                f"{key} has {beginning}, where this denoiser has no attention to words, so nothing would be "
                f"trained there: expected some of {', '.join(there) or 'none, for it has no such attention'}."
            )
    return [name for name in names if any(_begins(name, beginning) for beginning in beginnings)]


def _begins(name: str, beginning: str) -> bool:
    return name == beginning or name.startswith(f"{beginning}.")


class LayoutLearning:
    """What a task needs to learn layouts. No module: what it holds belongs to the editor."""

    def __init__(
        self,
        blocks: LayoutBlocks,
        reader: Any,
        training: LayoutTraining,
        *,
        attentions: Mapping[str, tuple[int, int]],
        depth: int,
        factor: int,
    ):
        """`reader` is a PhraseReader; the denoiser halves latents, of which one is `factor` pixels wide,
        `depth` times. Raises ConfigError for losses that could teach nothing."""
        self.blocks, self.reader, self.training, self.factor = blocks, reader, training, factor
        self.controller = LayoutController(LayoutOptions(), depth=depth)
        self.controller.options = replace(blocks.way)
        self.inhibited: frozenset[str] = frozenset()
        if training.inhibit_weight:
            if reader.encoder.pooled:
                raise ConfigError(
                    f"train.layout.inhibit_weight is {training.inhibit_weight}, but each of the text "
                    "encoder's tokens has seen the whole phrase, so that what is heard of them is the same "
                    "everywhere: set it to 0."
                )
            sites = matching(attentions, training.inhibit_sites, key="train.layout.inhibit_sites")
            self.inhibited = frozenset(sites)

    @property
    def weights(self) -> dict[str, float]:
        """How much its own losses count beside the painting, by name."""
        return {INHIBIT: self.training.inhibit_weight} if self.inhibited else {}

    def plan(
        self, controls: ControlBatch, context: Context, draws: Draws, told: Bool[Tensor, " b"], grid: Size
    ) -> ControlPlan:
        """The regions of a batch over latents of height and width `grid`, for those who are `told` the words.

        Blocks act at all times, and for samples without regions too: their modules are asked in each step.
        """
        present = controls.present & told[:, None]
        if self.training.drop and draws.placed is not None:
            present = present & (draws.placed >= self.training.drop)[:, None]
        read = self.reader(controls.phrases.flatten(0, 1))
        setting = Setting(
            grid=grid, context=context, phrases=read.condition,
            pixels=(grid[0] * self.factor, grid[1] * self.factor),
        )  # fmt: skip
        layout = self.controller.placed(replace(controls, present=present), setting)
        blocks = self.blocks.by_site
        hooks: list[Any] = [BlockShading(layout=layout, blocks=blocks, slots=draws.slots)]
        if self.blocks.way.fuse_until:
            hooks.append(Fusing(layout=layout, but=frozenset(blocks)))
        if not self.inhibited:
            return ControlPlan(attention=tuple(hooks))
        inhibiting = Inhibiting(layout=layout, described=read.described, sites=self.inhibited)
        return ControlPlan(attention=(*hooks, inhibiting), losses={INHIBIT: inhibiting.total})


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Inhibiting:
    """Watches where phrases are heard in some layers; it changes nothing."""

    layout: Placed
    described: Bool[Tensor, "r q"]
    """As in Phrases."""
    sites: frozenset[str]
    found: dict[str, Tensor] = field(default_factory=dict)
    """Of each layer its sum. A recomputation under checkpointing finds it there."""
    during: tuple[float, float] = (0.0, 1.0)
    order: int = 25

    def wants(self, site: Site) -> bool:
        """The layers that it was given."""
        return site.name in self.sites

    def __call__(
        self, call: AttentionCall, attend: Callable[[AttentionCall], Tensor]
    ) -> Float[Tensor, "r p c"]:
        """What comes out, as it is."""
        found = inhibition(call, self.layout, self.described)
        self.found.setdefault(call.site.name, found)
        return attend(call)

    def total(self) -> Float[Tensor, ""]:
        """The mean of the layers; a sum over instances."""
        return torch.stack([self.found[name] for name in sorted(self.found)]).mean()


def inhibition(
    call: AttentionCall, layout: Placed, described: Bool[Tensor, "r q"]
) -> Float[Tensor, ""]:  # fmt: skip
    """How unevenly phrases are heard outside their regions, summed over the instances (MIGC's inhibition
    loss).

    Of each instance the mean distance of its map from the map's own mean, both over the positions outside its
    mask; the mean takes no gradient. The map is that of the frozen attention to the instance's phrase alone,
    its heads averaged and the tokens of the phrase added up, which the paper leaves open: over all tokens,
    those that begin and fill the text too, the sum would be 1 everywhere.
    """
    attn, batch = call.attn, len(layout.present)
    states = call.states[call.rows.of("T")]
    asked = rearrange(attn.to_q(states), "b p (h d) -> b h p d", h=attn.heads)
    words = attn.to_k(layout.phrases.tokens.to(states))
    keys = rearrange(words, "(b n) q (h d) -> b n h q d", b=batch, h=attn.heads)
    scores = torch.einsum("bhpd,bnhqd->bnhpq", asked, keys).float() * attn.scale
    if layout.phrases.mask is not None:
        seen = rearrange(layout.phrases.mask, "(b n) q -> b n 1 1 q", b=batch)
        scores = scores.masked_fill(~seen, torch.finfo(scores.dtype).min)
    phrase = rearrange(described, "(b n) q -> b n 1 q", b=batch)
    heard = (scores.softmax(-1).mean(2) * phrase).sum(-1)  # b n p
    outside = (layout.masks[call.grid][0].flatten(2) == 0).to(heard.dtype)
    places = outside.sum(-1).clamp(min=1)
    level = ((heard * outside).sum(-1) / places).detach()
    uneven = ((heard - level[..., None]).abs() * outside).sum(-1) / places
    return (uneven * layout.present).sum()
