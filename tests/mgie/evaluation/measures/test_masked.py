"""Inside a mask and outside it: Reason-Edit's numbers, with its box that ends too early."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from benchmark_data import pic
from PIL import Image

from mgie.errors import ConfigError, DataError
from mgie.evaluate import evaluate
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.measures.features import Clip
from mgie.evaluation.measures.masked import inside, outside, outside_score, shares
from mgie.evaluation.published.data import outputs_of, read_layout
from mgie.evaluation.published.protocol import Metric, find_protocol
from mgie.evaluation.published.rows import score_all

PROTOCOL = find_protocol("reason_edit")


def toy(values):
    return Image.fromarray(np.array(values, np.uint8))


def test_the_box_loses_its_last_row_and_column():
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 3:7] = 255
    picture = toy(np.arange(192).reshape(8, 8, 3))
    part = inside(picture, shares(toy(mask), 8))
    assert np.array_equal(np.asarray(part), np.asarray(picture)[2:5, 3:6])


def test_outside_is_black_inside_and_fractions_stay():
    mask = np.zeros((8, 8), np.uint8)
    mask[2:6, 3:7], mask[0, 0] = 255, 51
    left = outside(toy(np.full((8, 8, 3), 255)), shares(toy(mask), 8))
    assert left[:, 2:6, 3:7].abs().max() == 0 and left[0, 0, 0] == pytest.approx(0.8)
    seen = {}

    def distance(first, second):
        seen.update(first=first, second=second)
        return torch.tensor(0.25)

    metric = Metric(measure="lpips", of=("source", "output"), better="lower", region="outside", side=8)
    assert outside_score(metric, left, left, distance) == (0.25, False)
    assert seen["first"][:, 2:6, 3:7].unique().tolist() == [-1]


def test_numbers_are_over_the_whole_picture():
    mask = np.zeros((16, 16), np.uint8)
    mask[:, 8:] = 255
    white, black = (toy(np.full((16, 16, 3), value)) for value in (255, 0))
    first, second = (outside(each, shares(toy(mask), 16)) for each in (white, black))

    def score(measure, *pair):
        return outside_score(Metric(measure=measure, of=(), better="lower"), *pair)

    assert score("l2", first, second) == (0.5, False)
    assert score("psnr", first, second) == (pytest.approx(10 * np.log10(2)), False)
    assert score("psnr", first, first) == (100, True)
    assert score("ssim", first, first) == (pytest.approx(1), False)


@pytest.mark.parametrize("place", [(), (slice(3, 4), slice(2, 6))])
def test_a_mask_without_a_box(place):
    mask = np.zeros((8, 8), np.uint8)
    if place:
        mask[place] = 255
    with pytest.raises(DataError, match="fewer than two rows or columns"):
        inside(toy(np.zeros((8, 8, 3))), shares(toy(mask), 8))


@pytest.fixture
def data(tmp_path):
    """Two folders of two pictures, and a system's pictures."""
    for seed, folder in enumerate(("1-Left-Right", "Reasoning-231115")):
        lying, made = tmp_path / "data" / folder, tmp_path / "gen" / folder
        lying.mkdir(parents=True)
        made.mkdir(parents=True)
        for place in range(2):
            pic(seed + place, 40, 30).save(lying / f"{place}.png")
            pic(seed + place + 9, 40, 30).save(made / f"{place}.png")
            mask = np.zeros((30, 40), np.uint8)
            mask[10:20, 10:30] = 255
            Image.fromarray(mask).save(lying / f"{place}_mask.jpg")
        (lying / "words.txt").write_text("make it red CLIP: a red d\nmake it wide CLIP: a bad d\n")
    return tmp_path


def test_reason_edit(data, clip_folder):
    views = read_layout(PROTOCOL, data / "data")
    assert {view: [entry.key for entry in entries] for view, entries in views.items()} == {
        "understanding": ["1-Left-Right/0", "1-Left-Right/1"],
        "reasoning": ["Reasoning-231115/0", "Reasoning-231115/1"],
    }
    entry = views["reasoning"][1]
    assert (entry.instruction, entry.caption) == ("make it wide", "a bad d")
    outputs, extra = outputs_of(data / "gen", views)
    assert not extra
    metrics = {name: metric for name, metric in PROTOCOL.metrics.items() if name != "lpips"}
    found = score_all(replace(PROTOCOL, metrics=metrics), views, outputs, Eyes(clip=Clip(clip_folder))).facts
    copy, made = found["copy"]["understanding"], found["outputs"]["understanding"]
    assert copy["mse"] == 0 and copy["psnr"] == 100 and copy["counted"]["psnr"] == {"infinite": 2}
    assert made["mse"] > 0 and made["psnr"] < 40 and 0 <= made["clip_score"] <= 100


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "words.txt").unlink(), "has no readable text"),
        (lambda folder: (folder / "words.txt").write_text("make it red\n" * 2), "has no readable text"),
        (lambda folder: (folder / "words.txt").write_text("a CLIP: b\n"), "has 2 pictures and 1 lines"),
        (lambda folder: (folder / "1_mask.jpg").unlink(), "1_mask.jpg is missing"),
    ],
)
def test_what_is_wrong_with_a_folder(data, spoil, says):
    spoil(data / "data" / "1-Left-Right")
    with pytest.raises(DataError, match=says):
        read_layout(PROTOCOL, data / "data")


def test_from_pictures_to_a_report(data, clip_folder, tmp_path):
    """Without the published weights, so with numbers that say so."""
    from mgie.evaluation.measures.lpips import _network

    torch.manual_seed(0)
    weights = {
        f"features.{name}": torch.randn(value.shape) * 0.1
        for name, value in _network("squeeze").state_dict().items()
    }
    torch.save(weights, tmp_path / "squeeze.pth")
    asked = {
        "model": f"pictures:{data / 'gen'}", "suite": "reason_edit", "data": data / "data",
        "out": tmp_path / "report", "clip": clip_folder,
    }  # fmt: skip
    facts = evaluate(**asked, lpips=f"squeeze:{tmp_path / 'squeeze.pth'}")
    assert facts["unpinned"] == ["the weights of clip", "the weights of lpips", "the data"]
    rows = facts["rows"]
    assert rows["copy"]["reasoning"]["lpips"] == 0 and rows["outputs"]["reasoning"]["lpips"] > 0
    assert json.loads((tmp_path / "report" / "results.json").read_text())["rows"] == rows
    with pytest.raises(ConfigError, match="measures with lpips: give --lpips"):
        evaluate(**asked)
