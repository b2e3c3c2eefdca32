"""The gate of a data set: every row is sound, or set aside with its reason. None is skipped silently."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from PIL import Image

from mgie.data.files import is_name
from mgie.data.images import decode, decode_mask
from mgie.data.prefetch import Item, Result, prefetch_map
from mgie.errors import DataError
from mgie.instructions import PLACE, check_counts
from mgie.types import PICTURE, SOURCE, EditPair, Region, Size

Rows = Iterable["EditPair | Rejected"]
Sized = tuple[EditPair, Size]
"""A pair, and the upright width and height of its target."""
SHAPE_TOLERANCE = 0.02
"""How much the width-to-height ratios of source and target may differ, relatively."""
RESERVED = re.compile(r"<s>|</s>|<unk>|<image>|<im_patch>|<im_start>|<im_end>|<source>|\[IMG\d+\]")
"""Texts that the tokenizer reads as something else than words."""
SURROGATE = re.compile("[\ud800-\udfff]")
"""Halves of letters, as bytes become that are no UTF-8."""
_by = "{} x {}".format


class Rejected(DataError):
    """A row that is set aside: raised, or passed on in its place."""

    def __init__(self, key: str, reason: str, detail: str, *, by_choice: bool = False):
        """`key` is what its source calls it, `reason` one of few, for the table of counts, and `detail` the
        sentence about this row. `by_choice`: left out by a filter that the user asked for, so no loss."""
        super().__init__(detail)
        self.key, self.reason, self.detail, self.by_choice = key, reason, detail, by_choice


def each(
    read: Callable[[Item], Result], rows: Iterable[Item | Rejected], *, workers: int = 1
) -> Iterator[Result | Rejected]:
    """What `read` makes of each row; one that it raises Rejected for, or that comes so, is passed on so."""

    def careful(row: Item | Rejected) -> Result | Rejected:
        try:
            return row if isinstance(row, Rejected) else read(row)
        except Rejected as rejected:
            rejected.__cause__ = rejected.__context__ = None  # whose tracebacks hold the row's pictures
            return rejected.with_traceback(None)

    return prefetch_map(careful, rows, workers=workers)


@dataclass
class Gate:
    """Passes sound pairs, keeps the others as `rejected`, and counts everything."""

    passed: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    """Reason -> rows set aside for it."""
    filtered: Counter[str] = field(default_factory=Counter)
    """Reason -> rows left out by choice."""
    keys: set[str] = field(default_factory=set)

    def __call__(self, rows: Rows, *, workers: int = 1) -> Iterator[Sized]:
        """Sound pairs in their order. `workers` threads decode pictures."""
        fresh = each(self._fresh, rows)
        for result in each(lambda pair: (pair, check(pair)), fresh, workers=workers):
            if not isinstance(result, Rejected):
                self.passed += 1
                yield result
            elif result.by_choice:
                self.filtered[result.reason] += 1
            else:
                self.counts[result.reason] += 1
                self.rejected.append(result)

    def _fresh(self, pair: EditPair) -> EditPair:
        if pair.key in self.keys:
            raise Rejected(pair.key, "duplicate key", f"{pair.key} has appeared before: keys must be unique.")
        self.keys.add(pair.key)
        return pair


def check(pair: EditPair) -> Size:
    """Width and height of a sound pair's target, upright. Raises Rejected for any other."""
    for fault in _in_words(pair):
        raise Rejected(pair.key, *fault)
    target = _size(pair, pair.target, "target")
    for fault in _in_pictures(pair, target):
        raise Rejected(pair.key, *fault)
    return target


def check_instruction(instruction: str, *, pictures: int | None = None) -> None:
    """Hold a user's instruction to the rule that those of training pairs are held to; with `pictures`, it has
    places for so many, and may have one for the photo. Raises DataError."""
    if pictures is not None:
        check_counts(instruction, pictures=pictures)
        instruction = PLACE.sub(" ", instruction)
    if not instruction.strip():
        wrong = 'is empty: say in words what to do, such as "make it black and white"'
    elif found := RESERVED.search(instruction):
        wrong = f"holds {found[0]}, which is no word to the model: leave it out, or write it in other words"
    elif SURROGATE.search(instruction):
        wrong = f"{instruction!a} is no Unicode: write it as UTF-8"
    else:
        return
    raise DataError(f"the instruction {wrong}.")


