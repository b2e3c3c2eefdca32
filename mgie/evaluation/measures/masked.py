"""What an edit did inside a mask and outside it, by Reason-Edit (Huang et al. 2024).

Pictures are brought to a square by Pillow's bicubic filter, the mask by the nearest pixel; a mask that is a
JPEG keeps its values between 0 and 1. Outside, both pictures are multiplied by one minus the mask; inside,
the output's part in the mask's box is compared with words.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from mgie.errors import DataError
from mgie.evaluation.measures.blocks import at_size, to_unit
from mgie.evaluation.measures.metrics import PSNR_CAP
from mgie.evaluation.published.protocol import Metric

Square = Float[Tensor, "3 y x"]
Distance = Callable[[Square, Square], Float[Tensor, ""]]


def shares(mask: Image.Image, side: int) -> Float[Tensor, "y x"]:
    """A mask of one channel as shares of 0 to 1, `side` x `side`: 1 where the edit belongs."""
    return torch.from_numpy(np.asarray(at_size(mask.convert("L"), (side, side), "nearest"), np.float32) / 255)


def outside(picture: Image.Image, mask: Float[Tensor, "y x"]) -> Square:
    """A picture in [0, 1] at the mask's size, black inside the mask."""
    return to_unit(at_size(picture.convert("RGB"), (mask.shape[1], mask.shape[0]))) * (1 - mask)


def inside(picture: Image.Image, mask: Float[Tensor, "y x"]) -> Image.Image:
    """A picture's part in the mask's box, at the mask's scale. The box ends before the last row and column
    that the mask touches, as in the published program. Raises DataError for a mask with no such box."""
    rows, columns = (np.flatnonzero(np.asarray(mask.any(dim=axis))) for axis in (1, 0))
    if not len(rows) or rows[0] == rows[-1] or columns[0] == columns[-1]:
        raise DataError("a mask touches fewer than two rows or columns: expected the place of an edit.")
    left, top, right, bottom = (int(each) for each in (columns[0], rows[0], columns[-1], rows[-1]))
    return at_size(picture.convert("RGB"), (mask.shape[1], mask.shape[0])).crop((left, top, right, bottom))


def outside_score(
    metric: Metric, first: Square, second: Square, distance: Distance | None = None
) -> tuple[float, bool]:
    """The number of two pictures outside the mask, over all places, those inside included; and whether it was
    infinite, which counts as 100 dB. `distance` is LPIPS's, of numbers in [-1, 1]."""
    error = float((first.double() - second.double()).square().mean())
    if metric.measure == "l2":
        return error, False
    if metric.measure == "psnr":
        return (10 * math.log10(1 / error), False) if error else (PSNR_CAP, True)
    if metric.measure == "lpips":
        assert distance
        return float(distance(2 * first - 1, 2 * second - 1)), False  # what is black becomes -1
    assert metric.measure == "ssim"
    from torchmetrics.functional.image import structural_similarity_index_measure

    value = structural_similarity_index_measure(first[None], second[None], data_range=1.0)
    return float(torch.as_tensor(value)), False
