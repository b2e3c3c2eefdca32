"""Keys of a recipe: which there are, which are not known, and which are spelt nearly alike."""

import difflib
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from difflib import SequenceMatcher
from typing import Any, get_args

from mgie.errors import ConfigError

MOST_KEYS = 1000
"""Of a recipe; a few aliases of aliases would make millions."""


def keys_of(kind: type, prefix: str = "") -> dict[str, bool]:
    """Dotted names of all fields; True where any key may follow (a dictionary)."""
    found: dict[str, bool] = {}
    for f in fields(kind):
        name = prefix + f.name
        found[name] = f.type is dict or str(f.type).startswith("dict")
        for held in get_args(f.type) or (f.type,):  # one that may be left out, too
            if isinstance(held, type) and is_dataclass(held):
                found |= keys_of(held, name + ".")
    return found


def flatten(raw: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted names of all that a recipe says. Raises ConfigError for one of very many."""
    names = []
    for key, value in raw.items():
        names += flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else [f"{prefix}{key}"]
        if len(names) > MOST_KEYS:
            raise ConfigError(
                f"the recipe has more than {MOST_KEYS} keys, with what aliases repeat: expected keys like "
                "those of mgie/recipes/tiny.yaml."
            )
    return names


def is_known(key: str, known: dict[str, bool]) -> bool:
    """Whether it is one of them, or lies in a dictionary that is."""
    return key in known or any(free and key.startswith(name + ".") for name, free in known.items())


def check_keys(unknown: list[str], known: dict[str, bool], where: str) -> None:
    """Raise ConfigError for the first unknown key of `where`, with the nearest known ones."""
    if unknown:
        near = nearest(unknown[0], known)
        hint = (
            f"did you mean {' or '.join(near)}?"
            if near
            else "`mgie train --config tiny --print_config` shows all keys."
        )
        raise ConfigError(f"{where} has the unknown key {unknown[0]!r}: {hint}")


def nearest(wrong: str, known: Iterable[str]) -> list[str]:
    """At most three known keys: those spelt alike, then those whose last part is spelt alike."""

    def last(key: str) -> str:
        return key.rsplit(".", 1)[-1]

    known = list(known)
    alike = difflib.get_close_matches(wrong, known, n=3, cutoff=0.5)
    ends_alike = [key for key in known if SequenceMatcher(None, last(wrong), last(key)).ratio() > 0.7]
    return list(dict.fromkeys(alike + ends_alike))[:3]
