"""Words and features where they belong."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_processor import Attention

from mgie.controllers.masking import EditMasking, FeatureBlending, TokenMasking, at_levels, mixed, sized
from mgie.models.denoisers.hooked import HookedProcessor
from mgie.types import AttentionPlan, Point, Rows, Site

GRID, TOKENS, POSITIONS = (3, 5), 6, 15
ROWS = Rows(names=("T", "I"), batch=2)
STATES, CONTEXT = torch.randn(4, POSITIONS, 8), torch.randn(4, TOKENS, 10)
HALF = torch.zeros(2, 1, *GRID)
HALF[0, :, :, :2], HALF[1, :, 1:] = 1, 1
INSIDE = HALF.flatten(1).bool()


@pytest.fixture
def layer() -> Attention:
    made = Attention(8, cross_attention_dim=10, heads=2, dim_head=4).eval()
    made.set_processor(HookedProcessor(made.get_processor(), Site(name="attn2", cross=True)))
    return made


def attended(layer: Attention, *hooks, context=CONTEXT, rows: Rows = ROWS, states=STATES) -> torch.Tensor:
    plan = AttentionPlan(hooks=hooks, grid=GRID, rows=rows)
    with torch.no_grad():
        return layer(states, encoder_hidden_states=context, plan=plan)


def changed(token: int) -> torch.Tensor:
    context = CONTEXT.clone()
    context[:, token] += 1
    return context


def test_a_token_that_belongs_inside_is_not_heard_outside(layer):
    hook = TokenMasking(masks={GRID: HALF}, inside=(2,), outside=(4,))
    plain, before = attended(layer), attended(layer, hook)
    for token, hearing in ((2, INSIDE), (4, ~INSIDE), (1, torch.ones_like(INSIDE))):
        differs = (attended(layer, hook, context=changed(token)) != before).any(dim=-1)[:2]
        assert torch.equal(differs, hearing)
    assert torch.equal(before[2:], plain[2:])  # the rows I keep their bits


def test_a_position_that_would_hear_nothing_hears_everything(layer):
    hook = TokenMasking(masks={GRID: HALF}, inside=tuple(range(TOKENS)))
    both = TokenMasking(masks={GRID: 1 - HALF}, inside=(0, 1, 2), order=5)
    out = attended(layer, hook)
    assert torch.allclose(out, attended(layer), atol=1e-6)
    assert attended(layer, hook, both).isfinite().all()
    half = layer.to(torch.bfloat16)
    given = {"states": STATES.bfloat16(), "context": CONTEXT.bfloat16()}
    assert attended(half, hook, both, **given).isfinite().all()


def test_several_lists_nest(layer):
    left = TokenMasking(masks={GRID: HALF}, inside=(2,))
    right = TokenMasking(masks={GRID: 1 - HALF}, inside=(4,))
    together = TokenMasking(masks={GRID: HALF}, inside=(2,), outside=(4,))
    assert torch.allclose(attended(layer, left, right), attended(layer, together), atol=1e-6)


def test_named_layers_and_sizes_alone_are_masked(layer):
    hook = TokenMasking(masks={GRID: HALF}, inside=(2,), sites=frozenset({"other"}))
    assert torch.equal(attended(layer, hook), attended(layer))
    elsewhere = TokenMasking(masks={(9, 9): HALF}, inside=(2,))
    assert torch.equal(attended(layer, elsewhere), attended(layer))


def test_outside_the_mask_the_null_is_heard(layer):
    null = torch.randn(2, 4, 10)
    silent = attended(layer, context=null, rows=Rows(names=("T",), batch=2), states=STATES[:2])
    plain = attended(layer)
    out = attended(layer, EditMasking(masks={GRID: HALF}, null=null))
    chosen = torch.where(INSIDE[..., None], plain[:2], silent)
    assert torch.allclose(out[:2], chosen, atol=1e-6) and torch.equal(out[2:], plain[2:])
    assert torch.equal(out[:2][INSIDE], plain[:2][INSIDE])
    soft = attended(layer, EditMasking(masks={GRID: HALF / 2 + 0.25}, null=null))[:2]
    assert torch.allclose(
        soft, torch.where(INSIDE[..., None], 0.75, 0.25) * (plain[:2] - silent) + silent, atol=1e-6
    )
    whole = attended(layer, EditMasking(masks={GRID: torch.ones_like(HALF)}, null=null))
    assert torch.equal(whole, plain)


def test_masked_tokens_of_the_null_do_not_count(layer):
    null, mask = torch.randn(2, 4, 10), torch.tensor([[True, True, False, False]]).repeat(2, 1)
    other = torch.cat([null[:, :2], torch.randn(2, 2, 10)], dim=1)
    one, two = (
        attended(layer, EditMasking(masks={GRID: HALF}, null=n, null_mask=mask)) for n in (null, other)
    )
    assert torch.equal(one, two)


def test_copies_of_a_sample_share_its_mask(layer):
    """As a layout asks for them, one for each instance."""
    rows = replace(ROWS, names=("T",), copies=3)
    states = STATES[:2].repeat_interleave(3, 0)
    context = CONTEXT[:2].repeat_interleave(3, 0)
    null = torch.randn(2, 4, 10)
    for hook in (TokenMasking(masks={GRID: HALF}, inside=(2,)), EditMasking(masks={GRID: HALF}, null=null)):
        once = attended(layer, hook)[:2]
        thrice = attended(layer, hook, rows=rows, states=states, context=context)
        assert torch.allclose(thrice, once.repeat_interleave(3, 0), atol=1e-6)


def test_features_of_the_reference_outside():
    states = torch.randn(6, 4, *GRID)
    rows, point = Rows(names=("T", "I", "R"), batch=2), Point(part="middle")
    out = FeatureBlending(masks={GRID: HALF})(point, states, rows, (12, 20))
    reference = states[4:]
    for at in (slice(0, 2), slice(2, 4)):
        assert torch.equal(out[at], torch.where(HALF == 1, states[at], reference))
    assert torch.equal(out[4:], reference)
    weak = FeatureBlending(masks={GRID: HALF}, strength=0.5)(point, states, rows, (12, 20))
    assert torch.allclose(weak[:2], (out[:2] + states[:2]) / 2, atol=1e-6)
    kept = FeatureBlending(masks={GRID: HALF}, points=frozenset())(point, states, rows, (12, 20))
    assert kept is states


def test_masks_follow_the_levels_of_a_denoiser():
    mask = torch.ones(1, 1, 9, 13)
    masks = at_levels(mask, (9, 13))
    assert list(masks) == [(9, 13), (5, 7), (3, 4), (2, 2), (1, 1)]
    assert all((each == 1).all() for each in masks.values())  # a mask of all stays one
    assert list(at_levels(mask, (9, 13), first=1, last=2)) == [(5, 7), (3, 4)]
    half = torch.zeros(1, 1, 4, 4)
    half[..., :1] = 1
    assert sized(half, (2, 2)).flatten().tolist() == [0.5, 0, 0.5, 0]


def test_a_mixture_is_exact_at_its_ends():
    one, other = torch.randn(8), torch.randn(8)
    assert torch.equal(mixed(torch.ones(8), one, other), one)
    assert torch.equal(mixed(torch.zeros(8), one, other * float("nan"))[:0], one[:0])
    assert torch.equal(mixed(torch.zeros(8), one, other), other)
