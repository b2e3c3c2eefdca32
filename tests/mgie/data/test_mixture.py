from collections import Counter

import numpy as np
import pytest
from torch.utils.data import ConcatDataset

from mgie.data.mixture import BLOCK, Mixed
from mgie.data.orders import Bucketed, Weighted
from mgie.errors import ConfigError


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
