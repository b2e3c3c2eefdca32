"""How far two sets of pictures lie apart: CMMD (Jayasumana et al. 2024), through CLIP.

It is a number of sets, never of a picture: there are no items of it, no wins and no interval. Its estimate is
biased by what 1 / n gives (each picture is compared with itself, too), so only sets of one size compare.
"""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL.Image import Image

from mgie.errors import ConfigError
from mgie.evaluation.measures.eyes import Eyes

CMMD = "cmmd"
SIDE = 336
"""Pixels that the published CLIP sees."""
SIGMA, SCALE = 10.0, 1000.0
"""Width of the Gaussian kernel, and what the distance is multiplied by."""
ROWS = 1000
"""Of features that are compared with all others at a time."""


def cmmd(these: Float[np.ndarray, "n f"], those: Float[np.ndarray, "m f"]) -> float:
    """1000 times the squared maximum mean discrepancy of features of length 1, 0 for equal sets; lower is
    better. In float64."""
    first, second = (_unit(np.asarray(each, np.float64)) for each in (these, those))
    # exp(-x) less 1: what the three means have in common is taken off before it is rounded.
    return SCALE * (_kernel(first, first) + _kernel(second, second) - 2 * _kernel(first, second))


def check_set_clip(eyes: Eyes) -> None:
    """Refuse features of another CLIP than the published one. Raises ConfigError."""
    if eyes.clip is None or eyes.clip.prep.crop != SIDE:
        seen = "no --clip is given" if eyes.clip is None else f"the one of --clip sees {eyes.clip.prep.crop}"
        raise ConfigError(
            f"the metric {CMMD} is by a CLIP that sees {SIDE} pixels, and {seen}: give --clip a download of "
            "openai/clip-vit-large-patch14-336."
        )


def of_single_pictures(metrics: Sequence[str], eyes: Eyes, *, scored: bool) -> list[str]:
    """The metrics but this one; whether it can be measured is seen where it is to be `scored`. Raises
    ConfigError."""
    if CMMD in metrics and scored:
        check_set_clip(eyes)
    return [name for name in metrics if name != CMMD]


def set_feature(picture: Image, eyes: Eyes) -> str:
    """A picture's feature as text: of the square in its middle, at what CLIP sees."""
    assert eyes.clip
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.convert("RGB").crop((left, top, left + side, top + side))
    feature = eyes.clip.images([square])[0].numpy().astype("<f4")
    return base64.b64encode(feature.tobytes()).decode()


def set_distance(these: Sequence[str], those: Sequence[str]) -> float | None:
    """CMMD of features as texts. None where a set is empty."""
    if not these or not those:
        return None
    return cmmd(*(np.stack([_read(each) for each in several]) for several in (these, those)))


def _read(feature: str) -> Any:
    return np.frombuffer(base64.b64decode(feature), "<f4")


def _unit(features: Float[np.ndarray, "n f"]) -> Float[np.ndarray, "n f"]:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def _kernel(these: Float[np.ndarray, "n f"], those: Float[np.ndarray, "m f"]) -> float:
    """The mean of the kernel less 1 over all pairs."""
    total = 0.0
    for start in range(0, len(these), ROWS):
        part = these[start : start + ROWS]
        squares = (part**2).sum(1)[:, None] + (those**2).sum(1)[None] - 2 * part @ those.T
        total += float(np.expm1(-np.maximum(squares, 0) / (2 * SIGMA**2)).sum())
    return total / (len(these) * len(those))
