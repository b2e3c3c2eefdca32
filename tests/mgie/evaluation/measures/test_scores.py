"""What cannot be measured is no number, and is counted by its reason."""

import pytest
import torch
from benchmark_data import pic

from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.measures.features import Clip
from mgie.evaluation.measures.scores import Case, Score, means, score
from mgie.evaluation.published.protocol import Metric, find_protocol

L1 = Metric(measure="l1", of=("output", "target"), at="target", better="lower")


@pytest.fixture(scope="module")
def eyes(clip_folder):
    return Eyes(clip=Clip(clip_folder))


def clip(*of, **more):
    measure = "direction" if len(of) == 4 else "clip"
    return Metric(measure=measure, of=of, better="higher", **more)


def test_what_an_item_lacks_is_told():
    case = Case(output=pic(1, 20, 20))
    assert score(L1, case, Eyes()) == Score(None, ("no target",))
    assert score(clip("output", "source_caption"), case, Eyes()) == Score(None, ("no source caption",))


def test_pictures_are_brought_to_the_size_that_the_metric_names():
    output, target = pic(8, 48, 48), pic(7, 96, 80)
    assert score(L1, Case(output=output, target=target), Eyes()).value == pytest.approx(0.2553983, abs=1e-6)
    nearest = Metric(measure="l1", of=("output", "target"), at="target", filter="nearest", better="lower")
    found = score(nearest, Case(output=output, target=target), Eyes()).value
    assert found == pytest.approx(0.2563863, abs=1e-6)


def test_equal_captions_and_equal_pictures_have_no_direction(eyes):
    source, output = pic(1, 230, 224), pic(2, 230, 224)
    of = ("source", "output", "source_caption", "caption")
    same = Case(source=source, output=output, source_caption="a red d", caption="a red d")
    found = score(clip(*of), same, eyes)
    assert found == Score(0.0, ("nothing to compare",))
    assert score(clip(*of, leave_out=("equal_captions",)), same, eyes) == Score(None, ("equal captions",))
    still = Case(source=source, output=source, source_caption="a red d", caption="a bad d")
    assert score(clip(*of), still, eyes) == Score(0.0, ("nothing to compare",))
    whole = Case(source=source, output=output, source_caption="a red d", caption="a bad d")
    plain = score(clip(*of, normalise_before_difference=False), whole, eyes)
    assert score(clip(*of), whole, eyes).value != pytest.approx(plain.value, abs=1e-4)
    assert not plain.notes


def test_ip2p_s_script_and_its_documentation_are_two_protocols(eyes):
    case = Case(source=pic(1, 96, 80), output=pic(2, 96, 80), source_caption="a red d", caption="a bad d")
    script, documented = (find_protocol(name).metrics for name in ("ip2p", "ip2p@documented"))
    for name in ("sim_0", "sim_1", "sim_direction", "sim_image"):
        both = [score(metrics[name], case, eyes).value for metrics in (script, documented)]
        assert both[0] != pytest.approx(both[1], abs=1e-6), name


def test_features_are_computed_once(clip_folder):
    seen = []

    class Counting(Clip):
        def images(self, pictures, prep=None):
            seen.append(len(pictures))
            return super().images(pictures, prep)

    eyes, case = Eyes(clip=Counting(clip_folder)), Case(output=pic(1, 230, 224), target=pic(2, 230, 224))
    twice = [score(clip("output", "target"), case, eyes) for _ in range(2)]
    assert twice[0] == twice[1] and seen == [1, 1]
    other = clip("output", "target", prep=find_protocol("ip2p").metrics["sim_image"].prep)
    assert score(other, case, eyes) != twice[0] and len(seen) == 4


def test_a_feature_of_nothing_is_0_and_counted(eyes):
    with torch.no_grad():
        kept = eyes.clip.model.visual_projection.weight.clone()
        eyes.clip.model.visual_projection.weight.zero_()
        try:
            case = Case(output=pic(3, 230, 224), target=pic(4, 230, 224))
            assert score(clip("output", "target"), case, eyes) == Score(0.0, ("nothing to compare",))
        finally:
            eyes.clip.model.visual_projection.weight.copy_(kept)


def test_means_have_their_own_n_and_rule():
    by_kind = Metric(measure="l1", of=("output", "target"), better="lower", average="macro:kind")
    values = [Score(1.0), Score(2.0, ("cut",)), Score(6.0, ("cut",)), Score(None, ("no target",)), Score(5.0)]
    groups = {"kind": ["a", "a", "a", "b", "b"]}
    facts = means({"one": L1, "two": by_kind}, [{"one": each, "two": each} for each in values], groups)
    assert (facts["one"], facts["two"]) == (3.5, 4.0)
    assert facts["n_of"] == {"one": 4, "two": 4}
    assert facts["counted"]["one"] == {"cut": 2, "no target": 1}
    assert means({"one": L1}, [{"one": Score(None, ("no target",))}], groups)["one"] is None
