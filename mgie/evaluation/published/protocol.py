"""What a benchmark measures, as data: a protocol is a file whose hash goes with its numbers.

    protocols/magicbrush.yaml           a protocol
    protocols/magicbrush@global.yaml    a variant: `extends: magicbrush`, and the keys that it replaces whole

A protocol's identity is `name@variant/version#hash`: the hash is of all that is in it, so that two numbers
with one identity were measured in one way.
"""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeVar

import yaml

from mgie.errors import ConfigError

Filter = Literal["nearest", "bilinear", "bicubic", "lanczos"]
Colours = Literal["clip", "imagenet"]
"""Whose mean and deviation."""
Measure = Literal["l1", "l2", "psnr", "ssim", "lpips", "clip", "dino", "direction"]
Part = Literal["source", "output", "target", "caption", "source_caption", "entity", "subject", "references"]
"""`entity`: the thing that an instruction shows; `subject`: that thing, cut out of the output; `references`:
several pictures, with which the mean is taken."""
Record = TypeVar("Record")

PICTURES, TEXTS = ("source", "output", "target"), ("caption", "source_caption")


@dataclass(frozen=True, kw_only=True, slots=True)
class Crop:
    """A picture's shorter side is brought to `short` pixels by Pillow, and the middle of it is seen."""

    short: int
    crop: int
    """Side of what is seen, at most `short`. Half a pixel of margin is rounded half to even."""
    colours: Colours
    filter: Filter = "bicubic"


@dataclass(frozen=True, kw_only=True, slots=True)
class Squash:
    """InstructPix2Pix's way (Brooks et al. 2023, the script of its figure 8): the whole picture is brought to
    a square by torch's bicubic interpolation without antialiasing, whatever its shape."""

    squash: int
    """Side of the square."""
    colours: Colours
    signed: bool = False
    """Numbers in [-1, 1] go in where [0, 1] is meant, as in that script."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One number of each item, and how the numbers become one."""

    measure: Measure
    of: tuple[Part, ...]
    """What is compared. An item that lacks one is not scored, and counted."""
    better: Literal["higher", "lower"]
    at: Part | None = None
    """Pictures are brought to the size of this one. None: each is measured at its own."""
    filter: Filter = "bicubic"
    """By which they are."""
    prep: Crop | Squash | None = None
    """What a feature model sees. None: its own size, as CLIP and DINO were published."""
    overlong: Literal["error", "cut"] = "error"
    """What becomes of a text longer than CLIP reads; what is cut is counted."""
    normalise_before_difference: bool = True
    """Of a direction: whether features have length 1 before differences are taken."""
    leave_out: tuple[Literal["equal_captions", "black_output"], ...] = ()
    """Items of this kind are not scored, and counted."""
    average: str = "micro"
    """Over all items (micro), or over groups first: "macro:kind", "macro:cluster"."""
    region: Literal["inside", "outside"] | None = None
    """Of the item's mask. None: the whole picture."""
    side: int | None = None
    """Pictures and mask are brought to a square of this side before, where there is a region."""
    net: Literal["alex", "vgg", "squeeze"] | None = None
    """Whose LPIPS it must be. None: the user's choice."""


@dataclass(frozen=True, kw_only=True, slots=True)
class View:
    """One way through a benchmark: which items, from which picture, and what the outputs are called."""

    items: Literal["all", "last"] = "all"
    """All turns, or only the last of each session."""
    input: Literal["source", "own_output"] = "source"
    """What is edited: the benchmark's picture, or one's own output of the turn before."""
    output: tuple[str, ...] = ("{key}.png",)
    """Official name of an output; of several, the first for a first turn and the second for later ones."""
    image_guidance: float | None = None
    """How strongly the picture counts where outputs are made for this view. None: as the run says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Weights:
    """Which model a protocol's features come from."""

    repo: str
    sha256: Mapping[str, str] = field(default_factory=dict)
    """File -> hash. Empty: nobody has pinned it yet, and every number says so."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Printed:
    """Figures that others printed, to stand beside one's own: no part of how anything is measured."""

    source: str
    """Where they were printed, and what is not known of them."""
    columns: tuple[str, ...]
    """Names of metrics."""
    figures: Mapping[str, Mapping[str, Sequence[float | None]]]
    """View -> system -> its figures in the order of the columns. A result without views has "all"."""

    def facts(self) -> dict[str, Any]:
        """As a report's file holds it."""
        figures = {
            view: {system: list(row) for system, row in systems.items()}
            for view, systems in self.figures.items()
        }
        return {"source": self.source, "columns": list(self.columns), "figures": figures}


