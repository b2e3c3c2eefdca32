"""Every number of every recipe and every verb has a range; what lies outside gets one sentence."""

import inspect
import math
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from pkgutil import resolve_name
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import pytest

from llava_patch.ranges import Range, check_ranges
from mgie.cli import main
from mgie.config import RunConfig, load_run
from mgie.data.sources.base import ClipFilter
from mgie.errors import ConfigError
from mgie.personalization.pairs import SubjectsConfig
from mgie.pipeline import MGIEPipeline
from mgie.request import Sampling
from mgie.verbs import LEFT_OUT, VERBS, by_place
from mgie.weights.llava_part import LlavaSettings
from mgie.weights.mige_part import QFormerT5Settings

NONSENSE = (math.nan, math.inf, -math.inf)
FOREIGN = (*NONSENSE, "many", True)
"""What a type alone would refuse too, where types are checked."""
SAID = "expected a (whole )?number"


@dataclass(frozen=True)
class Number:
    """A number that somebody can give."""

    name: str
    kind: type
    range: Range | None

    @property
    def inside(self) -> list[Any]:
        """The numbers at both ends, or next to an end that does not belong to the range."""
        return [self._near(self.range.ge, self.range.gt, 1), self._near(self.range.le, self.range.lt, -1)]

    @property
    def outside(self) -> list[Any]:
        """The numbers just beyond both ends."""
        low, high = self.range.ge, self.range.le
        step = 1 if self.kind is int else 0.001
        ends = (self.range.gt if low is None else low - step, self.range.lt if high is None else high + step)
        return [self.kind(end) for end in ends]

    def _near(self, end: Any, beyond: Any, way: int) -> Any:
        if end is not None:
            return self.kind(end)
        return beyond + way if self.kind is int else math.nextafter(beyond, way * math.inf)


def numbers(hint: Any, name: str) -> Iterator[Number]:
    """Every number in a type hint, with its range."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated and parts[0] in (int, float):
        yield Number(name, parts[0], next((part for part in parts[1:] if isinstance(part, Range)), None))
    elif hint in (int, float):
        yield Number(name, hint, None)
    elif isinstance(hint, type) and is_dataclass(hint):
        hints = get_type_hints(hint, include_extras=True)
        for field in fields(hint):
            yield from numbers(hints[field.name], f"{name}.{field.name}" if name else field.name)
    elif kind in (Union, UnionType, tuple, dict) or (kind is list and get_origin(parts[0]) is Annotated):
        for part in parts:
            yield from numbers(part, name)


def arguments(story: Any) -> list[Number]:
    hints = get_type_hints(story, include_extras=True)
    given = [name for name in inspect.signature(story).parameters if name not in LEFT_OUT and name in hints]
    return [number for name in given for number in numbers(hints[name], name)]


ENCODERS = (LlavaSettings, QFormerT5Settings)
RUN = [
    *numbers(RunConfig, ""), *(key for kind in ENCODERS for key in numbers(kind, "model.encoder")),
]  # fmt: skip
KEYS = list({number.name: number for number in RUN}.values())
STORIES = {verb: resolve_name(about.story) for verb, about in VERBS.items() if verb != "train"}
OPTIONS = [(verb, number) for verb, story in STORIES.items() for number in arguments(story)]
CALL = [number for number in arguments(MGIEPipeline.__call__) if number.name != "generator"]
TINY = load_run("tiny")
OWN = replace(TINY, data=replace(TINY.data, subjects=SubjectsConfig()))
"""A run on one's own subjects, which goes without what else data may be."""
NEW = load_run("tiny_mige", ["--data.mixture=null"])
OTHERS = {"data.subjects.": OWN, "model.encoder.new.": NEW}
"""Beginning of a key -> the run that has such keys."""


def with_value(record: Any, key: str, value: Any) -> Any:
    """A copy of a run with another value at a dotted key; in a dictionary and in a pair as one of two."""
    first, _, rest = key.partition(".")
    old = getattr(record, first)
    if rest:
        return replace(record, **{first: with_value(old, rest, value)})
    if first in ("lrs", "mixture", "warmups", "task_weights", "scales"):
        others = {TINY.data.path: 1.0} if first == "mixture" else {}
        value = {**(old or {}), **others, "denoiser": value}
    if isinstance(old, (tuple, list)):
        value = (old[0], value) if isinstance(old, tuple) else [value]
    return replace(record, **{first: value})


def test_there_are_as_many_numbers_as_one_would_think():
    assert len(KEYS) > 40 and len(OPTIONS) > 20 and len(CALL) > 5
    assert {
        "optim.betas",
        "model.encoder.new.heads",
        "data.subjects.segmix.prob",
        "optim.lrs",
        "data.mixture",
        "train.drop.both",
        "seed",
    } <= {key.name for key in KEYS}


