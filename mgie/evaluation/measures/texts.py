"""A text as CLIP reads it: cleaned as OpenAI's program cleans it, and never cut in silence.

OpenAI's program repairs texts with the package ftfy, which tokenizers of transformers do not: their ids
differ for entities (&amp;) and curly quotes. For printable ASCII and the punctuation in `KNOWN` the few lines
here do the same. A text with any other character goes through ftfy where that is installed; else it is read
as it is, and said to be so.
"""

import html
import importlib
import importlib.util
import re
import unicodedata
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from mgie.errors import DataError

Overlong = Literal["error", "cut"]
"""What becomes of a text that is longer than the model reads."""
QUOTES = str.maketrans(
    {**dict.fromkeys("\u2018\u2019\u201a\u201b", "'"), **dict.fromkeys("\u201c\u201d\u201e\u201f", '"')}
)
KNOWN = re.compile("[\x20-\x7e\t\n\u2018-\u201f\u2013\u2014\u2026]*")
"""Texts that are cleaned without ftfy as with it: ASCII, quotes, dashes and the three dots."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Words:
    """A text as ids, and what happened to it on the way."""

    ids: tuple[int, ...]
    """With those of start and end, without padding."""
    cut: bool = False
    """It was longer than the model reads, and its end is missing."""
    cleaned: bool = True
    """False: it has characters that only ftfy would repair, and ftfy is not installed."""


def clean(text: str) -> tuple[str, bool]:
    """The text as OpenAI's tokenizer cleans it, and whether it could be cleaned."""
    if KNOWN.fullmatch(text):
        text = unicodedata.normalize("NFC", text).translate(QUOTES)
    elif repair := _ftfy():
        text = repair.fix_text(text)
    else:
        return text, False
    text = html.unescape(html.unescape(text)).strip()
    return re.sub(r"\s+", " ", text).strip().lower(), True


def read_text(text: str, tokenizer: Any, longest: int, overlong: Overlong) -> Words:
    """The ids of a text, at most `longest`, by a CLIP tokenizer of transformers. Raises DataError for a
    longer text where `overlong` is "error"."""
    text, cleaned = clean(text)
    ids = tokenizer(text, truncation=False, verbose=False)["input_ids"]
    if len(ids) <= longest:
        return Words(ids=tuple(ids), cleaned=cleaned)
    if overlong == "error":
        raise DataError(
            f"The text {text[:60]!r}... has {len(ids)} tokens and CLIP reads {longest}: shorten it, or "
            "choose a protocol that cuts and counts such texts."
        )
    return Words(ids=(*ids[: longest - 1], ids[-1]), cut=True, cleaned=cleaned)


@cache
def _ftfy() -> Any:
    """The package, where the user has installed it: it is no dependency, for it has not been released since
    2024."""
    return importlib.import_module("ftfy") if importlib.util.find_spec("ftfy") else None
