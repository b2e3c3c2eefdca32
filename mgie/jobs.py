"""What is to be edited into what: photos, folders, patterns and lists become jobs."""

import csv
import glob
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgie.data.files import is_name, reason, regular
from mgie.data.photo_files import FORMATS, READ, is_own, suffix_of
from mgie.data.validation import check_instruction
from mgie.errors import ConfigError, DataError

COLUMNS = ("photo", "instruction", "out", "seed")
"""Of a list; the first two are needed."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One photo, and what it becomes: by one instruction, or by several in turn."""

    photo: Path | None
    """None: a new picture."""
    words: tuple[str, ...]
    seed: int
    targets: tuple[Path, ...]
    """A file for each of the words."""


def find_photos(given: Sequence[str | Path]) -> tuple[list[Path], bool]:
    """The photos that paths, folders and patterns such as "*.jpg" stand for, in this order; whether any of
    them was no photo's own path. Raises DataError for what stands for none."""
    found: list[Path] = []
    for each in given:
        path = Path(each)
        if path.is_dir():
            inside = [file for file in sorted(path.iterdir()) if file.suffix.lower() in READ]
            inside = [file for file in inside if file.is_file() and not file.name.startswith(".")]
            if not inside:
                raise DataError(f"the folder {path} holds no photo: expected files such as photo.jpg in it.")
        elif not path.exists() and glob.has_magic(str(each)):
            matched = map(Path, sorted(glob.glob(str(each), recursive=True)))
            inside = [file for file in matched if file.is_file() and file.suffix.lower() in READ]
            if not inside:
                raise DataError(f"no photo is called {each}: expected a pattern that some match.")
        else:
            inside = [path]
        found += inside
    return found, any(Path(each) not in found for each in given)


def plan(
    photos: Sequence[Path],
    words: Sequence[str],
    seeds: Sequence[int],
    out: Path,
    *,
    folder: bool,
    is_folder: bool = False,
    chain: bool = False,
    lossless: bool = False,
) -> list[Job]:
    """A job for each photo, instruction and seed; of a `chain`, for each photo and seed. No photos: a new
    picture. `folder`: whether `out` is one even for a single result; `is_folder`: whether it is called one.
    Raises ConfigError."""
    given: list[Path | None] = [*photos] or [None]
    if not folder and len(given) * len(words) * len(seeds) == 1:
        target = _file(out, "photo" if photos else "picture", is_folder=is_folder)
        return [Job(photo=given[0], words=tuple(words), seed=seeds[0], targets=(target,))]
    _check_folder(out, f"{len(photos)} photos" if len(photos) > 1 else "several results")
    jobs = []
    for photo in given:
        stem, suffix = photo.stem if photo else "picture", _suffix(photo, lossless)
        # Instructions in turn; or one after the other, each with all seeds: what is said of it is the same.
        for number, asked in [(0, words)] if chain else enumerate(([each] for each in words), 1):
            for seed in seeds:
                ends = range(1, len(asked) + 1) if chain else (number,)
                last = (f"-seed{seed}" if len(seeds) > 1 else "") + suffix
                names = [f"{stem}{f'-{end}' if len(words) > 1 else ''}{last}" for end in ends]
                jobs.append(
                    Job(
                        photo=photo, words=tuple(asked), seed=seed,
                        targets=tuple(out / name for name in names),
                    )
                )  # fmt: skip
    return jobs


def read_list(path: Path, out: Path, *, seed: int, lossless: bool = False) -> list[Job]:
    """The jobs of a file: CSV with the columns photo, instruction and perhaps out and seed, or JSON lines
    with these names. Photos are named beside the file, results inside the folder `out`. Raises DataError and
    ConfigError."""
    _check_folder(out, "a list's results")
    rows = list(_rows(path))
    if not rows:
        raise DataError(f"{path} lists nothing: expected a row for each edit.")
    times = Counter(str(row["photo"]) for _, row in rows)
    seen: Counter[str] = Counter()
    jobs = []
    for where, row in rows:
        photo = path.parent / str(row["photo"])
        seen[str(row["photo"])] += 1
        number = f"-{seen[str(row['photo'])]}" if times[str(row["photo"])] > 1 else ""
        name = str(row.get("out") or f"{photo.stem}{number}{_suffix(photo, lossless)}")
        if not is_name(name) or Path(name).suffix.lower() not in FORMATS:
            expected = f"a name inside the folder {out} that ends in {', '.join(FORMATS)}"
            raise DataError(f"{where} has out={name}: expected {expected}.")
        try:
            check_instruction(str(row["instruction"]))
            own = int(row["seed"]) if row.get("seed") not in (None, "") else seed
        except (DataError, ValueError) as error:
            raise DataError(f"{where}: {str(error).rstrip('.')}.") from error
        if not 0 <= own < 2**63:
            raise DataError(f"{where} has seed={own}: expected a whole number, at least 0 and below 2^63.")
        jobs.append(
            Job(photo=photo, words=(str(row["instruction"]),), seed=own, targets=(out / name,)),
        )
    return jobs


