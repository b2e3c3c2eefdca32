import io
import json

import pytest
from PIL import Image

from mgie.data.images import decode_mask
from mgie.data.sources import open_source
from mgie.data.sources.base import Options
from mgie.data.validation import check
from mgie.errors import DataError


def holed(size=12):
    """A picture with a transparent hole, as MagicBrush publishes its masks."""
    image = Image.new("RGBA", (size, size), (9, 9, 9, 255))
    image.paste((9, 9, 9, 0), (0, 0, size // 2, size))
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def rows(folder, split="train"):
    return list(open_source(f"magicbrush:{folder}", Options())[split])


def made(make_picture, count, **changes):
    return [
        {
            "img_id": str(100 + k // 2),
            "turn_index": k % 2 + 1,
            "source_img": make_picture(seed=k),
            "mask_img": holed(),
            "instruction": f"edit {k}",
            "target_img": make_picture(seed=k + 50),
        }
        | changes
        for k in range(count)
    ]


PICTURES = ("source_img", "mask_img", "target_img")


def test_parquet_keeps_its_splits_and_turns(parquet, make_picture):
    parquet("train-00000-of-00002.parquet", made(make_picture, 4)[:2], PICTURES)
    parquet("train-00001-of-00002.parquet", made(make_picture, 4)[2:], PICTURES)
    folder = parquet("dev-00000-of-00001.parquet", made(make_picture, 2), PICTURES)
    splits = open_source(f"magicbrush:{folder}", Options())
    assert list(splits) == ["train", "dev"]
    train = rows(folder)
    assert [(pair.key, pair.session, pair.turn) for pair in train] == [
        ("100-1", "100", 1),
        ("100-2", "100", 2),
        ("101-1", "101", 1),
        ("101-2", "101", 2),
    ]
    assert train[3].instruction == "edit 3" and train[3].source == make_picture(seed=3)
    assert len(rows(folder, "dev")) == 2


def test_masks_are_white_where_the_edit_is_allowed(parquet, make_picture):
    folder = parquet("train-0.parquet", made(make_picture, 2, mask_img=holed(24)), PICTURES)
    parquet("dev-0.parquet", made(make_picture, 1), PICTURES)
    for pair in [*rows(folder), *rows(folder, "dev")]:
        mask = Image.open(io.BytesIO(pair.mask))
        assert mask.mode == "L" and mask.size == (12, 12)
        assert mask.getpixel((0, 0)) == 255 and mask.getpixel((11, 11)) == 0
        assert decode_mask(pair.mask, name="m").tobytes() == mask.tobytes()
        assert check(pair) == (12, 12)


def test_damaged_rows_are_told(parquet, make_picture):
    found = made(make_picture, 4)
    found[1]["target_img"] = None
    found[2]["mask_img"] = b"no picture"
    folder = parquet("train-0.parquet", found, PICTURES)
    first = rows(parquet("dev-0.parquet", found, PICTURES), "dev")
    assert first[1].reason == "missing partner" and first[1].key == "100-2"
    with pytest.raises(DataError, match="mask of 101-1"):
        check(rows(folder)[2])


@pytest.fixture
def layout(tmp_path, make_picture):
    folder = tmp_path / "eval" / "test"
    sessions = {}
    for name, turns in (("30", 1), ("139", 2)):
        (folder / "images" / name).mkdir(parents=True)
        (folder / "images" / name / f"{name}-input.png").write_bytes(make_picture(seed=int(name)))
        given = f"{name}-input.png"
        for turn in range(1, turns + 1):
            (folder / "images" / name / f"{name}-output{turn}.png").write_bytes(
                make_picture(seed=int(name) + turn)
            )
            (folder / "images" / name / f"{name}-mask{turn}.png").write_bytes(holed())
            row = {
                "input": given,
                "mask": f"{name}-mask{turn}.png",
                "output": f"{name}-output{turn}.png",
                "instruction": f"do {name}.{turn}",
            }
            sessions.setdefault(name, []).append(row)
            given = row["output"]
    (folder / "edit_sessions.json").write_text(json.dumps(sessions))
    (folder / "edit_turns.json").write_text(json.dumps([row for many in sessions.values() for row in many]))
    texts = {"139": {"139-input.png": "a dog", "139-output1.png": "a cat", "139-output2.png": "a cow"}}
    (folder / "global_descriptions.json").write_text(json.dumps(texts))
    (folder / "local_descriptions.json").write_text(json.dumps({"139": {"139-output2.png": "cow"}}))
    return folder


@pytest.mark.parametrize("turns", [True, False])
def test_the_evaluation_layout(layout, turns):
    if not turns:
        (layout / "edit_turns.json").unlink()
    for folder in (layout, layout.parent):
        found = rows(folder, "test")
        assert [(pair.key, pair.instruction) for pair in found] == [
            ("30-1", "do 30.1"),
            ("139-1", "do 139.1"),
            ("139-2", "do 139.2"),
        ]
        assert found[2].source == found[1].target and found[2].turn == 2 and found[2].session == "139"
        assert found[2].meta == {
            "global_description": "a cow",
            "local_description": "cow",
            "source_description": "a cat",
        }
        assert Image.open(io.BytesIO(found[0].mask)).mode == "L"


def test_missing_files_are_told(layout, tmp_path):
    (layout / "images" / "139" / "139-mask1.png").unlink()
    found = rows(layout, "test")
    assert (
        found[1].reason == "missing partner"
        and "mask of 139-1" in found[1].detail
        and found[2].key == "139-2"
    )
    (layout / "edit_turns.json").write_text("{")
    with pytest.raises(DataError, match="expected JSON"):
        rows(layout, "test")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="neither Parquet files nor edit_turns"):
        rows(tmp_path / "empty")
    with pytest.raises(DataError, match="download it first"):
        open_source("magicbrush:nobody/nothing", Options())


@pytest.mark.parametrize("name", ["edit_turns", "edit_sessions", "global_descriptions"])
@pytest.mark.parametrize("content", [7, {"139": 7}, {"139": [{}]}, [[]]])
def test_papers_of_another_form_are_told(layout, name, content):
    (layout / f"{name}.json").write_text(json.dumps(content))
    try:
        found = rows(layout, "test")
    except DataError as error:
        assert f"{name}.json cannot be read" in str(error) and "expected JSON" in str(error)
    else:
        assert name == "global_descriptions" or {row.reason for row in found} == {"bad row"}


def test_another_table_is_refused(parquet, make_picture):
    folder = parquet("train-0.parquet", [{"text": "x", "source_img": make_picture()}], ("source_img",))
    with pytest.raises(DataError, match="no column img_id"):
        open_source(f"magicbrush:{folder}", Options())


@pytest.mark.parametrize("field", ["input", "output", "mask"])
def test_files_of_a_turn_lie_in_its_folder(layout, field):
    turns = json.loads((layout / "edit_turns.json").read_text())
    turns[0][field] = "../139/139-input.png"
    (layout / "edit_turns.json").write_text(json.dumps(turns))
    bad, *others = rows(layout, "test")
    assert bad.reason == "bad row" and "name of a file in its folder" in bad.detail and len(others) == 2
