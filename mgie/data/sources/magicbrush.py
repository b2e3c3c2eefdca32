"""MagicBrush (Zhang et al. 2023): edits of real photographs in sessions of up to three turns, with masks.

    DIR/data/train-*.parquet, dev-*.parquet
                  columns img_id, turn_index, source_img, mask_img, instruction, target_img

and the evaluation layout, in DIR itself or in DIR/test:

    images/<id>/<id>-input.png, <id>-output1.png, <id>-mask1.png, ...
    edit_turns.json              [{"input", "mask", "output", "instruction"}, ...]
    edit_sessions.json           {id: [the same, in the order of the turns]}
    global_descriptions.json, local_descriptions.json    {id: {file: caption}}

A pair is one turn; `session` and `turn` keep its place (StoredPairs.sessions gives the multi-turn view).
The published masks are pictures with a transparent hole, sometimes at another size: they become what
EditPair.mask promises.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from mgie.data.images import decode_mask, encode_png, upright_size
from mgie.data.sources import tables
from mgie.data.sources.base import Options, Rows, Splits, read_file
from mgie.data.validation import Rejected, is_name
from mgie.errors import DataError
from mgie.types import EditPair

COLUMNS = ("img_id", "turn_index", "source_img", "mask_img", "instruction", "target_img")
OUTPUT = re.compile(r"-output(\d+)\.")


def read(where: str, options: Options) -> Splits:
    """Turns of the folder or hub id `where`, in the splits that it is published in."""
    folder = Path(where)
    splits: Splits = {}
    if tables.is_table(where):
        splits |= tables.read_splits(where, from_table_row, options, needs=COLUMNS, group="img_id")
    for name in ("", "train", "dev", "test"):
        if (folder / name / "edit_turns.json").is_file() or (folder / name / "edit_sessions.json").is_file():
            splits[name or "test"] = _read_layout(folder / name)
    if not splits:
        raise DataError(
            f"{where} holds neither Parquet files nor edit_turns.json: expected MagicBrush as "
            "published (docs/data.md)."
        )
    return splits


def from_table_row(row: dict[str, Any], number: int) -> Iterator[EditPair | Rejected]:
    """One turn of the Parquet form; its name is in the row."""
    del number
    key = f"{row['img_id']}-{row['turn_index']}"
    cell = row["mask_img"]
    found = tables.pair_of(
        key,
        instruction=row["instruction"],
        source=row["source_img"],
        target=row["target_img"],
        session=str(row["img_id"]),
        turn=int(row["turn_index"] or 0),
    )
    yield _with_mask(found, cell.get("bytes") if isinstance(cell, dict) else cell)


def _read_layout(folder: Path) -> Rows:
    turns, sessions = _load(folder / "edit_turns.json"), _load(folder / "edit_sessions.json")
    places = {
        turn["output"]: (name, place)
        for name, many in (sessions or {}).items()
        for place, turn in enumerate(many, 1)
    }
    captions = {name: _captions(folder / f"{name}_descriptions.json") for name in ("global", "local")}
    for row in turns if turns is not None else [turn for many in sessions.values() for turn in many]:
        try:
            output, given, instruction = str(row["output"]), str(row["input"]), row["instruction"]
        except (KeyError, TypeError):
            yield Rejected(
                key=str(row)[:80],
                reason="bad row",
                detail=f"{str(row)[:80]} lacks input, output or instruction.",
            )
            continue
        turn = OUTPUT.search(output)
        session, place = places.get(output, (output.split("-")[0], int(turn[1]) if turn else 1))
        key, pictures = f"{session}-{place}", folder / "images" / session
        outside = [
            name for name in (session, given, output, str(row.get("mask") or "-")) if not is_name(name)
        ]
        if outside:
            detail = f"{key!r} names {outside[0]!r}: expected the name of a file in its folder."
            yield Rejected(key=key, reason="bad row", detail=detail)
            continue
        source, target = (
            read_file(pictures / given, key, "source"),
            read_file(pictures / output, key, "target"),
        )
        mask = read_file(pictures / str(row["mask"]), key, "mask") if row.get("mask") else None
        wrong = next((data for data in (source, target, mask) if isinstance(data, Rejected)), None)
        if wrong is not None:
            yield wrong
            continue
        meta = {f"{name}_description": texts[output] for name, texts in captions.items() if output in texts}
        if given in captions["global"]:
            meta["source_description"] = captions["global"][given]
        pair = EditPair(
            key=key,
            instruction=str(instruction or ""),
            source=source,  # pyright: ignore[reportArgumentType] - the rejected ones are gone
            target=target,  # pyright: ignore[reportArgumentType]
            session=session,
            turn=place,
            meta=meta,
        )
        yield _with_mask(pair, mask)  # type: ignore[arg-type]


def _with_mask(pair: EditPair | Rejected, data: bytes | None) -> EditPair | Rejected:
    """The pair with its published mask made into one channel, as large as the source. Untouched where either
    is damaged."""
    if isinstance(pair, Rejected) or not data:
        return pair
    try:
        size = upright_size(pair.source or pair.target, name=f"source of {pair.key}")
        mask = decode_mask(data, name=f"mask of {pair.key}")
        ratio = mask.width * size[1] / (mask.height * size[0])
        if abs(ratio - 1) < 0.02:
            data = encode_png(mask.point([0] * 128 + [255] * 128).resize(size, 0))
    except DataError:
        pass  # the gate will say what is wrong with it
    return replace(pair, mask=data)


def _captions(path: Path) -> dict[str, str]:
    """File -> caption."""
    found: dict[str, str] = {}
    for name, value in (_load(path) or {}).items():
        found |= (
            {file: str(text) for file, text in value.items()}
            if isinstance(value, dict)
            else {name: str(value)}
        )
    return found


def _load(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error}): download it again.") from error
