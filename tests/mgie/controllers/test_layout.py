"""Regions with phrases become a plan, and the plan what a UNet answers."""

from collections.abc import Sequence
from functools import cache

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from mgie.controllers.base import Setting, join
from mgie.controllers.layout import LayoutBlocks, LayoutController
from mgie.controllers.layout_blocks import LayoutBlockConfig, MIGCBlock, MIGCPlusBlock
from mgie.controllers.layout_options import LayoutOptions
from mgie.controllers.masking import EditMasking, at_levels
from mgie.errors import ConfigError
from mgie.models.denoisers.unet import UNetDenoiser
from mgie.types import Branch, Condition, Context, ControlBatch, ControlPlan, Rows

WIDTH, TOKENS, FACTOR = 24, 5, 4
SITES = ("mid_block.attentions.0", "up_blocks.0.attentions.1")
ATTENTION = ".transformer_blocks.0.attn2"
KINDS = {"fuser": None, "migc": MIGCBlock, "plus": MIGCPlusBlock}
CLOSE = 2e-6
"""Of float32 in other orders of summing. Worst measured: 5e-7."""
THREE: tuple[Branch, ...] = ("T", "I", "U")


@cache
def denoiser() -> UNetDenoiser:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        in_channels=4, out_channels=4, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4,
        cross_attention_dim=WIDTH, attention_head_dim=2,
        down_block_types=("CrossAttnDownBlock2D",) * 2, up_block_types=("CrossAttnUpBlock2D",) * 2,
    )  # fmt: skip
    return UNetDenoiser(unet).eval().requires_grad_(False)


@cache
def blocks(kind: str) -> LayoutBlocks | None:
    if KINDS[kind] is None:
        return None
    torch.manual_seed(1)
    made = {}
    for site in SITES:
        width = denoiser().unet.get_submodule(site + ATTENTION).query_dim
        made[site + ATTENTION] = KINDS[kind](LayoutBlockConfig(width=width, condition_width=WIDTH, heads=2))
        if kind == "plus":
            torch.nn.init.constant_(made[site + ATTENTION].gamma, 0.7)
    return LayoutBlocks(made).eval().requires_grad_(False)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def boxes_of(sample: int, count: int) -> Tensor:
    corners = torch.rand(count, 2, generator=torch.Generator().manual_seed(sample)) * 0.5
    return torch.cat([corners, corners + 0.45], dim=1)


def planned(
    counts: Sequence[int],
    kind: str = "fuser",
    *,
    grid: tuple[int, int] = (8, 8),
    options: LayoutOptions | None = None,
    pad: int = 0,
    samples: Sequence[int] | None = None,
    pooled: bool = True,
    boxes: Tensor | None = None,
) -> ControlPlan:
    """A plan of so many regions in each sample; what a sample is depends on its number alone."""
    samples = range(len(counts)) if samples is None else samples
    most, batch = max([*counts, 0]) + pad, len(counts)
    placed, present = torch.zeros(batch, most, 4), torch.zeros(batch, most, dtype=torch.bool)
    tokens, states = torch.zeros(batch, most, TOKENS, WIDTH), torch.zeros(batch, most, WIDTH)
    for row, (sample, count) in enumerate(zip(samples, counts)):
        placed[row, :count] = boxes_of(sample, count) if boxes is None else boxes
        present[row, :count] = True
        tokens[row] = 9.0  # what stands on padding is never heard
        tokens[row, :count] = drawn(count, TOKENS, WIDTH, seed=100 + sample)
        states[row, :count] = drawn(count, WIDTH, seed=200 + sample)
    controls = ControlBatch(
        boxes=placed, present=present, phrases=torch.zeros(batch, most, 0, dtype=torch.long),
        scales=torch.ones(batch, most, 3),
    )  # fmt: skip
    setting = Setting(
        grid=grid, pixels=(grid[0] * FACTOR, grid[1] * FACTOR), context=context(samples),
        phrases=Condition(tokens=tokens.flatten(0, 1), pooled=states.flatten(0, 1) if pooled else None),
    )  # fmt: skip
    options = options or LayoutOptions(until=1.0)
    return LayoutController(options, blocks=blocks(kind), depth=1).plan(controls, setting)


