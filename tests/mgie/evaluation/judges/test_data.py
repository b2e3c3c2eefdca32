"""Judged benchmarks as they lie on a disk, and what is wrong with what does not."""

import json
from dataclasses import replace

import pytest
from judged_data import png, write_gedit, write_imgedit, write_rows

from mgie.errors import DataError
from mgie.evaluation.judges.asking import Question, Shown, ask_of, check_prompts, questions
from mgie.evaluation.judges.data import find_outputs, identity, read_items
from mgie.evaluation.judges.rubric import find_rubric
from mgie.evaluation.published.entries import Cell


def read(name, folder):
    return read_items(find_rubric(name), folder, unpinned=True)


def test_gedit(tmp_path):
    write_gedit(tmp_path, 4)
    items = read("gedit", tmp_path / "data")
    assert [item.key for item in items] == ["g0", "g1", "g2-row2", "g2-row3"]
    assert items[3].names == ("fullset/subject-remove/en/g2.png",) and items[3].kind == "subject-remove"
    assert items[3].facts == {"instruction": "take 3 away"}
    assert isinstance(items[3].sources[0], Cell) and items[3].sources[0].read_bytes() == png(3)
    places, shared = find_outputs(tmp_path / "gen", items)
    assert places["g2-row2"] == places["g2-row3"] and shared == ["fullset/subject-remove/en/g2.png"]
    assert [item.key for item in read("gedit@cn", tmp_path / "data")] == ["g0"]


def test_imgedit(tmp_path):
    write_imgedit(tmp_path)
    items = read("imgedit", tmp_path / "data")
    assert [item.kind for item in items] == ["add", "remove", "style", "add"]
    assert items[1].sources == (tmp_path / "data" / "singleturn" / "animal" / "1.png",)
    assert identity(items) == identity(list(reversed(items)))


RISE = {"index": "t_1", "category": "temporal_reasoning", "instruction": "a year later", "image": "a/1.png"}


@pytest.fixture
def rise(tmp_path):
    """Takes rows; writes them with their pictures, and outputs."""

    def write(*rows):
        for row in rows:
            names = [
                row["image"],
                *([row["reference_img"]] if isinstance(row.get("reference_img"), str) else []),
            ]
            for name in names:
                place = tmp_path / "data" / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(png(1, 1000, 500))
            made = tmp_path / "gen" / "images" / row["category"] / f"{row['index']}.jpg"
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(png(2))
        (tmp_path / "datav2_total_w_subtask.json").write_text(json.dumps(rows))
        return read("rise", tmp_path)

    return write


def test_rise(rise, tmp_path):
    logical = RISE | {
        "index": 7,
        "category": "logical_reasoning",
        "reference_img": "b.png",
        "reasoning_wo_ins": 1,
    }
    items = rise(
        RISE | {"reference": "snow", "consistency_free": float("nan"), "reference_img": None}, logical
    )
    assert [item.kind for item in items] == ["temporal", "logical"] and items[1].key == "7"
    assert items[0].has == {"instruction", "reference"}  # what is not a number says nothing
    assert items[1].has == {"instruction", "reasoning_wo_ins", "reference_picture"}
    with pytest.raises(DataError, match=r"lacks 2 of 2 outputs, such as images/temporal/t_1.png"):
        find_outputs(
            tmp_path / "gen", [replace(item, names=(f"images/{item.kind}/{item.key}.png",)) for item in items]
        )
    places, _ = find_outputs(tmp_path / "gen", items)
    assert places["7"].name == "7.jpg"
    rubric = find_rubric("rise")
    asked = questions(rubric, [Shown(item=item, row="outputs", output=places[item.key]) for item in items], 1)
    assert [(each.shown.item.key, each.name[:6]) for each in asked] == [
        ("t_1", "consis"), ("t_1", "reason"), ("t_1", "plausi"), ("7", "consis"), ("7", "reason")
    ]  # fmt: skip
    words, source, output = ask_of(rubric, asked[0]).parts
    assert "a year later" in words and (source.mime, source.detail) == ("image/jpeg", "high")
    assert source.open().size == (768, 384) and output.open().size == (24, 18)
    assert "snow" in ask_of(rubric, asked[1]).parts[0] and len(ask_of(rubric, asked[2]).parts) == 2


