"""Published benchmarks as they lie on a disk, and what is wrong with what does not."""

import io
import json
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_data import pic, write_magicbrush
from PIL import Image

from mgie.errors import DataError
from mgie.evaluation.measures.blocks import at_size
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.measures.features import Clip, Dino
from mgie.evaluation.measures.metrics import l1
from mgie.evaluation.published import emu_edit
from mgie.evaluation.published.data import files_of, identity, is_published, outputs_of, read_layout
from mgie.evaluation.published.protocol import find_protocol
from mgie.evaluation.published.rows import read, score_all

MAGICBRUSH = find_protocol("magicbrush")


def small(protocol, *metrics):
    """The protocol with some of its metrics."""
    return replace(protocol, metrics={name: protocol.metrics[name] for name in metrics})


@pytest.fixture
def magicbrush(tmp_path):
    """Three sessions of 1, 2 and 3 turns, in an order that is not theirs, and a system's pictures."""
    write_magicbrush(tmp_path, {"9": 2, "10": 1, "8": 3})
    return tmp_path


def test_magicbrush_s_views(magicbrush):
    views = read_layout(MAGICBRUSH, magicbrush / "data", unpinned=True)
    single = {entry.key: entry for entry in views["single"]}
    multi = {entry.key: entry for entry in views["multi"]}
    assert sorted(single) == ["10-1", "8-1", "8-2", "8-3", "9-1", "9-2"]
    assert sorted(multi) == ["10-1", "8-3", "9-2"]
    assert single["8-3"].output == "8/8_inde_3.png" and multi["8-3"].output == "8/8_iter_3.png"
    assert multi["10-1"].output == single["10-1"].output == "10/10_1.png"
    assert single["8-3"].source.name == "8-output2.png" and multi["8-3"].source.name == "8-input.png"
    assert files_of(multi["8-3"]) == ("8/8_iter_3.png", "8/8_1.png", "8/8_iter_2.png")
    assert [turn.key for turn in multi["8-3"].way] == ["8-1", "8-2"] and single["8-3"].way == ()
    assert {entry.caption for entry in multi.values()} == {"a red d"}
    assert not is_published(MAGICBRUSH, views)


def test_mgie_s_tables_are_magicbrush_s_blocks_under_their_names(magicbrush, clip_folder, dino_folder):
    eyes, found = Eyes(clip=Clip(clip_folder), dino=Dino(dino_folder)), {}
    for name, metrics in (("mgie", ("l1", "dino", "cvs", "ssim", "cts")), ("magicbrush", None)):
        whole = find_protocol(name)
        protocol = small(whole, *metrics) if metrics else whole
        views = read_layout(protocol, magicbrush / "data", unpinned=True)
        found[name] = score_all(protocol, views, outputs_of(magicbrush / "gen", views)[0], eyes).facts
        with pytest.raises(DataError, match="3 sessions, 6 turns and the published data"):
            read_layout(protocol, magicbrush / "data")
    ours, theirs = found["mgie"]["outputs"]["single"], found["magicbrush"]["outputs"]["single"]
    assert list(found["mgie"]["outputs"]) == ["single"] and -1 < ours["ssim"] < 0.5
    assert found["mgie"]["oracle"]["single"]["ssim"] == pytest.approx(1)
    for name, theirs_name in (("l1", "l1"), ("dino", "dino"), ("cvs", "clip_i"), ("cts", "clip_t")):
        assert ours[name] == theirs[theirs_name], name
    lpips = find_protocol("mgie").metrics["lpips"]
    assert (lpips.measure, lpips.net, lpips.at) == ("lpips", "alex", "target")


def test_the_order_of_files_and_sessions_plays_no_part(magicbrush):
    protocol = small(MAGICBRUSH, "l1", "l2")
    first = read_layout(protocol, magicbrush / "data", unpinned=True)
    listed = magicbrush / "data" / "edit_sessions.json"
    listed.write_text(json.dumps(dict(reversed(json.loads(listed.read_text()).items()))))
    other = read_layout(protocol, magicbrush / "data", unpinned=True)
    assert identity(first) == identity(other)
    outputs, extra = outputs_of(magicbrush / "gen", first)
    assert not extra
    both = [score_all(protocol, views, outputs, Eyes()).facts for views in (first, other)]
    assert both[0] == both[1]
    assert both[0]["oracle"]["multi"] == {"n": 3, "l1": 0, "l2": 0}
    assert both[0]["copy"]["multi"]["l1"] > 0


def test_other_data_than_published_is_refused_unless_it_is_asked_for(magicbrush):
    with pytest.raises(
        DataError, match=r"3 sessions, 6 turns and the published data .* 535 sessions, 1053 turns"
    ):
        read_layout(MAGICBRUSH, magicbrush / "data")


