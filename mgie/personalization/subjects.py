"""Photos of one's own things, with masks and captions, as a folder of two files tells them.

    DIR/metadata.jsonl        {"id": {"a": "olis russian blue", ...}}, then a line for each photo:
                              {"id": "a", "file_name": FILE, "mask_path": FILE, "text": TEXT or [TEXT, ...]}
                              (without mask_path, the mask of a.jpg is mask_a.png)
    DIR/class_metadata.jsonl  the same with phrases that any such thing has ("russian blue")

The layout is MuDI's (Jang et al., NeurIPS 2024). A phrase begins with a rare word that the thing will be
called by, and goes on with what it is.
"""

import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from llava_patch.folders import file_hash
from mgie.data.files import is_name, reason
from mgie.data.images import decode, decode_mask
from mgie.errors import DataError

SUBJECTS = "metadata.jsonl"
PRIOR = "class_metadata.jsonl"
WHITE = 128
"""From which grey value on a mask's pixel belongs to the thing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Photo:
    """One photo of a thing."""

    name: str
    """Of its file, for messages."""
    image: Image.Image
    """RGB, upright."""
    mask_path: Path
    """Where its mask is, or belongs."""
    mask: Image.Image | None
    """As large, one channel, white where the thing is. None: nobody has drawn it yet."""
    captions: tuple[str, ...]
    """What the whole photo shows, in words, the background too. One at least."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
    """A thing that is to be learnt."""

    name: str
    """Its id, unique in its folder."""
    phrase: str
    """Rare word and what it is: "olis russian blue"."""
    photos: tuple[Photo, ...]
    """One at least."""


def load_subjects(folder: str | Path, file: str = SUBJECTS, *, masks: bool = True) -> list[Subject]:
    """The subjects of a folder, in the order of its first line, each with its photos in the order of theirs.

    Without `masks`, a line may lack its mask, and a mask that it names may not be there yet. Raises DataError
    for the first line that is wrong, by its number. Warns of a caption that lacks its phrase.
    """
    folder = Path(folder)
    lines = _lines(folder / file)
    phrases = _phrases(folder / file, *lines.pop(0))
    photos: dict[str, list[Photo]] = {name: [] for name in phrases}
    for number, line in lines:
        where = f"line {number} of {folder / file}"
        name = line.get("id")
        if not isinstance(name, str) or name not in phrases:
            known = ", ".join(phrases)
            raise DataError(f"{where} has the id {name!r}: expected one of its first line's, {known}.")
        photos[name].append(_photo(folder, line, where, phrases[name], masks=masks))
    for name in phrases:
        if not photos[name]:
            raise DataError(f"{folder / file} has no photo of {name!r}: add one, or drop the id from line 1.")
    return [Subject(name=name, phrase=phrases[name], photos=tuple(photos[name])) for name in phrases]


def load_prior(folder: str | Path, subjects: Sequence[Subject], *, masks: bool = True) -> list[Subject]:
    """Pictures of what the subjects are instances of, one for each of `subjects` and in their order. Raises
    DataError as `load_subjects`, and where the ids are others."""
    prior = {each.name: each for each in load_subjects(folder, PRIOR, masks=masks)}
    names = [each.name for each in subjects]
    if set(prior) != set(names):
        raise DataError(
            f"{Path(folder) / PRIOR} has the ids {', '.join(prior)} and the subjects {', '.join(names)}: "
            "expected the same ones."
        )
    return [prior[name] for name in names]


def common_phrase(phrase: str) -> str:
    """What a subject is called by everybody: its phrase without the rare word.

    >>> common_phrase("olis russian blue")
    'russian blue'
    """
    return phrase.partition(" ")[2] or phrase


def identity(folder: str | Path, *others: str | Path | None) -> str:
    """What is learnt from, in 16 letters: all photos, masks and captions of a folder of subjects, and of
    folders of prior pictures, wherever they lie. Raises DataError."""
    digest = hashlib.sha256()
    for place, file in ((folder, SUBJECTS), *((other, PRIOR) for other in others if other is not None)):
        place = Path(place)
        for number, line in _lines(place / file):
            digest.update(json.dumps(line, sort_keys=True).encode())
            names = [line.get("file_name"), line.get("mask_path", mask_name(str(line.get("file_name"))))]
            for path in (_inside(place, name, f"line {number} of {place / file}", "file_name") for name in
                         names if name is not None and "file_name" in line):  # fmt: skip
                digest.update(file_hash(path).encode() if path.is_file() else b"-")
    return digest.hexdigest()[:16]


