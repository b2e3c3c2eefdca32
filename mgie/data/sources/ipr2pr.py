"""InstructPix2Pix as its authors publish it (Brooks et al. 2023).

    DIR/0000132/prompt.json               {"edit": ..., "input": caption before, "output": caption after}
    DIR/0000132/127380018_0.jpg, _1.jpg   before and after; 127380018 is the seed they were drawn with
    DIR/0000132/metadata.jsonl            CLIP scores per seed
    DIR/seeds.json                        [[folder, [seed, ...]], ...]: the published order, from which its
                                          splits are cut

The hub form has the columns original_prompt, original_image, edit_prompt, edited_prompt and edited_image.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mgie.data.files import MALFORMED, is_name, read_json
from mgie.data.sources import tables
from mgie.data.sources.base import ClipFilter, Options, Rows, Splits, hold_out, read_file
from mgie.data.validation import Rejected, each
from mgie.errors import DataError
from mgie.types import EditPair

PICTURE = re.compile(r"(?P<seed>.+)_(?P<side>[01])\.(jpg|jpeg|png|webp)", re.IGNORECASE)
SCORES = {"clip_sim_image": "image", "clip_sim_0": "text", "clip_sim_1": "text", "clip_sim_dir": "direction"}
"""Score -> the field of ClipFilter that bounds it."""
FILTERED = "CLIP filter"
COLUMNS = ("original_image", "edit_prompt", "edited_image")
Scores = dict[str, dict[str, Any]]
"""Seed -> its CLIP scores."""
Prompt = tuple[str, Sequence[str] | None]
"""Name of a prompt's folder, and the seeds that are listed for it."""


def read(where: str, options: Options) -> Splits:
    """Pairs of the folder or hub id `where`; the last twentieth of the prompts is held out, as published."""
    if tables.is_table(where):
        return tables.read_splits(where, from_table_row, options, needs=COLUMNS, group="edit_prompt")
    folder = Path(where)
    prompts = _prompts(folder)
    if not prompts:
        raise DataError(f"{where} has no folder with a prompt.json: expected the layout of InstructPix2Pix.")
    parts = hold_out(prompts, options).items()
    return {split: (row for p in part for row in _rows(folder, *p, options.clip)) for split, part in parts}


def _prompts(folder: Path) -> list[Prompt]:
    """The prompts in their published order."""
    path = folder / "seeds.json"
    if not path.is_file():
        found = [path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/prompt.json")]
        return [(path.relative_to(folder).as_posix(), None) for path in sorted(found)]
    expected = "[[folder, [seed, ...]], ...]; remove or mend it"
    listed: list[Prompt] = read_json(path, lambda rows: [(str(n), [*map(str, s)]) for n, s in rows], expected)
    for word in (word for name, seeds in listed for word in (name, *(seeds or ()))):
        if not is_name(word):
            raise DataError(f"{path} names {word!r}: expected names of folders beside it, and seeds.")
    return listed


def _rows(root: Path, name: str, listed: Sequence[str] | None, clip: ClipFilter | None) -> Rows:
    """All pairs of one prompt."""
    folder = root / name
    names = [(PICTURE.fullmatch(path.name), path) for path in sorted(folder.glob("*"))]
    files = {(found["seed"], found["side"]): path for found, path in names if found}
    seeds = sorted({seed for seed, _ in files}) if listed is None else listed
    try:
        prompt, wrong = read_json(folder / "prompt.json", _prompt, '{"edit": TEXT}'), ""
    except DataError as error:
        prompt, wrong = {}, str(error)
    scores = _scores(folder / "metadata.jsonl")
    left_out = _left_out(seeds, scores, clip) if clip else {}

    def pair(seed: str) -> EditPair:
        key = f"{name.replace('/', '_')}_{seed}_0"
        if wrong:
            raise Rejected(key, "bad prompt.json", wrong)
        if seed in left_out:
            why, detail = left_out[seed]
            raise Rejected(key, why, f"{key}: {detail}.", by_choice=why == FILTERED)
        paths = (files.get((seed, side), folder / f"{seed}_{side}.jpg") for side in "01")
        source, target = (read_file(path, key, role) for path, role in zip(paths, ("source", "target")))
        meta = {field: prompt[field] for field in ("input", "output") if prompt.get(field)}
        meta |= {field: value for field, value in scores.get(seed, {}).items() if field != "seed"}
        meta = {field: str(value) for field, value in meta.items()}
        return EditPair(key=key, instruction=prompt["edit"], source=source, target=target, meta=meta)

    return each(pair, seeds or [""] * bool(wrong))


def _prompt(prompt: Any) -> dict[str, Any]:
    if not isinstance(prompt["edit"], str):
        raise ValueError("edit is no text")
    return prompt


def _scores(path: Path) -> Scores:
    """What a metadata.jsonl holds. Lines that cannot be read have none."""
    found = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            found[str(row["seed"])] = row
        except MALFORMED:
            continue
    return found


def _left_out(seeds: Sequence[str], scores: Scores, clip: ClipFilter) -> dict[str, tuple[str, str]]:
    """Seed -> reason and detail, of those that do not pass, or whose direction is not among the best."""
    found: dict[str, tuple[str, str]] = {}
    for seed, (name, field) in ((seed, score) for seed in seeds for score in SCORES.items()):
        value, least = scores.get(seed, {}).get(name), getattr(clip, field)
        if not isinstance(value, int | float):
            found.setdefault(seed, ("no CLIP scores", f"metadata.jsonl has no {name}, needed to filter"))
        elif value < least:
            found.setdefault(seed, (FILTERED, f"{name} is {value:.3f}, below {least:g}"))
    passing = sorted((seed for seed in seeds if seed not in found), key=lambda s: -scores[s]["clip_sim_dir"])
    worse = passing[clip.best :] if clip.best else ()
    return found | dict.fromkeys(worse, (FILTERED, "others of its prompt are better"))


def from_table_row(row: dict[str, Any], number: int) -> EditPair:
    """One row of the hub form. Rows have no name there: their place is their key. Raises Rejected."""
    key, words = f"ipr2pr-{number:07d}", str(row["edit_prompt"] or "")
    captions = {"input": row.get("original_prompt"), "output": row.get("edited_prompt")}
    source = tables.picture(row, "original_image", key, "source")
    target = tables.picture(row, "edited_image", key, "target")
    meta = {name: text for name, text in captions.items() if text}
    return EditPair(key=key, instruction=words, source=source, target=target, meta=meta)
