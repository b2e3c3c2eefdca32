"""Small data in the layouts of judged benchmarks, and judges that answer as they are told."""

import json
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from benchmark_data import pic

KINDS = ("add", "remove", "style")


def png(seed: int, width: int = 24, height: int = 18) -> bytes:
    buffer = BytesIO()
    pic(seed, width, height).save(buffer, format="PNG")
    return buffer.getvalue()


def write_rows(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), file, row_group_size=2)


def write_imgedit(folder: Path, count: int = 4) -> None:
    """ImgEdit's Benchmark in `folder`/data, and a system's pictures in `folder`/gen."""
    sources = folder / "data" / "singleturn" / "animal"
    sources.mkdir(parents=True)
    (folder / "gen").mkdir()
    rows = {}
    for place in range(count):
        kind = KINDS[place % len(KINDS)]
        rows[f"k{place}"] = {
            "id": f"animal/{place}.png",
            "prompt": f"{kind} thing {place}",
            "edit_type": kind,
        }
        (sources / f"{place}.png").write_bytes(png(place))
        (folder / "gen" / f"k{place}.png").write_bytes(png(100 + place))
    (folder / "data" / "Basic").mkdir()
    (folder / "data" / "Basic" / "basic_edit.json").write_text(json.dumps(rows))


def write_pairs(folder: Path, seeds: Mapping[str, int], count: int = 4) -> None:
    """GEditBench v2 in `folder`/data, and each named system's pictures in a folder of its name."""
    (folder / "data" / "images").mkdir(parents=True)
    rows = []
    for place in range(count):
        key, source = f"add_{place:06d}", f"images/{place}.png"
        (folder / "data" / source).write_bytes(png(place))
        rows.append({"key": key, "instruction": f"add {place}", "source_image": source})
        for name, seed in seeds.items():
            (folder / name).mkdir(exist_ok=True)
            (folder / name / f"{key}.png").write_bytes(png(seed + place, 30, 20))
    (folder / "data" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_gedit(folder: Path, count: int = 3) -> None:
    """GEdit-Bench in `folder`/data: so many English rows, the last of which has the key of that before, and
    one Chinese; and a system's pictures in `folder`/gen."""
    rows = []
    for place in range(count):
        key = f"g{min(place, count - 2)}"
        kind = "subject-remove"
        rows.append(_gedit_row(key, kind, "en", place))
        for language in ("en", "cn"):
            made = folder / "gen" / "fullset" / kind / language / f"{key}.png"
            made.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(png(50 + place, 30, 30))
    rows.append(_gedit_row("g0", "subject-remove", "cn", 0))
    write_rows(folder / "data" / "data" / "train-00000-of-00001.parquet", rows)


def _gedit_row(key: str, kind: str, language: str, seed: int) -> dict[str, Any]:
    picture = {"bytes": png(seed), "path": None}
    return {
        "key": key, "task_type": kind, "instruction": f"take {seed} away", "instruction_language": language,
        "input_image": picture,
    }  # fmt: skip


def write_script(file: Path, *rules: tuple[str, Any]) -> str:
    """A scripted judge; gives its name for --judge."""
    file.write_text(json.dumps({"model": "scripted-1", "rules": rules}))
    return f"scripted:{file}"


def three(first: int, second: int = 3, third: int = 3) -> str:
    """An answer in ImgEdit's form."""
    return f"Following: {first}\nRest: {second}\nLook: {third}"
