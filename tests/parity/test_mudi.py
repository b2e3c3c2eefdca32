"""Subjects against the numbers of MuDI's program: canvases, weights, losses, starts, scores.

The original's quirks (a box without its last row and column, two thresholds, greedy assignment, a mean inside
the sigmoid) are options of our parts or are written here. Every name, draw and setting is read from the files
of a case.
"""

from functools import cache

import numpy as np
import pytest
import torch
from goldens import arrays, facts, golden_folder, samples_folder, tensor
from PIL import Image

from mgie.data.images import decode, decode_mask
from mgie.evaluation.controlled.detect_and_compare import (
    apart_score,
    assign,
    compare,
    pair_confidences,
    square_crop,
    truth,
)
from mgie.personalization.pairs import SubjectPairs
from mgie.personalization.segmix import (
    Composed,
    CutOut,
    Placement,
    SegMixConfig,
    compose,
    cut_out,
    largest_factor,
    mixed_caption,
    side_by_side,
)
from mgie.personalization.start import mean_shifted
from mgie.personalization.subjects import PRIOR, SUBJECTS, Photo, Subject, load_subjects
from mgie.training.objective import dco, softened, squared_error

MAP = 1e-6
"""Of a weight map. Worst measured: 6e-8."""
SCORE = 1e-6
"""Of similarities and scores, which the original computes in single precision. Worst measured: 1.2e-7."""
LOSS = 1e-6
"""Of losses of about 1, relative. Worst measured: 1.2e-7."""
START = 1e-6
MIXES = facts("mudi", "segmix")
CANVAS: int = MIXES["canvas"]
MEASURES = facts("mudi", "dnc_and_losses")