def context(samples: Sequence[int]) -> Context:
    words = torch.cat([drawn(1, TOKENS, WIDTH, seed=300 + sample) for sample in samples])
    return Context(condition=Condition(tokens=words), null=Condition(tokens=drawn(1, TOKENS, WIDTH, seed=7)))


def answered(
    plan: ControlPlan | None,
    samples: Sequence[int],
    *,
    names: tuple[Branch, ...] = ("T",),
    grid: tuple[int, int] = (8, 8),
) -> Tensor:
    """What the UNet says in the rows `names` of these samples."""
    noisy = torch.cat([drawn(1, 4, *grid, seed=400 + sample) for sample in samples])
    told = context(samples)
    null = told.null.tokens.expand(len(samples), -1, -1)
    tokens = torch.cat([told.condition.tokens if name == "T" else null for name in names])
    rows = Rows(names=names, batch=len(samples))
    t = torch.full((len(tokens),), 500)
    return denoiser()(noisy.repeat(len(names), 1, 1, 1), t, None, Condition(tokens=tokens), plan, rows).mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("names", [THREE, ("U", "T"), ("T",)])
def test_only_those_who_are_told_the_words_see_the_layout(kind: str, names):
    plain = answered(None, [0, 1], names=names).chunk(len(names))
    ours = answered(planned([2, 3], kind), [0, 1], names=names).chunk(len(names))
    for name, left, right in zip(names, plain, ours):
        assert torch.equal(left, right) == (name != "T")


@pytest.mark.parametrize("kind", KINDS)
def test_each_sample_is_what_it_is_alone(kind: str):
    together = answered(planned([0, 2, 5], kind), [0, 1, 2])
    assert torch.equal(together[0], answered(None, [0, 1, 2])[0])  # without regions: to the bit
    for sample, count in ((1, 2), (2, 5)):
        alone = answered(planned([count], kind, samples=[sample]), [sample])
        assert (together[sample] - alone[0]).abs().max() < CLOSE
        assert not torch.allclose(alone, answered(None, [sample]), atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str):
    padded = answered(planned([2, 3], kind, pad=4), [0, 1])
    assert (padded - answered(planned([2, 3], kind), [0, 1])).abs().max() < CLOSE


@pytest.mark.parametrize("kind", KINDS)
def test_without_regions_there_is_no_plan(kind: str):
    assert planned([0, 0], kind).given == () and planned([0, 0], kind, pad=3).given == ()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(9, 12), (7, 5), (16, 8)])
def test_odd_and_oblong_latents(kind: str, grid):
    plan = planned([2, 1], kind, grid=grid)
    assert answered(plan, [0, 1], grid=grid).isfinite().all()
    assert torch.equal(
        answered(plan, [0, 1], grid=grid, names=("T", "U"))[2:],
        answered(None, [0, 1], grid=grid, names=("T", "U"))[2:],
    )


def test_blocks_act_first_and_then_the_fuser():
    plan = planned([2], "migc", options=LayoutOptions(until=0.5, fuse_until=0.75))
    kinds = {at: [type(hook).__name__ for hook in plan.at(at).attention] for at in (0.0, 0.49, 0.5, 0.75)}
    assert kinds[0.0] == kinds[0.49] == ["BlockShading", "Fusing"]
    assert kinds[0.5] == ["Fusing", "Fusing"] and kinds[0.75] == []
    # The fuser in all layers: as if there were no blocks.
    fused = planned([2], "fuser", options=LayoutOptions(fuse_until=0.75))
    assert torch.equal(answered(plan.at(0.5), [0]), answered(fused.at(0.5), [0]))
    alone = planned([2], "migc", options=LayoutOptions(until=0.5, fuse_until=0.0))
    assert [type(hook).__name__ for hook in alone.attention] == ["BlockShading"]


