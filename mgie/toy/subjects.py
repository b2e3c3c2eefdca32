"""Marked subjects of the toy world as a folder of one's own, and how well they were learnt.

    python -c "from mgie.toy.subjects import write_subjects; write_subjects('_data/toy_subjects')"
    mgie personalize _data/toy_subjects --model _ckpt/tiny --config tiny_subjects --out _ckpt/toy_subjects

    pipeline = MGIEPipeline.from_pretrained("_ckpt/tiny", subjects="_ckpt/toy_subjects")
    shares(lambda words, seed: pipeline(None, words, seed=seed).images[0], count=180)

No word describes a mark, so an editor without the adapter cannot paint one; and whoever mixes subjects up
is told by the judge, which knows all marks.
"""

import json
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from mgie.toy.controls import SUBJECTS, subject_photos
from mgie.toy.judge import judge
from mgie.toy.pairs import ToyPairs
from mgie.toy.things import UNIT

Paint = Callable[[str, int], Image.Image]
"""Words and a seed -> a new picture."""


def write_subjects(out: str | Path, *, count: int = 4, seed: int = 0, side: int = UNIT) -> Path:
    """A folder of all SUBJECTS, `count` pictures each, of `side` pixels, with masks and the world's own words
    for what is on them. Its files are written over."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    phrases = {name: phrase_of(name) for name in SUBJECTS}
    lines: list[dict[str, object]] = [{"id": phrases}]
    for name, phrase in phrases.items():
        for number, photo in enumerate(subject_photos(name, count, seed=seed, side=side)):
            file = f"{name}{number}.png"
            photo.image.save(out / file)
            photo.mask.save(out / f"mask_{file}")
            text = f"paint {phrase} at the {photo.place} on a {photo.backdrop}"
            lines.append({"id": name, "file_name": file, "text": text})
    (out / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return out


def shares(paint: Paint, *, count: int = 180, seed: int = 0, side: int = UNIT) -> dict[str, float]:
    """Which part of `count` pictures of two subjects each is right (right), and would be right though it was
    asked for with one in the other's place (exchanged), as of who paints what he likes."""
    pairs = ToyPairs(count, seed=seed, split="test", size=side, kinds=["subjects"])
    asked = {"right": 0, "exchanged": 0}
    for number in range(count):
        pair = pairs[number]
        one, other = (phrase_of(name) for name in pair.subjects)
        words = pair.instruction
        asked["right"] += judge(pair, paint(words, number)).right
        asked["exchanged"] += judge(pair, paint(exchanged(words, one, other), number)).right
    return {name: found / count for name, found in asked.items()}


def phrase_of(name: str) -> str:
    """What a subject is called.

    >>> phrase_of("ult")
    'ult purple circle'
    """
    return f"{name} {SUBJECTS[name].colour} {SUBJECTS[name].form}"


def exchanged(words: str, one: str, other: str) -> str:
    """The same words with two phrases in each other's place.

    >>> exchanged("paint ult purple circle and hta blue square", "ult purple circle", "hta blue square")
    'paint hta blue square and ult purple circle'
    """
    return other.join(part.replace(other, one) for part in words.split(one))