def kris(folder, category, rows):
    place = folder / "KRIS_Bench" / category
    place.mkdir(parents=True, exist_ok=True)
    (place / "annotation.json").write_text(json.dumps(rows))
    for name in ("1.png", "2.png", "1_gt.png"):
        (place / name).write_bytes(png(1))


def test_kris(tmp_path):
    first = {"ori_img": "1.png", "gt_img": "", "ins_en": "set it right", "explain_en": "there are five"}
    kris(tmp_path, "abnormality_correction", {"1": first})
    several = {"ori_img": ["1.png", "2.png"], "gt_img": "1_gt.png", "ins_en": "join them", "explain_en": ""}
    kris(tmp_path, "multi-element_composition", {"4": several})
    items = {item.key: item for item in read("kris", tmp_path)}
    assert set(items) == {"anomaly_correction/1", "multi-element_composition/4"}
    assert items["anomaly_correction/1"].names[0] == "abnormality_correction/1.jpg"
    assert items["multi-element_composition/4"].reference.name == "1_gt.png"
    rubric = find_rubric("kris")
    shown = Shown(
        item=items["multi-element_composition/4"],
        row="outputs",
        output=items["anomaly_correction/1"].sources[0],
    )
    asked = questions(rubric, [shown], 1)
    assert len(ask_of(rubric, asked[0]).parts) == 1 + 3  # words, both pictures before, the one after
    kris(tmp_path, "no_category", {"1": first})
    with pytest.raises(DataError, match="no_category is no category of kris"):
        read("kris", tmp_path)


def complex_rows(count, levels=8):
    edits = [{"compound_instruction": f"level {level + 1}"} for level in range(levels)]
    return [{"edit": {"compound": edits}, "image": {"bytes": png(n), "path": None}} for n in range(count)]


def test_complex_edit(tmp_path):
    write_rows(tmp_path / "data" / "test_real-00000.parquet", complex_rows(3))
    items = read("complex_edit", tmp_path)
    assert [item.facts["instruction"] for item in items] == ["level 8"] * 3
    (tmp_path / "gen").mkdir()
    for name in ("b", "a", "c"):
        (tmp_path / "gen" / f"{name}.png").write_bytes(png(9))
    places, _ = find_outputs(tmp_path / "gen", items)
    assert [path.name for path in places.values()] == ["a.png", "b.png", "c.png"]
    rubric = find_rubric("complex_edit")
    asked = questions(rubric, [Shown(item=items[0], row="outputs", output=places["000000"])], 20)
    assert len(asked) == 40
    ask = ask_of(rubric, asked[0])
    schema = ask.settings["response_format"]["json_schema"]["schema"]
    assert list(schema["properties"]) == ["reasoning", "following", "preservation"]
    assert schema["properties"]["following"]["enum"] == [str(score) for score in range(11)]
    assert (
        ask.system.startswith("You judge") and isinstance(ask.parts[-1], str) and "level 8" in ask.parts[-1]
    )
    (tmp_path / "gen" / "c.png").unlink()
    with pytest.raises(DataError, match="holds 2 outputs and there are 3 items"):
        find_outputs(tmp_path / "gen", items)
    write_rows(tmp_path / "data" / "test_real-00000.parquet", complex_rows(1, levels=3))
    with pytest.raises(DataError, match="no instruction of complexity 8"):
        read("complex_edit", tmp_path)


def test_gedit_shows_outputs_at_their_source_s_size(tmp_path):
    write_gedit(tmp_path)
    rubric, items = find_rubric("gedit"), read("gedit", tmp_path / "data")
    places, _ = find_outputs(tmp_path / "gen", items)
    shown = Shown(item=items[0], row="outputs", output=places["g0"])
    words, source, output = ask_of(rubric, questions(rubric, [shown], 1)[0]).parts
    assert "take 0 away" in words and source.open().size == output.open().size == (24, 18)
    assert source.mime == output.mime == "image/jpeg"
    first, second = questions(find_rubric("gedit@qwen72"), [shown], 1)
    parts = ask_of(find_rubric("gedit@qwen72"), first).parts
    assert [getattr(part, "mime", "words") for part in parts] == ["image/png", "image/png", "words"]
    assert isinstance(second, Question) and len(ask_of(rubric, second).parts) == 2


