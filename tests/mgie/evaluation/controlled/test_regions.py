"""What edits do outside their masks, at the edge and inside, by pictures made for it."""

import numpy as np
import pytest
from benchmark_data import pic
from PIL import Image

from mgie.data.images import encode
from mgie.errors import DataError
from mgie.evaluation.controlled.benchmark import Task
from mgie.evaluation.controlled.regions import Locality, read_regions, seam_ratio
from mgie.prepare import prepare

SIZE = (64, 48)


def masked(box=(16, 12, 48, 36)) -> Image.Image:
    mask = Image.new("L", SIZE)
    mask.paste(255, box)
    return mask


PHOTO = pic(7, *SIZE)
TASK = Task(
    key="a", instruction="x", source=encode(PHOTO, "PNG"), target=encode(pic(8, *SIZE), "PNG"),
    mask=encode(masked(), "PNG"),
)  # fmt: skip


def edited(where: Image.Image, by: int) -> Image.Image:
    values = np.asarray(PHOTO).astype(int)
    values[np.asarray(where) > 127] += by
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def test_a_photo_given_back_changes_nothing():
    scores = Locality().measure(TASK, PHOTO).scores
    assert scores["outside_equal"] == 1 and scores["outside_change"] == scores["inside_change"] == 0
    assert scores["inside_l1"] > 0.1 and scores["seam"] == pytest.approx(1, abs=0.15)


def test_one_value_outside_is_seen_and_one_in_the_feather_is_not():
    near, far = PHOTO.copy(), PHOTO.copy()
    near.putpixel((15, 20), (0, 0, 0))  # the ring is 8 of 512, here 0.87 of a pixel: none
    far.putpixel((2, 2), tuple(255 - value for value in PHOTO.getpixel((2, 2))))
    assert Locality(feather=30.0).measure(TASK, near).scores["outside_equal"] == 1
    assert Locality(feather=0.0).measure(TASK, near).scores["outside_equal"] == 0
    scores = Locality().measure(TASK, far).scores
    assert scores["outside_equal"] == 0 and scores["outside_change"] > 0.4 and scores["outside_l1"] < 0.001


def test_an_edge_that_is_seen_has_a_seam():
    inside, around = masked(), Image.new("L", SIZE, 255)
    seen = Locality().measure(TASK, edited(inside, 60)).scores
    everywhere = Locality().measure(TASK, edited(around, 60)).scores
    assert seen["seam"] > 1.5 and everywhere["seam"] < 1.2
    assert seen["outside_equal"] == 1 and seen["inside_change"] == pytest.approx(60 / 255, abs=0.02)
    assert everywhere["outside_change"] == pytest.approx(60 / 255)


def test_without_an_edge_there_is_no_seam():
    flat = np.full((8, 8, 3), 0.5)
    assert seam_ratio(flat, np.ones((8, 8), bool)) is None
    half = np.arange(64).reshape(8, 8) % 8 < 4
    assert seam_ratio(flat, half) is None
    slope = np.repeat(np.arange(8.0)[None, :, None] / 8, 8, 0).repeat(3, -1)
    assert seam_ratio(slope, half) == pytest.approx((1 / 8) / ((1 / 8) * 48 / (48 + 56)))


def test_a_mask_of_all_leaves_nothing_outside_and_one_of_another_size_is_fitted():
    whole = Task(
        key="a", instruction="x", source=TASK.source, mask=encode(Image.new("L", (32, 24), 255), "PNG")
    )
    found = Locality().measure(whole, PHOTO)
    assert dict(found.scores) == {"inside_change": 0}
    assert found.notes["outside_l1"] == ["nothing outside"] and found.notes["seam"] == ["no edge to compare"]
    assert Locality().measure(TASK, PHOTO.resize((32, 24))).scores["outside_equal"] == 0


def test_the_user_s_own_pairs_with_masks(tmp_path):
    (tmp_path / "raw").mkdir()
    rows = ["source,target,instruction,mask"]
    for place in range(4):
        pic(place, *SIZE).save(tmp_path / "raw" / f"{place}a.png")
        pic(place + 10, *SIZE).save(tmp_path / "raw" / f"{place}b.png")
        masked().save(tmp_path / "raw" / f"{place}m.png")
        mask = f'"mask": "{place}m.png", ' if place % 2 else ""
        rows.append(
            f'{{"source": "{place}a.png", "target": "{place}b.png", {mask}"instruction": "do {place}", '
            '"split": "test"}'
        )
    (tmp_path / "raw" / "pairs.jsonl").write_text("\n".join(rows[1:]) + "\n")
    prepare(f"pairs:{tmp_path / 'raw' / 'pairs.jsonl'}", tmp_path / "data", progress=False)
    tasks = read_regions(tmp_path / "data", 9)
    assert [task.instruction for task in tasks] == ["do 1", "do 3"]
    mask = tasks[0].controls["mask"]()
    assert mask.size == SIZE and mask.mode == "L"
    assert len(read_regions(tmp_path / "data", 1)) == 1


def test_pairs_without_masks_are_told(toy_data):
    with pytest.raises(DataError, match="has no pair with a mask among"):
        read_regions(toy_data, 3)