def test_nothing_is_scored_while_an_output_is_missing(magicbrush):
    """A turn on the way to a scored one must be there too, and what nobody asks for is told."""
    views = read_layout(MAGICBRUSH, magicbrush / "data", unpinned=True)
    (magicbrush / "gen" / "8" / "notes.txt").write_text("mine")
    assert outputs_of(magicbrush / "gen", views)[1] == ["8/notes.txt"]
    (magicbrush / "gen" / "8" / "8_iter_2.png").unlink()
    (magicbrush / "gen" / "9" / "9_1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"lacks 2 of 9 outputs, such as 8/8_iter_2.png, 9/9_1.png"):
        outputs_of(magicbrush / "gen", views)
    for name in ("8/8_iter_2.png", "9/9_1.png"):
        (magicbrush / "gen" / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"2 of 9 outputs are no pictures, such as .*8_iter_2.png, "):
        outputs_of(magicbrush / "gen", views)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("edit_sessions.json", "{}", "holds no item of magicbrush"),
        (
            "edit_sessions.json",
            '{"1": [{"input": "../a.png", "output": "b", "instruction": ""}]}',
            "names no file",
        ),
        ("edit_sessions.json", '{"1": [{"input": "a.png"}]}', "cannot be read"),
        ("local_descriptions.json", "[]", "cannot be read"),
    ],
)
def test_damaged_lists_are_told(file, text, says, magicbrush):
    (magicbrush / "data" / file).write_text(text)
    with pytest.raises(DataError, match=says):
        read_layout(MAGICBRUSH, magicbrush / "data", unpinned=True)
    with pytest.raises(DataError, match=r"no edit_sessions\.json"):
        read_layout(MAGICBRUSH, magicbrush / "gen", unpinned=True)


def png(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def emu_rows(folder, *rows, name="test-00000-of-00001.parquet"):
    """Rows (hash, caption before, caption after) of Emu Edit's test set."""
    folder.mkdir(exist_ok=True)
    table = [
        {
            "hash": key, "instruction": "edit it", "task": "local", "input_caption": before,
            "output_caption": after, "image": {"bytes": png(pic(place, 40, 30)), "path": None},
        }
        for place, (key, before, after) in enumerate(rows)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), folder / name, row_group_size=2)
    return folder


ROWS = ("x", "a red d", "a bad d"), ("y", "a red d", "a red d"), ("z", "a d", "a bad d")


def test_emu_edit_s_rows_of_equal_captions_have_no_direction(tmp_path, clip_folder, dino_folder):
    data = emu_rows(tmp_path / "emu", *ROWS)
    eyes = Eyes(clip=Clip(clip_folder), dino=Dino(dino_folder))
    (tmp_path / "gen").mkdir()
    for place, (key, *_) in enumerate(ROWS):
        pic(20 + place, 50, 50).save(tmp_path / "gen" / f"{key}.png")
    found = {}
    for name in ("emu_edit", "emu_edit@mgie", "emu_edit@icedit"):
        protocol = find_protocol(name)
        views = read_layout(protocol, data, unpinned=True)
        outputs, _ = outputs_of(tmp_path / "gen", views)
        found[name] = score_all(protocol, views, outputs, eyes).facts
        assert found[name]["outputs"]["test"]["n"] == 3 and "oracle" not in found[name]
    every, ours, dropped = (each["outputs"]["test"] for each in found.values())
    assert "n_of" not in every and every["counted"]["clip_dir"] == {"nothing to compare": 1}
    assert ours["n_of"] == {"clip_dir": 2, "clip_out": 2} and ours["l1"] == every["l1"]
    assert ours["clip_dir"] == pytest.approx(every["clip_dir"] * 3 / 2)
    assert dropped["n_of"] == {"clip_im": 2, "clip_out": 2, "dino": 2} and "clip_dir" not in dropped
    copy = found["emu_edit"]["copy"]["test"]
    assert (copy["l1"], copy["clip_dir"], copy["clip_im"]) == (0, 0, pytest.approx(1))


def generations(folder, *, black=()):
    """Rows of the companion set, which has Emu Edit's own pictures; named by idx."""
    folder.mkdir()
    table = [
        {
            "hash": f"h{place}", "idx": 10 + place, "instruction": "edit it", "task": "local",
            "input_caption": before, "output_caption": after,
            "image": {"bytes": png(pic(place, 40, 30)), "path": None},
            "edited_image": {"bytes": png(pic(30 + place, 40, 30)), "path": None},
        }
        for place, (_, before, after) in enumerate(ROWS)
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), folder / "validation-00000-of-00001.parquet")
    for place in range(len(ROWS)):
        made = Image.new("RGB", (50, 50)) if place in black else pic(20 + place, 50, 50)
        made.save(folder / f"{10 + place}.png")
    return folder


