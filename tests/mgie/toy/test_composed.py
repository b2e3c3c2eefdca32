"""Pairs that need all controls at once: what is right, and that nothing may be missing."""

from random import Random

import numpy as np

from mgie.data.images import decode, decode_mask
from mgie.data.validation import check
from mgie.toy.composed import draw_composed
from mgie.toy.judge import judge
from mgie.toy.world import Scene, render, scene


def test_all_of_it_is_asked_for_and_nothing_may_be_missing():
    draw = Random(0)
    for _ in range(8):
        pair = draw_composed(draw)
        target = decode(pair.target, name="")
        assert check(pair) == (64, 64) and judge(pair, target).right
        inside = np.asarray(decode_mask(pair.mask or b"", name="")) > 127
        source = np.asarray(decode(pair.source or b"", name=""))
        assert (source == np.asarray(target))[~inside].all()
        after, before = (Scene.from_json(pair.meta[when]) for when in ("after", "before"))
        new = [thing for thing in after.things if thing not in before.things]
        assert len(new) == 3 and len(pair.regions) == 2 and "<image>" in pair.instruction
        for thing in new:
            less = scene(after.backdrop, [each for each in after.things if each != thing])
            assert not judge(pair, render(less, 64)).right, thing
