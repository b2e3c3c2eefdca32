"""What a judge is: something that is asked with pictures and words, and answers in words.

An answer belongs to the key of its question: a hash of who was asked, of every word and byte that was shown,
and of the number of the repeat. Whoever asks the same again gets the answer that is there already.
"""

import base64
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

SCHEMA = 1
"""Of questions' keys. Another number would pay for every answer again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Encoding:
    """How pictures are handed to a judge."""

    form: Literal["png", "jpeg", "file"] = "png"
    """Encoded anew, or the bytes of the file as they lie."""
    called: str = ""
    """What such bytes are said to be, whatever they are. Empty: image/png."""
    quality: int = 75
    """Of a JPEG, as Pillow counts it."""
    at_most: int = 0
    """Longer sides are brought to this many pixels before. 0: none is."""
    fit: Literal["", "source"] = ""
    """Outputs are brought to the source's size before, bicubic."""
    detail: str = ""
    """What an endpoint is told of how closely it should look."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """A picture as a judge gets it."""

    data: bytes = field(repr=False)
    mime: str = "image/png"
    detail: str = ""

    @property
    def sha256(self) -> str:
        """Hash of exactly what is sent."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def url(self) -> str:
        """The picture as a data URL in base64."""
        return f"data:{self.mime};base64,{base64.b64encode(self.data).decode()}"

    def open(self) -> Image.Image:
        """The picture, decoded."""
        return Image.open(io.BytesIO(self.data)).convert("RGB")


Part = str | Picture


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """One question."""

    parts: tuple[Part, ...]
    """Words and pictures in their order."""
    system: str = ""
    """What the judge is told beforehand."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Of the answer: max_tokens, temperature, seed, response_format."""
    repeat: int = 0
    """The same may be asked several times, to see how answers differ."""
    attempt: int = 0
    """And again, where an answer could not be read."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """What came back. It is kept as it came; what it means is read from it anew each time."""

    text: str
    status: Literal["ok", "refused", "error"] = "ok"
    """A judge may refuse (filters of content); an error is an answer that never came, and is not kept."""
    model: str = ""
    """Which model says that it answered."""
    finish: str = ""
    """Why it ended, as the endpoint says."""
    usage: Mapping[str, int] = field(default_factory=dict)
    """Tokens, as the endpoint counts them."""


@runtime_checkable
class Judge(Protocol):
    """Whatever answers questions."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """All that answers depend on besides the question. Two judges of one identity are one judge."""
        ...

    @property
    def label(self) -> str:
        """What to call it in a report."""
        ...

    @property
    def together(self) -> int:
        """How many questions it may be asked at once."""
        ...

    @property
    def steady(self) -> bool:
        """Whether it gives one question the same answer each time, so that repeats tell nothing."""
        ...

    def answer(self, ask: Ask, key: str) -> Answer:
        """The answer to a question, whose key is that. Raises DeviceError where none is to be had."""
        ...


def key_of(identity: Mapping[str, Any], ask: Ask) -> str:
    """SHA-256 that a question's answer is kept under."""
    parts = [
        {"text": part}
        if isinstance(part, str)
        else {"sha256": part.sha256, "mime": part.mime, "detail": part.detail}
        for part in ask.parts
    ]
    whole = {
        "schema": SCHEMA, "judge": dict(identity), "system": ask.system, "parts": parts,
        "settings": dict(ask.settings), "repeat": ask.repeat, "attempt": ask.attempt,
    }  # fmt: skip
    return hashlib.sha256(canonical(whole)).hexdigest()


def canonical(said: Any) -> bytes:
    """JSON in one form: sorted names, no blanks, UTF-8."""
    return json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(
        errors="surrogatepass"
    )


def shown(
    image: Image.Image, how: Encoding, *, file: bytes = b"", size: tuple[int, int] | None = None
) -> Picture:
    """A picture as a judge is shown it; `file` are its bytes as they lie, `size` (width, height) the source's
    where outputs are fitted to it."""
    if how.form == "file":
        return Picture(data=file, mime=how.called or "image/png", detail=how.detail)
    if size is not None and image.size != size:
        image = image.resize(size, Image.Resampling.BICUBIC)
    if how.at_most and max(image.size) > how.at_most:
        image = image.copy()
        image.thumbnail((how.at_most, how.at_most))
    buffer = io.BytesIO()
    if how.form == "jpeg":
        image.save(buffer, format="JPEG", quality=how.quality)
        return Picture(data=buffer.getvalue(), mime="image/jpeg", detail=how.detail)
    image.save(buffer, format="PNG")
    return Picture(data=buffer.getvalue(), detail=how.detail)