def test_anybench_s_targets_are_emu_edit_s_own_pictures_and_black_outputs_are_skipped(tmp_path, clip_folder):
    protocol = small(find_protocol("emu_edit@anybench"), "l1", "clip_i", "clip_t")
    eyes, found = Eyes(clip=Clip(clip_folder)), {}
    for name, black in (("whole", ()), ("black", (1,))):
        data = generations(tmp_path / name, black=black)
        views = read_layout(protocol, data, unpinned=True)
        outputs, _ = outputs_of(data, views)
        found[name] = score_all(protocol, views, outputs, eyes)
    whole, black = (each.facts["outputs"]["test"] for each in found.values())
    told = {item["key"]: item for item in found["whole"].items if item["row"] == "outputs"}
    expected = l1(at_size(pic(21, 50, 50), (40, 30)), pic(31, 40, 30))
    assert told["11"]["scores"]["l1"] == pytest.approx(expected, abs=1e-9)
    assert black["n"] == 3 and black["n_of"] == dict.fromkeys(("l1", "clip_i", "clip_t"), 2)
    assert black["counted"]["clip_i"] == {"black output": 1}
    assert black["l1"] * 2 == pytest.approx(whole["l1"] * 3 - expected)
    oracle = found["whole"].facts["oracle"]["test"]
    assert oracle["l1"] == 0 and oracle["clip_t"] != whole["clip_t"]


def test_the_two_data_sets_of_emu_edit_are_told_apart(tmp_path, monkeypatch):
    own, companion = find_protocol("emu_edit"), find_protocol("emu_edit@anybench")
    data = emu_rows(tmp_path / "emu", *ROWS, name="validation-0.parquet")
    with pytest.raises(DataError, match=r"no column edited_image: .*emu_edit_test_set_generations\."):
        read_layout(companion, data)
    with pytest.raises(DataError, match=r"no test-\*\.parquet: .*facebook/emu_edit_test_set\."):
        read_layout(own, generations(tmp_path / "companion"))
    monkeypatch.setattr(emu_edit, "OTHER_SPLIT", 3)
    with pytest.raises(DataError, match=r"split validation has 3 rows.*the splits' names are swapped"):
        read_layout(companion, tmp_path / "companion")


def test_emu_edit_s_pictures_are_read_where_they_lie(tmp_path):
    views = read_layout(find_protocol("emu_edit"), emu_rows(tmp_path / "emu", *ROWS), unpinned=True)
    assert [read(entry.source).tobytes() for entry in views["test"]] == [
        pic(place, 40, 30).tobytes() for place in range(3)
    ]


def test_emu_edit_s_mistakes_are_explained(tmp_path, monkeypatch):
    protocol = find_protocol("emu_edit")
    with pytest.raises(DataError, match="has 1 names twice, such as x"):
        read_layout(protocol, emu_rows(tmp_path / "twice", ROWS[0], ROWS[0]), unpinned=True)
    monkeypatch.setattr(emu_edit, "OTHER_SPLIT", 3)
    with pytest.raises(DataError, match=r"the splits' names are swapped.* facebook/emu_edit_test_set\."):
        read_layout(protocol, emu_rows(tmp_path / "swapped", *ROWS))
    with pytest.raises(DataError, match=r"has no test-\*\.parquet"):
        read_layout(protocol, emu_rows(tmp_path / "none", *ROWS, name="validation-0.parquet"))


def test_a_parquet_file_that_is_damaged_is_told(tmp_path):
    protocol, columns = find_protocol("emu_edit"), emu_edit.DOWNLOADS["emu_edit"].columns
    whole = emu_rows(tmp_path / "emu", *ROWS) / "test-00000-of-00001.parquet"
    data = whole.read_bytes()
    for damage in (data[: len(data) // 2], b"", b"PAR1" + bytes(100)):
        whole.write_bytes(damage)
        with pytest.raises(DataError, match=r"parquet cannot be read \(.*download it again"):
            read_layout(protocol, tmp_path / "emu", unpinned=True)
    pq.write_table(pa.Table.from_pylist([{name: "text" for name in columns}]), whole)
    views = read_layout(protocol, tmp_path / "emu", unpinned=True)
    with pytest.raises(DataError, match=r"image of row 0 of group 0 cannot be read"):
        read(views["test"][0].source)
    pq.write_table(pa.Table.from_pylist([{name: "../up" for name in columns}]), whole)
    with pytest.raises(DataError, match="expected the name of a row"):
        read_layout(protocol, tmp_path / "emu", unpinned=True)


def test_instruct_pix2pix_s_draws_are_of_the_last_twentieth(tmp_path):
    listed = [[f"{number:03d}", [str(number), str(1000 + number)]] for number in range(60)]
    (tmp_path / "seeds.json").write_text(json.dumps(listed))
    for name, seeds in listed[57:]:
        (tmp_path / name).mkdir()
        prompt = {"edit": "edit it", "input": "a red d", "output": "a bad d"}
        (tmp_path / name / "prompt.json").write_text(json.dumps(prompt))
        for seed in seeds:
            pic(int(seed), 40, 30).save(tmp_path / name / f"{seed}_0.jpg")
    views = read_layout(find_protocol("ip2p"), tmp_path, unpinned=True)
    assert list(views) == ["s1.0", "s1.2", "s1.4", "s1.6", "s1.8", "s2.0", "s2.2"]
    first = views["s1.0"]
    assert {entry.cluster for entry in first} == {"057", "058", "059"} and len(first) == 3
    assert [entry.key for entry in first] == [entry.key for entry in views["s2.2"]]
    assert first[0].output == f"s1.0/{first[0].key}.png"
    assert (first[0].source_caption, first[0].caption) == ("a red d", "a bad d")
    assert read(first[0].source).size == (40, 30)
