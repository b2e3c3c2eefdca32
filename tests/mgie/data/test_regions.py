"""Regions as files tell them, and as a batch holds them."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from mgie.data.augment import FewerRegions
from mgie.data.regions import cropped, placed, read_regions, together
from mgie.errors import DataError
from mgie.types import Region

LEFT = Region(phrase="a red cup", box=(0.0, 0.0, 0.5, 1.0))
BENCH = """
a photo of a blue dog and a red cup and a red cup:
  a blue dog: [[0.5, 0.0, 1.0, 0.5]]
  a red cup: [[0.0, 0.0, 0.5, 0.5], [0.0, 0.5, 0.5, 1.0]]
  coco_id: '0'
a photo of a white cat:
  a white cat: [[0.1, 0.2, 0.9, 0.8]]
  coco_id: '1'
"""


def png(mask: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.astype(np.uint8) * 255).save(buffer, format="PNG")
    return buffer.getvalue()


def ids(phrase: str) -> list[int]:
    return [len(word) for word in phrase.split()]


def test_the_benchmarks_annotations(tmp_path):
    path = tmp_path / "anno.yaml"
    path.write_text(BENCH)
    found = read_regions(path, prompt="a photo of a blue dog and a red cup and a red cup")
    assert [(region.phrase, region.box) for region in found] == [
        ("a blue dog", (0.5, 0.0, 1.0, 0.5)),
        ("a red cup", (0.0, 0.0, 0.5, 0.5)),
        ("a red cup", (0.0, 0.5, 0.5, 1.0)),
    ]
    with pytest.raises(
        DataError, match=r"has 2 prompts, and none is 'a photo of a white cap': the nearest is 'a p"
    ):
        read_regions(path, prompt="a photo of a white cap")
    path.write_text(BENCH.split("a photo of a white cat")[0])
    assert read_regions(path, prompt="anything") == found
    path.write_text("- {phrase: a cup, box: [0, 0, 1, 1]}")
    assert read_regions(path) == (Region(phrase="a cup", box=(0.0, 0.0, 1.0, 1.0)),)
    for content, told in (
        ("a: [", "is no YAML"),
        ("a: 3", "without phrases"),
        ("a: {b: 2}", "without phrases"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=told):
            read_regions(path)


def test_a_crop_takes_regions_along():
    # Of 40 x 20 pixels the middle half is seen.
    wide = [
        LEFT,
        Region(phrase="gone", box=(0.0, 0.0, 0.26, 1.0)),
        Region(phrase="all", box=(0.0, 0.0, 1.0, 1.0)),
    ]
    found = cropped(wide, (40, 20), (20, 20))
    assert [region.phrase for region in found] == ["a red cup", "all"]
    assert found[0].box == (0.0, 0.0, 0.5, 1.0) and found[1].box == (0.0, 0.0, 1.0, 1.0)
    mask = np.zeros((20, 40), bool)
    mask[:, :20] = True
    corner = np.zeros((20, 40), bool)
    corner[:5, :5] = True
    drawn = [Region(phrase="half", mask=png(mask)), Region(phrase="gone", mask=png(corner))]
    held = placed(drawn, ids, size=(40, 20), shape=(20, 20), pixels=(8, 8))
    assert held.present.tolist() == [[True]] and held.stencils is not None
    assert (held.stencils[0, 0, :, :3] == 255).all() and (held.stencils[0, 0, :, 5:] == 0).all()
    assert held.boxes[0, 0].tolist() == [0.0, 0.0, 9 / 20, 19 / 20]  # the last index itself is the end


def test_pictures_side_by_side():
    full = np.ones((8, 8), bool)
    one = placed([LEFT, Region(phrase="it", mask=png(full))], ids, size=(8, 8), shape=(8, 8), pixels=(4, 4))
    none = placed([], ids, size=(8, 8), shape=(8, 8), pixels=(4, 4))
    batch = together([none, one])
    assert batch.present.tolist() == [[False, False], [True, True]]
    assert batch.phrases.tolist() == [[[-1, -1, -1]] * 2, [[1, 3, 3], [2, -1, -1]]]
    assert batch.stencils is not None and batch.stencils.shape == (2, 2, 4, 4)
    assert batch.stencils[1, 1].eq(255).all() and not batch.stencils[1, 0].any()
    assert torch.equal(batch.scales, torch.ones(2, 2, 3)) and batch.boxes.dtype == torch.float64
    assert together([none]).stencils is None


def test_fewer_regions(make_pair):
    regions = tuple(Region(phrase=str(number), box=(0.0, 0.0, 1.0, 1.0)) for number in range(9))
    pair, few = make_pair(regions=regions), FewerRegions(6)
    drawn = [few(pair, np.random.default_rng(seed)).regions for seed in range(20)]
    assert all(
        len(found) == 6 and list(found) == sorted(found, key=lambda each: each.phrase) for found in drawn
    )
    assert {region.phrase for found in drawn for region in found} == {str(number) for number in range(9)}
    assert few(make_pair(regions=regions[:6]), np.random.default_rng(0)).regions == regions[:6]
