"""The seam of an edit inside a mask: distances, a blur that follows them, the composite.

The blur is that of xMGIE's paper (equations 18 and 19), strongest at the mask's edge: there the seam is.
Outside, the picture before the edit is put, which the paper leaves out.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn import functional as F

LEVELS, SMALL, LEAST = 12, 0.3, 0.1
"""Blurred copies that the fast blur mixes, the smallest deviation of them, and what is no blur: pixels are
larger."""
FAR = 4
"""Times the width of the seam: there the blur is below what a pixel shows."""


def distance(
    mask: Bool[np.ndarray, "y x"], *, reach: float | None = None
) -> Float[np.ndarray, "y x"]:  # fmt: skip
    """Distance in pixels of each masked pixel to the centre of the nearest one that is not, 0 outside.

    Exact; infinite where there is none, or none within `reach`. Columns first, then rows (Felzenszwalb and
    Huttenlocher 2012, section 3, with the minimum taken by shifting).
    """
    height, width = mask.shape
    y = np.arange(height, dtype=np.float32)[:, None]
    above = np.maximum.accumulate(np.where(mask, -np.inf, y), axis=0)
    below = np.minimum.accumulate(np.where(mask, np.inf, y)[::-1], axis=0)[::-1]
    column = np.minimum(y - above, below - y).astype(np.float32) ** 2
    if reach is not None:
        column[column > reach**2] = np.inf
    nearest = column.copy()
    for shift in range(1, width if reach is None else min(width, int(reach) + 1)):
        if shift**2 >= nearest.max(initial=0.0):
            break
        further = column + np.float32(shift**2)
        np.minimum(nearest[:, shift:], further[:, :-shift], out=nearest[:, shift:])
        np.minimum(nearest[:, :-shift], further[:, shift:], out=nearest[:, :-shift])
    if reach is not None:
        nearest[nearest > reach**2] = np.inf
    return np.sqrt(nearest)


def sigmas(
    away: Float[np.ndarray, "y x"], *, sigma_max: float, sigma_s: float
) -> Float[np.ndarray, "y x"]:  # fmt: skip
    """How strongly each pixel is blurred, in pixels, by its `distance`: nothing outside."""
    if sigma_s == 0:
        return np.zeros_like(away)
    return np.where(away > 0, sigma_max * np.exp(-(away**2) / (2 * sigma_s**2)), 0.0).astype(np.float32)


def gaussian_seam(
    edit: Float[Tensor, "3 y x"],
    source: Float[Tensor, "3 y x"],
    mask: Bool[np.ndarray, "y x"],
    *,
    sigma_max: float = 5.0,
    sigma_s: float = 10.0,
    outside: Literal["source", "edit"] = "source",
    exact: bool = False,
) -> Float[Tensor, "3 y x"]:
    """The edit inside the mask, blurred towards its edge; the source outside, or the edit as in the paper.

    `exact`: every pixel with a Gaussian of its own; otherwise a mean of two of a few blurred copies, within
    0.02 of it for pictures in [0, 1].
    """
    reach = None if exact else FAR * sigma_s
    sigma = sigmas(distance(mask, reach=reach), sigma_max=sigma_max, sigma_s=sigma_s)
    blurred = (_blurred_exactly if exact else _blurred)(edit, torch.from_numpy(sigma).to(edit))
    inside = torch.from_numpy(mask).to(edit.device)
    return torch.where(inside, blurred, source if outside == "source" else edit)


def feathered(mask: Bool[np.ndarray, "y x"], width: float) -> Float[np.ndarray, "y x"]:
    """How much of an edit shows: 1 inside the mask, less and less over a ring of `width` pixels outside it,
    nothing beyond."""
    if width < 1:
        return mask.astype(np.float32)
    away = distance(~mask, reach=width)
    return np.where(away <= width, 1 - away / (width + 1), 0.0).astype(np.float32)


def grown(mask: Bool[np.ndarray, "y x"], by: float) -> Bool[np.ndarray, "y x"]:
    """The mask with all pixels that are at most so many pixels away from it."""
    return mask if by < 1 else distance(~mask, reach=by) <= by


def composite(
    edit: UInt8[np.ndarray, "y x 3"], source: UInt8[np.ndarray, "y x 3"], alpha: Float[np.ndarray, "y x"]
) -> UInt8[np.ndarray, "y x 3"]:
    """The edit as far as `alpha` says; where that is 0, the very bytes of the source."""
    alpha = alpha[..., None]
    between = np.rint(alpha * edit.astype(np.float32) + (1 - alpha) * source.astype(np.float32))
    mixed = np.where(alpha == 1, edit, between.astype(np.uint8))
    return np.where(alpha == 0, source, mixed)


def _blurred(image: Float[Tensor, "3 y x"], sigma: Float[Tensor, "y x"]) -> Float[Tensor, "3 y x"]:
    """Copies at a few sigmas, and between them the mean that keeps as much of each pixel as its own Gaussian
    would."""
    most = sigma.max().item()
    if most < LEAST:
        return image
    steps = np.geomspace(SMALL, most, LEVELS) if most > SMALL else np.array([most])
    kept = _own_share(sigma)
    result, before, start = image, image, 0.0
    for step in steps.tolist():
        after, ends = _gaussian(image, step), _own_share(torch.tensor([start, step]).to(sigma))
        share = ((ends[0] - kept) / (ends[0] - ends[1])).clamp(0, 1)
        result = torch.where(sigma > start, before + share * (after - before), result)
        before, start = after, step
    return result


def _own_share(sigma: Tensor) -> Tensor:
    """How much of a pixel is left in it by a Gaussian along one line."""
    spread, total = 2 * sigma.clamp(min=1e-6) ** 2, torch.ones_like(sigma)
    for offset in range(1, int(np.ceil(3 * sigma.max().item())) + 1):
        total = total + 2 * torch.exp(-(offset**2) / spread)
    return 1 / total


def _gaussian(image: Float[Tensor, "3 y x"], sigma: float) -> Float[Tensor, "3 y x"]:
    radius = int(np.ceil(3 * sigma))
    offsets = torch.arange(-radius, radius + 1, device=image.device, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).to(image)
    rows, columns = (_mirrored(side, radius).to(image.device) for side in image.shape[-2:])
    padded = image[:, rows][:, :, columns][:, None]
    return F.conv2d(F.conv2d(padded, kernel.view(1, 1, -1, 1)), kernel.view(1, 1, 1, -1))[:, 0]


def _blurred_exactly(image: Float[Tensor, "3 y x"], sigma: Float[Tensor, "y x"]) -> Float[Tensor, "3 y x"]:
    height, width = sigma.shape
    most = int(np.ceil(3 * sigma.max().item()))
    rows, columns = _mirrored(height, most), _mirrored(width, most)
    padded = image[:, rows][:, :, columns].double()
    spread = sigma.double().clamp(min=1e-6)
    radius = torch.ceil(3 * spread)

    def weight(offset: int) -> Tensor:
        return torch.where(radius >= abs(offset), torch.exp(-(offset**2) / (2 * spread**2)), 0.0)

    weights = {offset: weight(offset) for offset in range(-most, most + 1)}
    total = torch.stack(list(weights.values())).sum(dim=0)
    result = torch.zeros_like(image, dtype=torch.double)
    for down, one in weights.items():
        line = torch.zeros_like(result)
        for across, other in weights.items():
            at_y, at_x = most + down, most + across
            line += other * padded[:, at_y : at_y + height, at_x : at_x + width]
        result += one * line
    return torch.where(sigma > 1e-6, (result / total**2).to(image), image)


def _mirrored(side: int, radius: int) -> Tensor:
    """Indices of a line with so many more at both ends, mirrored; the edge is not repeated."""
    period = max(2 * (side - 1), 1)
    places = torch.arange(-radius, side + radius) % period
    return torch.where(places < side, places, period - places).clamp(0, side - 1)
