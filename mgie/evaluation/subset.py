"""A named part of a benchmark: its items' keys, whose hash stands beside every figure."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgie.data.files import MALFORMED, reason, regular
from mgie.errors import ConfigError, DataError

EXPECTED = "expected a file with a key on each line, as items.jsonl and the benchmark's data have them"


@dataclass(frozen=True, slots=True)
class Subset:
    """Which items are measured."""

    keys: frozenset[str]

    @classmethod
    def read(cls, path: str | Path) -> "Subset":
        """The keys that a file lists. Raises DataError where it cannot be read, ConfigError for none."""
        try:
            lines = regular(Path(path)).read_text(encoding="utf-8").splitlines()
        except MALFORMED as error:
            raise DataError(f"--subset {path} cannot be read ({reason(error)}): {EXPECTED}.") from error
        keys = frozenset(line.strip() for line in lines if line.strip())
        if not keys:
            raise ConfigError(f"--subset {path} names no item: {EXPECTED}.")
        return cls(keys)

    @property
    def sha256(self) -> str:
        """Hash of the keys in their order as texts, each with a line's end."""
        return hashlib.sha256("".join(f"{key}\n" for key in sorted(self.keys)).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """What stands behind the identity of a protocol or rubric."""
        return f"subset#{self.sha256[:8]}"

    def facts(self) -> dict[str, Any]:
        """What a result tells of it."""
        return {"subset": {"keys": len(self.keys), "sha256": self.sha256}}

    def note(self, kept: int, whole: int) -> str:
        """Why figures are not as published."""
        return f"the number of items ({kept} of {whole}, by --subset)"

    def check(self, known: Iterable[str], of: str) -> None:
        """Raises DataError for keys that a benchmark does not have."""
        if missing := sorted(self.keys - set(known)):
            raise DataError(
                f"--subset names {len(missing)} items that {of} does not have, such as "
                f"{', '.join(missing[:3])}: {EXPECTED}."
            )
