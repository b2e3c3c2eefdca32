"""What was made, as a tree of turns for each open page; all hold so many bytes."""

import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

from PIL import ExifTags, Image

from mgie.data.photo_files import Photo, read_photo
from mgie.errors import DataError

PICTURE = "the picture"
"""How errors call what was uploaded, whatever its file is called."""
LEFT = 600.0
"""Seconds that a page's pictures are kept after it was closed: a telephone that sleeps comes back."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """A picture that was brought or made."""

    number: int
    parent: int | None = None
    """The turn that was edited; None for a picture that was brought, or made of words alone."""
    file: bytes = field(repr=False)
    """The picture as it came, or without loss."""
    suffix: str = ".png"
    """How the file ends that it is handed out as."""
    like: Photo | None = field(default=None, repr=False)
    """What lay beside the pixels of the first picture; its own pixels are not kept here."""
    instruction: str = ""
    said: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    """Seed, steps and the like; `forced`, and what a mask kept."""

    @property
    def picture(self) -> Image.Image:
        """Its pixels, upright."""
        return read_photo(self.file, name=PICTURE).picture


class History:
    """The turns of one page."""

    def __init__(self) -> None:
        """Empty."""
        self.turns: dict[int, Turn] = {}
        self._next = 1

    def add(self, **facts: Any) -> Turn:
        """One more turn."""
        turn = Turn(number=self._next, **facts)
        self.turns[turn.number] = turn
        self._next += 1
        return turn

    def get(self, number: Any) -> Turn:
        """The turn of this number. Raises DataError where there is none."""
        turn = self.turns.get(number) if isinstance(number, int) else None
        if turn is None:
            raise DataError(
                "there is no such picture here any more: expected one that this page shows; choose another, "
                "or bring the picture again."
            )
        return turn

    def tree(self) -> Iterator[tuple[int, Turn]]:
        """Depth and turn, each behind the one that it was made of."""
        known = self.turns

        def below(parent: int | None, depth: int) -> Iterator[tuple[int, Turn]]:
            for turn in known.values():
                mother = turn.parent if turn.parent in known else None  # it may have been put away
                if mother == parent:
                    yield depth, turn
                    yield from below(turn.number, depth + 1)

        return below(None, 0)

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return sum(len(turn.file) for turn in self.turns.values())


class Histories:
    """Those of all pages, the one that was used last at the end."""

    def __init__(self, most: int):
        """They hold at most so many bytes."""
        self.most = most
        self._kept: OrderedDict[str, History] = OrderedDict()
        self._left: dict[str, float] = {}
        self._lock = threading.Lock()

    def of(self, owner: str) -> History:
        """The history of a page: a new one where there is none, or it had to make room."""
        with self._lock:
            self._left.pop(owner, None)
            self._sweep()
            history = self._kept.setdefault(owner, History())
            self._kept.move_to_end(owner)
            return history

    def add(self, owner: str, **facts: Any) -> Turn:
        """One more turn of a page; the oldest pictures of others, then its own, make room for it."""
        history = self.of(owner)
        with self._lock:
            turn = history.add(**facts)
            while len(self._kept) > 1 and self.size > self.most:
                self._left.pop(self._kept.popitem(last=False)[0], None)
            while len(history.turns) > 1 and history.size > self.most:
                history.turns.pop(next(iter(history.turns)))
        return turn

    def leave(self, owner: str) -> None:
        """A page was closed: its pictures go when another page is used, LEFT seconds later or more."""
        with self._lock:
            if owner in self._kept:
                self._left[owner] = time.monotonic()
            self._sweep()

    def _sweep(self) -> None:
        """Put away what was left long ago."""
        now = time.monotonic()
        for owner in [owner for owner, since in self._left.items() if now - since >= LEFT]:
            del self._left[owner], self._kept[owner]

    @property
    def size(self) -> int:
        """Bytes of all."""
        return sum(history.size for history in self._kept.values())


def noted(turn: Turn) -> Photo:
    """The picture of a turn with what its file is to say: what lay beside the first photo, and what was asked
    and said (EXIF's UserComment, JSON)."""
    import json

    like = turn.like
    exif = Image.Exif()
    if like is not None:
        exif.load(like.exif.tobytes())
    told = {"instruction": turn.instruction, "said": turn.said, **turn.facts}
    comment = b"ASCII\0\0\0" + json.dumps(told).encode("ascii")
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return Photo(picture=turn.picture, exif=exif, profile=None if like is None else like.profile, deep=False)


def without_loss(picture: Image.Image) -> bytes:
    """A picture's file, quickly written."""
    buffer = BytesIO()
    picture.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()