def test_every_number_has_a_range():
    """A new number without one fails here: write `Annotated[int, Range(ge=..., le=...)]`."""
    others = [*numbers(ClipFilter, "clip"), *numbers(Sampling, "sampling"), *CALL]
    for number in [*KEYS, *(number for _, number in OPTIONS), *others]:
        assert number.range is not None, f"{number.name} has no range"


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_keys_of_a_run(key):
    run = next((OTHERS[start] for start in OTHERS if key.name.startswith(start)), TINY)
    # What is no whole number at all is refused by its type before.
    for value in (*key.outside, *(NONSENSE if key.kind is float else ())):
        with pytest.raises(ConfigError, match=rf"^{key.name}\S*=.*{SAID}"):
            with_value(run, key.name, value)
    for value in key.inside:
        try:
            with_value(run, key.name, value)
        except ConfigError as error:  # by itself, but not beside the others
            together = ("more than 1 together", "is no multiple of")
            assert any(words in str(error) for words in together)


@pytest.mark.parametrize("words", ["heads=3", "patch=7", "width=130", "edge=65"])
def test_sizes_of_a_new_encoder_go_together(capsys, words):
    said = refused(capsys, "train", "--config", "tiny_mige", f"--model.encoder.new.{words}", "--dry_run")
    assert "is no multiple of model.encoder.new." in said and words in said


def given(story: Any, name: str, value: Any) -> dict[str, Any]:
    """The argument that gives a number to a story, perhaps inside a record of options."""
    first, _, rest = name.partition(".")
    if not rest:
        return {first: value}
    value = (0.0, 0.0, 1.0, value) if rest == "box" else value
    hint = get_type_hints(story)[first]
    record = next(kind for kind in (hint, *get_args(hint)) if is_dataclass(kind))
    return {first: record(**{rest: value})}


def refused(capsys, *words: str) -> str:
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.startswith("mgie: ") and said.err.count("\n") == 1, said.err
    return said.err


def as_words(value: Any) -> str:
    return {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(str(value), str(value))


def overriding(key: Number, value: Any) -> str:
    """The words that put a value at a key."""
    own = {
        "optim.betas": "[0.9, {}]",
        "optim.lrs": "{{denoiser: {}}}",
        "optim.warmups": "{{denoiser: {}}}",
        "data.mixture": "{{_data/toy: {}}}",
    }
    return f"--{key.name}=" + own.get(key.name, "{}").format(as_words(value))


@pytest.mark.parametrize(
    "name", ["optim.lr", "optim.betas", "data.mixture", "train.ema", "save.keep", "seed"]
)
def test_keys_on_the_command_line(capsys, name):
    key = next(key for key in KEYS if key.name == name)
    for value in (key.outside[0], math.nan, "many"):
        words = overriding(key, value)
        assert name in refused(capsys, "train", "--config", "tiny", words, "--dry_run")


@pytest.mark.slow
@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_every_key_on_the_command_line(capsys, key):
    for value in (*key.outside, *FOREIGN):
        words = overriding(key, value)
        recipe = "tiny_mige" if key.name.startswith("model.encoder.new.") else "tiny"
        assert key.name in refused(capsys, "train", "--config", recipe, words, "--dry_run")


@pytest.mark.parametrize(("verb", "number"), OPTIONS, ids=lambda part: getattr(part, "name", part))
def test_options_of_verbs(capsys, verb, number):
    """Each is refused before anything is looked for: nothing that is named here exists."""
    parameters = inspect.signature(STORIES[verb]).parameters.items()
    needed = {name: about for name, about in parameters if about.default is inspect.Parameter.empty}
    words = ["nothing" for about in needed.values() if by_place(about)]
    words += [f"--{name}=nothing" for name, about in needed.items() if not by_place(about)]
    for value in (*number.outside, *FOREIGN):
        said = refused(capsys, *verb.split(), *words, f"--{number.name}={as_words(value)}")
        # Of a record's fields what is no number at all is told of the record.
        assert (number.name if value in number.outside else number.name.partition(".")[0]) in said
        assert "expected" in said
        if "." in number.name and not isinstance(value, float):
            continue  # a record does not take it
        with pytest.raises(ConfigError, match=rf"^{number.name}=.*{SAID}"):
            story = STORIES[verb]
            story(**dict.fromkeys(needed, "nothing"), **given(story, number.name, value))
    first = number.name.partition(".")[0]
    for value in number.inside:
        inside = given(STORIES[verb], number.name, value)[first]
        check_ranges(inside, get_type_hints(STORIES[verb], include_extras=True)[first])


@pytest.mark.parametrize("number", CALL, ids=lambda number: number.name)
def test_arguments_of_a_pipeline(number):
    foreign = NONSENSE if "." in number.name else FOREIGN  # a record does not take what is no number
    for value in (*number.outside, *foreign):
        with pytest.raises(ConfigError, match=rf"^{number.name}\S*=.*{SAID}"):
            MGIEPipeline.__call__(None, None, "darker", **given(MGIEPipeline.__call__, number.name, value))


@pytest.mark.parametrize("clip", ["image=nan", "image=1.1", "text=-2", "best=0", "direction=inf"])
def test_the_numbers_of_a_filter(clip):
    with pytest.raises(ConfigError, match=r"^clip\.\w+="):
        ClipFilter.parse(clip)
