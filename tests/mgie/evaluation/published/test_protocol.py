"""Protocols are data: a changed byte of meaning is another protocol."""

import subprocess
import sys
from dataclasses import replace

import pytest

from mgie.errors import ConfigError
from mgie.evaluation.measures.scores import MEASURES
from mgie.evaluation.published.protocol import Crop, Metric, find_protocol, parse_protocol, protocol_names

PINNED = {
    "dreambench": "dreambench/1#95beda3e",
    "emu_edit": "emu_edit@ultraedit/1#a9ac082c",
    "emu_edit@anybench": "emu_edit@anybench/1#74b89c3d",
    "emu_edit@icedit": "emu_edit@icedit/1#2db80a59",
    "emu_edit@mgie": "emu_edit@mgie/1#10bcd4e9",
    "emu_edit@omnigen": "emu_edit@omnigen/1#62e11dab",
    "ip2p": "ip2p@script/2#68c2e8ea",
    "ip2p@documented": "ip2p@documented/2#54bd4474",
    "magicbrush": "magicbrush/1#4d53ac89",
    "magicbrush@global": "magicbrush@global/1#5c9cadc5",
    "mgie": "mgie/1#8098e1f8",
    "migebench": "migebench/1#e19c3f7f",
    "reason_edit": "reason_edit/1#3bd81ebe",
}
"""Name -> identity. A number that somebody has printed stands beside it: raise `version` with the hash."""


def test_hashes_of_shipped_protocols():
    assert {name: find_protocol(name).identity for name in protocol_names()} == PINNED


@pytest.mark.parametrize("name", protocol_names())
def test_every_shipped_protocol_measures_what_can_be_measured(name):
    protocol = find_protocol(name)
    assert protocol.views and protocol.metrics
    for metric in protocol.metrics.values():
        assert metric.measure in MEASURES and metric.average == "micro"
        model = {"direction": "clip"}.get(metric.measure, metric.measure)
        assert model in protocol.weights or metric.prep is None
        assert metric.prep is not None or model not in protocol.weights or model == "lpips"
        assert (metric.region is None) == (metric.side is None)
        assert len(metric.of) == (4 if metric.measure == "direction" else 2)


def test_a_variant_replaces_keys_whole_and_has_an_identity_of_its_own():
    local, other = find_protocol("magicbrush"), find_protocol("magicbrush@global")
    assert other == replace(local, variant="global", captions="global", printed=None)
    assert other.sha256 != local.sha256 and other.identity.startswith("magicbrush@global/1#")
    mgie = find_protocol("emu_edit@mgie")
    assert mgie.metrics["clip_out"].leave_out == ("equal_captions",) and not mgie.metrics["l1"].leave_out
    assert mgie.views == find_protocol("emu_edit").views


def said(**changes):
    metric = {"measure": "clip", "of": ["output", "target"], "better": "higher"}
    metric |= {"prep": {"short": 9, "crop": 8, "colours": "clip"}}
    whole = {"name": "mine", "version": 1, "about": "", "layout": "magicbrush", "weights": {}}
    return whole | {"views": {"all": {}}, "metrics": {"clip_i": metric}} | changes


def test_the_hash_is_of_what_is_said_not_of_how():
    one, other = said(), dict(reversed(said().items()))
    assert parse_protocol(one, "mine").sha256 == parse_protocol(other, "mine").sha256
    assert parse_protocol(one, "mine").metrics["clip_i"].prep == Crop(short=9, crop=8, colours="clip")
    assert parse_protocol(said(version=2), "mine").sha256 != parse_protocol(one, "mine").sha256


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"metric": {}}, "mine has 'metric'.*did you mean metrics"),
        ({"views": {"all": {"item": "last"}}}, r"views.all has 'item'.*did you mean items"),
        ({"metrics": {"l1": {"measure": "l1"}}}, r"metrics.l1 is not whole"),
        ({"metrics": {"a": {"measure": "clip", "prep": {"shorter": 1}}}}, "'shorter'.*did you mean short"),
    ],
)
def test_what_nothing_reads_is_refused(changes, says):
    with pytest.raises(ConfigError, match=says):
        parse_protocol(said(**changes), "mine")


def test_what_is_unknown_is_told_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean magicbrush"):
        find_protocol("magic_brush")


def test_a_protocol_is_read_without_torch():
    code = (
        "import mgie.evaluation.published.protocol as p, sys; p.find_protocol('ip2p'); "
        "sys.exit('torch' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_metrics_are_immutable():
    metric = Metric(measure="l1", of=("output", "target"), better="lower")
    with pytest.raises(AttributeError):
        metric.better = "higher"  # type: ignore[misc]


def test_what_others_printed_has_a_figure_for_each_column_and_plays_no_part():
    """Of variants only where it was printed of that one."""
    known = {name: find_protocol(name) for name in protocol_names()}
    assert [name for name, each in known.items() if each.printed] == ["emu_edit", "magicbrush", "mgie"]
    for protocol in known.values():
        if printed := protocol.printed:
            assert set(printed.columns) <= set(protocol.metrics) and set(printed.figures) <= set(
                protocol.views
            )
            assert printed.source
            rows = [row for systems in printed.figures.values() for row in systems.values()]
            assert {len(row) for row in rows} == {len(printed.columns)}
        assert replace(protocol, printed=None).identity == protocol.identity
    single = known["magicbrush"].printed
    assert single and single.figures["single"]["InstructPix2Pix"][0] == 0.1122  # table 2 of the paper
