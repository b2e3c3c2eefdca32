"""Ways to damage one file."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

Damage = Callable[[bytes, random.Random], bytes | None]
"""The new content of a file, None for no file. The same content: this damage does not fit the file."""


def flip_bit(data: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def flip_near_the_start(data: bytes, rng: random.Random) -> bytes:
    """One byte of the first two hundred, where headers are, is another."""
    changed = bytearray(data)
    if changed:
        changed[rng.randrange(min(len(changed), 200))] ^= rng.randrange(1, 256)
    return bytes(changed)


def truncate(data: bytes, rng: random.Random) -> bytes:
    """The end is missing."""
    return data[: rng.randrange(len(data))] if data else data


def empty(data: bytes, rng: random.Random) -> bytes:  # noqa: ARG001
    """Nothing is left but the name."""
    return b""


def delete(data: bytes, rng: random.Random) -> None:  # noqa: ARG001
    """Not even the name."""
    return None


def append(data: bytes, rng: random.Random) -> bytes:
    """Bytes behind the end."""
    return data + rng.randbytes(rng.randrange(1, 64))


def zero_a_block(data: bytes, rng: random.Random) -> bytes:
    """What a disk gives back for a lost block."""
    start = rng.randrange(len(data)) if data else 0
    return data[:start] + b"\0" * min(4096, len(data) - start) + data[start + 4096 :]


def not_a_number(data: bytes, rng: random.Random) -> bytes:
    """Four bytes behind a header become the number NaN."""
    start = rng.randrange(len(data) // 2, len(data) - 8) // 8 * 8 if len(data) > 64 else 0
    return data[:start] + b"\0\0\xc0\x7f" + data[start + 4 :] if start else data


def nonsense(data: bytes, rng: random.Random) -> bytes:
    """Another document altogether."""
    other = rng.choice([
        b"[]", b"{}", b"null", b"NaN", b"3", b'"text"', b"[" * 5000, b'{"a": ' * 3000 + b"1" + b"}" * 3000,
        b"\xff\xfe\x00garbage", b"{}\n{}", b"\x80\x02}q\x00.",
    ])  # fmt: skip
    return other if other != data else data


def mutate(data: bytes, rng: random.Random) -> bytes:
    """One value of a JSON document is another, of another type, missing, or new."""
    try:
        document = json.loads(data)
    except ValueError:
        return data
    places = list(_places(document))
    if not places:
        return data
    holder, key = rng.choice(places)
    how = rng.randrange(4)
    if how == 0 and isinstance(holder, dict):
        del holder[key]
    elif how == 1 and isinstance(holder, dict):
        holder["surprise"] = 1
    else:
        odd = [-1, 0, 3, 1e308, float("nan"), "text", "", None, [], {}, True, "../../x", 2**70]
        holder[key] = rng.choice(odd)
    return json.dumps(document, indent=2).encode()


EVERYWHERE: tuple[Damage, ...] = (
    flip_bit, flip_near_the_start, truncate, empty, delete, append, zero_a_block,
)  # fmt: skip
IN_NUMBERS: tuple[Damage, ...] = (*EVERYWHERE, not_a_number)
IN_TEXT: tuple[Damage, ...] = (*EVERYWHERE, nonsense, nonsense, mutate, mutate, mutate)
"""Documents are where a careless hand is at work: those ways come more often."""


def ways(path: Path) -> tuple[Damage, ...]:
    """What can happen to a file of this kind."""
    return IN_TEXT if path.suffix in (".json", ".jsonl", ".yaml", ".md") else IN_NUMBERS


def damage(path: Path, way: Damage, rng: random.Random) -> bool:
    """Damage a file; whether it is another now. A linked file becomes one of its own."""
    before = path.read_bytes()
    after = way(before, rng)
    if after == before:
        return False
    path.unlink()
    if after is not None:
        path.write_bytes(after)
    return True


def swap(one: Path, two: Path) -> None:
    """Two files change places."""
    first, second = one.read_bytes(), two.read_bytes()
    for path, data in ((one, second), (two, first)):
        path.unlink()
        path.write_bytes(data)


def _places(document: Any) -> Any:
    """Every key of every object, and every index of every list."""
    if isinstance(document, (dict, list)):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from _places(document[key])