def is_thing(mask: Image.Image) -> np.ndarray:
    """Which of a mask's pixels, (height, width), belong to the thing."""
    return np.asarray(mask) >= WHITE


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        expected = f"a folder of subjects with {path.name} in it"
        raise DataError(f"{path} cannot be read ({reason(error)}): expected {expected}.") from error
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except ValueError as error:
            wrong = f"line {number} of {path} is no JSON ({reason(error)})"
            raise DataError(f"{wrong}: expected one object; mend the line.") from error
        if not isinstance(value, dict):
            raise DataError(f"line {number} of {path} is a {type(value).__name__}: expected an object.")
        found.append((number, value))
    if not found:
        raise DataError(f"{path} is empty: expected a first line with the ids and a line for each photo.")
    return found


def _phrases(path: Path, number: int, line: dict[str, Any]) -> dict[str, str]:
    told = line.get("id")
    phrases: dict[str, Any] = told if isinstance(told, dict) else {}
    if not phrases or not all(isinstance(phrase, str) and phrase.strip() for phrase in phrases.values()):
        raise DataError(
            f'line {number} of {path} does not name the subjects: expected {{"id": {{"a": "PHRASE", ...}}}}, '
            "with a phrase for each id."
        )
    same = {phrase for phrase in phrases.values() if [*phrases.values()].count(phrase) > 1}
    if same:
        raise DataError(
            f"line {number} of {path} calls two subjects {min(same)!r}: expected a phrase of its own each."
        )
    return {name: " ".join(phrase.split()) for name, phrase in phrases.items()}


def _photo(folder: Path, line: dict[str, Any], where: str, phrase: str, *, masks: bool) -> Photo:
    image = decode(_bytes(folder, line.get("file_name"), where, "file_name"), name=f"the photo of {where}")
    texts = line.get("text")
    captions = [texts] if isinstance(texts, str) else texts
    if not isinstance(captions, list) or not captions or not all(isinstance(c, str) and c for c in captions):
        raise DataError(f"{where} has the text {texts!r}: expected a caption, or a list of captions.")
    for caption in captions:
        if phrase.casefold() not in caption.casefold():
            said = f"{where} has a caption without {phrase!r}: {caption!r} will not teach what it is called."
            warnings.warn(said, stacklevel=4)
    name, mask = str(line["file_name"]), None
    path = line.get("mask_path", mask_name(name))
    place = _inside(folder, path, where, "mask_path")
    if masks or place.is_file():
        mask = decode_mask(_bytes(folder, path, where, "mask_path"), name=f"the mask of {where}")
        _check_mask(mask, image, where)
    return Photo(name=name, image=image, mask_path=place, mask=mask, captions=tuple(captions))


def mask_name(file: str) -> str:
    """The name of a photo's mask, where its line does not say one.

    >>> mask_name("toys/a.jpg")
    'toys/mask_a.png'
    """
    folder, slash, name = file.rpartition("/")
    return f"{folder}{slash}mask_{name.rpartition('.')[0] or name}.png"


def _check_mask(mask: Image.Image, image: Image.Image, where: str) -> None:
    if mask.size != image.size:
        sizes = f"a mask of {mask.width} x {mask.height} for a photo of {image.width} x {image.height}"
        raise DataError(f"{where} has {sizes}: expected the same size; make the mask anew.")
    if not is_thing(mask).any():
        raise DataError(f"{where} has an empty mask: expected white where the thing is; make the mask anew.")


def _bytes(folder: Path, name: Any, where: str, field: str) -> bytes:
    path = _inside(folder, name, where, field)
    try:
        return path.read_bytes()
    except OSError as error:
        expected = f"the {field} to name a file of {folder}"
        raise DataError(
            f"{path} of {where} cannot be read ({reason(error)}): expected {expected}."
        ) from error


def _inside(folder: Path, name: Any, where: str, field: str) -> Path:
    if not isinstance(name, str) or not is_name(name):
        raise DataError(f"{where} has the {field} {name!r}: expected the name of a file.")
    return folder / name
