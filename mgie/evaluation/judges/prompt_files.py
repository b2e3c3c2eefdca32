"""Prompts that a user has: published ones, in whatever form they were published.

A folder of text files (name without ending -> text), a JSON or YAML file of names and texts, or a Python
file, of which only texts that are written down in it are taken; nothing in it is executed.
"""

import ast
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mgie.data.files import MALFORMED, reason, regular
from mgie.errors import ConfigError

FORMS = "a folder of text files, a JSON or YAML file of names and texts, or a Python file with texts in it"
PREFIX = "prompt_"
"""What names of texts in Python files may begin with."""


@dataclass(frozen=True, slots=True)
class Prompts:
    """Texts by their names."""

    texts: Mapping[str, str]
    sha256: str
    """Of the file; of a folder, of its files' hashes."""


def read_prompts(place: Path) -> Prompts:
    """The texts of a file or folder. Raises ConfigError."""
    try:
        if place.is_dir():
            found = {path.stem: path.read_bytes() for path in sorted(place.iterdir()) if path.is_file()}
            texts = {name: data.decode() for name, data in found.items()}
            whole = "".join(f"{name} {hashlib.sha256(data).hexdigest()}\n" for name, data in found.items())
            return _some(texts, whole.encode())
        data = regular(place).read_bytes()
        if place.suffix == ".py":
            return _some(_constants(data.decode()), data)
        said = (json.loads if place.suffix == ".json" else yaml.safe_load)(data.decode())
        return _some(_mapping(said), data)
    except (*MALFORMED, yaml.YAMLError, SyntaxError) as error:
        raise ConfigError(
            f"{place} cannot be read as prompts ({reason(error)}): expected {FORMS}."
        ) from error


def _some(texts: Mapping[str, str], data: bytes) -> Prompts:
    if not texts:
        raise ValueError("no text is in it")
    return Prompts(texts, hashlib.sha256(data).hexdigest())


def _mapping(said: Any) -> dict[str, str]:
    if wrong := [
        name for name, text in said.items() if not (isinstance(name, str) and isinstance(text, str))
    ]:
        raise ValueError(f"{wrong[0]!r} is no name with a text")
    return dict(said)


def _constants(program: str) -> dict[str, str]:
    """Texts that a Python file gives names to at its top, also without a leading `prompt_`."""
    texts = {}
    for line in ast.parse(program).body:
        if not isinstance(line, ast.Assign):
            continue
        try:
            value = ast.literal_eval(line.value)
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            continue  # computed, not written down
        for target in line.targets:
            if isinstance(target, ast.Name) and isinstance(value, str):
                texts[target.id] = texts[target.id.removeprefix(PREFIX)] = value
    return texts
