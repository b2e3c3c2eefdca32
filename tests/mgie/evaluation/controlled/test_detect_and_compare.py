"""A picture shows each subject once and like itself, or it scores less."""

import itertools

import numpy as np
import pytest
from PIL import Image

from mgie.evaluation.controlled.detect_and_compare import assign, compare, similarity, square_crop, truth

RNG = np.random.default_rng(0)
AXES = np.eye(16)


def looks(subject, count=5, noise=0.2):
    """Embeddings of photos of one thing."""
    return AXES[subject] + noise * RNG.standard_normal((count, 16)) / 4


PHOTOS = [looks(subject) for subject in range(3)]


def test_the_order_of_detections_does_not_matter():
    found = np.stack([looks(subject, 1)[0] for subject in range(3)])
    scores = [compare(found[list(order)], PHOTOS).score for order in itertools.permutations(range(3))]
    assert max(scores) - min(scores) < 1e-12 and scores[0] > 0.8
    compared = compare(found[[2, 0, 1]], PHOTOS)
    assert compared.assigned is not None and compared.assigned.tolist() == [1, 2, 0]


def test_a_double_and_a_mixture_score_less_than_the_right_ones():
    good, double = [np.stack([looks(subject, 1)[0] for subject in shown]) for shown in ((0, 1, 2), (0, 0, 2))]
    mixed = good.copy()
    mixed[0] = mixed[1] = (good[0] + good[1]) / 2
    scores = [compare(found, PHOTOS).score for found in (good, mixed, double)]
    assert scores[0] > scores[1] > scores[2]


@pytest.mark.parametrize(("count", "few"), [(0, "too few"), (2, "too few"), (4, "too many")])
def test_another_number_of_things_scores_nothing(count, few):
    compared = compare(np.ones((count, 16)), PHOTOS)
    assert compared.score == 0 and compared.assigned is None
    assert compared.reason == f"{count} things for 3 subjects: {few}"
    assert compared.similarity.shape == (count, 3)


def test_the_best_assignment_is_the_best_of_all():
    for size in (2, 3, 4, 5):
        matrix = RNG.random((size, size))
        best = max(
            itertools.permutations(range(size)),
            key=lambda rows: sum(matrix[row, column] for column, row in enumerate(rows)),
        )
        assert assign(matrix).tolist() == list(best)
    greedy = assign(np.array([[0.9, 0.8], [0.8, 0.1]]), "greedy")
    assert greedy.tolist() == [0, 1] and assign(np.array([[0.9, 0.8], [0.8, 0.1]])).tolist() == [1, 0]


def test_photos_are_like_themselves():
    same = truth(PHOTOS)
    assert (
        np.allclose(same, same.T)
        and (np.diag(same) > same.max(where=~np.eye(3, dtype=bool), initial=-1)).all()
    )
    without = truth(PHOTOS, with_itself=False)
    assert np.allclose(same[~np.eye(3, dtype=bool)], without[~np.eye(3, dtype=bool)])
    pairs = [(PHOTOS[0][i], PHOTOS[0][j]) for i in range(5) for j in range(5) if i != j]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
    assert without[0, 0] == pytest.approx(np.mean(cosines))
    assert np.isfinite(similarity(np.zeros((1, 16)), PHOTOS)).all()


def test_a_crop_lies_in_the_middle_of_white():
    image = Image.new("RGB", (40, 20), "red")
    found = np.asarray(square_crop(image, (10.0, 0.0, 20.0, 20.0)))
    assert (
        found.shape == (20, 20, 3) and (found[:, :5] == 255).all() and (found[:, 5:15] == [255, 0, 0]).all()
    )
