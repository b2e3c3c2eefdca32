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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mgie.data.sources import tables
from mgie.data.sources.base import (
    ClipFilter,
    Options,
    Rows,
    Splits,
    flatten,
    hold_out,
    named,
    read_file,
    regular,
)
from mgie.data.validation import Rejected, is_name
from mgie.errors import DataError
from mgie.types import EditPair

PICTURE = re.compile(r"(?P<seed>.+)_(?P<side>[01])\.(jpg|jpeg|png|webp)", re.IGNORECASE)
SCORES = {"image": ("clip_sim_image",), "text": ("clip_sim_0", "clip_sim_1"), "direction": ("clip_sim_dir",)}
"""Field of ClipFilter -> the scores that it bounds."""
COLUMNS = ("original_image", "edit_prompt", "edited_image")


def read(where: str, options: Options) -> Splits:
    """Pairs of the folder or hub id `where`; the last twentieth of the prompts is held out, as published."""
    folder = Path(where)
    if tables.is_table(where):
        return tables.read_splits(where, from_table_row, options, needs=COLUMNS, group="edit_prompt")
    if not folder.is_dir():
        raise DataError(
            f"{where} is no folder: expected one with numbered folders that hold a prompt.json each."
        )
    prompts = _prompts(folder)
    if not prompts:
        raise DataError(
            f"{where} holds no folder with a prompt.json: expected the layout of InstructPix2Pix."
        )
    train, test = hold_out(prompts, options)
    rows = [
        flatten(_read_prompt(folder / name, name, seeds, options.clip) for name, seeds in part)
        for part in (train, test)
    ]
    return named(*rows, held=len(test))


def _prompts(folder: Path) -> list[tuple[str, list[str] | None]]:
    """Names of the prompts' folders in their published order, with the seeds that are listed for them."""
    path = folder / "seeds.json"
    if path.is_file():
        try:
            listed: list[tuple[str, list[str] | None]] = [
                (str(name), [str(seed) for seed in seeds]) for name, seeds in json.loads(path.read_text())
            ]
        except (ValueError, TypeError, RecursionError) as error:
            raise DataError(
                f"{path} cannot be read: expected [[folder, [seed, ...]], ...]; remove or mend it."
            ) from error
        for word in (word for name, seeds in listed for word in (name, *(seeds or ()))):
            if not is_name(word):
                raise DataError(f"{path} names {word!r}: expected names of folders beside it, and seeds.")
        return listed
    found = [path.parent for depth in ("*", "*/*") for path in folder.glob(f"{depth}/prompt.json")]
    return [(str(path.relative_to(folder)), None) for path in sorted(found)]


def _read_prompt(folder: Path, name: str, listed: list[str] | None, clip: ClipFilter | None) -> Rows:
    """All pairs of one prompt."""
    name = name.replace("/", "_")
    files = {
        (m["seed"], m["side"]): path
        for path in sorted(folder.glob("*"))
        if (m := PICTURE.fullmatch(path.name))
    }
    seeds = listed if listed is not None else sorted({seed for seed, _ in files})
    prompt = _prompt(folder)
    if isinstance(prompt, str):
        for seed in seeds or [""]:
            yield Rejected(key=f"{name}_{seed}_0" if seed else name, reason="bad prompt.json", detail=prompt)
        return
    scores = _scores(folder)
    best = _best(seeds, scores, clip)
    for seed in seeds:
        key = f"{name}_{seed}_0"
        why = _below(scores.get(seed), clip)
        if why:
            yield Rejected(
                key=key, reason=why[0], detail=f"{key}: {why[1]}", by_choice=why[0] == "CLIP filter"
            )
        elif seed not in best:
            yield Rejected(
                key=key,
                reason="CLIP filter",
                detail=f"{key} is not among the best of its prompt",
                by_choice=True,
            )
        else:
            yield _pair(key, files, seed, folder, prompt, scores.get(seed, {}))


def _pair(
    key: str,
    files: dict[tuple[str, str], Path],
    seed: str,
    folder: Path,
    prompt: dict[str, Any],
    scores: dict[str, Any],
) -> EditPair | Rejected:
    source = read_file(files.get((seed, "0"), folder / f"{seed}_0.jpg"), key, "source")
    target = read_file(files.get((seed, "1"), folder / f"{seed}_1.jpg"), key, "target")
    for data in (source, target):
        if isinstance(data, Rejected):
            return data
    meta = {name: str(prompt[name]) for name in ("input", "output") if prompt.get(name)}
    meta |= {name: str(value) for name, value in scores.items() if name != "seed"}
    return EditPair(key=key, instruction=str(prompt["edit"]), source=source, target=target, meta=meta)  # type: ignore[arg-type]


def _prompt(folder: Path) -> dict[str, Any] | str:
    path = folder / "prompt.json"
    try:
        prompt = json.loads(regular(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        return f'{path} cannot be read ({" ".join(str(error).split())[:80]}): expected {{"edit": ...}}.'
    if not isinstance(prompt, dict) or not isinstance(prompt.get("edit"), str):
        return f'{path} has no text under "edit": expected {{"edit": ...}}.'
    return prompt


def _scores(folder: Path) -> dict[str, dict[str, Any]]:
    """Seed -> its CLIP scores. Lines that cannot be read have none."""
    path = folder / "metadata.jsonl"
    found = {}
    for line in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            found[str(row["seed"])] = row
        except (ValueError, KeyError, TypeError, RecursionError):
            continue
    return found


def _below(scores: dict[str, Any] | None, clip: ClipFilter | None) -> tuple[str, str] | None:
    """Reason and detail why a pair does not pass the filter."""
    if clip is None:
        return None
    for field, names in SCORES.items():
        for name in names:
            least = getattr(clip, field)
            value = (scores or {}).get(name)
            if not isinstance(value, int | float):
                return "no CLIP scores", f"metadata.jsonl has no {name}, which the filter needs"
            if value < least:
                return "CLIP filter", f"{name} is {value:.3f}, below {least:g}"
    return None


def _best(seeds: list[str], scores: dict[str, dict[str, Any]], clip: ClipFilter | None) -> set[str]:
    """The seeds of a prompt that are kept, by the direction of the change."""
    if clip is None or clip.best is None:
        return set(seeds)
    passing = [seed for seed in seeds if _below(scores.get(seed), clip) is None]
    return set(sorted(passing, key=lambda seed: -scores[seed]["clip_sim_dir"])[: clip.best])


def from_table_row(row: dict[str, Any], number: int) -> Iterator[EditPair | Rejected]:
    """One row of the hub form. Rows have no name there: their place is their key."""
    key = f"ipr2pr-{number:07d}"
    meta = {
        name: row[column]
        for name, column in (("input", "original_prompt"), ("output", "edited_prompt"))
        if row.get(column)
    }
    yield tables.pair_of(
        key,
        instruction=row["edit_prompt"],
        source=row["original_image"],
        target=row["edited_image"],
        meta=meta,
    )
