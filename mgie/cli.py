"""The command line: words to stories, facts and errors to lines.

A verb's options, types, defaults and help come from the signature and the docstring of its story; they are
written nowhere else. The story is imported when its verb is used. The parser is jsonargparse's.
"""

import difflib
import gc
import io
import json
import os
import re
import sys
import time
import traceback
from argparse import SUPPRESS, ArgumentError
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from dataclasses import asdict
from functools import partial, reduce
from importlib.util import find_spec
from inspect import Parameter, signature
from operator import or_
from pathlib import Path
from pkgutil import resolve_name
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from mgie.errors import ConfigError, explain, mended, one_kind_of_interrupt
from mgie.ranges import NumberOrNone
from mgie.verbs import EVERY_VERB, INSTEAD, KEYED, LEFT_OUT, LISTED, REPEATED, VERBS, Verb, by_place

WITH_WORD = ("--config", "--from", "--profile", "--gpu")
TRAINS_OWN = (*WITH_WORD, "--dry_run", "--print_config", "--help", "-h")
"""All that `train` takes besides the keys of its recipe. A word follows the first four."""

GRACE = 3
"""Seconds that another process than the first waits before it tells of an error."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 2 the user can mend it, 130 stopped by Ctrl-C, 75 by what a
    scheduler sends (start the same command again)."""
    words = list(sys.argv[1:] if words is None else words)
    options = {option: option in words for option in EVERY_VERB}
    words = [word for word in words if word not in EVERY_VERB]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name or word that the terminal lacks is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        with one_kind_of_interrupt(), _silence() if options["--quiet"] else nullcontext():
            done = _run(words)
        if done is None:
            return 0
        verb, facts = done
        if _speaks() and (options["--json"] or not options["--quiet"]):
            shown = json.dumps(facts, default=str) if options["--json"] else resolve_name(verb.show)(facts)
            print(shown, flush=True)
        sentence = resolve_name(verb.wrong)(facts) if verb.wrong else ""
        if not sentence:
            return 0
        status, debug = 2, ""
    except KeyboardInterrupt as stopped:
        status, debug = getattr(stopped, "code", 130), ""
        sentence = "stopped; nothing is left half-written, and the same command goes on or starts again."
    except BrokenPipeError:  # the reader of our output has left, as in `mgie ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        if not _speaks():
            # What is wrong in all processes is said by the first, and torchrun ends the others meanwhile.
            time.sleep(GRACE)
            sentence = f"process {os.environ['RANK']}: {sentence}"
        status, debug = 2, traceback.format_exc() if options["--debug"] else ""
    # Here the error is gone, and with it all that was at work: an open progress bar has ended its line.
    gc.collect()
    if status == 2 or _speaks():
        print(f"{debug}mgie: {sentence}", file=sys.stderr)
    return status


@contextmanager
def _silence() -> Iterator[None]:
    """Nobody hears lines and bars."""
    with open(os.devnull, "w", encoding="utf-8") as nobody, redirect_stderr(nobody):
        yield


def as_lines(facts: dict[str, Any]) -> str:
    """Facts for a person, one line each; what is nested only --json tells."""
    shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in facts.items()}
    width = max(map(len, shown), default=0)
    return "\n".join(
        f"{name:<{width}}  {value}" for name, value in shown.items() if not isinstance(value, (dict, list))
    )


def _run(words: list[str]) -> tuple[Verb, dict[str, Any]] | None:
    """The verb that was run and its facts; None where there are none (a help text, a dry run)."""
    if odd := next((word for word in words if "\0" in word), None):
        raise ConfigError(f"{odd!a} holds a null character: expected none in words and paths; leave it out.")
    if words[:1] == ["prepare"] and "--check" in words:  # wherever it stands
        words = ["prepare", "--check", *(word for word in words[1:] if word != "--check")]
    name = next((name for name in (" ".join(words[:2]), *words[:1]) if name in VERBS), None)
    if name is not None:
        own = words[len(name.split()) :]
        keys: dict[str, list[str]] = {}
        if name in KEYED:
            own, keys["keys"] = _keys_apart(own)
        tell = partial(resolve_name(VERBS[name].story), **keys) if name != "train" else None
        facts = tell(**arguments(name, own)) if tell else _train(own)
        return None if facts is None else (VERBS[name], facts if isinstance(facts, dict) else asdict(facts))
    if words[:1] == ["--version"]:
        from importlib.metadata import version

        print(f"mgie {version('mgie')}")
        return None
    if not words or {"-h", "--help"} & {*words[:2]}:
        print(_overview())
        return None
    if words[0] == "--print_completion":
        print(_completion(" ".join(words[1:])))
        return None
    seconds = [name for name in VERBS if name.split()[0] == words[0]]
    firsts = list(dict.fromkeys(name.split()[0] for name in VERBS))
    what = f"`mgie {words[0]}` needs more" if seconds else f"there is no verb {words[0]!r}"
    near = "" if seconds else _nearest(words[0], firsts)
    raise ConfigError(f"{what}: {near}expected one of {', '.join(seconds or firsts)}.")


