"""Shades things in their boxes: blocks of MIGC and MIGC++, and the fuser without weights.

Zhou et al., MIGC: Multi-Instance Generation Controller for Text-to-Image Synthesis, CVPR 2024, and MIGC++,
TPAMI 2024. Each instance is shaded by itself, and the shadings are put together:

    R_0, R_i   the frozen cross-attention with the words of the whole, and of each instance
    E_i        enhancement: trained attention to an instance's phrase and place, within its mask
    T          a template: trained self-attention among positions that an instance, or the background, covers
    SAC        the shading aggregation controller: weights the maps at each position

Names of parameters are the published ones. Nothing here knows a UNet; what is of a call comes with it.
"""

from dataclasses import dataclass
from typing import Annotated

import torch
from diffusers.models.attention_processor import Attention
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from llava_patch.ranges import Range
from mgie.errors import ConfigError

FREQUENCIES, HIDDEN = 8, 512
"""Of the position token."""
SLOTS = 30
"""Maps that the aggregation compares, the fixed ones and empty ones included."""
REDUCTION = 16
"""How much narrower a channel gate is inside than the maps that it sees."""
EMPHASIS = 10.0
"""How much more an instance's words count in its mask than those of the whole, in the fuser."""
WIDEST = 2**16


@dataclass(frozen=True, kw_only=True)
class LayoutBlockConfig:
    """Sizes of a block, those of the layer that it works in."""

    width: Annotated[int, Range(ge=REDUCTION, le=WIDEST)]
    """Channels of the layer, a multiple of `heads`; 1280 in the published blocks."""
    condition_width: Annotated[int, Range(ge=1, le=WIDEST)]
    """Width of the pooled phrases; 768 in the published blocks."""
    heads: Annotated[int, Range(ge=1, le=1024)]
    """Attention heads; 8 in the published blocks."""

    def __post_init__(self) -> None:
        """Each head has an equal part of the width. Raises ConfigError."""
        if self.heads > 0 and self.width % self.heads:
            raise ConfigError(
                f"a layout block of width {self.width} cannot have {self.heads} heads: each has an equal "
                "part of the width; change one of them."
            )


@dataclass(frozen=True, kw_only=True)
class Instances:
    """The instances of each sample, as one layer sees them; present ones first, padding behind."""

    pooled: Float[Tensor, "b n e"]
    """One state for each phrase: the text encoder's, at its end."""
    boxes: Float[Tensor, "b n 4"]
    """x0 y0 x1 y1 in [0, 1]."""
    masks: Float[Tensor, "b n h w"]
    """At the layer's size; zero on padding."""
    background: Float[Tensor, "b 1 h w"]
    """What no instance covers, made at the picture's size and reduced like the masks."""
    present: Bool[Tensor, "b n"]
    """False on padding."""
    scales: Float[Tensor, "b n 3"] | None = None
    """Of cross-attention, enhancement and aggregation. None: all 1."""

    def scale(self, which: int, like: Tensor) -> Float[Tensor, "b n 1 1"] | float:
        """One of the scales, to be multiplied with maps "b n p c" of the type of `like`."""
        if self.scales is None:
            return 1.0
        return rearrange(self.scales[..., which], "b n -> b n 1 1").to(like.dtype)


