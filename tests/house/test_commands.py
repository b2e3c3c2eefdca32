"""The commands of the pages are those that the program has: verbs, options, values in their ranges."""

import re
import shlex
from dataclasses import fields, is_dataclass
from functools import cache
from inspect import signature
from pkgutil import resolve_name
from typing import Any, get_args, get_type_hints

import pytest
from told_commands import NEEDS, PAGES, ROOT, Told, spoken, told

from llava_patch.errors import ConfigError
from llava_patch.ranges import check_ranges
from mgie import cli
from mgie.config import RunConfig
from mgie.keys import is_known, keys_of
from mgie.verbs import EVERY_VERB, KEYED, VERBS

FOREIGN = {"coming-from-ml-mgie.md", "coming-from-diffusers.md"}
"""Pages that also name the options of other programs."""
OTHERS = {
    "--nproc_per_node": "torchrun", "--signals-to-handle": "torchrun", "--signal": "sbatch",
    "--no-deps": "pip", "--rewrite-golden": "pytest", "--version": "mgie itself",
    "--print_completion": "mgie itself", "--help": "every verb",
    "--guidence": "a slip, in a sentence of the program",
}  # fmt: skip
"""Options of other programs, and of no verb."""


def verb_of(words: list[str]) -> str:
    return next(name for name in (" ".join(words[:2]), words[0]) if name in VERBS)


@cache
def options() -> set[str]:
    """All options of all verbs; those of the records that they take, one by one."""
    found = {*EVERY_VERB}
    for name, verb in VERBS.items():
        found |= {*re.findall(r"--\w+", cli._parser(name).format_help()), *re.findall(r"--\w+", name)}
        hints = get_type_hints(resolve_name(verb.story))
        for parameter in signature(resolve_name(verb.story)).parameters:
            for held in get_args(hints.get(parameter)):
                if is_dataclass(held):
                    found |= {f"--{parameter}.{field.name}" for field in fields(held)}
    return found


def check(command: str) -> None:
    """Raise ConfigError for a command whose words or numbers the verb would refuse before it begins."""
    words = [word for word in shlex.split(command)[1:] if word not in EVERY_VERB]
    name = verb_of(words)
    own, keys = words[len(name.split()) :], []
    if name in KEYED:
        own, keys = cli._keys_apart(own)
    hints: dict[str, Any] = get_type_hints(resolve_name(VERBS[name].story), include_extras=True)
    for parameter, value in cli.arguments(name, own).items():
        check_ranges(value, hints.get(parameter, Any), parameter)
    known = keys_of(RunConfig)
    for key in (key.partition("=")[0][2:] for key in keys if key.startswith("--")):
        if not is_known(key, known):
            raise ConfigError(f"{key} is no key of a recipe.")


def whole(code: str) -> bool:
    """Whether what stands in a sentence is a command with all its words, and not the name of one."""
    return bool(re.match(r"mgie [a-z]+ .*--out", code)) and "..." not in code


WHOLE = [Told(page=page, words=code) for page, code in spoken() if whole(code)]


@pytest.mark.parametrize("command", [*told(), *WHOLE], ids=lambda each: f"{each.page}: {each.words}")
def test_it_would_begin(command, capsys):
    if not command.mgie:
        for path in re.findall(r"(?:tests|scripts)/[\w./]+", command.words):
            assert (ROOT / path).is_file(), path
        assert command.needs, "a program that is not ours: say in NEEDS why no test runs it"
    elif command.mgie.startswith("mgie train "):
        words = shlex.split(re.sub(r" --gpu \S+", "", command.mgie))  # books every tensor, for long
        assert cli.main([*words[1:], "--dry_run"]) == 0, capsys.readouterr().err
    else:
        check(command.mgie)


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_s_example_would_begin(verb):
    if verb != "train":  # its keys are the recipe's
        check(VERBS[verb].example)


@pytest.mark.parametrize("wrong", ["--stepz 3", "--steps 0", "--guidance much", "--region.feathr 2"])
def test_what_would_not_begin_is_noticed(wrong):
    with pytest.raises(ConfigError):
        check(f"mgie edit photo.jpg dark --model there --out out.png {wrong}")


def test_every_option_that_a_sentence_names_is_one():
    known, unknown = keys_of(RunConfig), []
    for page, code in spoken():
        for option in re.findall(r"(?<![\w-])--([A-Za-z_][\w.-]*\w)", code) if page not in FOREIGN else ():
            if f"--{option}" not in {*options(), *OTHERS} and not is_known(option, known):
                unknown.append(f"{page}: --{option}")
    assert not unknown


def test_every_verb_that_a_sentence_names_is_one():
    names = {name.split()[0] for name in VERBS}
    verbs = {(page, word) for page, code in spoken() for word in re.findall(r"^mgie ([a-z]+)", code)}
    assert not [each for each in verbs if each[1] not in names]


@pytest.mark.parametrize("word", NEEDS)
def test_what_a_test_has_not_is_still_told_and_tested_otherwise(word):
    assert any(word in command.words for command in told()), "no command has this: take it out of NEEDS"
    for path in re.findall(r"(?:tests|benchmarks)/[\w./]+\.py", NEEDS[word]):
        assert (ROOT / path).is_file(), path


def test_every_page_begins_with_a_command():
    for page in PAGES:
        if page.name not in ("README.md", "api.md", "controls.md", "log.md"):
            assert re.match(r"# .+\n\n```bash\n", page.read_text()), page.name
