"""MagicBrush (Zhang et al. 2023): real photographs, up to three turns, masks.

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

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mgie.data.files import is_name, read_json
from mgie.data.images import decode_mask, encode, upright_size
from mgie.data.sources import tables
from mgie.data.sources.base import Options, Rows, Splits, read_file
from mgie.data.validation import Rejected, each
from mgie.errors import DataError
from mgie.types import EditPair

COLUMNS = ("img_id", "turn_index", "source_img", "mask_img", "instruction", "target_img")
OUTPUT = re.compile(r"-output(\d+)\.")


def read(where: str, options: Options) -> Splits:
    """Turns of the folder or hub id `where`, in the splits that it is published in."""
    splits: Splits = {}
    if tables.is_table(where):
        splits |= tables.read_splits(where, from_table_row, options, needs=COLUMNS, group="img_id")
    for name in ("", "train", "dev", "test"):
        folder = Path(where, name)
        if (folder / "edit_turns.json").is_file() or (folder / "edit_sessions.json").is_file():
            splits[name or "test"] = _read_layout(folder)
    if not splits:
        expected = "expected MagicBrush as published (docs/data.md)"
        raise DataError(f"{where} holds neither Parquet files nor edit_turns.json: {expected}.")
    return splits


def from_table_row(row: dict[str, Any], _: int) -> EditPair:
    """One turn of the Parquet form; its name is in the row. Raises Rejected."""
    key, cell = f"{row['img_id']}-{row['turn_index']}", row["mask_img"]
    source = tables.picture(row, "source_img", key, "source")
    return EditPair(
        key=key, session=str(row["img_id"]), turn=int(row["turn_index"] or 0),
        instruction=str(row["instruction"] or ""), source=source,
        target=tables.picture(row, "target_img", key, "target"),
        mask=_mask(cell.get("bytes") if isinstance(cell, dict) else cell, source),
    )  # fmt: skip


def _read_layout(folder: Path) -> Rows:
    """The turns of the evaluation layout."""
    turns, several = (
        _load(folder / "edit_turns.json", list),
        _load(folder / "edit_sessions.json", _turns) or [],
    )
    places = {output: (name, place) for name, place, output, _ in several}
    kinds = ("global", "local")
    captions = {kind: _load(folder / f"{kind}_descriptions.json", _captions) or {} for kind in kinds}

    def pair(row: Any) -> EditPair:
        try:
            output, given, instruction = str(row["output"]), str(row["input"]), str(row["instruction"] or "")
            drawn = str(row.get("mask") or "")
        except (KeyError, TypeError, AttributeError) as error:
            name = str(row)[:80]
            raise Rejected(name, "bad row", f"{name} lacks input, output or instruction.") from error
        turn = OUTPUT.search(output)
        session, place = places.get(output, (output.split("-")[0], int(turn[1]) if turn else 1))
        key, lying = f"{session}-{place}", folder / "images" / session
        for name in (session, given, output, drawn or "-"):
            if not is_name(name):
                detail = f"{key!r} names {name!r}: expected the name of a file in its folder."
                raise Rejected(key, "bad row", detail)
        source, target = (read_file(lying / n, key, r) for n, r in ((given, "source"), (output, "target")))
        mask = _mask(read_file(lying / drawn, key, "mask") if drawn else None, source)
        told = (("global", "global", output), ("local", "local", output), ("source", "global", given))
        found = ((name, captions[kind].get(file)) for name, kind, file in told)
        meta = {f"{name}_description": str(text) for name, text in found if text is not None}
        pictures = {"source": source, "target": target, "mask": mask}
        return EditPair(key=key, instruction=instruction, session=session, turn=place, meta=meta, **pictures)

    yield from each(pair, [turn for *_, turn in several] if turns is None else turns)


def _mask(data: bytes | None, source: bytes) -> bytes | None:
    """A published mask in one channel, as large as the source. A damaged one stays: the gate tells of it."""
    try:
        if data:
            size, mask = upright_size(source, name="source"), decode_mask(data, name="mask")
            if abs(mask.width * size[1] / (mask.height * size[0]) - 1) < 0.02:
                return encode(mask.point([0] * 128 + [255] * 128).resize(size, 0), "PNG")
    except DataError:
        pass
    return data or None


def _turns(sessions: dict[str, Any]) -> list[tuple[str, int, str, dict[str, Any]]]:
    several = ((name, place, turn) for name, many in sessions.items() for place, turn in enumerate(many, 1))
    return [(name, place, str(turn["output"]), turn) for name, place, turn in several]


def _captions(found: dict[str, Any]) -> dict[str, Any]:
    parts = (value if isinstance(value, dict) else {name: value} for name, value in found.items())
    return {file: caption for part in parts for file, caption in part.items()}


def _load(path: Path, understand: Callable[[Any], Any]) -> Any:
    return read_json(path, understand, "JSON; download it again") if path.is_file() else None
