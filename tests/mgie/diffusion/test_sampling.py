import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
)

from mgie.diffusion.process import FlowProcess, VarianceProcess, start_scale
from mgie.diffusion.sampling import reference_of, sample, start_noise
from mgie.errors import ConfigError, DataError
from mgie.types import Condition, Context, ControlPlan, Guess

# What the library's schedulers do to numpy.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

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


# What a picture looks like at each level: what is kept of it is put back there.


def of_variances(kind: type, steps: int = 5, **settings):
    schedule = DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, **settings)
    way = VarianceProcess(schedule)
    return way, way.steps(way.sampler(kind.__name__), steps, tokens=48)


@pytest.mark.parametrize(
    "kind",
    [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler, LMSDiscreteScheduler,
     FlowMatchEulerDiscreteScheduler],
)  # fmt: skip
def test_who_knows_picture_and_noise_is_at_the_reference_s_level_after_every_step(kind: type):
    """Blending one level too late or too early would show here."""
    picture = torch.rand(SHAPE) * 2 - 1
    if kind is FlowMatchEulerDiscreteScheduler:
        way, sampler = FlowProcess(FlowMatchEulerDiscreteScheduler()), scheduler(5)
    else:
        way, sampler = of_variances(kind)
    noise = start_noise(SHAPE, CONTEXT, torch.Generator().manual_seed(0))
    reference, after = reference_of(sampler, picture, noise), []

    def paint(_noisy, t, _source, _condition, _plan, _rows):
        return Guess(mean=way.wanted(picture, noise, t))

    def watch(step, _t, latents):
        after.append((latents - reference(step + 1)).abs().max().item())
        return latents

    # Variances start a little below all noise.
    start = (noise * start_scale(sampler) - reference(0)).abs().max()
    begun = {"noise": reference(0) / start_scale(sampler)}
    sample(paint, sampler, SHAPE, None, CONTEXT, guidance=1.0, image_guidance=1.0, watch=watch, **begun)
    assert len(after) == 5 and max(after) < 1e-4, after
    assert start < 0.3 * start_scale(sampler)
    assert torch.equal(reference(5), picture)


@pytest.mark.parametrize("kind", [EulerAncestralDiscreteScheduler, HeunDiscreteScheduler])
def test_levels_fall_for_any_sampler(kind: type):
    _, sampler = of_variances(kind)
    reference = reference_of(sampler, torch.zeros(SHAPE), torch.ones(SHAPE))
    levels = [reference(step).mean().item() for step in range(len(sampler.timesteps) + 1)]
    assert levels == sorted(levels, reverse=True) and levels[-1] == 0


def test_a_sampler_that_puts_no_noise_on_pictures_has_no_reference():
    class Bare:
        timesteps = torch.arange(3)

    with pytest.raises(ConfigError, match="Bare cannot put noise on a picture"):
        reference_of(Bare(), torch.zeros(SHAPE), torch.zeros(SHAPE))


class Features:
    during = (0.0, 0.5)

    def __call__(self, _point, states, _rows, _grid):
        return states


def test_blended_features_ask_for_a_row_of_the_reference_while_they_are_blended():
    seen, source = [], torch.randn(SHAPE)
    picture = torch.full(SHAPE, 0.25)
    sampler = scheduler(4)
    noise = start_noise(SHAPE, CONTEXT, torch.Generator().manual_seed(0))
    reference = reference_of(sampler, picture, noise)

    def paint(noisy, _t, sources, condition, plan, rows):
        seen.append(rows.names)
        if "R" in rows.names:
            assert plan.features is not None
            assert torch.equal(noisy[rows.of("R")], reference(len(seen) - 1))
            assert torch.equal(sources[rows.of("R")], source)
            assert not condition.tokens[rows.of("R")].any()  # the null's
        else:
            assert plan == ControlPlan()
        assert torch.equal(noisy[rows.of("T")], noisy[rows.of("I")])
        return Guess(mean=noisy * 0 + condition.tokens[:, :1, :1, None])

    plan = ControlPlan(features=Features())
    options = {"guidance": 2.0, "image_guidance": 1.5, "noise": noise}
    with_it = sample(paint, sampler, SHAPE, source, CONTEXT, plan=plan, reference=reference, **options)
    assert seen == [("T", "I", "U", "R")] * 2 + [("T", "I", "U")] * 2
    seen.clear()
    plain = sample(paint, scheduler(4), SHAPE, source, CONTEXT, plan=ControlPlan(), **options)
    assert torch.equal(with_it, plain)
    with pytest.raises(DataError, match="expected the reference that they come from"):
        sample(paint, scheduler(4), SHAPE, source, CONTEXT, plan=plan, **options)


def test_noise_that_is_drawn_before_is_the_noise_that_would_be_drawn():
    def paint(noisy, _t, _source, _condition, _plan, _rows):
        return Guess(mean=noisy / 2)

    def painted(**start):
        return sample(paint, scheduler(), SHAPE, None, CONTEXT, guidance=1.0, image_guidance=1.0, **start)

    rngs = [torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)]
    before = start_noise(SHAPE, CONTEXT, [torch.Generator().manual_seed(3), torch.Generator().manual_seed(4)])
    assert torch.equal(painted(generators=rngs), painted(noise=before))
