"""A judged benchmark as data: a rubric is a file whose hash goes with its numbers.

    rubrics/gedit.yaml       a rubric
    rubrics/gedit@cn.yaml    a variant: `extends: gedit`, and the keys that it replaces whole

Scales, fields, formulas and counts are the published ones; the prompts in the files are worded here. A rubric
may be given the published prompts by the user (`with_prompts`). Its identity says whose words were used.
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import yaml

from mgie.errors import ConfigError
from mgie.evaluation.judges.base import Encoding, canonical
from mgie.evaluation.judges.prompt_files import Prompts, read_prompts
from mgie.evaluation.published.protocol import Printed, from_fields, nearest, parse_printed, without_empty

Real = int | float
OWN = "own wording"
PUBLISHED = "published wording"


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One way to ask a question; of several, the first that fits an item is taken."""

    prompt: tuple[str, ...]
    """Names of prompts, joined by line ends. `{kind}` stands for the item's kind."""
    pictures: tuple[str, ...]
    """What is shown, in this order: source, output, reference."""
    scores: Mapping[str, tuple[Real, Real]]
    """What is asked for -> the lowest and the highest score, in the order of the answer."""
    parser: str
    published: tuple[str, ...] = ()
    """Names of the prompts in published files, where they differ."""
    published_sha256: str = ""
    """Of the published words, where it is known."""
    kinds: tuple[str, ...] = ()
    """Only items of these kinds. Empty: of all."""
    needs: tuple[str, ...] = ()
    """Only items that have these facts or pictures."""
    lacks: tuple[str, ...] = ()
    """Only items that have none of these."""
    binary: bool = False
    """Scores are 0 or more for no or yes, and count as 1 or 5."""
    fields: tuple[str, ...] = ()
    """What an answer calls the scores, in their order, where it calls them otherwise."""
    apart: bool | None = None
    """Of several scores those that can be read count, whatever became of the others."""

    @property
    def named(self) -> tuple[str, ...]:
        """What an answer calls the scores."""
        return self.fields or tuple(self.scores)

    def fits(self, kind: str, has: frozenset[str]) -> bool:
        """Whether an item of that kind is asked so, which has these facts and pictures."""
        return (
            (not self.kinds or kind in self.kinds)
            and set(self.needs) <= has
            and not set(self.lacks) & has
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Number:
    """One number of an item, and how the items' become one."""

    rule: str
    """Of `formulas`."""
    of: tuple[str, ...]
    """Scores, or numbers above this one. Those that were not asked for are left out."""
    average: str = "micro"
    """Over all items (micro), over kinds first (macro:kind), or over all scores of all items (pooled)."""
    best: Real = 0
    """The highest score, where the rule asks for it."""
    weights: Mapping[str, Mapping[str, Real]] = field(default_factory=dict)
    """Names of the scores that are there, joined by + in their alphabet -> score -> weight."""
    halved_by: str = ""
    """Which score, where it is 1, halves the whole."""
    unread: Literal["", "zero", "without"] = ""
    """What an item with an answer that cannot be read counts as: 0, or what its other scores give. Empty: it
    is left out."""
    digits: int | None = None
    """Means of kinds are rounded to so many before their mean, where a published program does."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Following:
    """Which number says that an instruction was followed; the controls rest on it."""

    number: str
    low: Real
    high: Real


@dataclass(frozen=True, kw_only=True, slots=True)
class Rubric:
    """A judged benchmark: where its items are, what is asked, and how answers become numbers."""

    name: str
    version: int
    about: str
    layout: Literal["gedit", "imgedit", "rise", "kris", "complex_edit"]
    """How its data lie."""
    subset: str
    """Which part of the data: a language, a split."""
    outputs: tuple[str, ...]
    """Official names of an output, the first that is there; `sorted:*.png`: the n-th file is item n's."""
    judges: tuple[str, ...]
    """Which model published figures are by."""
    prompts: Mapping[str, str]
    fill: Mapping[str, str]
    """What stands in a prompt -> the fact of the item that replaces it."""
    asks: Mapping[str, tuple[Case, ...]]
    numbers: Mapping[str, Number]
    following: Following
    printed: Printed | None = None
    variant: str = ""
    wording: str = OWN
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many items the published data hold."""
    level: int = 0
    """Complexity of instructions, where data have several."""
    encoding: Encoding = field(default_factory=Encoding)
    words_first: bool = True
    """Words before pictures, or after them."""
    system: str = ""
    """Name of the prompt that is told beforehand."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of answers."""
    structured: bool = False
    """An endpoint is asked for a JSON object of just these fields."""
    repeats: int = 1
    """How often each question is asked."""
    attempts: int = 3
    """How often at most, where an answer cannot be read."""
    guesses: bool | None = None
    """All questions about a picture are put again until each answer can be read, and from the second time on
    an answer without braces counts as a whole number drawn from 0 to 10, as VIEScore's program has it."""
    groups: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    """Name -> group -> kinds in it; numbers are told of each."""
    published_file: str = ""
    """Beginning of the SHA-256 of the file that the published prompts are in."""

    @property
    def sha256(self) -> str:
        """Hash of all that the rubric says but `about` and `printed`. What is empty leaves no trace."""
        return hashlib.sha256(
            canonical(without_empty(asdict(self) | {"about": "", "printed": None}))
        ).hexdigest()

    @property
    def identity(self) -> str:
        """What stands beside every number: name@variant/version wording#hash."""
        variant = f"@{self.variant}" if self.variant else ""
        return f"{self.name}{variant}/{self.version} {self.wording}#{self.sha256[:8]}"

    def cases(self, kind: str, has: frozenset[str]) -> dict[str, Case]:
        """What an item is asked: question -> its way."""
        found = {
            ask: next((case for case in cases if case.fits(kind, has)), None)
            for ask, cases in self.asks.items()
        }
        return {ask: case for ask, case in found.items() if case}

    def words(self, case: Case, kind: str, facts: Mapping[str, str]) -> str:
        """The prompt of a question, filled in. What is put in is not looked at again."""
        text = "\n".join(self.prompts[name.format(kind=kind)] for name in case.prompt)
        return self.filled(text, facts)

    def filled(self, text: str, facts: Mapping[str, str]) -> str:
        """A text with an item's facts in it."""
        if not self.fill:
            return text
        holes = re.compile("|".join(map(re.escape, self.fill)))
        return holes.sub(lambda hole: facts.get(self.fill[hole[0]], ""), text)


@cache
def rubric_names() -> tuple[str, ...]:
    """What can be asked for: NAME or NAME@VARIANT."""
    found = (each.name for each in (files("mgie.evaluation") / "rubrics").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml")))


def find_rubric(name: str) -> Rubric:
    """The rubric of that name. Raises ConfigError with the nearest names."""
    if name not in rubric_names():
        known = ", ".join(rubric_names())
        raise ConfigError(
            f"There is no rubric '{name}': expected one of {known}; {nearest(name, rubric_names())}"
        )
    return parse_rubric(_stored(name), name)


def parse_rubric(said: Mapping[str, Any], name: str) -> Rubric:
    """The rubric that a file says. Raises ConfigError for keys that nothing reads, or that are missing."""
    parts: dict[str, Any] = {
        "asks": {
            ask: tuple(from_fields(Case, _listed(case), f"{name}: asks.{ask}") for case in cases)
            for ask, cases in said.get("asks", {}).items()
        },
        "numbers": {
            each: from_fields(Number, content, f"{name}: numbers.{each}")
            for each, content in said.get("numbers", {}).items()
        },
        "following": from_fields(Following, said.get("following", {}), f"{name}: following"),
        "encoding": from_fields(Encoding, said.get("encoding", {}), f"{name}: encoding"),
        "printed": parse_printed(said, name),
    }
    groups = {
        group: {each: tuple(kinds) for each, kinds in members.items()}
        for group, members in said.get("groups", {}).items()
    }
    rubric = from_fields(Rubric, {**said, **parts, "groups": groups}, name)
    for cases in rubric.asks.values():
        for case in cases:
            lacking = [each for each in case.prompt if "{" not in each and each not in rubric.prompts]
            if lacking:
                raise ConfigError(f"{name} has no prompt {lacking[0]}: expected one under `prompts`.")
    return rubric


def with_prompts(rubric: Rubric, place: str | Path, kinds: frozenset[str]) -> Rubric:
    """The rubric with the words of a file or folder of the user's, for items of these kinds. Its wording is
    the published one where hashes say so, else the file's. Raises ConfigError where a prompt is missing."""
    given = read_prompts(Path(place))
    asks = {
        ask: tuple(replace(case, prompt=case.published or case.prompt, published=()) for case in cases)
        for ask, cases in rubric.asks.items()
    }
    wanted = [
        each.format(kind=kind)
        for cases in asks.values() for case in cases
        for kind in (sorted(set(case.kinds) & kinds if case.kinds else kinds))
        for each in case.prompt
    ]  # fmt: skip
    wanted += [rubric.system] if rubric.system else []
    wanted = sorted(set(wanted), key=wanted.index)
    if missing := [each for each in wanted if each not in given.texts]:
        raise ConfigError(
            f"{place} lacks {len(missing)} prompts, such as {missing[0]}: expected {', '.join(wanted)}."
        )
    wording = PUBLISHED if _is_published(rubric, asks, given) else f"wording {given.sha256[:8]}"
    prompts = {each: given.texts[each] for each in wanted}
    return replace(rubric, asks=asks, prompts=prompts, wording=wording)


def _is_published(rubric: Rubric, asks: Mapping[str, tuple[Case, ...]], given: Prompts) -> bool:
    if rubric.published_file and given.sha256.startswith(rubric.published_file):
        return True
    cases = [case for several in asks.values() for case in several]
    known = [case for case in cases if case.published_sha256]
    return len(known) == len(cases) and all(
        hashlib.sha256("\n".join(given.texts.get(each, "") for each in case.prompt).encode()).hexdigest()
        == case.published_sha256
        for case in cases
    )


def _stored(name: str) -> dict[str, Any]:
    """What a shipped file says, with what it extends below."""
    text = (files("mgie.evaluation") / "rubrics" / f"{name}.yaml").read_text(encoding="utf-8")
    said = yaml.safe_load(text)
    return _stored(said.pop("extends")) | said if "extends" in said else said


def _listed(case: Mapping[str, Any]) -> dict[str, Any]:
    scores = {name: tuple(scale) for name, scale in case.get("scores", {}).items()}
    return {**case, "scores": scores}
