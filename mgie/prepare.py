"""Raw pairs -> a checked data set: the story of `mgie prepare`.

mgie prepare toy --out _data/toy
"""

import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm import tqdm

from mgie.data import toy
from mgie.data.card import write_card
from mgie.data.rejects import Gate, Rejected
from mgie.data.stored_pairs import FACTS, new_folder, read_facts, write_split
from mgie.errors import ConfigError, DataError
from mgie.types import EditPair

REJECTED = "rejected.jsonl"


def prepare(
    source: str,
    out: str | Path,
    *,
    seed: int = 0,
    count: int | None = None,
    test: int | None = None,
    size: int = 64,
    max_rejected: float = 0.01,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the data set `out` (`out/train`, `out/test`, a card and facts.json) from `source`, and return its facts.

    `toy` is the world that the project makes itself: `count` pairs (6000) to learn from and `test` (500) held out, `size`
    pixels wide, drawn with `seed`. A data set that the same arguments made is left as it is. Raises DataError if more than
    the share `max_rejected` of the rows had to be set aside; DeviceError if `out` cannot be written.
    """
    arguments = {"source": source, "seed": seed, "count": count, "test": test, "size": size}
    found = read_facts(out)
    if found is not None and not overwrite:
        if found.get("arguments") == arguments:
            return found | {"reused": True}
        raise DataError(
            f"{out} holds a data set made by `{found.get('command')}`: choose another --out, or remove it first."
        )
    splits = open_source(source, seed=seed, count=count, test=test, size=size)

    gate = Gate()
    facts: dict[str, Any] = {"format": 1, "arguments": arguments, "command": command(arguments), "splits": {}}
    with new_folder(out, overwrite=overwrite) as folder:
        for split, items in splits.items():
            watched = _watched(items, split) if progress else items
            facts["splits"][split] = asdict(
                write_split(gate(watched, workers=workers), folder / split, split)
            )
        facts["rejected"] = {"rows": len(gate.rejected), "reasons": gate.counts}
        check_rejected(gate, max_rejected)
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in gate.rejected]
        (folder / REJECTED).write_text("".join(lines))
        write_card(folder, facts)
        (folder / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return facts | {"reused": False}


def open_source(
    source: str, *, seed: int, count: int | None, test: int | None, size: int
) -> dict[str, Iterable[EditPair | Rejected]]:
    """Split -> its rows, read one by one."""
    name, _, _ = source.partition(":")
    if name == "toy":
        train_count, test_count = 6000 if count is None else count, 500 if test is None else test
        return {
            "train": toy.toy_pairs(train_count, seed=seed, split="train", size=size),
            "test": toy.toy_pairs(test_count, seed=seed, split="test", size=size),
        }
    raise ConfigError(f"{source!r} is no source: expected toy.")


def check_rejected(gate: Gate, allowed: float) -> None:
    """Raise DataError if nothing is left, or if too much was set aside."""
    total = gate.passed + len(gate.rejected)
    reasons = ", ".join(f"{reason} {rows}" for reason, rows in gate.counts.items())
    if not gate.passed:
        raise DataError(
            f"none of {total} rows could be used ({reasons or 'the source is empty'}): nothing was written."
        )
    if len(gate.rejected) > allowed * total:
        first = gate.rejected[0]
        raise DataError(
            f"{len(gate.rejected)} of {total} rows had to be set aside ({reasons}), more than max_rejected={allowed:g} "
            f"allows; the first one: {first.detail} Mend them or raise --max_rejected; nothing was written."
        )


def command(arguments: dict[str, Any]) -> str:
    """The command line that these arguments stand for, without its `--out`."""
    options = [
        f"--{name} {value}" for name, value in arguments.items() if name != "source" and value is not None
    ]
    return " ".join(["mgie prepare", arguments["source"], *options])


def _watched(items: Iterable[EditPair | Rejected], split: str) -> Iterator[EditPair | Rejected]:
    return iter(tqdm(items, desc=split, unit=" pairs", delay=2, file=sys.stderr))