def of(cases: list[dict]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", cases, ids=[case["name"] for case in cases])


@cache
def subjects(file: str) -> dict[str, Subject]:
    folder = golden_folder("mudi") / "data" / {SUBJECTS: "instances", PRIOR: "prior"}[file]
    if not folder.is_dir():
        pytest.skip("needs pictures: set MGIE_GOLDENS to a folder of goldens")
    return {each.name: each for each in load_subjects(folder, file)}


def picture(name: str) -> np.ndarray:
    return np.asarray(Image.open(golden_folder("mudi") / name).convert("RGB"))


def photo(name: str, file: str) -> tuple[Subject, Photo]:
    return next((each, one) for each in subjects(file).values() for one in each.photos if one.name == name)


def mixed(draws: dict, file: str) -> tuple[Composed, list[Subject], Placement]:
    """The canvas of a case, from what its program drew."""
    found = [photo(draws[f"{place}_file"], file) for place in ("first", "second")]
    cuts = [cut_out(one, legacy=True) for _, one in found]
    placement = placed(draws, cuts)
    return compose(cuts, placement, CANVAS, legacy=True), [each for each, _ in found], placement


def placed(draws: dict, cuts: list[CutOut]) -> Placement:
    parts = draws.get("fraction_of_max")
    factors = draws.get("resize_factors") or [
        part * largest_factor(cut.image.size, CANVAS) for part, cut in zip(parts, cuts, strict=True)
    ]
    sizes = [
        (int(cut.image.width * factor), int(cut.image.height * factor))
        for cut, factor in zip(cuts, factors, strict=True)
    ]
    both = draws.get("y_both")
    return side_by_side(
        sizes, canvas=CANVAS, first_is_left=draws.get("first_is_left", True),
        margins=(draws["left_margin"], draws["right_margin"]), right_on_top=draws["right_on_top"],
        heights=(draws["y_left"], draws["y_right"]) if both is None else (both, both),
    )  # fmt: skip


@of(MIXES["cases"])
def test_canvases_are_the_originals_to_the_pixel(case):
    composed, ours, placement = mixed(case["named_draws"], SUBJECTS)
    assert np.array_equal(np.asarray(composed.image), picture(f"{case['name']}.png"))
    assert mixed_caption([each.phrase for each in ours], placement) == case["prompt"]
    union = torch.from_numpy(composed.union)[None, None].float()
    wanted = tensor("mudi", case["name"], "mask_map")
    found = softened(union, (wanted.shape[-2], wanted.shape[-1]), floor=case["soft_alpha"])
    assert (found[0] - wanted).abs().max() <= MAP


@of([case for case in MIXES["cases"] if "named_draws_class" in case])
def test_so_are_those_of_the_prior(case):
    composed, ours, placement = mixed(case["named_draws_class"], PRIOR)
    assert np.array_equal(np.asarray(composed.image), picture(f"{case['name']}_class.png"))
    assert mixed_caption([each.phrase for each in ours], placement) == case["class_prompt"]
    wanted = tensor("mudi", case["name"], "class_mask_map")
    union = torch.from_numpy(composed.union)[None, None].float()
    found = softened(union, (wanted.shape[-2], wanted.shape[-1]), floor=case["soft_alpha"])
    assert (found[0] - wanted).abs().max() <= MAP


@of([case for case in MIXES["cases"] if case["relative_scale"] == 0])
def test_sizes_and_places_are_drawn_from_the_originals_ranges(case):
    calls = [draw["args"] for draw in case["draws"] if draw["call"] in ("np.uniform", "randint")][:6]
    draws = case["named_draws"]
    cuts = [cut_out(photo(draws[f"{place}_file"], SUBJECTS)[1], legacy=True) for place in ("first", "second")]
    for cut, (low, high) in zip(cuts, calls[:2], strict=True):
        most = largest_factor(cut.image.size, CANVAS)
        assert (0.75 * most, most) == pytest.approx((low, high), rel=1e-12)
    placement = placed(draws, cuts)
    first, second = placement.places
    left, right = (first, second) if draws["first_is_left"] else (second, first)
    ranges = [[0, CANVAS - left.height], [0, CANVAS - right.height], [1, CANVAS // 4], [1, CANVAS // 4]]
    assert calls[2:] == ranges


@of(MEASURES["dnc"])
def test_detect_and_compare(case):
    z, name = arrays("mudi", "arrays"), case["name"]
    photos = [z[f"{name}/refs_{number}"] for number in range(case["n_subjects"])]
    found = z[f"{name}/detections"]
    assert np.abs(truth(photos) - z[f"{name}/gt"]).max() <= SCORE
    spectral = compare(found, photos, how="greedy")
    assert np.abs(spectral.similarity - z[f"{name}/sim"]).max() <= SCORE
    assert spectral.score == pytest.approx(case["spectral"], abs=SCORE)
    assert bool(spectral.reason) == (case["n_detections"] != case["n_subjects"])
    if spectral.assigned is not None:
        assert np.abs(spectral.similarity[spectral.assigned] - z[f"{name}/sim_sorted"]).max() <= SCORE
    frobenius = compare(found, photos, how="greedy", norm="frobenius")
    assert frobenius.score == pytest.approx(case["frobenius"], abs=SCORE)
    for by in ("max", "mean"):
        if f"linear_{by}" in case:
            wanted = (case[f"linear_{by}"], case[f"max_{by}"])
            assert pair_confidences(found, (photos[0], photos[1]), by=by) == pytest.approx(wanted, abs=SCORE)


def test_the_greedy_assignment():
    z = arrays("mudi", "arrays")
    for key in [key for key in z if key.startswith("assign") and key.endswith("/in")]:
        rows = assign(z[key], "greedy")
        assert np.array_equal(z[key][rows], z[key.replace("/in", "/out")])


def test_detections_are_cut_out_into_white_squares():
    image = Image.fromarray(arrays("mudi", "arrays")["crop/image"])
    for number, box in enumerate(MEASURES["crop_boxes"]):
        left, top, right, bottom = (float(edge) for edge in box)
        found = np.asarray(square_crop(image, (left, top, right, bottom)))
        assert np.array_equal(found, arrays("mudi", "arrays")[f"crop/out_{number}"])


@of(MEASURES["published_examples"])
def test_printed_scores_follow_from_printed_matrices(case):
    found, wanted = np.array(case["dc"]), np.array(case["gt"])
    sorted_ = found[assign(found, "greedy")]
    for norm, told in (("spectral", case["computed"]), ("frobenius", case["frobenius"])):
        assert apart_score(sorted_, wanted, norm) == pytest.approx(told, abs=SCORE)


@of([case for case in MEASURES["losses"] if "beta" in case])
def test_masked_losses(case):
    guess, wanted, plain, mask = (
        tensor("mudi", "arrays", f"{case['name']}/{part}") for part in ("pred", "target", "ref_pred", "mask")
    )
    error, before = squared_error(guess, wanted, mask), squared_error(plain, wanted, mask)
    assert error.mean().item() == pytest.approx(case["masked_mse"], rel=LOSS)
    assert before.mean().item() == pytest.approx(case["ref_masked_mse"], rel=LOSS)
    # The original takes the mean over the samples inside the sigmoid; with one sample that is ours.
    loss = (
        error.mean() if not case["beta"] else dco(error.mean()[None], before.mean()[None], beta=case["beta"])
    )
    assert loss.item() == pytest.approx(case["loss"], rel=LOSS * max(1, case["beta"] / 100))


@of([case for case in MEASURES["losses"] if "prior" in case])
def test_a_prior_counts_beside_the_instances(case):
    guess, wanted, mask = (
        tensor("mudi", "arrays", f"{case['name']}/{part}") for part in ("pred", "target", "mask")
    )
    error = squared_error(guess, wanted, mask)
    half = len(error) // 2
    ours, prior = error[:half].mean(), error[half:].mean()
    assert ours.item() == pytest.approx(case["instance"], rel=LOSS)
    assert prior.item() == pytest.approx(case["prior"], rel=LOSS)
    assert (ours + case["weight"] * prior).item() == pytest.approx(case["loss"], rel=LOSS)


def test_the_start_of_the_published_figure():
    latent, noise = tensor("mudi", "arrays", "init/latent"), tensor("mudi", "arrays", "init/noise")
    mask = tensor("mudi", "arrays", "init/mask")[None, None].float()
    cases = [key for key in arrays("mudi", "arrays") if key.startswith("init/z_gamma_")]
    assert cases
    for key in cases:
        found = mean_shifted(noise, latent, mask, gamma=float(key.removeprefix("init/z_gamma_")))
        assert (found - tensor("mudi", "arrays", key)).abs().max() <= START


@pytest.mark.parametrize(("name", "count", "photos"), [("two_subjects", 2, 6), ("five_subjects", 5, 10)])
def test_real_things_are_checked_cut_out_and_mixed(name, count, photos):
    """The authors' own photos: each canvas is white but for its things, which its mask and words know."""
    things = load_subjects(samples_folder("mudi") / name)
    assert len(things) == count and sum(len(each.photos) for each in things) == photos
    pairs = SubjectPairs(things, size=128, seed=0, batch_size=1, segmix=SegMixConfig(prob=1.0))
    for position in range(3):
        pair = pairs[position]
        canvas, there = decode(pair.target, name="canvas"), decode_mask(pair.mask, name="mask")
        covered = np.asarray(there) > 127
        assert (np.asarray(canvas)[~covered] >= 250).mean() > 0.95 and 0.02 < covered.mean() < 0.9
        phrases = {each.phrase for each in things if each.phrase in pair.instruction}
        assert len(pair.subjects) == len(phrases) == 2