def _in_words(pair: EditPair) -> Iterator[tuple[str, str]]:
    """Reasons and details of what is wrong without a look at the pictures."""
    key, asked, phrases = pair.key, pair.instruction, " ".join(region.phrase for region in pair.regions)
    names = [key, pair.task, pair.kind, pair.session, *pair.subjects, *pair.meta, *pair.meta.values()]
    if SURROGATE.search(" ".join([*names, asked, pair.expressive, phrases])):
        yield "bad text", f"{key!a} has a text that is no Unicode: write it as UTF-8."
    images, photos = asked.count(PICTURE), asked.count(SOURCE)
    if images != len(pair.pictures) or photos > 1:
        found = f"{PICTURE} {images} times and {SOURCE} {photos} times"
        expected = f"{PICTURE} for each of its {len(pair.pictures)} pictures, and {SOURCE} once at most"
        yield "other number of pictures", f"the instruction of {key} has {found}: expected {expected}."
    asked = asked.replace(PICTURE, " ").replace(SOURCE, " ")
    for name, text in (("instruction", asked), ("expressive", pair.expressive), ("phrase", phrases)):
        if found := RESERVED.search(text):
            yield "reserved token", f"the {name} of {key} holds {found[0]}, which is no word to the model."
    if not asked.strip():
        yield "empty instruction", f"{key} has no instruction: expected a few words."
    if not key:
        yield "empty key", "a pair has no key: expected a name."
    if not is_name(key):
        yield "bad key", f"the key {key!r} is no name: expected one without '..' or a slash first."
    if not 0 <= pair.weight < math.inf:
        yield "bad weight", f"the weight of {key} is {pair.weight}: expected a number of at least 0."
    if not 0 <= pair.turn < 2**31:
        yield "bad turn", f"the turn of {key} is {pair.turn}: expected a small number."


def _in_pictures(pair: EditPair, target: Size) -> Iterator[tuple[str, str]]:
    """Reasons and details of what is wrong with the pictures and regions beside a target of this size."""
    key, source = pair.key, target if pair.source is None else _size(pair, pair.source, "source")
    if abs(source[0] * target[1] / (source[1] * target[0]) - 1) > SHAPE_TOLERANCE:
        yield "different shapes", f"{key} turns {_by(*source)} pixels into {_by(*target)}: expected the same."
    for number, data in enumerate(pair.pictures, 1):
        _size(pair, data, f"picture {number}")
    masks = {"mask": pair.mask}
    for number, region in enumerate(pair.regions, 1):
        masks[f"mask of region {number}"] = region.mask
        if wrong := wrong_region(region, target):
            yield "bad region", f"region {number} of {key} {wrong}."
    for role, data in masks.items():
        size = target if data is None else _size(pair, data, role, decode_mask)
        if size not in (source, target):
            sizes = f"{_by(*size)} pixels, its picture {_by(*source)}"
            yield "mask of another size", f"the {role} of {key} is {sizes}: expected the same."


def wrong_region(region: Region, size: Size) -> str:
    """What is wrong with a region of a picture of this width and height; empty of a sound one."""
    left, top, right, bottom = box = region.box or (0.0, 0.0, 1.0, 1.0)
    if not region.phrase.strip():
        return "has no phrase: say in words what is to be there"
    if region.box is None and region.mask is None:
        return "has neither a box nor a mask: give one of them"
    if not all(map(math.isfinite, (*box, *region.scales))) or min(region.scales) < 0:
        return f"has the box {box} and the scales {region.scales}: expected numbers, and no scale below 0"
    if max(box) > 1:
        by = f"divide by the width {size[0]} and the height {size[1]}"
        return f"has the box {box}, which looks like pixels: {by}"
    if not (0 <= left < right and 0 <= top < bottom):
        return f"has the box {box}: expected left, top, right and bottom in this order, from 0 to 1"
    return ""


def check_mask_shape(mask: Size, size: Size, *, name: str) -> None:
    """Hold a mask to the shape of its picture, as rounding may change that of a small one. Raises
    DataError."""
    apart = mask[0] / mask[1] * size[1] / size[0]
    if not 1 / (1 + SHAPE_TOLERANCE) <= apart <= 1 + SHAPE_TOLERANCE:
        raise DataError(
            f"{name} has {_by(*mask)} pixels and the picture {_by(*size)}: expected the same shape; draw the "
            "mask over the whole picture."
        )


def _size(pair: EditPair, data: bytes, role: str, read: Callable[..., Image.Image] = decode) -> Size:
    """Upright width and height of a picture that can be decoded."""
    try:
        return read(data, name=f"{role} of {pair.key}").size
    except DataError as error:
        raise Rejected(pair.key, "bad picture", str(error)) from error
