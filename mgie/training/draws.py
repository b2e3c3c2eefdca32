"""Everything random in a training step, from named generators.

A sample's draws are a function of (seed, position in the data order) and of nothing else: a resumed run,
another number of processes or another split into micro-batches draws the same noise for the same sample.
"""

import numpy as np
import torch

from mgie.diffusion.noise import draw_timesteps
from mgie.types import Draws


def draws_for(
    seed: int, positions: tuple[int, ...], *, latent_shape: tuple[int, int, int], steps: int, shift: float
) -> Draws:
    """Draw for the samples at `positions` of the data order.

    `latent_shape` is (c, h, w); `steps` the number of diffusion times; `shift` moves the times towards noise
    (1: uniform).
    The order within a sample is the reference's: posterior, noise, time, dropout (specs/mgie.md, section 7).
    """
    posterior, noise, uniform = [], [], []
    for position in positions:
        rng = np.random.Generator(np.random.Philox(key=[seed, position]))
        posterior.append(rng.standard_normal(latent_shape, dtype=np.float32))
        noise.append(rng.standard_normal(latent_shape, dtype=np.float32))
        uniform.append(rng.random(2, dtype=np.float32))
    u = torch.from_numpy(np.stack(uniform))
    return Draws(
        posterior=torch.from_numpy(np.stack(posterior)),
        noise=torch.from_numpy(np.stack(noise)),
        t=draw_timesteps(u[:, 0], steps, shift=shift),
        keep=u[:, 1],
    )