def check_targets(jobs: Sequence[Job], beside: Iterable[Path] = (), *, overwrite: bool = False) -> int:
    """Refuse to write one file twice, over a photo, or over what was not made here; `beside`: files besides
    the pictures. How many results make way for new ones. Raises ConfigError."""
    owner: dict[Path, Path | None] = {}
    photos = {job.photo.resolve() for job in jobs if job.photo is not None}
    for job in jobs:
        for target in job.targets:
            if target in owner:
                raise ConfigError(
                    f"{owner[target]} and {job.photo} would both become {target}: edit them one by one."
                    if owner[target] != job.photo
                    else f"{job.photo} would become {target} twice: name each seed and result once."
                )
            owner[target] = job.photo
            if target.exists() and target.resolve() in photos:
                raise ConfigError(f"out would overwrite the photo {target}: name another file or folder.")
    there = [target for target in owner if target.exists()]
    foreign = [target for target in there if not is_own(target)]
    foreign += [
        file
        for file in beside
        if file.exists() and not any(file.with_suffix(end) in there for end in FORMATS)
        and not is_own(file)
    ]  # fmt: skip
    if foreign and not overwrite:
        raise ConfigError(
            f"{foreign[0]} is there already, and does not say that `mgie edit` made it: name another place, "
            "or add --overwrite."
        )
    return len(there)


def _suffix(photo: Path | None, lossless: bool) -> str:
    kept = ".png" if photo is None else suffix_of(photo)
    return ".png" if lossless and FORMATS[kept.lower()] == "JPEG" else kept


def _file(out: Path, what: str, *, is_folder: bool) -> Path:
    if is_folder or out.is_dir():
        raise ConfigError(
            f"out is the folder {out}, but one {what} needs a file: name one, such as {out / 'out.png'}."
        )
    if out.suffix.lower() not in FORMATS:
        raise ConfigError(f"out is {out}: expected a name that ends in {', '.join(FORMATS)}.")
    if not out.parent.is_dir():
        raise ConfigError(
            f"out is {out}, but there is no folder {out.parent}: make it first, or name another."
        )
    return out


def _check_folder(out: Path, what: str) -> None:
    need = "needs" if what.startswith("a ") else "need"
    if out.exists() and not out.is_dir():
        raise ConfigError(f"out is the file {out}, but {what} {need} a folder: name one.")
    if not out.exists() and out.suffix.lower() in FORMATS:
        raise ConfigError(f"out is {out}, a picture's name, but {what} {need} a folder: name one.")


def _rows(path: Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """Where each row stands, and its values by name."""
    expected = "a CSV file with the columns photo and instruction, or JSON lines with these names"
    try:
        text = regular(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DataError(f"the list {path} cannot be read ({reason(error)}): expected {expected}.") from error
    if path.suffix.lower() in (".jsonl", ".json", ".ndjson"):
        held: Iterable[tuple[int, Any]] = (
            (number, _object(line)) for number, line in enumerate(text.splitlines(), 1) if line.strip()
        )
    else:
        table = csv.DictReader(io.StringIO(text, newline=""), restkey="", skipinitialspace=True)
        held = ((table.line_num, row) for row in table)
    for number, row in held:
        where = f"line {number} of {path}"
        if not isinstance(row, dict):
            raise DataError(f"{where} is no row: expected {expected}.")
        if unknown := [str(name) for name in row if name not in COLUMNS]:
            raise DataError(f"{where} has {unknown[0] or 'too many cells'!r}: expected {', '.join(COLUMNS)}.")
        if missing := [name for name in COLUMNS[:2] if not row.get(name)]:
            raise DataError(f"{where} has no {missing[0]}: expected {expected}.")
        yield where, row


def _object(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