@pytest.mark.parametrize(
    "name", ["../../secret.png", "/etc/passwd", "a/../../b.png", "", "a\\b.png", "a\x00b", "."]
)
def test_names_that_lead_elsewhere_are_refused(tmp_path, name):
    write_imgedit(tmp_path)
    listed = tmp_path / "data" / "Basic" / "basic_edit.json"
    rows = json.loads(listed.read_text())
    listed.write_text(json.dumps(rows | {"k9": {"id": name, "prompt": "p", "edit_type": "add"}}))
    with pytest.raises(DataError, match="expected the name of a file"):
        read("imgedit", tmp_path / "data")
    listed.write_text(json.dumps({name: {"id": "animal/1.png", "prompt": "p", "edit_type": "add"}}))
    with pytest.raises(DataError, match="expected the name of a file"):
        read("imgedit", tmp_path / "data")
    (tmp_path / "datav2_total_w_subtask.json").write_text(json.dumps([RISE | {"image": name}]))
    with pytest.raises(DataError, match="expected the name of a file"):
        read("rise", tmp_path)
    kris(tmp_path, "biology", {"1": {"ori_img": ["1.png", name], "ins_en": "x"}})
    with pytest.raises(DataError, match="expected the name of a file"):
        read("kris", tmp_path)
    kris(tmp_path, "biology", {name or "..": {"ori_img": "1.png", "ins_en": "x"}})
    with pytest.raises(DataError, match="expected the name of a file"):
        read("kris", tmp_path)
    picture = {"bytes": png(1), "path": None}
    row = {
        "key": name,
        "task_type": "k",
        "instruction": "i",
        "instruction_language": "en",
        "input_image": picture,
    }
    write_rows(tmp_path / "data" / "train-0.parquet", [row])
    with pytest.raises(DataError, match="expected the name of a file"):
        read("gedit", tmp_path / "data")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"k": 3}', '{"k": {"id": "x"}}', "[" * 100_000])
def test_damaged_files_are_named(tmp_path, text):
    places = {
        "imgedit": tmp_path / "i" / "basic_edit.json",
        "rise": tmp_path / "r" / "datav2_total_w_subtask.json",
        "kris": tmp_path / "k" / "biology" / "annotation.json",
    }
    for name, place in places.items():
        place.parent.mkdir(parents=True)
        place.write_text(text)
        with pytest.raises(DataError, match=rf"{place.name} cannot be read|holds no item of {name}"):
            read(name, tmp_path / name[0])


def test_a_download_that_is_no_whole_one(tmp_path):
    for name in ("gedit", "imgedit", "rise", "complex_edit"):
        with pytest.raises(DataError):
            read(name, tmp_path)
    with pytest.raises(DataError, match="holds no item of kris"):
        read("kris", tmp_path)
    (tmp_path / "train-0.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"train-0.parquet cannot be read"):
        read("gedit", tmp_path)
    write_rows(tmp_path / "train-0.parquet", [{"key": "x"}])
    with pytest.raises(DataError, match="has no column input_image"):
        read("gedit", tmp_path)


def test_pictures_that_are_missing_are_named(tmp_path):
    write_imgedit(tmp_path)
    (tmp_path / "data" / "singleturn" / "animal" / "2.png").unlink()
    (tmp_path / "data" / "singleturn" / "animal" / "3.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"lacks 2 pictures, such as .*animal/2.png, .*animal/3.png"):
        read("imgedit", tmp_path / "data")


def test_other_numbers_of_items_are_said(tmp_path):
    write_imgedit(tmp_path)
    with pytest.raises(DataError, match=r"holds 4 items and the published data of imgedit 737.*--unpinned"):
        read_items(find_rubric("imgedit"), tmp_path / "data")


def test_a_kind_that_nobody_judges(tmp_path):
    write_imgedit(tmp_path)
    items = [replace(read("imgedit", tmp_path / "data")[0], kind="colour")]
    with pytest.raises(DataError, match="k0 is of the kind 'colour', which imgedit does not judge"):
        check_prompts(find_rubric("imgedit"), items)
