"""The verbs: what each does, its story, a command that works."""

from dataclasses import dataclass
from inspect import Parameter


@dataclass(frozen=True, kw_only=True)
class Verb:
    """One verb of the command line."""

    about: str
    """What it does, in half a line."""
    story: str
    """`module:function` that does it; its signature and docstring are the verb's options and their help."""
    example: str
    """A command that works."""
    show: str = "mgie.cli:as_lines"
    """`module:function` that turns the facts into lines for a person."""
    wrong: str | None = None
    """`module:function` that says what of the facts went wrong, empty for nothing. None: all went well."""


VERBS = {
    "prepare": Verb(
        about="make a checked data set of edit pairs",
        story="mgie.prepare:prepare",
        example="mgie prepare toy --out _data/toy",
        show="mgie.prepare:table",
    ),
    "prepare --check": Verb(
        about="verify a data set: files, hashes, counts, every picture",
        story="mgie.prepare:check",
        example="mgie prepare --check _data/toy",
    ),
    "train": Verb(
        about="train an editor, or go on with an interrupted run",
        story="mgie.train:train",
        example="mgie train --config tiny --optim.lr 1e-3 --name my_run",
    ),
    "plot": Verb(
        about="draw the curves and previews of training runs on one page",
        story="mgie.plot:plot",
        example="mgie plot _ckpt/runs/tiny _ckpt/runs/longer --out runs.html",
    ),
    "extract": Verb(
        about="turn a training run into a release",
        story="mgie.extract:extract",
        example="mgie extract _ckpt/runs/tiny --out _ckpt/tiny",
    ),
    "edit": Verb(
        about="edit photos by an instruction",
        story="mgie.edit:edit",
        example='mgie edit photo.jpg "make it black and white" --model _ckpt/tiny --out out.png',
        show="mgie.telling:table",
        wrong="mgie.telling:wrong",
    ),
    "web": Verb(
        about="edit photos on a page in the browser",
        story="mgie.web.serving:web",
        example="mgie web --model _ckpt/tiny",
    ),
    "personalize": Verb(
        about="learn one's own things from photos, as an adapter",
        story="mgie.personalize:personalize",
        example="mgie personalize my_toys --model stable-diffusion-v1-5 --out _ckpt/my_toys",
    ),
    "evaluate": Verb(
        about="measure how good a release is, or compare finished reports",
        story="mgie.evaluate:evaluate",
        example="mgie evaluate --model _ckpt/tiny --suite toy --out _ckpt/tiny-report",
    ),
    "models": Verb(
        about="list the releases on this machine",
        story="mgie.doctor:models",
        example="mgie models --folder _ckpt",
        show="mgie.doctor:shelf",
    ),
    "push": Verb(
        about="put a release or a data set on a hub",
        story="mgie.push:push",
        example="mgie push _ckpt/tiny --to me/my-editor --private",
    ),
    "doctor": Verb(
        about="tell what is installed, and which verbs would work",
        story="mgie.doctor:doctor",
        example="mgie doctor",
        show="mgie.doctor:report",
        wrong="mgie.doctor:wrong",
    ),
    "delta apply": Verb(
        about="base + delta -> whole LLaVA or Vicuna weights",
        story="llava_patch.delta:apply_delta",
        example="mgie delta apply llama-7b LLaVA-7B-delta-v1 --out _ckpt/LLaVA-7B-v1",
    ),
    "delta make": Verb(
        about="whole weights - base -> delta",
        story="llava_patch.delta:make_delta",
        example="mgie delta make llama-7b _ckpt/LLaVA-7B-v1 --out LLaVA-7B-delta-v1",
    ),
}
"""A verb of two words is listed by both."""

EVERY_VERB = {
    "--quiet": "say nothing but errors, and the result where --json asks for it",
    "--json": "print the result's facts as one JSON object on the last line",
    "--debug": "show where an error came from",
}
"""Options that belong to all verbs, and to no story."""

LEFT_OUT = {"progress", "keys"}
"""Parameters of stories that are not options: a bar hides itself where it would disturb; keys of a recipe
(--a.b VALUE) come as they are."""

KEYED = {"personalize"}
"""Verbs that take such keys beside their options."""

LISTED = {"reports"}
"""Parameters that are words without a name on the command line, none of which is needed."""

REPEATED = {"also", "subjects"}
"""Options that may be given again and again; each adds one."""

INSTEAD = {"--new": {"photos": ()}, "--list": {"photos": (), "instruction": ""}}
"""Options that are given instead of words by their place, and what the story gets for these."""

NAMED = {"out", "model"}
"""Parameters that are options, such as `--out`, although Python takes them by their place too."""


def by_place(facts: Parameter) -> bool:
    """Whether the command line takes a parameter of a story by its place, without its name."""
    needed = facts.default is Parameter.empty and facts.kind is Parameter.POSITIONAL_OR_KEYWORD
    return facts.name in LISTED or (needed and facts.name not in NAMED)
