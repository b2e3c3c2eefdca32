"""Everything random in a training step, from named generators.

A sample's draws are a function of (seed, position in the data order) and of nothing else: a resumed run,
another number of processes or another split into micro-batches draws the same noise for the same sample.
Those of `reference_draws` are a function of the micro-batch instead.
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mgie.diffusion.process import AbstractProcess
from mgie.types import Draws


def draws_for(
    seed: int,
    positions: tuple[int, ...],
    *,
    latent_shape: tuple[int, int, int],
    process: AbstractProcess,
    shift: float,
    offset: float = 0.0,
    inside: Sequence[int] = (),
    inside_shape: tuple[int, int, int] | None = None,
    slots: int = 0,
    looks: bool = False,
) -> Draws:
    """Draw for the samples at `positions` of the data order.

    `latent_shape` is (c, h, w); `process` draws the times, and `shift` moves them towards noise (1: uniform).
    `offset` is the deviation of noise that is the same all over a channel, added to the other. `inside` are
    the samples that pictures inside instructions belong to, by their place in `positions`: what is drawn for
    these, of `inside_shape`, comes from streams of their own, and so do orders of a layout's `slots`; with
    `looks`, whose look is left out.
    The order within a sample is the reference's: posterior, noise, time, dropout; then the offset.
    """
    posterior, noise, uniform = [], [], []
    for position in positions:
        rng = np.random.Generator(np.random.Philox(key=[seed, position]))
        posterior.append(rng.standard_normal(latent_shape, dtype=np.float32))
        noise.append(rng.standard_normal(latent_shape, dtype=np.float32))
        uniform.append(rng.random(2, dtype=np.float32))
        if offset:
            noise[-1] += offset * rng.standard_normal((latent_shape[0], 1, 1), dtype=np.float32)
    u = torch.from_numpy(np.stack(uniform))
    return Draws(
        posterior=torch.from_numpy(np.stack(posterior)),
        noise=torch.from_numpy(np.stack(noise)),
        t=process.times(u[:, 0], shift=shift),
        keep=u[:, 1],
        pictures=_of_pictures(seed, [positions[row] for row in inside], inside_shape or latent_shape),
        known=_of_looks(seed, positions) if looks else None,
        **_of_layouts(seed, positions, slots),
    )


def _of_pictures(
    seed: int, positions: Sequence[int], shape: tuple[int, int, int]
) -> Float[Tensor, "j c h w"] | None:
    """Standard normal for the pictures of samples, those of one sample one after the other; None of none."""
    if not positions:
        return None
    streams = {
        position: np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, 1]))
        for position in positions
    }
    drawn = [streams[position].standard_normal(shape, dtype=np.float32) for position in positions]
    return torch.from_numpy(np.stack(drawn))


def _of_layouts(seed: int, positions: Sequence[int], slots: int) -> dict[str, Tensor]:
    """Orders of so many slots, and whose regions are left out; nothing of no slots."""
    if not slots:
        return {}
    streams = [
        np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, 2]))
        for position in positions
    ]
    orders = np.stack([stream.permutation(slots) for stream in streams])
    left = np.array([stream.random(dtype=np.float32) for stream in streams])
    return {"slots": torch.from_numpy(orders), "placed": torch.from_numpy(left)}


def _of_looks(seed: int, positions: Sequence[int]) -> Float[Tensor, " b"]:
    streams = [
        np.random.Generator(np.random.Philox(key=[seed, position], counter=[0, 0, 0, 3]))
        for position in positions
    ]
    return torch.tensor([stream.random(dtype=np.float32) for stream in streams])


def reference_draws(
    seed: int, positions: tuple[int, ...], *, latent_shape: tuple[int, int, int], steps: int
) -> Draws:
    """Draw as the reference does after `torch.manual_seed(seed + positions[0])` on a CPU.

    Each kind for the whole micro-batch at once, in its order.
    """
    rng = torch.Generator().manual_seed(seed + positions[0])
    batch = len(positions)
    # Its noise is drawn like its latents, in the order in which the codec leaves them in memory: channels
    # last, unless there is only one.
    order = torch.contiguous_format if batch == 1 else torch.channels_last
    return Draws(
        posterior=torch.randn(batch, *latent_shape, generator=rng),
        noise=torch.empty(batch, *latent_shape, memory_format=order).normal_(generator=rng).contiguous(),
        t=torch.randint(0, steps, (batch,), generator=rng),
        keep=torch.rand(batch, generator=rng),
    )
