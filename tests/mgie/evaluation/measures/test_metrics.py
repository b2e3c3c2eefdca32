"""Metrics against published values, values worked out by hand, and each other."""

import math

import numpy as np
import pytest
import torch
from benchmark_data import pic
from PIL import Image

from mgie.errors import ConfigError
from mgie.evaluation.measures.blocks import at_size
from mgie.evaluation.measures.metrics import PIXEL_METRICS, cosine, direction, l1, l2, psnr, ssim

GOLDEN = {
    "bicubic": (0.2553983, 0.1006418, 9.972215, 0.2098654),
    "lanczos": (0.2557047, 0.1008839, 9.961782, 0.2051460),
    "bilinear": (0.2541754, 0.0997095, 10.012634, 0.2197008),
    "nearest": (0.2563863, 0.1013848, 9.940271, 0.1894086),
}
"""Filter -> L1, L2, PSNR, SSIM of pic(8, 48, 48), brought to the size of pic(7, 96, 80), and that."""


@pytest.mark.parametrize("name", GOLDEN)
def test_pixels_by_each_filter(name):
    target = pic(7, 96, 80)
    output = at_size(pic(8, 48, 48), target.size, name)
    found = [measure(output, target) for measure in PIXEL_METRICS.values()]
    assert found == pytest.approx(GOLDEN[name], rel=1e-6, abs=1e-6)  # PSNR of sums in float32: 1.3e-7


def test_extremes():
    black, white = (Image.new("RGB", (16, 12), colour) for colour in ("black", "white"))
    assert (l1(black, white), l2(black, white), psnr(black, white)) == (1, 1, 0)
    assert (l1(white, white), psnr(white, white), ssim(white, white)) == (0, math.inf, 1)
    grey = Image.new("RGB", (16, 12), (51, 51, 51))
    assert (l1(grey, black), l2(grey, black)) == pytest.approx((0.2, 0.04))
    assert psnr(grey, black) == pytest.approx(-10 * math.log10(0.04))


def test_ssim_is_that_of_0_to_1():
    """Its constants are added to squares of means, so the same picture moved to [-1, 1] has another one."""
    from torchmetrics.functional.image import structural_similarity_index_measure

    target = pic(7, 96, 80)
    output = at_size(pic(8, 48, 48), target.size)
    moved = (torch.from_numpy(np.array(each)).permute(2, 0, 1)[None] / 127.5 - 1 for each in (output, target))
    wrong = float(structural_similarity_index_measure(*moved, data_range=2.0))
    assert wrong == pytest.approx(0.0557, abs=1e-4)
    assert ssim(output, target) - wrong > 0.15


def test_pictures_of_two_sizes_are_a_mistake_and_small_ones_a_sentence():
    with pytest.raises(AssertionError, match="measured at one size"):
        l1(Image.new("RGB", (4, 4)), Image.new("RGB", (4, 5)))
    with pytest.raises(ConfigError, match="one is 8 x 10: leave it out"):
        ssim(Image.new("RGB", (8, 10)), Image.new("RGB", (8, 10)))


def row(*values):
    return torch.tensor([values], dtype=torch.float32)


def test_cosines_are_of_any_length_and_0_of_nothing():
    assert cosine(row(2, 0), row(3, 3)).item() == pytest.approx(math.sqrt(0.5), abs=1e-12)
    assert cosine(row(0, 0), row(3, 3)).item() == 0
    tiny = row(1e-30, 0)  # whose square is no number of float32
    assert cosine(tiny, tiny).item() == pytest.approx(1)


def test_directions():
    """InstructPix2Pix's four numbers of a toy case; what did not change has direction 0, never NaN."""
    i0, i1, t0, t1 = row(1, 0), row(1, 1) / math.sqrt(2), row(0, 1), row(1, 0)
    found = direction(i0, i1, t0, t1, normalise_before_difference=True).item()
    assert found == pytest.approx(-0.9238795, abs=1e-7)
    similar = [cosine(i0, i1).item(), cosine(i0, t0).item(), cosine(i1, t1).item()]
    assert similar == pytest.approx([0.7071068, 0, 0.7071068], abs=1e-7)
    assert direction(i0, i0, t0, t1, normalise_before_difference=True).item() == 0
    assert direction(i0, i1, t0, t0, normalise_before_difference=False).item() == 0
    longer = direction(i0, 5 * i1, t0, t1, normalise_before_difference=False).item()
    assert direction(i0, 5 * i1, t0, t1, normalise_before_difference=True).item() == pytest.approx(found)
    assert abs(longer - found) > 0.1
