"""The gate of a data set: every row is either sound or set aside with its reason. Nothing is skipped
silently."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from mgie.data.images import decode, decode_mask
from mgie.data.prefetch import prefetch_map
from mgie.errors import DataError
from mgie.types import EditPair

SHAPE_TOLERANCE = 0.02
"""How much the width-to-height ratios of source and target may differ, relatively."""
RESERVED = re.compile(r"<s>|</s>|<unk>|<image>|<im_patch>|<im_start>|<im_end>|\[IMG\d+\]")
"""Texts that the tokenizer reads as something else than words."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
"""What no name holds: control characters, and a backslash, which is a slash elsewhere."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rejected:
    """A row that was set aside."""

    key: str
    """What its source calls it."""
    reason: str
    """One of few, for the table of counts."""
    detail: str
    """The sentence about this row."""
    by_choice: bool = False
    """Left out by a filter that the user asked for: counted, but no loss."""


@dataclass
class Gate:
    """Passes sound pairs, keeps the others as `rejected`, and counts everything."""

    passed: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    filtered: Counter[str] = field(default_factory=Counter)
    """Reason -> rows left out by choice."""
    keys: set[str] = field(default_factory=set)

    def __call__(
        self, items: Iterable[EditPair | Rejected], *, workers: int = 1
    ) -> Iterator[tuple[EditPair, tuple[int, int]]]:
        """Sound pairs in their order, with the upright width and height of the target. `workers` threads
        decode pictures."""
        for result in prefetch_map(_checked, self._fresh(items), workers=workers):
            if isinstance(result, Rejected) and result.by_choice:
                self.filtered[result.reason] += 1
            elif isinstance(result, Rejected):
                self.rejected.append(result)
            else:
                self.passed += 1
                yield result

    @property
    def counts(self) -> dict[str, int]:
        """Reason -> rows set aside for it, most frequent first."""
        return dict(Counter(row.reason for row in self.rejected).most_common())

    def _fresh(self, items: Iterable[EditPair | Rejected]) -> Iterator[EditPair | Rejected]:
        for item in items:
            if isinstance(item, EditPair):
                if item.key in self.keys:
                    detail = f"{item.key} has appeared before: keys must be unique."
                    item = Rejected(key=item.key, reason="duplicate key", detail=detail)
                else:
                    self.keys.add(item.key)
            yield item


def check(pair: EditPair) -> tuple[int, int]:
    """Width and height of a sound pair's target, upright. Raises BadPair for any other."""
    texts = [getattr(pair, name) for name in ("key", "instruction", "expressive", "task", "kind", "session")]
    try:
        "".join([*texts, *pair.meta, *pair.meta.values()]).encode()
    except UnicodeEncodeError as error:
        raise BadPair(
            "bad text", f"{pair.key!a} has a text that is no Unicode: write it as UTF-8."
        ) from error
    for name in ("instruction", "expressive"):
        found = RESERVED.search(getattr(pair, name))
        if found:
            raise BadPair(
                "reserved token", f"the {name} of {pair.key} holds {found[0]}, which is no word to the model."
            )
    if not pair.instruction.strip():
        raise BadPair("empty instruction", f"{pair.key} has no instruction: expected a few words.")
    if not pair.key:
        raise BadPair("empty key", "a pair has no key: expected a name.")
    if not is_name(pair.key):
        raise BadPair(
            "bad key", f"the key {pair.key!r} is no name: expected one without '..' or a slash first."
        )
    if not 0 <= pair.weight < float("inf"):
        raise BadPair(
            "bad weight", f"the weight of {pair.key} is {pair.weight}: expected a number of at least 0."
        )
    if not 0 <= pair.turn < 2**31:
        raise BadPair("bad turn", f"the turn of {pair.key} is {pair.turn}: expected a small number.")
    target = _size(pair.target, f"target of {pair.key}")
    source = _size(pair.source, f"source of {pair.key}") if pair.source is not None else target
    if abs(source[0] * target[1] / (source[1] * target[0]) - 1) > SHAPE_TOLERANCE:
        raise BadPair(
            "different shapes",
            f"{pair.key} turns {_by(source)} pixels into {_by(target)}: expected one shape.",
        )
    if pair.mask is not None:
        try:
            mask = decode_mask(pair.mask, name=f"mask of {pair.key}").size
        except DataError as error:
            raise BadPair("bad picture", str(error)) from error
        if mask not in (source, target):
            detail = (
                f"the mask of {pair.key} is {_by(mask)} pixels, its picture {_by(source)}: expected the same."
            )
            raise BadPair("mask of another size", detail)
    return target


def check_instruction(instruction: str) -> None:
    """Hold a user's instruction to the rule that those of training pairs are held to. Raises DataError."""
    if not instruction.strip():
        raise DataError(
            'the instruction is empty: say in words what to do, such as "make it black and white".'
        )
    if found := RESERVED.search(instruction):
        raise DataError(
            f"the instruction holds {found[0]}, which is no word to the model: leave it out, or write it "
            "in other words."
        )
    try:
        instruction.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"the instruction {instruction!a} is no Unicode: write it as UTF-8.") from error


def is_name(text: str) -> bool:
    """Whether a text that came with data may name something in a folder: it leads nowhere else. Slashes may
    join its parts."""
    return not CONTROL.search(text) and not {"", ".", ".."} & set(text.split("/"))


class BadPair(DataError):
    """A pair that must be set aside."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def _checked(item: EditPair | Rejected) -> tuple[EditPair, tuple[int, int]] | Rejected:
    if isinstance(item, Rejected):
        return item
    try:
        return item, check(item)
    except BadPair as error:
        return Rejected(key=item.key, reason=error.reason, detail=str(error))


def _size(data: bytes, name: str) -> tuple[int, int]:
    try:
        return decode(data, name=name).size
    except DataError as error:
        raise BadPair("bad picture", str(error)) from error


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
