"""Every draw of a pair is a function of the seed and its position."""

import io

import numpy as np
import pytest
from PIL import Image
from subject_data import write_subjects

from mgie.errors import ConfigError, DataError
from mgie.personalization.pairs import SubjectPairs
from mgie.personalization.segmix import Place, Placement, SegMixConfig, mixed_caption
from mgie.personalization.subjects import load_prior, load_subjects


@pytest.fixture
def subjects(folder):
    return load_subjects(folder)


@pytest.fixture
def prior(folder, subjects):
    write_subjects(folder, "abc", photos=3, file="class_metadata.jsonl")
    return load_prior(folder, subjects)


def pairs(subjects, **changes):
    return SubjectPairs(subjects, **({"size": 64, "seed": 1, "batch_size": 4} | changes))


def opened(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_any_order_of_asking_gives_the_same_pairs(subjects):
    first, second = pairs(subjects), pairs(subjects)
    there = [first[position] for position in range(40)]
    back = [second[position] for position in reversed(range(40))]
    assert there == back[::-1]
    assert [pairs(subjects, seed=2)[position] for position in range(40)] != there


def test_photos_come_equally_often_and_some_are_mixed(subjects):
    found = [pairs(subjects)[position] for position in range(600)]
    mixed = [pair.kind == "mixed" for pair in found]
    assert 0.23 < np.mean(mixed) < 0.37  # 0.3, 3.5 deviations
    assert all(len(pair.subjects) == (2 if pair.kind == "mixed" else 1) for pair in found)
    assert {pair.task for pair in found} == {"subject"} and all(pair.source is None for pair in found)
    first = [pair.subjects[0] for pair in found]
    assert {name: first.count(name) for name in "abc"} == dict.fromkeys("abc", 200)


def test_a_canvas_says_who_is_on_it_and_where(subjects):
    pair = next(pair for pair in map(pairs(subjects, segmix=SegMixConfig(prob=1.0)).__getitem__, range(5)))
    image, mask = opened(pair.target), opened(pair.mask)
    assert image.shape == (64, 64, 3) and mask.shape == (64, 64)
    assert (image[~mask] == 255).all() and mask.any()
    phrases = {each.name: each.phrase for each in subjects}
    a, b = (phrases[name] for name in pair.subjects)
    assert pair.instruction == f"a photo of a {a} and a {b}, simple background."


def test_a_photo_is_cropped_and_all_of_it_counts(subjects):
    plain = pairs(subjects, segmix=SegMixConfig(prob=0.0))
    for position in range(6):
        pair = plain[position]
        assert opened(pair.target).shape == (64, 64, 3)
        assert pair.mask is None and pair.kind == "photo"


def test_things_whose_middles_are_one_have_places_all_the_same():
    places = tuple(Place(x=8 * number, y=0, width=32 - 16 * number, height=8) for number in range(2))
    placement = Placement(places=places, order=(0, 1))
    assert mixed_caption(["a", "b"], placement, "corners") == (
        "a photo of a a on the left and a b on the right, simple background."
    )


def test_nothing_is_mixed_before_its_step(subjects):
    late = pairs(subjects, segmix=SegMixConfig(prob=1.0, start_step=3))
    assert [late[position].kind for position in range(16)] == ["photo"] * 12 + ["mixed"] * 4


def test_every_second_one_is_the_priors_and_mixed_as_its_neighbour(subjects, prior):
    both = pairs(subjects, prior=prior)
    found = [both[position] for position in range(200)]
    assert [pair.task for pair in found] == ["subject", "prior"] * 100
    assert all(one.kind == other.kind for one, other in zip(found[::2], found[1::2]))
    assert all(not pair.subjects for pair in found[1::2])
    without = pairs(subjects)
    assert [pair.target for pair in found[::2]] == [without[position].target for position in range(100)]


def test_what_cannot_be_mixed(subjects, prior, folder):
    with pytest.raises(ConfigError, match="one subject, a: expected two or more"):
        pairs(subjects[:1])
    assert pairs(subjects[:1], segmix=SegMixConfig(prob=0.0))[0].subjects == ("a",)
    with pytest.raises(ConfigError, match="names 'z': expected some of a, b, c"):
        pairs(subjects, segmix=SegMixConfig(scales={"z": 0.5}))
    with pytest.raises(ConfigError, match="batches of 3 with a prior"):
        pairs(subjects, prior=prior, batch_size=3)
    (folder / "mask_a0.png").unlink()
    with pytest.raises(DataError, match=r"a0\.png of 'a' has no mask"):
        pairs(load_subjects(folder, masks=False))
    with pytest.raises(ConfigError, match=r"segmix\.together is empty"):
        SegMixConfig(together=[])