@dataclass(frozen=True, kw_only=True, slots=True)
class Protocol:
    """A benchmark: where its items are, what is looked at, and what is measured."""

    name: str
    version: int
    about: str
    layout: Literal[
        "magicbrush", "emu_edit", "emu_edit_generations", "ip2p", "reason_edit", "migebench", "dreambench"
    ]
    """How its data lie."""
    views: Mapping[str, View]
    metrics: Mapping[str, Metric]
    weights: Mapping[str, Weights]
    variant: str = ""
    captions: str = ""
    """Which of several captions are read."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """How many items the published data hold."""
    items_sha256: str = ""
    """Hash of which items they are (`data.identity`). Empty: nobody has pinned it."""
    printed: Printed | None = None
    read: Literal["rgb"] = "rgb"
    """How pictures are read: as Pillow converts them, not turned, what is transparent in its colours."""

    @property
    def sha256(self) -> str:
        """Hash of all that the protocol says but `about` and `printed`, whatever the form of its file. Fields
        that are empty leave no trace, so that a field that is new one day changes no older identity."""
        whole = json.dumps(
            without_empty(asdict(self) | {"about": "", "printed": None}),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
        )
        return hashlib.sha256(whole.encode()).hexdigest()

    @property
    def identity(self) -> str:
        """What stands beside every number: name@variant/version#hash."""
        variant = f"@{self.variant}" if self.variant else ""
        return f"{self.name}{variant}/{self.version}#{self.sha256[:8]}"


@cache
def protocol_names() -> tuple[str, ...]:
    """What can be asked for: NAME or NAME@VARIANT."""
    found = (each.name for each in (files("mgie.evaluation") / "protocols").iterdir())
    return tuple(sorted(name.removesuffix(".yaml") for name in found if name.endswith(".yaml")))


def find_protocol(name: str) -> Protocol:
    """The protocol of that name. Raises ConfigError with the nearest names."""
    if name not in protocol_names():
        known = ", ".join(protocol_names())
        raise ConfigError(
            f"There is no protocol '{name}': expected one of {known}; {nearest(name, protocol_names())}"
        )
    return parse_protocol(_stored(name), name)


def parse_protocol(said: Mapping[str, Any], name: str) -> Protocol:
    """The protocol that a file says. Raises ConfigError for keys that nothing reads, or that are missing."""
    metrics = {
        metric: from_fields(Metric, _metric(content), f"{name}: metrics.{metric}")
        for metric, content in said.get("metrics", {}).items()
    }
    views = {
        view: from_fields(View, content, f"{name}: views.{view}")
        for view, content in said.get("views", {}).items()
    }
    weights = {
        model: from_fields(Weights, content, f"{name}: weights.{model}")
        for model, content in said.get("weights", {}).items()
    }
    parts = {"metrics": metrics, "views": views, "weights": weights}
    parts |= {"printed": parse_printed(said, name)}
    return from_fields(Protocol, {**said, **parts}, name)


def _stored(name: str) -> dict[str, Any]:
    """What a shipped file says, with what it extends below."""
    text = (files("mgie.evaluation") / "protocols" / f"{name}.yaml").read_text(encoding="utf-8")
    said = yaml.safe_load(text)
    return _stored(said.pop("extends")) | said if "extends" in said else said


def parse_printed(said: Mapping[str, Any], name: str) -> Printed | None:
    """What a file says under `printed`. Raises ConfigError."""
    found = said.get("printed")
    return None if found is None else from_fields(Printed, found, f"{name}: printed")


def _metric(content: Mapping[str, Any]) -> dict[str, Any]:
    prep = content.get("prep")
    if not isinstance(prep, Mapping):
        return dict(content)
    kind = Squash if "squash" in prep else Crop
    return {**content, "prep": from_fields(kind, prep, f"prep of {content.get('measure')}")}


def from_fields(kind: type[Record], content: Mapping[str, Any], where: str) -> Record:
    """A record with these fields. Raises ConfigError."""
    known = [each.name for each in fields(kind)]  # type: ignore[arg-type]
    unknown = [key for key in content if key not in known]
    if unknown:
        raise ConfigError(
            f"{where} has {unknown[0]!r}: expected some of {', '.join(known)}; {nearest(unknown[0], known)}"
        )
    try:
        return kind(**{key: tuple(v) if isinstance(v, list) else v for key, v in content.items()})
    except TypeError as error:
        raise ConfigError(f"{where} is not whole ({error}): expected {', '.join(known)}.") from error


def without_empty(said: Any) -> Any:
    """What is said, without what is empty: a field that is new one day changes no older hash."""
    if isinstance(said, Mapping):
        return {
            key: without_empty(value) for key, value in said.items() if value not in (None, "", (), [], {})
        }
    return [without_empty(value) for value in said] if isinstance(said, (list, tuple)) else said


def nearest(name: str, known: Any) -> str:
    """The end of a sentence about a name that nobody knows: the nearest that somebody does."""
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)
    return f"did you mean {' or '.join(near)}?" if near else "choose one of them."