def _train(words: list[str]) -> dict[str, Any] | None:
    """`train` alone takes a recipe instead of options: every key of RunConfig can be put over it."""
    if words and not words[0].startswith("-"):
        raise ConfigError(f"`mgie train` takes no {words[0]!r} by itself: did you mean --config {words[0]}?")
    own, keys = [], []
    for before, word in zip(["", *words], words):
        option = word.partition("=")[0]
        (own if option in TRAINS_OWN or before in WITH_WORD else keys).append(word)
    for option in (word.partition("=")[0] for word in keys if word.startswith("--") and "." not in word):
        if near := _nearest(f"--{option[2:].replace('-', '_')}", TRAINS_OWN, cutoff=0.8):
            raise ConfigError(f"`mgie train` has no option {option}: {near.strip()}")
    told = arguments("train", own)
    run = recipe(keys, **told)
    return None if run is None else resolve_name(VERBS["train"].story)(run, profile=told["profile"])


def _keys_apart(words: list[str]) -> tuple[list[str], list[str]]:
    """A verb's own words, and keys of a recipe (--a.b VALUE) among them."""
    own, keys = [], []
    for before, word in zip(["", *words], words):
        is_key = word.startswith("--") and "." in word.partition("=")[0]
        follows = bool(keys) and keys[-1] is before and "=" not in before and not word.startswith("--")
        (keys if is_key or follows else own).append(word)
    return own, keys


def recipe(
    keys: list[str], /, *, config: str | Path, from_: str | Path | None = None, dry_run: bool = False,
    print_config: bool = False, profile: NumberOrNone = 0, gpu: str | None = None,
) -> Any:  # fmt: skip
    """The run to be trained; None where it was only to be shown.

    Any key of the recipe can be put over it, as in --optim.lr 1e-3; --print_config shows them all.

    Args:
        config: Recipe in mgie/recipes, or a YAML file.
        from_: Begin with the tensors of this run, checkpoint, release or file: short for --model.start.
        dry_run: Check and print the configuration, and stop.
        print_config: Print the configuration as a recipe, and stop.
        profile: Time so many steps part by part; a table and a trace go into RUN/profile.
        gpu: With --dry_run, memory of a GPU, such as 24GiB: print what training takes of it instead.
    """
    del profile  # of the story
    from mgie.config import dump_run, load_run

    if from_ and any(key.partition("=")[0] == "--model.start" for key in keys):
        raise ConfigError("--from and --model.start are the same: expected one of them.")
    run = load_run(str(config), [*keys, *([f"--model.start={from_}"] if from_ else [])])
    if dry_run:
        run.validate()
    if gpu and not dry_run:
        raise ConfigError(f"--gpu is {gpu}: expected it with --dry_run; leave it out, or add that.")
    if gpu:
        from mgie.fits import fits

        print(fits(run, gpu))
        return None
    if dry_run or print_config:
        print(dump_run(run), end="")
        return None
    return run


def arguments(name: str, words: list[str]) -> dict[str, Any]:
    """The words of a verb as arguments of its story. Raises ConfigError."""
    given = [option for option in INSTEAD if any(word.partition("=")[0] == option for word in words)]
    instead = {name: value for option in given for name, value in INSTEAD[option].items()}
    parser = _parser(name, instead)
    try:
        return parser.instantiate(parser.parse_args(words)).as_dict()
    except ArgumentError as error:
        if unknown := re.search(r"unrecognized arguments: .*?(--\w[\w-]*)", str(error)):
            near = _nearest(unknown[1], re.findall(r"--\w+", parser.format_usage()))
            raise ConfigError(
                f"`mgie {name}` has no option {unknown[1]}: {near}`mgie {name} --help` lists all."
            ) from error
        raise ConfigError(f"{mended(str(error), '--')}; an example is `{VERBS[name].example}`.") from error


