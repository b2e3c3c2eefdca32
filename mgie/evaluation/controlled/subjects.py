"""Several subjects in one picture, measured by Detect-and-Compare.

DIR/metadata.jsonl    photos of the subjects, as `mgie personalize` reads them
DIR/prompts.json      [{"prompt": "a photo of {a} and {b} in the snow", "subjects": ["a", "b"]}]; in braces
                      stand names, which become the subjects' phrases

Jang et al., "Identity Decoupling for Multi-Subject Personalization of Text-to-Image Models", NeurIPS 2024.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mgie.data.files import read_json
from mgie.data.images import encode
from mgie.errors import DataError
from mgie.evaluation.controlled.benchmark import AbstractMeasure, Measured, Task
from mgie.evaluation.controlled.detect_and_compare import Assignment, compare, square_crop
from mgie.evaluation.controlled.found import Found
from mgie.evaluation.measures.features import Dino
from mgie.evaluation.run_folder import sha
from mgie.models.finders import Detection, sure_ones

PROMPTS = "prompts.json"
FORM = '[{"prompt": "a photo of {a} and {b}", "subjects": ["a", "b"]}]'
SURE = 0.4
"""What a detection of a subject scores at least. (MuDI)"""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A subject as it is looked for and compared with."""

    name: str
    phrase: str
    """Rare word and what it is."""
    photos: tuple[Image.Image, ...]

    @property
    def thing(self) -> str:
        """What a detector looks for: the phrase without its rare word, where that is not all of it."""
        _, _, rest = self.phrase.partition(" ")
        return rest or self.phrase


def read_subjects(folder: Path, count: int, photos: Sequence[Shown]) -> list[Task]:
    """The prompts of a folder, `count` at most. Raises DataError for names that no subject has."""
    known = {each.name: each for each in photos}
    listed = read_json(folder / PROMPTS, _prompts, FORM)
    tasks = []
    for number, (prompt, names) in enumerate(listed[:count]):
        strange = [name for name in names if name not in known]
        if strange or not names or len(set(names)) < len(names):
            raise DataError(
                f"{folder / PROMPTS}, prompt {number + 1} is of the subjects {', '.join(names) or 'nobody'}: "
                f"expected some of {', '.join(known)}, each once."
            )
        words = prompt
        for name in names:
            words = words.replace(f"{{{name}}}", known[name].phrase)
        held = {name: [sha(encode(photo, "PNG")) for photo in known[name].photos] for name in names}
        facts = {"subjects": names, "photos": held}
        tasks.append(Task(key=f"{number:04d}", instruction=words, facts=facts, kind=f"{len(names)} subjects"))
    return tasks


def _prompts(held: Any) -> list[tuple[str, list[str]]]:
    return [(str(told["prompt"]), [str(name) for name in told["subjects"]]) for told in held]


@dataclass(frozen=True, kw_only=True)
class DetectAndCompare(AbstractMeasure):
    """Each subject once, and looking like itself: 1 where the things in a picture are as alike as the photos.

    `dnc` gives things to subjects so that their similarities are greatest in sum, `dnc_greedy` as published,
    each subject in turn; both are 0 where there are too few things or too many (`number_right`).
    """

    finders: Found
    dino: Dino
    subjects: Sequence[Shown]
    _kept: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def depends_on(self) -> dict[str, Any]:
        """Weights of the detector and of what embeds."""
        return {"finders": self.finders.hashes, "weights": {"dino": self.dino.hashes}, "sure": SURE}

    @cached_property
    def known(self) -> dict[str, Shown]:
        """Subjects by name."""
        return {each.name: each for each in self.subjects}

    def measure(self, task: Task, picture: Image.Image) -> Measured:
        """Both scores, and how many things were found."""
        shown = [self.known[name] for name in task.facts["subjects"]]
        boxes = self._boxes(picture, [each.thing for each in shown])
        photos = [self._photos(each) for each in shown]
        wide, high = picture.size
        crops = [
            square_crop(picture, (x0 * wide, y0 * high, x1 * wide, y1 * high))
            for x0, y0, x1, y1 in (each.box for each in boxes)
        ]
        things = self.dino.images(crops).numpy() if crops else np.zeros((0, photos[0].shape[1]))
        ways: dict[str, Assignment] = {"dnc": "hungarian", "dnc_greedy": "greedy"}
        found = {name: compare(things, photos, how=how) for name, how in ways.items()}
        scores = {name: each.score for name, each in found.items()}
        reason = found["dnc"].reason
        return Measured(
            scores=scores | {"number_right": float(not reason)},
            told={"reason": reason, "similarity": found["dnc"].similarity.round(6).tolist()},
        )

    def _boxes(self, picture: Image.Image, things: Sequence[str]) -> list[Detection]:
        """All that is one of these things, of detections that overlap much the surest: one thing may answer
        to two phrases."""
        found = [each for thing in dict.fromkeys(things) for each in self.finders.detector(picture, thing)]
        return sure_ones(found, threshold=SURE)

    def _photos(self, subject: Shown) -> np.ndarray:
        if subject.name not in self._kept:
            self._kept[subject.name] = self.dino.images(subject.photos).numpy()
        return self._kept[subject.name]
