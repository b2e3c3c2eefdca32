"""Two pictures, or features of them -> one number.

    l1, l2, psnr, ssim     of an output and its target, 8-bit pictures of one size
    cosine                 of features of pictures or texts: CLIP-I, CLIP-T, DINO
    direction              of the change in pictures and the change in captions, by CLIP

Pictures are measured as they were written, in 8 bits, on the scale from 0 to 1. SSIM is not the same on
[-1, 1]: its constants are added to squares of means.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from PIL.Image import Image
from torch import Tensor

from mgie.errors import ConfigError, DeviceError
from mgie.evaluation.measures.blocks import to_unit

Cosines = Float[Tensor, " b"]

PSNR_CAP = 100.0
"""Decibels that equal pictures count as in a mean, where one infinity would leave nothing of it."""
SSIM_WINDOW = 11
"""Pixels across the Gaussian window of SSIM (Wang et al. 2004), sigma 1.5."""


def l1(output: Image, target: Image) -> float:
    """Mean absolute difference, 0 to 1; lower is better."""
    return float(np.abs(_difference(output, target)).mean())


def l2(output: Image, target: Image) -> float:
    """Mean squared difference, 0 to 1; lower is better."""
    return float(np.square(_difference(output, target)).mean())


def psnr(output: Image, target: Image) -> float:
    """Peak signal-to-noise ratio in decibels, infinite for equal pictures; higher is better."""
    error = l2(output, target)
    return 10 * math.log10(1 / error) if error else math.inf


def ssim(output: Image, target: Image) -> float:
    """Structural similarity (Wang et al. 2004), at most 1; higher is better. Pictures of 11 pixels or more;
    raises ConfigError for smaller ones."""
    if min(output.size) < SSIM_WINDOW:
        size = f"{output.width} x {output.height}"
        raise ConfigError(
            f"ssim needs pictures of {SSIM_WINDOW} pixels or more, one is {size}: leave it out."
        )
    _difference(output, target)  # of one size
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except ImportError as error:
        raise DeviceError(
            "The metric ssim needs the package torchmetrics, which is not installed; "
            "run: pip install 'mgie[eval]'"
        ) from error
    first, second = (to_unit(picture)[None] for picture in (output, target))
    return float(torch.as_tensor(structural_similarity_index_measure(first, second, data_range=1.0)))


PIXEL_METRICS: dict[str, Callable[[Image, Image], float]] = {"l1": l1, "l2": l2, "psnr": psnr, "ssim": ssim}
"""Name -> metric of two pictures."""


def cosine(these: Float[Tensor, "b f"], those: Float[Tensor, "b f"]) -> Cosines:
    """Cosine of features, row by row, in float64; 0 where one of them is zero, as it is of equal captions'
    difference."""
    these, those = these.double(), those.double()
    lengths = these.norm(dim=-1) * those.norm(dim=-1)
    return torch.where(lengths > 0, (these * those).sum(-1) / lengths.clamp(min=1e-300), 0.0)


def direction(
    source: Float[Tensor, "b f"],
    output: Float[Tensor, "b f"],
    before: Float[Tensor, "b f"],
    after: Float[Tensor, "b f"],
    *,
    normalise_before_difference: bool,
) -> Cosines:
    """Cosine of the change from `source` to `output` and of that from the caption `before` to the one `after`
    (Gal et al. 2022); 0 where nothing changed. InstructPix2Pix brings features to length 1 before it takes
    differences, others do not."""
    features = [each.double() for each in (source, output, before, after)]
    if normalise_before_difference:
        features = [torch.nn.functional.normalize(each, dim=-1) for each in features]
    source, output, before, after = features
    return cosine(output - source, after - before)


def _difference(output: Image, target: Image) -> Float[ndarray, "y x 3"]:
    """In float64, on the scale from -1 to 1."""
    assert output.size == target.size, f"pictures are measured at one size: {output.size}, {target.size}"
    first, second = (np.asarray(picture.convert("RGB"), np.float64) / 255 for picture in (output, target))
    return first - second
