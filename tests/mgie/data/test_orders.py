import numpy as np
import pytest

from mgie.data.orders import Bucketed, ByLength, Shuffled, aspect_shapes, nearest_shapes
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
