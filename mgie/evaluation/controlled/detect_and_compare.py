"""Detect-and-Compare: does a picture show each subject once, and looking like itself?

Jang et al., "Identity Decoupling for Multi-Subject Personalization of Text-to-Image Models", NeurIPS 2024
(MuDI). A detector finds the things, an embedder says how alike they and the subjects' photos are, and the
matrix of these similarities is held against that of the photos among each other. Detector and embedder are
the caller's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from mgie.types import Box

Assignment = Literal["hungarian", "greedy"]
"""How detections become subjects. hungarian: the sum of their similarities is the greatest one. greedy: as
published, each subject in turn takes what is most like it of what is left, so their order counts."""
Norm = Literal["spectral", "frobenius"]
ORDERS = {"spectral": 2, "frobenius": None}


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """What came out for one picture of n subjects."""

    score: float
    """1 where the things are as alike as the photos are; 0 where they are too few or too many; it can be
    below 0."""
    reason: str
    """Why nothing was compared; empty where it was."""
    similarity: Float[np.ndarray, "d n"]
    """Of each detection to each subject, in the detections' order."""
    assigned: Int[np.ndarray, " n"] | None
    """The number of the detection that is taken for each subject."""


def truth(
    photos: Sequence[Float[np.ndarray, "_ e"]], *, with_itself: bool = True
) -> Float[np.ndarray, "n n"]:
    """How alike the subjects' photos are: mean cosine of each subject's embeddings to each other's.
    `with_itself`: a photo's similarity of 1 to itself counts, as published."""
    found = np.stack([similarity(ours, photos, each=False) for ours in photos])
    if not with_itself:
        for number, ours in enumerate(photos):
            count = len(ours)
            if count > 1:
                found[number, number] = (found[number, number] * count - 1) / (count - 1)
    return found


def similarity(
    detections: Float[np.ndarray, "d e"], photos: Sequence[Float[np.ndarray, "_ e"]], *, each: bool = True
) -> np.ndarray:
    """Mean cosine of each detection to each subject's photos: (d, n); without `each`, of all: (n,)."""
    found = np.stack([(_unit(detections) @ _unit(ours).T).mean(axis=1) for ours in photos], axis=1)
    return found if each else found.mean(axis=0)


def assign(matrix: Float[np.ndarray, "n n"], how: Assignment = "hungarian") -> Int[np.ndarray, " n"]:
    """Which row each column takes; each row is taken once."""
    if how == "hungarian":
        from scipy.optimize import linear_sum_assignment  # scipy comes with the extra `eval`

        rows, columns = linear_sum_assignment(matrix, maximize=True)
        return rows[np.argsort(columns)].astype(np.int64)
    left, taken = np.array(matrix, float), []
    for column in range(len(matrix)):
        taken.append(int(left[:, column].argmax()))
        left[taken[-1]] = -np.inf
    return np.array(taken, np.int64)


def compare(
    detections: Float[np.ndarray, "d e"],
    photos: Sequence[Float[np.ndarray, "_ e"]],
    *,
    how: Assignment = "hungarian",
    norm: Norm = "spectral",
    with_itself: bool = True,
) -> Compared:
    """Score the embeddings of what was detected against those of each subject's photos."""
    wanted = truth(photos, with_itself=with_itself)
    found = similarity(detections, photos) if len(detections) else np.zeros((0, len(photos)))
    if len(detections) != len(photos):
        few = "few" if len(detections) < len(photos) else "many"
        told = f"{len(detections)} things for {len(photos)} subjects: too {few}"
        return Compared(score=0.0, reason=told, similarity=found, assigned=None)
    order = assign(found, how)
    score = apart_score(found[order], wanted, norm)
    return Compared(score=score, reason="", similarity=found, assigned=order)


def apart_score(found: Float[np.ndarray, "n n"], wanted: Float[np.ndarray, "n n"], norm: Norm) -> float:
    """1 less how far two matrices of similarities are apart."""
    return float(1 - np.linalg.norm(found - wanted, ord=ORDERS[norm]))


def pair_confidences(
    detections: Float[np.ndarray, "d e"],
    photos: tuple[Float[np.ndarray, "_ e"], Float[np.ndarray, "_ e"]],
    *,
    by: Literal["max", "mean"],
) -> tuple[float, float]:
    """How clearly two things are two subjects, and how alike they are: the paper's older scores, by the most
    similar photo or the mean one. Both are 0 unless two things were detected."""
    if len(detections) != 2:
        return 0.0, 0.0
    pool = np.max if by == "max" else np.mean
    found = np.stack([pool(_unit(detections) @ _unit(ours).T, axis=1) for ours in photos], axis=1)
    first, second = found[:, 0] - found[:, 1]
    apart = abs(first) + abs(second) if first * second < 0 else abs(first - second)
    return float(apart), float(found.max(axis=1).sum())


def square_crop(image: Image.Image, box: Box) -> Image.Image:
    """What is in a box, given in pixels (left, top, right, bottom), in the middle of a white square."""
    left, top, right, bottom = (round(edge) for edge in box)
    crop = image.crop((left, top, right, bottom))
    side = max(crop.size)
    padded = Image.new("RGB", (side, side), "white")
    padded.paste(crop, ((side - crop.width) // 2, (side - crop.height) // 2))
    return padded


def _unit(embeddings: Float[np.ndarray, "d e"]) -> np.ndarray:
    embeddings = np.asarray(embeddings, np.float64)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True).clip(1e-12)
