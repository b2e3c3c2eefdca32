from collections import Counter

import numpy as np
import pytest
from torch.utils.data import ConcatDataset

from mgie.data.orders import (
    BLOCK,
    Bucketed,
    ByLength,
    Mixed,
    Shuffled,
    Weighted,
    aspect_shapes,
    nearest_shapes,
)
from mgie.errors import ConfigError

LENGTHS = np.random.default_rng(0).integers(1, 200, 103)


def orders():
    buckets = np.arange(103) % 3
    return {
        "plain": Shuffled(103, seed=1),
        "drop": Shuffled(103, seed=1, batch_size=8, last="drop"),
        "pad": Shuffled(103, seed=1, batch_size=8, last="pad"),
        "length": ByLength(LENGTHS, seed=1, batch_size=8, window=4),
        "shape": Bucketed(buckets, seed=1, batch_size=8),
        "shape-drop": Bucketed(buckets, seed=1, batch_size=8, last="drop"),
    }


@pytest.mark.parametrize("name", orders())
def test_an_epoch_holds_each_once_and_any_position_can_be_asked_for(name):
    order = orders()[name]
    for epoch in range(3):
        numbers = order.take(epoch * order.epoch, (epoch + 1) * order.epoch)
        assert len(np.unique(numbers)) == min(order.epoch, 103)
        assert len(numbers) - len(np.unique(numbers)) == max(order.epoch - 103, 0)
    whole = order.take(0, 300)
    assert all(
        np.array_equal(orders()[name].take(start, start + 20), whole[start : start + 20])
        for start in (0, 95, 280)
    )
    assert not np.array_equal(order.take(0, order.epoch), order.take(order.epoch, 2 * order.epoch))


def test_steps_of_about_equal_length():
    def padding(order):
        steps = LENGTHS[order.take(0, 8 * 120)].reshape(-1, 8)
        return (steps.max(1, keepdims=True) - steps).sum()

    found = orders()
    assert padding(found["length"]) < 0.4 * padding(found["plain"])


def test_steps_of_one_shape():
    sides = np.array([(10, 10), (20, 10), (10, 20), (11, 10), (19, 10)] * 9)
    shapes = [(8, 16), (8, 8), (16, 8)]
    buckets = nearest_shapes(sides, shapes)
    assert buckets[:5].tolist() == [1, 2, 0, 1, 2]
    steps = buckets[Bucketed(buckets, seed=0, batch_size=4).take(0, 200)].reshape(-1, 4)
    assert (steps == steps[:, :1]).all() and len(np.unique(steps)) == 3
    with pytest.raises(ConfigError, match="straddle"):
        Bucketed(buckets, seed=0, batch_size=4, last="straddle")
    with pytest.raises(ConfigError, match="no bucket"):
        Bucketed(buckets, seed=0, batch_size=40, last="drop")


def test_shapes_have_about_the_same_area():
    shapes = aspect_shapes(512)
    assert (512, 512) in shapes and len(shapes) > 5
    assert all(
        w % 64 == h % 64 == 0 and abs(w * h / 512**2 - 1) < 0.15 and 0.5 <= w / h <= 2 for w, h in shapes
    )
    assert shapes[nearest_shapes(np.array([(1000, 1001)]), shapes)[0]] == (512, 512)


def sources(make_pair, *counts):
    return [
        [make_pair(index, key=f"{name}{index}") for index in range(count)]
        for name, count in zip("abc", counts)
    ]


def mixture(parts, weights, **settings):
    return ConcatDataset(parts), Mixed(parts, weights, **settings)


def keys(joined, order, start, stop):
    return [joined[int(index)].key for index in order.take(start, stop)]


def test_shares_are_exact_in_every_block(make_pair):
    joined, order = mixture(sources(make_pair, 7, 3), [3, 1], seed=0)
    for block in range(3):
        names = Counter(key[0] for key in keys(joined, order, block * BLOCK, (block + 1) * BLOCK))
        assert names == {"a": 750, "b": 250}


def test_each_source_sees_every_pair_once_per_its_epoch(make_pair):
    joined, order = mixture(sources(make_pair, 7, 3), [0.5, 0.5], seed=1)
    seen = keys(joined, order, 0, 400)
    for name, count in (("a", 7), ("b", 3)):
        own = [key for key in seen if key[0] == name]
        for start in range(0, len(own) - count, count):
            assert len(set(own[start : start + count])) == count


def test_any_position_can_be_asked_for(make_pair):
    whole = mixture(sources(make_pair, 7, 3, 5), [5, 2, 1], seed=2)[1].take(0, 2500)
    order = mixture(sources(make_pair, 7, 3, 5), [5, 2, 1], seed=2)[1]
    for start, stop in ((2400, 2500), (0, 1), (990, 1010), (7, 7), (1500, 2300)):
        assert np.array_equal(order.take(start, stop), whole[start:stop])
    assert not np.array_equal(mixture(sources(make_pair, 7, 3, 5), [5, 2, 1], seed=3)[1].take(0, 2500), whole)


def test_an_epoch_shows_all_of_the_slowest_source(make_pair):
    joined, order = mixture(sources(make_pair, 40, 3), [0.1, 0.9], seed=0)
    assert order.epoch == 400
    assert len({key for key in keys(joined, order, 0, BLOCK) if key[0] == "a"}) == 40


def test_pair_weights(make_pair):
    class Stored(list):
        weights = np.array([2.0, 1.0, 0.0, 0.5])

    pairs = Stored(sources(make_pair, 4)[0])
    joined, order = mixture(
        [pairs], [1], seed=0, arrange=lambda part, seed: Weighted(part.weights, seed=seed)
    )
    counts = Counter(keys(joined, order, 0, 4 * 700))
    assert (
        counts["a2"] == 0
        and abs(counts["a0"] / counts["a1"] - 2) < 0.05
        and abs(counts["a3"] / counts["a1"] - 0.5) < 0.05
    )
    assert Counter(Weighted(np.ones(5), seed=0).take(0, 5).tolist()) == Counter(range(5))


def test_whole_steps_are_mixed_where_their_pairs_must_be_alike(make_pair):
    joined, order = mixture(
        sources(make_pair, 8, 6), [3, 1], seed=0, unit=4,
        arrange=lambda part, seed: Bucketed(np.arange(len(part)) % 2, seed=seed, batch_size=4),
    )  # fmt: skip
    seen = keys(joined, order, 0, 8 * BLOCK)
    steps = [seen[start : start + 4] for start in range(0, len(seen), 4)]
    assert all(len({(key[0], int(key[1:]) % 2) for key in step}) == 1 for step in steps)
    assert Counter(step[0][0] for step in steps[:BLOCK]) == {"a": 750, "b": 250}
    assert keys(joined, order, 1234, 1300) == seen[1234:1300]
    assert keys(joined, order, 4 * BLOCK - 6, 4 * BLOCK + 6) == seen[4 * BLOCK - 6 : 4 * BLOCK + 6]


def test_wishes_that_cannot_work(make_pair):
    with pytest.raises(ConfigError, match="do not fit 2"):
        mixture(sources(make_pair, 2, 2), [1], seed=0)
    with pytest.raises(ConfigError, match="above 0"):
        mixture(sources(make_pair, 2, 2), [1, 0], seed=0)
    with pytest.raises(ConfigError, match="thousandth"):
        mixture(sources(make_pair, 2, 2), [1, 1e-6], seed=0)
    with pytest.raises(ConfigError, match="empty"):
        mixture([[]], [1], seed=0)
