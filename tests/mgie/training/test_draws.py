import pytest
import torch
from diffusers import DDPMScheduler

from mgie.diffusion.process import VarianceProcess
from mgie.training.draws import draws_for, reference_draws

PROCESS = VarianceProcess(DDPMScheduler())
SHAPE = {"latent_shape": (2, 4, 4), "process": PROCESS, "shift": 1.0}


def test_a_sample_draws_the_same_however_the_batch_is_split():
    whole = draws_for(3, (10, 11, 12), **SHAPE)
    parts = [draws_for(3, (position,), **SHAPE) for position in (10, 11, 12)]
    for name in ("posterior", "noise", "t", "keep"):
        assert torch.equal(getattr(whole, name), torch.cat([getattr(part, name) for part in parts]))


def test_seed_and_position_both_matter():
    one, other_seed, other_place = (draws_for(s, (p,), **SHAPE).noise for s, p in ((3, 10), (4, 10), (3, 11)))
    assert not torch.equal(one, other_seed)
    assert not torch.equal(one, other_place)


def test_the_draws_have_the_right_distributions():
    draws = draws_for(0, tuple(range(2000)), **SHAPE)
    for normal in (draws.noise, draws.posterior):
        assert abs(normal.mean()) < 0.02
        assert abs(normal.std() - 1) < 0.02
    assert 0 <= draws.t.min() < 10
    assert 990 < draws.t.max() <= 999
    assert abs(draws.keep.mean() - 0.5) < 0.03
    assert abs(torch.corrcoef(torch.stack([draws.noise.flatten(), draws.posterior.flatten()]))[0, 1]) < 0.02


def test_a_shift_moves_the_times_towards_noise():
    draws = draws_for(0, tuple(range(500)), latent_shape=(1, 1, 1), process=PROCESS, shift=6.0)
    assert draws.t.float().mean() > 700


@pytest.mark.parametrize("batch", [1, 3])
def test_the_reference_s_noise_is_drawn_in_the_order_of_its_latents(batch):
    """Channels last, if there are several; what comes after it depends on that too."""
    latents = torch.zeros(batch, 4, 8, 8)
    if batch > 1:
        latents = latents.contiguous(memory_format=torch.channels_last)
    drawn = reference_draws(3, tuple(range(5, 5 + batch)), latent_shape=(4, 8, 8), steps=1000)
    torch.manual_seed(3 + 5)
    assert torch.equal(drawn.posterior, torch.randn(latents.shape))
    assert torch.equal(drawn.noise, torch.randn_like(latents))
    assert torch.equal(drawn.t, torch.randint(0, 1000, (batch,)))
    assert torch.equal(drawn.keep, torch.rand(batch))
