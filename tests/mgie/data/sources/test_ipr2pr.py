import json
import os

import pytest

from mgie.data.sources import open_source, tables
from mgie.data.sources.base import PAPER, ClipFilter, Options, split_name
from mgie.errors import ConfigError, DataError
from mgie.types import EditPair


def rows(folder, split="train", **options):
    return list(open_source(f"ipr2pr:{folder}", Options(**options))[split])


def test_folders_become_pairs(ipr2pr_folder):
    folder = ipr2pr_folder(3)
    train, test = rows(folder), rows(folder, "test")
    assert [pair.key for pair in train] == ["0000000_1_0", "0000000_2_0", "0000001_11_0", "0000001_12_0"]
    assert [pair.key for pair in test] == ["0000002_21_0", "0000002_22_0"]
    pair = train[2]
    assert (
        pair.instruction == "edit 1" and pair.meta["input"] == "a 1" and pair.meta["clip_sim_dir"] == "0.25"
    )
    assert pair.source == (folder / "0000001" / "11_0.jpg").read_bytes()
    assert pair.target == (folder / "0000001" / "11_1.jpg").read_bytes()


def test_without_the_list_of_seeds_folders_are_sorted_and_may_lie_deeper(ipr2pr_folder):
    folder = ipr2pr_folder(2, listed=False)
    assert [pair.key for pair in rows(folder, test=0)] == [
        "0000000_1_0",
        "0000000_2_0",
        "0000001_11_0",
        "0000001_12_0",
    ]
    (folder / "shard-00").mkdir()
    (folder / "0000001").rename(folder / "shard-00" / "0000001")
    assert [pair.key for pair in rows(folder, test=0)][2] == "shard-00_0000001_11_0"


def test_the_published_order_decides_what_is_held_out(ipr2pr_folder):
    folder = ipr2pr_folder(3)
    seeds = json.loads((folder / "seeds.json").read_text())
    (folder / "seeds.json").write_text(json.dumps(seeds[::-1]))
    assert {pair.key[:7] for pair in rows(folder, "test")} == {"0000000"}
    assert len(rows(folder, test=2)) == 2 and len(rows(folder, test=0, count=1)) == 2
    with pytest.raises(ConfigError, match="test=3 of 3"):
        rows(folder, test=3)


def test_filters_on_the_scores(ipr2pr_folder):
    folder = ipr2pr_folder(2)
    found = rows(folder, test=0, clip=PAPER)
    assert [row.key for row in found if isinstance(row, EditPair)] == ["0000000_1_0", "0000001_11_0"]
    left = [row for row in found if not isinstance(row, EditPair)]
    assert len(left) == 2 and all(row.by_choice and "0.150, below 0.2" in row.detail for row in left)
    best = rows(folder, test=0, clip=ClipFilter(best=1))
    assert [isinstance(row, EditPair) for row in best] == [True, False, True, False]
    (folder / "0000000" / "metadata.jsonl").unlink()
    assert rows(folder, test=0, clip=PAPER)[0].reason == "no CLIP scores"
    assert ClipFilter.parse("image=0.5,best=2") == ClipFilter(image=0.5, best=2)
    for wrong in ("image", "colour=1", "image=x"):
        with pytest.raises(ConfigError, match="is no filter"):
            ClipFilter.parse(wrong)


def test_what_is_missing_is_told(ipr2pr_folder, tmp_path):
    folder = ipr2pr_folder(3)
    (folder / "0000000" / "1_1.jpg").unlink()
    (folder / "0000001" / "prompt.json").write_text('{"edit": 3}')
    found = rows(folder, test=0)
    assert [getattr(row, "reason", "") for row in found] == [
        "missing partner",
        "",
        *["bad prompt.json"] * 2,
        "",
        "",
    ]
    assert "target of 0000000_1_0" in found[0].detail
    for name in ("nowhere", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(DataError):
            rows(tmp_path / name)
    (folder / "seeds.json").write_text("[1]")
    with pytest.raises(DataError, match=r"seeds\.json"):
        rows(folder)


def test_the_hub_form(parquet, make_picture):
    made = [
        {
            "original_prompt": "a",
            "original_image": make_picture(seed=k),
            "edit_prompt": f"edit {k // 3}",
            "edited_prompt": "b",
            "edited_image": make_picture(seed=k + 50),
        }
        for k in range(9)
    ]
    folder = parquet("train-00000-of-00001.parquet", made, ("original_image", "edited_image"))
    train, test = rows(folder, test=2), rows(folder, "test", test=2)
    assert [pair.key for pair in train + test] == [f"ipr2pr-{k:07d}" for k in range(9)]
    assert [pair.instruction for pair in train] == [f"edit {k // 3}" for k in range(len(train))]
    assert not {pair.instruction for pair in train} & {pair.instruction for pair in test}
    assert train[4].source == made[4]["original_image"] and train[4].meta == {"input": "a", "output": "b"}
    assert len(rows(folder, test=2, count=2)) == 2


@pytest.mark.parametrize("listed", [["../0000001", [11]], ["/etc", [1]], ["0000001", ["../0000000/1"]]])
def test_the_list_of_seeds_names_folders_beside_it(ipr2pr_folder, listed):
    folder = ipr2pr_folder(2)
    (folder / "seeds.json").write_text(json.dumps([listed]))
    with pytest.raises(DataError, match="expected names of folders beside it"):
        rows(folder, test=0)


def test_a_pipe_is_no_prompt(ipr2pr_folder):
    folder = ipr2pr_folder(2)
    (folder / "0000000" / "prompt.json").unlink()
    os.mkfifo(folder / "0000000" / "prompt.json")
    bad, *_ = rows(folder, test=0)
    assert bad.reason == "bad prompt.json" and "it is no file" in bad.detail


def test_what_splits_of_tables_are_called(tmp_path):
    names = ["Train-00000-of-00001", "test_00", "TEST.part", "validation-0", "part-00001", "testing-x.y"]
    for name in names:
        (tmp_path / f"{name}.parquet").write_bytes(b"")
    os.mkfifo(tmp_path / "train-pipe.parquet")
    found = tables.parquet_files(tmp_path)
    assert {split: sorted(path.split("/")[-1] for path in paths) for split, paths in found.items()} == {
        "train": ["Train-00000-of-00001.parquet", "part-00001.parquet"],
        "test": ["TEST.part.parquet", "test_00.parquet", "testing-x.y.parquet"],
        "dev": ["validation-0.parquet"],
    }
    for name in ("../../x", "/x", "extra", ""):
        with pytest.raises(DataError, match="expected train, dev or test"):
            split_name(name, "it")
