import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from mgie.diffusion.process import FlowProcess
from mgie.diffusion.sampling import sample
from mgie.types import Condition, Context, ControlPlan, Guess

CONTEXT = Context(
    condition=Condition(tokens=torch.ones(2, 3, 5)), null=Condition(tokens=torch.zeros(1, 3, 5))
)
SHAPE = (2, 4, 6, 8)


def scheduler(steps: int = 3):
    way = FlowProcess(FlowMatchEulerDiscreteScheduler())
    return way.steps(way.sampler("FlowMatchEulerDiscreteScheduler"), steps, tokens=48)


def test_new_pictures_are_painted_without_a_source():
    """By one who sees none: it says where to go from what it is told."""
    seen = []

    def paint(noisy, t, source, condition, plan, rows):
        seen.append((source, plan, rows.names))
        return Guess(mean=(noisy - condition.tokens[:, :1, :1, None]) / (t / 1000)[:, None, None, None])

    rng = torch.Generator().manual_seed(0)
    painted = sample(
        paint, scheduler(), SHAPE, None, CONTEXT, guidance=1.0, image_guidance=1.5, generators=rng
    )
    assert painted.shape == SHAPE and torch.allclose(painted, torch.ones(SHAPE), atol=1e-5)
    assert seen == [(None, None, ("T",))] * 3
    sample(paint, scheduler(), SHAPE, None, CONTEXT, guidance=2.0, image_guidance=1.5)
    assert seen[-1] == (None, None, ("T", "U"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_plan_s_map_is_heeded_in_the_latents_type_and_goes_no_further(dtype: torch.dtype):
    def paint(noisy, _t, _source, condition, plan, _rows):
        assert plan == ControlPlan()
        return Guess(mean=noisy * 0 + condition.tokens[:, :1, :1, None])

    context = Context(
        condition=Condition(tokens=CONTEXT.condition.tokens.to(dtype)),
        null=Condition(tokens=CONTEXT.null.tokens.to(dtype)),
    )
    plan = ControlPlan(guidance=torch.full((1, 1, 6, 8), 3.0))
    source = torch.zeros(SHAPE, dtype=dtype)
    rngs = [torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)]
    mapped = sample(paint, scheduler(), SHAPE, source, context, guidance=1.0, image_guidance=1.0, plan=plan,
                    generators=rngs[0])  # fmt: skip
    plain = sample(paint, scheduler(), SHAPE, source, context, guidance=3.0, image_guidance=1.0,
                   plan=ControlPlan(), generators=rngs[1])  # fmt: skip
    assert mapped.dtype == dtype and torch.equal(mapped, plain)
