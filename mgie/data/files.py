"""Files that somebody else wrote: read with care, and told of where they are damaged."""

import errno
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mgie.errors import DataError

Meaning = TypeVar("Meaning")
MALFORMED = (
    OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError,
)  # fmt: skip
"""What one stumbles over in data that has another form."""
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
"""What no name holds: control characters, and a backslash, which is a slash elsewhere."""


def read_json(path: Path, understand: Callable[[Any], Meaning], expected: str) -> Meaning:
    """What a JSON file means. Raises DataError, which ends in `expected`, where it means nothing."""
    try:
        return understand(json.loads(regular(path).read_text(encoding="utf-8")))
    except MALFORMED as error:
        raise DataError(f"{path} cannot be read ({reason(error)}): expected {expected}.") from error


def read_json_lines(path: Path, understand: Callable[[Any], Meaning], expected: str) -> list[Meaning]:
    """What each line of a file of JSON lines means; empty ones are left out. Raises DataError with the number
    of the line."""
    try:
        lines = regular(path).read_text(encoding="utf-8").split("\n")
    except MALFORMED as error:
        raise DataError(f"{path} cannot be read ({reason(error)}): expected {expected}.") from error
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found += [understand(json.loads(line))] if line.strip() else []
        except MALFORMED as error:
            raise DataError(
                f"{path}, line {number} cannot be read ({reason(error)}): expected {expected}."
            ) from error
    return found


def regular(path: Path) -> Path:
    """The same path. Raises OSError where a pipe, which would be waited for, or a folder lies there."""
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "it is no file", str(path))
    return path


def is_name(text: str) -> bool:
    """Whether a text that came with data names something inside a folder; slashes may join its parts."""
    return not CONTROL.search(text) and not {"", ".", ".."} & set(text.split("/"))


def reason(error: Exception) -> str:
    """Another program's message as a few words."""
    told = getattr(error, "strerror", None) or error
    text = " ".join(str(told).split()).split(" <_io", 1)[0].strip(" :.")
    return text[:120] or type(error).__name__
