"""The term's numbers are held by tests/parity/test_mige.py."""

import torch

from mgie.diffusion.variational import Posterior, log_likelihood
from mgie.types import Guess

BETAS = torch.linspace(0.0001, 0.02, 1000)


def at(t: int, *, spread: float, wrong: float = 0.0) -> torch.Tensor:
    """The term of a denoiser that knows the noise, but for `wrong`."""
    torch.manual_seed(0)
    target, noise = torch.rand(1, 2, 4, 4) * 2 - 1, torch.randn(1, 2, 4, 4)
    times = torch.tensor([t])
    product = (1 - BETAS).cumprod(0)[t]
    noisy = product.sqrt() * target + (1 - product).sqrt() * noise
    guess = Guess(mean=noise + wrong, spread=torch.full_like(noise, spread))
    return Posterior(betas=BETAS).bound(target, noisy, guess, times)


def test_who_knows_noise_and_variance_pays_nothing():
    assert at(500, spread=-1).abs().item() < 1e-5
    assert at(500, spread=1).item() > 1e-8
    assert at(500, spread=-1, wrong=1).item() > at(500, spread=-1, wrong=0.5).item() > 0.0
    assert at(0, spread=-1).item() > 0


def test_probabilities_of_all_values_are_one():
    values = torch.arange(256) / 127.5 - 1
    for mean, log_deviation in ((0.0, -1.0), (0.9, -2.0), (-1.5, 0.0)):
        told = log_likelihood(
            values, torch.full_like(values, mean), torch.full_like(values, log_deviation)
        ).exp()
        assert abs(told.sum().item() - 1) < 1e-4


def test_no_gradient_reaches_the_noise():
    noisy, target = torch.randn(2, 2, 2, 4, 4)
    mean, spread = (torch.zeros(2, 2, 4, 4, requires_grad=True) for _ in range(2))
    with torch.enable_grad():
        guess = Guess(mean=mean * 1, spread=spread * 1)
        Posterior(betas=BETAS).bound(target, noisy, guess, torch.tensor([3, 400])).sum().backward()
    assert mean.grad is None and spread.grad is not None and bool(spread.grad.flatten(1).any(1).all())
