"""The verbs of `mgie`. Each is a story of the same name: this file reads words and prints facts and errors.

A verb's options, types, defaults and help come from the signature and the docstring of its story; they are
written nowhere else. The story is imported when its verb is used.
"""

import argparse
import difflib
import errno
import gc
import importlib
import inspect
import io
import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from docstring_parser import parse as parse_docstring
from jsonargparse import ArgumentParser

from mgie.errors import ConfigError, UserError, mended, one_kind_of_interrupt


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line."""

    about: str
    """What it does, in half a line."""
    story: str
    """`module:function` that does it."""
    example: str
    """A command that works."""
    positionals: tuple[str, ...] = ()
    """Parameters that are given without their names, in order."""
    several: str = ""
    """The positional that takes one or more words."""
    show: str = ""
    """`module:function` that turns the facts into lines for a person. Empty: one line per fact."""


VERBS = {
    "prepare": Verb(
        about="make a checked data set of edit pairs",
        story="mgie.prepare:prepare",
        example="mgie prepare toy --out _data/toy",
        positionals=("source",),
        show="mgie.prepare:table",
    ),
    "prepare --check": Verb(
        about="verify a data set: files, hashes, counts, every picture",
        story="mgie.prepare:check",
        example="mgie prepare --check _data/toy",
        positionals=("folder",),
    ),
    "train": Verb(
        about="train an editor, or go on with an interrupted run",
        story="mgie.train:train",
        example="mgie train --config tiny --optim.lr 1e-3 --name my_run",
    ),
    "extract": Verb(
        about="turn a training run into a release",
        story="mgie.extract:extract",
        example="mgie extract _ckpt/runs/tiny --out _ckpt/tiny",
        positionals=("run_dir",),
    ),
    "edit": Verb(
        about="edit photos by an instruction",
        story="mgie.edit:edit",
        example='mgie edit photo.jpg "make it black and white" --model _ckpt/tiny --out out.png',
        positionals=("photos", "instruction"),
        several="photos",
        show="mgie.edit:table",
    ),
    "evaluate": Verb(
        about="measure how good a release is",
        story="mgie.evaluate:evaluate",
        example="mgie evaluate --model _ckpt/tiny --suite toy --out _ckpt/tiny-report",
    ),
    "delta apply": Verb(
        about="base + delta -> whole LLaVA or Vicuna weights",
        story="llava_patch.delta:apply_delta",
        example="mgie delta apply llama-7b LLaVA-7B-delta-v1 --out _ckpt/LLaVA-7B-v1",
        positionals=("base", "delta"),
    ),
    "delta make": Verb(
        about="whole weights - base -> delta",
        story="llava_patch.delta:make_delta",
        example="mgie delta make llama-7b _ckpt/LLaVA-7B-v1 --out LLaVA-7B-delta-v1",
        positionals=("base", "target"),
    ),
}
"""A verb of two words is listed by both."""

LEFT_OUT = {"progress"}
"""Parameters of stories that are not options: a bar hides itself where it would disturb."""

EVERY_VERB = {
    "--json": "print the result's facts as one JSON object on the last line",
    "--debug": "show where an error came from",
}


FULL_DISK = ("No space left on device", "] . unexpected pos", "PytorchStreamWriter failed writing file")
"""How libraries in native code, safetensors and torch.save, report a full disk: in words only."""

GRACE = 3
"""Seconds that another process than the first waits before it tells of an error."""


def main(words: Sequence[str] | None = None) -> int:
    """Run one command; the exit code: 0 done, 2 the user can mend it, 130 stopped by Ctrl-C."""
    words = list(sys.argv[1:] if words is None else words)
    options = {option: option in words for option in EVERY_VERB}
    words = [word for word in words if word not in EVERY_VERB]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name or word that the terminal lacks is no error
            stream.reconfigure(errors="backslashreplace")
    try:
        with one_kind_of_interrupt():
            done = _run(words)
        if done is not None and _speaks():
            verb, facts = done
            print(json.dumps(facts, default=str) if options["--json"] else _as_lines(verb, facts), flush=True)
        return 0
    except KeyboardInterrupt:
        status, debug = 130, ""
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


def explain(error: Exception) -> str | None:
    """One sentence for an error that the user can mend; None for one that is ours."""
    if isinstance(error, UserError):
        return _one_line(str(error))
    full = any(words in str(error) for words in FULL_DISK)
    code = errno.ENOSPC if full else getattr(error, "errno", None)
    where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
    reasons = {
        errno.ENOSPC: "the disk is full; make room and run the same command again.",
        errno.EDQUOT: "the disk quota is used up; make room and run the same command again.",
        errno.EACCES: "no permission; choose another place or change its permissions.",
        errno.EPERM: "no permission; choose another place or change its permissions.",
        errno.EROFS: "the disk is read-only; choose another place.",
        errno.ENOENT: "there is no such file or folder; check the path.",
        errno.ENOTDIR: "a file stands where a folder is needed; check the path.",
        errno.EISDIR: "this is a folder where a file is needed; name a file.",
        errno.EEXIST: "this exists already; choose another name.",
        errno.ENAMETOOLONG: "the name is too long; choose a shorter one.",
    }
    if code in reasons:
        return where + reasons[code]
    # Others of the system's, and what the libraries say of a hub id or a file that is not to be had.
    return _one_line(str(error)) or type(error).__name__ if isinstance(error, OSError) else None


def _run(words: list[str]) -> tuple[Verb, dict[str, Any]] | None:
    """The verb that was run and its facts; None where there are none (a help text, a dry run)."""
    if odd := next((word for word in words if "\0" in word), None):
        raise ConfigError(f"{odd!a} holds a null character: expected none in words and paths; leave it out.")
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return None
    if words[0] == "prepare" and "--check" in words:  # wherever it stands
        words = ["prepare", "--check", *(word for word in words[1:] if word != "--check")]
    name = next((name for name in (" ".join(words[:2]), words[0]) if name in VERBS), None)
    if name is None and words[1:2] in (["-h"], ["--help"]):
        print(_overview())
        return None
    if name is None:
        first = {name.split()[0]: name for name in VERBS}
        seconds = [name for name in VERBS if name.split()[0] == words[0]]
        wanted = f"`mgie {words[0]}` needs more" if seconds else f"there is no verb {words[0]!r}"
        raise ConfigError(
            f"{wanted}: {_nearest(words[0], first) if not seconds else ''}{_all(seconds or first)}."
        )
    verb, words = VERBS[name], words[len(name.split()) :]
    if name == "train":
        facts = _train(words)
        return None if facts is None else (verb, facts)
    story = _load(verb.story)
    facts = story(**_arguments(name, story, words))
    return verb, facts if isinstance(facts, dict) else asdict(facts)


def _train(words: list[str]) -> dict[str, Any] | None:
    """`train` alone takes a recipe instead of options: every key of RunConfig can be put over it."""
    verb = VERBS["train"]
    parser = _Words(
        prog="mgie train",
        description=f"{verb.about.capitalize()}.",
        epilog=f"example: {verb.example}",
        usage="mgie train --config NAME|PATH.yaml [--from RUN] [--a.b VALUE ...] [--dry_run|--print_config]",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config", metavar="NAME|PATH.yaml", help="recipe in mgie/recipes, or a YAML file (required)"
    )
    parser.add_argument(
        "--from",
        metavar="RUN",
        dest="start",
        help="begin with the tensors of this run, checkpoint or release: short for --model.start",
    )
    parser.add_argument("--dry_run", action="store_true", help="check and print the configuration, and stop")
    parser.add_argument(
        "--print_config", action="store_true", help="print the configuration as a recipe, and stop"
    )
    parser.add_argument(
        "--a.b", metavar="VALUE", dest="_", help="any key of the recipe; --print_config shows them all"
    )
    for option, about in EVERY_VERB.items():
        parser.add_argument(option, action="store_true", help=about)
    if words and not words[0].startswith("-"):
        raise ConfigError(
            f"`mgie train` does not take {words[0]!r} by itself: did you mean --config {words[0]}?"
        )
    known, overrides = parser.parse_known_args(words)
    own = ["--config", "--from", "--dry_run", "--print_config", *EVERY_VERB]
    for option in [word.split("=", 1)[0] for word in overrides if word.startswith("--") and "." not in word]:
        near = difflib.get_close_matches(f"--{option[2:].replace('-', '_')}", own, n=1, cutoff=0.8)
        if near:
            raise ConfigError(f"`mgie train` has no option {option}: did you mean {near[0]}?")
    if known.config is None:
        raise ConfigError(f"`mgie train` needs a recipe: expected --config NAME, as in `{verb.example}`.")

    from mgie.config import dump_run, load_run

    run = load_run(known.config, [*overrides, *([f"--model.start={known.start}"] if known.start else [])])
    if known.dry_run or known.print_config:
        if known.dry_run:
            run.validate()
        print(dump_run(run), end="")
        return None
    return _load(verb.story)(run)


def _arguments(name: str, story: Callable[..., Any], words: list[str]) -> dict[str, Any]:
    """The words of a verb as arguments of its story. Raises ConfigError."""
    parser, known = _parser(name, story)
    for word in words:
        if word == "--":
            break
        option = re.split("[=.]", word, maxsplit=1)[0]  # --sampling.steps is a part of --sampling
        if re.match(r"--\w", word) and option not in known:
            raise ConfigError(
                f"`mgie {name}` has no option {option}: {_nearest(option, known)}"
                f"`mgie {name} --help` lists all."
            )
    try:
        parsed = parser.parse_args(words)
    except argparse.ArgumentError as error:
        raise ConfigError(f"{mended(str(error), '--')}; `mgie {name} --help` shows an example.") from error
    return dict(parser.instantiate(parsed))


def _parser(name: str, story: Callable[..., Any]) -> tuple[ArgumentParser, list[str]]:
    """The parser of a verb, and the names of its options."""
    verb = VERBS[name]
    parameters = inspect.signature(story).parameters
    docstring = parse_docstring(story.__doc__ or "")
    details = re.split(r"\sRaises\s", docstring.long_description or "")[0]  # the errors explain themselves
    about = {entry.arg_name: entry.description or "" for entry in docstring.params}
    parser = ArgumentParser(
        prog=f"mgie {name}",
        description=f"{verb.about[0].upper()}{verb.about[1:]}. {details}".strip(),
        epilog=f"example: {verb.example}",
        exit_on_error=False,
    )
    types = get_type_hints(story)  # without the ranges, which the story holds its arguments to itself
    for parameter, facts in parameters.items():
        required = facts.default is inspect.Parameter.empty
        texts: dict[str, Any] = {"help": about.get(parameter)}
        if parameter in verb.positionals:
            several: dict[str, Any] = {"nargs": "+"} if parameter == verb.several else {}
            parser.add_argument(parameter, type=str, **texts, **several)
        elif types[parameter] is bool and not facts.default:
            parser.add_argument(f"--{parameter}", action="store_true", **texts)
        elif parameter not in LEFT_OUT:
            default: dict[str, Any] = {"required": True} if required else {"default": facts.default}
            parser.add_argument(f"--{parameter}", type=_typed(types[parameter]), **texts, **default)
    for option, meaning in EVERY_VERB.items():  # taken by `main` before; here for the help
        parser.add_argument(option, action=_Shown, help=meaning)
    known = [f"--{parameter}" for parameter in parameters if parameter not in {*verb.positionals, *LEFT_OUT}]
    return parser, [*known, "--help"]


def _typed(annotation: Any) -> Any:
    """The type of an option: where a story also takes a path or an object, a command line gives text."""
    if get_origin(annotation) not in (Union, UnionType) or str not in get_args(annotation):
        return annotation
    return str | None if type(None) in get_args(annotation) else str


class _Words(argparse.ArgumentParser):
    def error(self, message: str):  # argparse would print the usage and exit
        raise ConfigError(f"{message}; `{self.prog} --help` shows an example.")


class _Shown(argparse.Action):
    """An option that is listed in the help and leaves nothing behind."""

    def __init__(self, option_strings: list[str], **kwargs: Any):
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=kwargs.get("help")
        )

    def __call__(self, *_: Any) -> None:
        return None


def _load(story: str) -> Callable[..., Any]:
    module, function = story.split(":")
    return getattr(importlib.import_module(module), function)


def _speaks() -> bool:
    """Under torchrun several processes run the same command; the first one speaks for all."""
    return os.environ.get("RANK", "0") == "0"


def _as_lines(verb: Verb, facts: dict[str, Any]) -> str:
    """Facts for a person, as the story shows them; else one line each, then one for each row of a list."""
    if verb.show:
        return _load(verb.show)(facts)
    plain = {key: value for key, value in facts.items() if not isinstance(value, (dict, list))}
    width = max(map(len, plain), default=0)
    lines = [
        f"{key:<{width}}  {value:.4g}" if isinstance(value, float) else f"{key:<{width}}  {value}"
        for key, value in plain.items()
    ]
    for name, rows in facts.items():
        if isinstance(rows, list):
            lines += [
                "  ".join(f"{key}={value}" for key, value in row.items())
                if isinstance(row, dict)
                else f"{name}  {row}"
                for row in rows
            ]
    return "\n".join(lines)


def _overview() -> str:
    lines = ["usage: mgie VERB ...", "", "Edit pictures by instruction: train, extract, edit.", ""]
    lines += [f"  {name:<17}{verb.about}" for name, verb in VERBS.items()]
    lines += ["", "`mgie VERB --help` shows the options of a verb with an example. Every verb takes"]
    lines += [f"  {option:<17}{about}" for option, about in EVERY_VERB.items()]
    return "\n".join(lines)


def _nearest(word: str, known: Sequence[str] | dict[str, Any]) -> str:
    near = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}? " if near else ""


def _all(known: Sequence[str] | dict[str, Any]) -> str:
    return f"expected one of {', '.join(known)}"


def _one_line(text: str) -> str:
    return " ".join(text.split())