def test_a_new_block_of_migc_plus_is_the_fuser():
    made = {site: MIGCPlusBlock(block.config) for site, block in blocks("plus").by_site.items()}
    plan = planned([2, 3], "plus")
    new = ControlPlan(
        attention=tuple(
            type(hook)(layout=hook.layout, blocks=made) if hasattr(hook, "blocks") else hook
            for hook in plan.attention
        )
    )
    with torch.no_grad():
        fused = answered(planned([2, 3], "fuser"), [0, 1])
        assert torch.allclose(answered(new, [0, 1]), fused, atol=CLOSE)
    assert not torch.allclose(answered(plan, [0, 1]), fused, atol=1e-4)


def test_around_nothing_is_heard_if_asked_for():
    told, silent = (
        planned([1], options=LayoutOptions(around=around)).attention[0].layout
        for around in ("words", "nothing")
    )
    assert told.null is None and torch.equal(silent.null.tokens, context([0]).null.tokens)
    plan = planned([1], options=LayoutOptions(around="nothing"))
    assert not torch.equal(answered(plan, [0]), answered(planned([1]), [0]))


def test_a_mask_inside_a_layout_holds_for_every_phrase():
    """Cross-attention masking lies inside: where the mask is zero, nobody's words are heard."""
    grid, null = (8, 8), context([0]).null
    masks = at_levels(torch.zeros(1, 1, *grid), grid, last=1)
    masking = ControlPlan(attention=(EditMasking(masks=masks, null=null.tokens),))
    layout = planned([2], options=LayoutOptions(around="words"))
    plan = join({"layout": layout, "region": masking})
    assert [hook.order for hook in plan.attention] == [10, 20]
    names: tuple[Branch, ...] = ("T", "U")
    told, silent = answered(plan, [0], names=names).chunk(2)
    assert torch.allclose(told, silent, atol=1e-5)


def test_a_thin_region_has_a_cell_and_a_warning():
    thin = torch.tensor([[0.25, 0.3, 0.29, 0.9]])
    with pytest.warns(UserWarning, match="1 regions are thinner .* region 1 of picture 1"):
        layout = planned([1], boxes=thin).attention[0].layout
    assert all(masks.sum() > 0 for masks, _ in layout.masks.values())
    published = planned([1], boxes=thin, options=LayoutOptions(visible=False)).attention[0].layout
    assert not any(masks.any() for masks, _ in published.masks.values())


def test_what_cannot_be():
    with pytest.raises(ConfigError, match="need one state for each phrase"):
        planned([1], "migc", pooled=False)
    assert planned([1], "migc", pooled=False, options=LayoutOptions(until=0.0)).given == ("attention",)
    setting = Setting(grid=(8, 8), pixels=(32, 32), context=context([0]))
    controls = ControlBatch(
        boxes=boxes_of(0, 1)[None], present=torch.ones(1, 1, dtype=torch.bool), scales=torch.ones(1, 1, 3),
        phrases=torch.zeros(1, 1, 0, dtype=torch.long),
    )  # fmt: skip
    with pytest.raises(ConfigError, match="of the phrases of a layout none were read: expected 1"):
        LayoutController(LayoutOptions()).plan(controls, setting)


def test_half_precision():
    half = UNetDenoiser(denoiser().unet).to(torch.bfloat16)
    try:
        plan = planned([2, 0], "fuser")
        noisy, told = drawn(2, 4, 8, 8, seed=1).bfloat16(), context([0, 1]).condition.tokens.bfloat16()
        rows = Rows(names=("T",), batch=2)
        out = half(noisy, torch.full((2,), 5), None, Condition(tokens=told), plan, rows).mean
        assert out.dtype == torch.bfloat16 and out.isfinite().all()
    finally:
        denoiser().float()
