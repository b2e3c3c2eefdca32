"""Distances, blurs and composites."""

import numpy as np
import pytest
import torch

from mgie.controllers.softening import composite, distance, feathered, gaussian_seam, grown

RNG = np.random.default_rng(0)


def by_search(mask: np.ndarray) -> np.ndarray:
    free = np.argwhere(~mask)
    away = np.full(mask.shape, np.inf)
    for y, x in np.ndindex(mask.shape):
        if len(free):
            away[y, x] = np.sqrt(((free - (y, x)) ** 2).sum(axis=1).min())
    return away


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (13, 8), (7, 20)], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.99, 1.0])
def test_distances_are_exact(shape: tuple[int, int], share: float):
    mask = RNG.random(shape) < share
    away = distance(mask)
    assert np.allclose(away, by_search(mask), atol=1e-5) and not away[~mask].any()
    near = distance(mask, reach=2.5)
    assert np.array_equal(near, np.where(away <= 2.5, away, np.inf))


@pytest.mark.parametrize("width", [0.0, 1.0, 1.5, 3.0])
def test_a_feather_is_a_ring_around_the_mask(width: float):
    mask = np.zeros((16, 21), dtype=bool)
    mask[5:9, 6:15] = True
    alpha, away = feathered(mask, width), by_search(~mask)
    assert (alpha[mask] == 1).all() and not alpha[away > width].any()
    ring = (away > 0) & (away <= width)
    assert ((alpha[ring] > 0) & (alpha[ring] < 1)).all()
    assert np.array_equal(grown(mask, width), away <= max(width, 0))


def test_a_composite_keeps_the_bytes_of_the_source():
    edit, source = (RNG.integers(0, 256, (9, 14, 3), dtype=np.uint8) for _ in range(2))
    alpha = RNG.choice(np.array([0, 0.5, 1], dtype=np.float32), (9, 14))
    mixed = composite(edit, source, alpha)
    assert mixed.dtype == np.uint8
    assert np.array_equal(mixed[alpha == 0], source[alpha == 0])
    assert np.array_equal(mixed[alpha == 1], edit[alpha == 1])
    half = (edit.astype(int) + source)[alpha == 0.5] / 2
    assert np.abs(mixed[alpha == 0.5] - half).max() <= 0.5


@pytest.mark.parametrize("exact", [True, False])
def test_a_seam_softens_the_edge_and_nothing_else(exact: bool):
    edit, source = torch.rand(3, 24, 31), torch.rand(3, 24, 31)
    mask = np.zeros((24, 31), dtype=bool)
    mask[4:20, 3:25] = True
    inside = torch.from_numpy(mask)
    out = gaussian_seam(edit, source, mask, sigma_max=2.0, sigma_s=1.0, exact=exact)
    assert torch.equal(out[:, ~inside], source[:, ~inside])
    assert not torch.allclose(out[:, 4], edit[:, 4], atol=0.05)  # the edge
    assert torch.allclose(out[:, 12, 14], edit[:, 12, 14], atol=1e-6)  # the middle
    for none in ({"sigma_max": 0.0, "sigma_s": 1.0}, {"sigma_max": 2.0, "sigma_s": 0.0}):
        kept = gaussian_seam(edit, source, mask, exact=exact, **none)
        assert torch.equal(kept, torch.where(inside, edit, source))
    same = torch.full_like(edit, 0.25)
    assert torch.allclose(gaussian_seam(same, same, mask, exact=exact), same, atol=1e-6)
    everything = gaussian_seam(edit, source, np.ones_like(mask), exact=exact)
    assert torch.equal(everything, edit)


@pytest.mark.parametrize("sigma", [0.02, 0.2, 0.5, 2.0, 6.0])
def test_the_fast_blur_is_near_the_exact_one(sigma: float):
    """On noise, for which it is worst."""
    edit, source = torch.rand(3, 40, 40), torch.rand(3, 40, 40)
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:33, 8:36] = True
    widths = {"sigma_max": sigma, "sigma_s": sigma}
    exact = gaussian_seam(edit, source, mask, **widths, exact=True)
    assert (gaussian_seam(edit, source, mask, **widths) - exact).abs().max() <= 0.02


def test_small_pictures_are_mirrored_more_than_once():
    edit = torch.rand(3, 4, 5)
    mask = np.ones((4, 5), dtype=bool)
    mask[0, 0] = False
    assert gaussian_seam(edit, edit, mask, sigma_max=5.0, sigma_s=10.0).isfinite().all()