def published_order(boxes: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 4"]:
    """x0 y0 x1 y1 -> x0 x1 y0 y1, the order that the published weights were trained with; and back."""
    return boxes[..., [0, 2, 1, 3]]


def fourier(numbers: Float[Tensor, "*n 4"]) -> Float[Tensor, "*n 64"]:
    """Sine of all four numbers and cosine of all four, for each of the frequencies 100^(k/8), without pi."""
    frequencies = 100 ** (torch.arange(FREQUENCIES, device=numbers.device) / FREQUENCIES)
    angles = numbers[..., None, :] * frequencies[:, None]  # *n k 4
    return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


class PositionNet(nn.Module):
    """A box as a token."""

    def __init__(self, condition_width: int):
        super().__init__()
        self.linears_position = nn.Sequential(
            nn.Linear(FREQUENCIES * 2 * 4, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, HIDDEN),
            nn.SiLU(),
            nn.Linear(HIDDEN, condition_width),
        )

    def forward(
        self, boxes: Float[Tensor, "*n 4"], dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "*n e"]:
        """`boxes` as x0 y0 x1 y1; no gradient goes back to them."""
        numbers = published_order(boxes.detach()).float()
        return self.linears_position(fourier(numbers).to(dtype))


class ChannelGate(nn.Module):
    """Weighs channels by what their mean and their maximum tell."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        inside = channels // reduction
        self.mlp = nn.Sequential(
            nn.Flatten(), nn.Linear(channels, inside), nn.ReLU(), nn.Linear(inside, channels)
        )

    def forward(self, maps: Float[Tensor, "r c h w"]) -> Float[Tensor, "r c h w"]:
        """The maps, gated."""
        told = self.mlp(maps.mean((2, 3))) + self.mlp(maps.amax((2, 3)))
        return maps * rearrange(told.sigmoid(), "r c -> r c 1 1")


class SpatialGate(nn.Module):
    """Weighs places by the maximum and the mean over channels around them."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = nn.Sequential()
        self.spatial.add_module("conv", nn.Conv2d(2, 1, 7, padding=3, bias=False))

    def forward(self, maps: Float[Tensor, "r c h w"]) -> Float[Tensor, "r c h w"]:
        """The maps, gated."""
        told = torch.cat([maps.amax(1, keepdim=True), maps.mean(1, keepdim=True)], dim=1)
        return maps * self.spatial(told).sigmoid()


class CBAM(nn.Module):
    """Gates of channels, then of places (Woo et al., Convolutional Block Attention Module, ECCV 2018)."""

    def __init__(self, channels: int, reduction: int):
        super().__init__()
        self.ChannelGate = ChannelGate(channels, reduction)
        self.SpatialGate = SpatialGate()

    def forward(self, maps: Float[Tensor, "r c h w"]) -> Float[Tensor, "r c h w"]:
        """The maps, gated twice."""
        return self.SpatialGate(self.ChannelGate(maps))


class SAC(nn.Module):
    """Puts maps together: at each position the weights of all maps sum to one.

    One number a map and position is told by the map itself; then all are compared in `SLOTS` slots. Slots
    that no instance takes hold the number of an empty map.
    """

    def __init__(self, width: int, *, with_background: bool):
        """`with_background`: MIGC's, which sees the masks too, and has the background for its first map."""
        super().__init__()
        self.first = int(with_background)
        if with_background:
            self.conv1 = nn.Conv2d(width + 1, width, 1)
            self.cbam1 = CBAM(width, REDUCTION)
        self.conv2 = nn.Conv2d(width, 1, 1)
        self.cbam2 = CBAM(SLOTS, 1)

    @property
    def most(self) -> int:
        """How many instances it has slots for."""
        return SLOTS - 1 - self.first

    def forward(
        self,
        maps: Float[Tensor, "b s p c"],
        masks: Float[Tensor, "b s h w"],
        *,
        present: Bool[Tensor, "b n"],
        scales: Float[Tensor, "b n 1 1"] | float = 1.0,
        order: Int[Tensor, "_ slots"] | None = None,
    ) -> tuple[Float[Tensor, "b p c"], Float[Tensor, "b s h w"]]:
        """The weighted sum of the maps, and the weights.

        `maps`: the background where it has one, the instances, the template. What is not `present` gets no
        weight. `order`, one row or one a sample, says which slot between the fixed ones each slot is compared
        as; None leaves them in place. Raises ConfigError for more instances than slots.
        """
        count = present.shape[1]
        if count > self.most:
            raise ConfigError(
                f"{count} instances in one picture: expected at most {self.most} with this controller; leave "
                "some out, or use the fuser alone."
            )
        logits, empty = self._told(maps, masks)
        free = repeat(empty, "1 h w -> b m h w", b=len(maps), m=self.most - count)
        between = torch.cat([logits[:, self.first : -1], free], dim=1)
        if order is not None:
            order = order.expand(len(maps), -1)
            between = _taken(between, order)
        told = self.cbam2(torch.cat([logits[:, : self.first], between, logits[:, -1:]], dim=1))
        between = told[:, self.first : -1]
        if order is not None:
            between = _taken(between, order.argsort(1))
        instances = (between[:, :count] * scales).masked_fill(
            rearrange(~present, "b n -> b n 1 1"), float("-inf")
        )
        told = torch.cat([told[:, : self.first], instances, told[:, -1:]], dim=1)
        weights = told.float().softmax(1).to(maps.dtype)
        return torch.einsum("bsp,bspc->bpc", weights.flatten(2), maps), weights

    def _told(
        self, maps: Float[Tensor, "b s p c"], masks: Float[Tensor, "b s h w"]
    ) -> tuple[Float[Tensor, "b s h w"], Float[Tensor, "1 h w"]]:
        """A number for each position of each map, and of an empty map."""
        b, h = len(masks), masks.shape[2]
        pictures = rearrange(maps, "b s (h w) c -> (b s) c h w", h=h)
        if self.first:
            pictures = torch.cat([pictures, rearrange(masks, "b s h w -> (b s) 1 h w").to(maps)], dim=1)
        pictures = torch.cat([pictures, pictures.new_zeros(1, *pictures.shape[1:])])
        if self.first:
            pictures = self.cbam1(self.conv1(pictures))
        told = self.conv2(pictures)
        return rearrange(told[:-1], "(b s) 1 h w -> b s h w", b=b), told[-1]


class AbstractLayoutBlock(nn.Module):
    """What MIGC's and MIGC++'s blocks have in common: enhancement, template, aggregation."""

    with_background: bool

    def __init__(self, config: LayoutBlockConfig):
        super().__init__()
        self.config = config
        width, heads = config.width, config.heads
        self.ea = _attention(width, heads, config.condition_width)
        self.la = _attention(width, heads, None)
        self.norm = nn.LayerNorm(width)
        self.sac = SAC(width, with_background=self.with_background)
        self.pos_net = PositionNet(config.condition_width)

    @property
    def most(self) -> int:
        """How many instances a picture may have."""
        return self.sac.most

    def enhanced(self, states: Float[Tensor, "b p c"], instances: Instances) -> Float[Tensor, "b n p c"]:
        """Each instance's phrase and place, as far as its mask reaches."""
        b, n = instances.present.shape
        pooled = instances.pooled.to(states.dtype)
        places = self.pos_net(instances.boxes, states.dtype)
        tokens = rearrange(torch.stack([pooled, places], dim=2), "b n two e -> (b n) two e")
        asked = repeat(self.norm(states), "b p c -> (b n) p c", n=n)
        found = rearrange(self.ea(asked, encoder_hidden_states=tokens), "(b n) p c -> b n p c", b=b)
        return found * _columns(instances.masks, found)

    def template(self, states: Float[Tensor, "b p c"], instances: Instances) -> Float[Tensor, "b p c"]:
        """Attention among positions that one instance, or the background, covers together."""
        covered = torch.cat([instances.masks, instances.background], dim=1).flatten(2) > 0
        together = torch.einsum("brp,brq->bpq", covered.float(), covered.float()) > 0
        # A number for each query, which all of diffusers' processors add; they do not all take booleans.
        bias = torch.where(together, 0.0, torch.finfo(states.dtype).min).to(states.dtype)
        return self.la(states, attention_mask=bias)


class MIGCBlock(AbstractLayoutBlock):
    """MIGC's: its output takes the place of the cross-attention's."""

    with_background = True

    def forward(
        self,
        shaded: Float[Tensor, "b n1 p c"],
        states: Float[Tensor, "b p c"],
        instances: Instances,
        *,
        order: Int[Tensor, "_ slots"] | None = None,
    ) -> Float[Tensor, "b p c"]:
        """What the layer gives, its residual not yet added.

        `shaded` is what the frozen cross-attention gives for the words of the whole, then for those of each
        instance; `states` what it was asked with. A sample without instances keeps the bits of the former.
        `order`: see SAC. Raises ConfigError for more instances than `most`.
        """
        if shaded.shape[1] == 1:
            return shaded[:, 0]
        masks = instances.masks
        own = instances.scale(0, shaded) * shaded[:, 1:] * _columns(masks, shaded)
        own = own + instances.scale(1, shaded) * self.enhanced(states, instances)
        behind = shaded[:, :1] * _columns(instances.background, shaded)
        template = self.template(states, instances)
        found, _ = self.sac(
            torch.cat([behind, own, template[:, None]], dim=1),
            torch.cat([instances.background, masks, torch.ones_like(instances.background)], dim=1),
            present=instances.present,
            scales=instances.scale(2, shaded),
            order=order,
        )
        return _kept_without_instances(found, shaded, instances)


class MIGCPlusBlock(AbstractLayoutBlock):
    """MIGC++'s: what it finds is added to what the fuser makes; new, it adds nothing."""

    with_background = False

    def __init__(self, config: LayoutBlockConfig):
        super().__init__(config)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(
        self,
        shaded: Float[Tensor, "b n1 p c"],
        states: Float[Tensor, "b p c"],
        instances: Instances,
        *,
        order: Int[Tensor, "_ slots"] | None = None,
        gamma_scale: float = 1.0,
    ) -> Float[Tensor, "b p c"]:
        """As of MIGCBlock. Scales of cross-attention do nothing here, as published."""
        if shaded.shape[1] == 1:
            return shaded[:, 0]
        own = instances.scale(1, shaded) * self.enhanced(states, instances)
        template = self.template(states, instances)
        found, _ = self.sac(
            torch.cat([own, template[:, None]], dim=1),
            torch.cat([instances.masks, torch.ones_like(instances.background)], dim=1),
            present=instances.present,
            scales=instances.scale(2, shaded),
            order=order,
        )
        found = fused(shaded, instances.masks) + self.gamma.tanh() * found * gamma_scale
        return _kept_without_instances(found, shaded, instances)


def fused(
    shaded: Float[Tensor, "b n1 p c"],
    masks: Float[Tensor, "b n h w"],
    scales: Float[Tensor, "b n 1 1"] | float = 1.0,
) -> Float[Tensor, "b p c"]:
    """The shadings' mean, in which those of instances count ten times as much where they belong.

    Without weights, for any number of instances; MIGC's naive fuser, MIGC++'s refined shader. `scales` of
    instances are ours: the published ones pay no heed to them.
    """
    flat = (EMPHASIS * masks * scales).flatten(2).to(shaded.dtype)
    total = shaded[:, 0] + torch.einsum("bnp,bnpc->bpc", flat, shaded[:, 1:])
    return total / (1 + flat.sum(1)[..., None] + 1e-6)


def _attention(width: int, heads: int, context: int | None) -> Attention:
    return Attention(width, cross_attention_dim=context, heads=heads, dim_head=width // heads, bias=False)


def _columns(masks: Float[Tensor, "b n h w"], like: Tensor) -> Float[Tensor, "b n p 1"]:
    """Masks that maps "b n p c" can be multiplied with."""
    return rearrange(masks, "b n h w -> b n (h w) 1").to(like.dtype)


def _taken(maps: Float[Tensor, "b m h w"], order: Int[Tensor, "b m"]) -> Float[Tensor, "b m h w"]:
    return maps.take_along_dim(rearrange(order, "b m -> b m 1 1"), dim=1)


def _kept_without_instances(
    found: Float[Tensor, "b p c"], shaded: Float[Tensor, "b n1 p c"], instances: Instances
) -> Float[Tensor, "b p c"]:
    """What was found, but of samples without instances the shading of the whole."""
    some = rearrange(instances.present.any(1), "b -> b 1 1")
    return torch.where(some, found, shaded[:, 0])
