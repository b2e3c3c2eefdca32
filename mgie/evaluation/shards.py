"""Which process makes and scores what, when several share out an evaluation."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from mgie.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Shard:
    """One of several parts of an evaluation, which need not know of each other."""

    index: int = 0
    """From 0."""
    count: int = 1

    @classmethod
    def of(cls, said: str | None, *, process: int = 0, processes: int = 1) -> "Shard":
        """What "2/3" means, the second of three machines, to one of the processes there. Raises
        ConfigError."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", said or "1/1")
        place, count = (int(found[1]), int(found[2])) if found else (0, 0)
        if not 1 <= place <= count:
            raise ConfigError(f"shard={said!r}: expected such as 2/3, the second of three parts.")
        return cls((place - 1) * processes + process, count * processes)

    def owns(self, chunk: int) -> bool:
        """Whether that part of the work is this one's."""
        return chunk % self.count == self.index

    def __str__(self) -> str:
        return f"{self.index + 1}/{self.count}"


def chunks_of(units: Iterable[str], size: int) -> dict[str, int]:
    """Unit -> number of its chunk: `size` neighbours each. What is computed together is a matter of the
    chunk alone, so that no number of processes changes a result."""
    return {unit: place // size for place, unit in enumerate(dict.fromkeys(units))}
