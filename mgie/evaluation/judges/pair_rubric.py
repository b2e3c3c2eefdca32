"""A benchmark of pairs as data: which of two systems' outputs is better, and in what.

rubrics/pairs/gedit_v2.yaml             a rubric
rubrics/pairs/gedit_v2@official.yaml    a variant: `extends: gedit_v2`, and the keys that it replaces
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from mgie.errors import ConfigError
from mgie.evaluation.judges.base import Encoding, canonical
from mgie.evaluation.judges.prompt_files import read_prompts
from mgie.evaluation.judges.rubric import OWN
from mgie.evaluation.published.protocol import from_fields, without_empty


@dataclass(frozen=True, kw_only=True, slots=True)
class PairRubric:
    """Where the items are, what is asked of two outputs, and how verdicts become an order."""

    name: str
    version: int
    about: str
    layout: Literal["gedit_v2"]
    """How its data lie."""
    subset: str
    """Which part of the data."""
    outputs: tuple[str, ...]
    """Official names of an output, the first that is there."""
    judges: tuple[str, ...]
    """Which models published figures are by."""
    prompts: Mapping[str, str]
    """Question -> its words."""
    pictures: Mapping[str, tuple[str, ...]]
    """Question -> what is shown, in this order: source, first, second."""
    fill: Mapping[str, str]
    """What stands in a prompt -> the fact of the item that replaces it."""
    orders: Literal["both", "one"]
    """Each pair in both orders, where verdicts that disagree are a tie; or with the first name as A only."""
    penalty: Literal["centred", "last"]
    """What Davidson's model holds small (`comparing.ranking`)."""
    variant: str = ""
    wording: str = OWN
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many items the published data hold."""
    encoding: Encoding = field(default_factory=Encoding)
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of answers."""
    attempts: int = 3
    """How often at most a question is asked, where an answer cannot be read."""

    @property
    def sha256(self) -> str:
        """Hash of all that the rubric says but `about`."""
        return hashlib.sha256(canonical(without_empty(asdict(self) | {"about": ""}))).hexdigest()

    @property
    def identity(self) -> str:
        """What stands beside every number: name@variant/version wording#hash."""
        variant = f"@{self.variant}" if self.variant else ""
        return f"{self.name}{variant}/{self.version} {self.wording}#{self.sha256[:8]}"

    def words(self, question: str, facts: Mapping[str, str]) -> str:
        """The prompt of a question with an item's facts in it."""
        text = self.prompts[question]
        for hole, fact in self.fill.items():
            text = text.replace(hole, facts.get(fact, ""))
        return text


@cache
def pair_rubric_names() -> tuple[str, ...]:
    """What can be asked for: NAME or NAME@VARIANT."""
    found = (each.name for each in (files("mgie.evaluation") / "rubrics" / "pairs").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml")))


def find_pair_rubric(name: str) -> PairRubric:
    """The rubric of that name, which is one of `pair_rubric_names`."""
    said = _stored(name)
    pictures = {question: tuple(shown) for question, shown in said["pictures"].items()}
    encoding = from_fields(Encoding, said.get("encoding", {}), f"{name}: encoding")
    return from_fields(PairRubric, {**said, "pictures": pictures, "encoding": encoding}, name)


def with_pair_prompts(rubric: PairRubric, place: str | Path) -> PairRubric:
    """The rubric with the words of a file or folder of the user's. Raises ConfigError."""
    given = read_prompts(Path(place))
    if missing := [question for question in rubric.prompts if question not in given.texts]:
        raise ConfigError(f"{place} lacks the prompt {missing[0]}: expected {', '.join(rubric.prompts)}.")
    prompts = {question: given.texts[question] for question in rubric.prompts}
    return replace(rubric, prompts=prompts, wording=f"wording {given.sha256[:8]}")


def _stored(name: str) -> dict[str, Any]:
    text = (files("mgie.evaluation") / "rubrics" / "pairs" / f"{name}.yaml").read_text(encoding="utf-8")
    said = yaml.safe_load(text)
    return _stored(said.pop("extends")) | said if "extends" in said else said