def _parser(name: str, instead: Mapping[str, Any] | None = None) -> ArgumentParser:
    """The parser of a verb: its options, types, defaults and texts are those of its story. Words that
    something else was given `instead` of need not be there."""
    verb = VERBS[name]
    story = recipe if name == "train" else resolve_name(verb.story)
    docstring = parse_docstring(story.__doc__ or "")
    details = re.split(r"\bRaises\b", docstring.long_description or "")[0]  # the errors explain themselves
    texts = {entry.arg_name: entry.description for entry in docstring.params}
    parser = ArgumentParser(
        prog=f"mgie {name}",
        description=f"{verb.about[0].upper()}{verb.about[1:]}. {details}".strip(),
        epilog=f"example: {verb.example}",
        allow_abbrev=False,
        exit_on_error=False,
        print_config=None,
    )
    hints = get_type_hints(story)  # without the ranges, which the story holds its arguments to itself
    for parameter, facts in signature(story).parameters.items():
        if parameter in LEFT_OUT or facts.kind is Parameter.POSITIONAL_ONLY:
            continue
        hint, option = _typed(hints[parameter]), f"--{parameter.rstrip('_')}"
        about: dict[str, Any] = {"type": hint, "help": texts.get(parameter)}
        if by_place(facts):
            several: dict[str, Any] = {}
            if get_origin(hint) is Sequence:
                optional = parameter in LISTED or parameter in (instead or {})
                several = {"type": get_args(hint)[0], "nargs": "*" if optional else "+"}
                several |= {"default": facts.default} if parameter in LISTED else {}
            elif parameter in (instead or {}):
                several = {"nargs": "?", "default": (instead or {})[parameter]}
            parser.add_argument(parameter, **about | several)
        elif parameter in REPEATED:
            parser.add_argument(option, action="append", type=str, help=about["help"])
        elif hint is bool and not facts.default:
            parser.add_argument(option, action="store_true", help=about["help"])
        else:
            needed = facts.default is Parameter.empty
            about |= {"required": True} if needed else {"default": facts.default}
            about |= {"dest": parameter, "metavar": option[2:].upper()} if parameter.endswith("_") else {}
            parser.add_argument(option, **about)
    for option, text in EVERY_VERB.items():  # taken by `main` before; here for the help
        parser.add_argument(option, action="store_true", default=SUPPRESS, help=text)
    return parser


def _typed(hint: Any) -> Any:
    """The type of an option: where a story also takes an object, a command line gives text or a path."""
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else ()
    return reduce(or_, (kind for kind in kinds if kind in (str, Path, NoneType))) if str in kinds else hint


def _completion(shell: str) -> str:
    """What a shell runs to complete verbs, options and keys. Raises ConfigError."""
    if shell not in ("bash", "zsh", "tcsh"):
        raise ConfigError(f"there is no completion for the shell {shell!r}: expected bash, zsh or tcsh.")
    if not find_spec("shtab"):
        raise ConfigError("completion needs the package shtab: `pip install shtab`, then ask again.")
    from mgie.config import RunConfig

    program = ArgumentParser(prog="mgie")
    groups = {"": program.add_subcommands()}
    for name, verb in VERBS.items():
        group, _, last = name.rpartition(" ")
        if last.startswith("--"):
            continue
        if group not in groups:
            groups[""].add_subcommand(group, parser := ArgumentParser(), help=group)
            groups[group] = parser.add_subcommands()
        parser = _parser(name)
        if name == "train":
            parser.add_class_arguments(RunConfig)
        groups[group].add_subcommand(last, parser, help=verb.about)
    return program.get_completion_script(f"shtab-{shell}")


def _speaks() -> bool:
    """Under torchrun several processes run the same command; the first one speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _overview() -> str:
    lines = ["usage: mgie VERB ...", "", "Edit pictures by instruction: train, extract, edit.", ""]
    lines += [f"  {name:<17}{verb.about}" for name, verb in VERBS.items()]
    lines += ["", "`mgie VERB --help` shows the options of a verb with an example. Every verb takes"]
    lines += [f"  {option:<17}{about}" for option, about in EVERY_VERB.items()]
    lines += ["", "`mgie --version` tells which one this is;"]
    lines += ["`mgie --print_completion bash` writes what a shell needs to complete all of these."]
    return "\n".join(lines)


def _nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=cutoff)
    return f"did you mean {' or '.join(near)}? " if near else ""
