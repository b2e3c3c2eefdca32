"""A mask becomes a plan."""

import pytest
import torch

from mgie.controllers.base import Setting
from mgie.controllers.masking import EditMasking, FeatureBlending
from mgie.controllers.region import LatentBlending, RegionController, RegionOptions
from mgie.errors import ConfigError
from mgie.types import Condition, Context, ControlBatch, ControlPlan

GRID, STEPS = (8, 12), 10
LATENTS = torch.randn(STEPS + 1, 1, 4, *GRID)
CONTEXT = Context(
    condition=Condition(tokens=torch.ones(1, 3, 5)), null=Condition(tokens=torch.zeros(1, 2, 5))
)
MASK = torch.zeros(1, 1, 32, 48)
MASK[..., :26] = 1


def plan(
    options: RegionOptions | None = None, mask: torch.Tensor | None = MASK, depth=3, **how
) -> ControlPlan:
    controls = ControlBatch(
        boxes=torch.zeros(1, 0, 4), present=torch.zeros(1, 0).bool(), phrases=torch.zeros(1, 0, 0).long(),
        scales=torch.zeros(1, 0, 3), mask=mask,
    )  # fmt: skip
    setting = Setting(
        grid=GRID, context=CONTEXT, source=torch.zeros(1, 3, 32, 48), steps=STEPS,
        reference=lambda step: LATENTS[step],
    )  # fmt: skip
    return RegionController(options or RegionOptions(), depth=depth, **how).plan(controls, setting)


@pytest.mark.parametrize(("preserve", "steps"), [("exact", 10), ("soft", 5), ("none", 0)])
def test_latents_outside_are_put_back_at_the_level_that_is_reached(preserve, steps):
    blend, latents = plan(preserve=preserve).blend, torch.randn(1, 4, *GRID)
    assert (blend is None) == (steps == 0)
    for step in range(STEPS) if blend else ():
        after = blend(latents, step)
        assert torch.equal(after[..., :6], latents[..., :6])
        if step >= steps:
            assert after is latents
        else:
            assert torch.equal(after[..., 7:], LATENTS[step + 1][..., 7:])
            half = (latents + LATENTS[step + 1])[..., 6] / 2  # the mask's edge runs through it
            assert torch.allclose(after[..., 6], half, atol=1e-6)
    if isinstance(blend, LatentBlending) and preserve == "exact":
        assert torch.equal(blend(latents, STEPS - 1)[..., 7:], LATENTS[STEPS][..., 7:])


def test_only_what_is_asked_for_is_in_the_plan():
    assert plan().given == ("blend", "finish")
    assert plan(preserve="soft").given == ("blend",)
    assert plan(preserve="none").given == ()
    for none in (RegionOptions(seam=0.0), RegionOptions(seam_width=0.0)):
        assert plan(none).given == ("blend",)
    held = plan(RegionOptions(features=True, attention=True, until=0.5))
    assert held.given == ("attention", "features", "blend", "finish")
    assert held.at(0.4).given == held.given and held.at(0.5).given == ("blend", "finish")
    assert plan(RegionOptions(features=True, strength=0.0)).features is None


def test_coarse_levels_are_held():
    """Features at a quarter of the side or less, words at a half; of a shallow denoiser, the coarsest."""
    for depth, features, words in ((3, [(2, 3), (1, 2)], [(4, 6), (2, 3), (1, 2)]), (1, [(4, 6)], [(4, 6)])):
        held = plan(RegionOptions(features=True, attention=True), depth=depth)
        assert isinstance(held.features, FeatureBlending) and list(held.features.masks) == features
        (hook,) = held.attention
        assert isinstance(hook, EditMasking) and list(hook.masks) == words
        # The null of another length, as rows of guidance have it.
        assert hook.null.shape == (1, 3, 5) and hook.null_mask is not None
        assert hook.null_mask.tolist() == [[True, True, False]]


def test_a_mask_of_everything_is_none():
    held = RegionOptions(features=True, attention=True)
    assert plan(held, torch.ones(1, 1, 32, 48)) == ControlPlan()


def test_a_mask_smaller_than_a_latent_takes_all_of_it():
    mask = torch.zeros(1, 1, 32, 48)
    mask[..., 9, 13] = 1
    blend, latents = plan(mask=mask).blend, torch.randn(1, 4, *GRID)
    assert blend is not None
    after = blend(latents, 0)
    inside = torch.zeros(GRID, dtype=torch.bool)
    inside[2, 3] = True
    assert torch.equal(after[..., inside], latents[..., inside])
    assert torch.equal(after[..., ~inside], LATENTS[1][..., ~inside])
    black = plan(mask=torch.zeros(1, 1, 32, 48)).blend
    assert black is not None and torch.equal(black(latents, 0), LATENTS[1])


@pytest.mark.parametrize(("steps", "held"), [(1, 1), (2, 1), (3, 2), (4, 2)])
def test_softly_is_the_first_half_and_never_nothing(steps, held, monkeypatch):
    monkeypatch.setitem(globals(), "STEPS", steps)
    blend = plan(preserve="soft").blend
    assert isinstance(blend, LatentBlending) and blend.steps == held


def test_without_mask_or_photo_there_is_no_region():
    with pytest.raises(ConfigError, match="needs a mask and a photo"):
        plan(mask=None)
