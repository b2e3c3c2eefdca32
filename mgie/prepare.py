"""Raw pairs -> expressive instructions -> a checked data set: the story of `mgie prepare`.

mgie prepare toy --out _data/toy
mgie prepare magicbrush:/downloads/MagicBrush --out _data/magicbrush
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from mgie.data.card import write_card
from mgie.data.rejects import Gate, Rejected
from mgie.data.shards import SplitFacts, write_arrow, write_parquet
from mgie.data.sources import open_source
from mgie.data.sources.base import ClipFilter, Options, Splits
from mgie.data.sources.legacy import write_legacy
from mgie.data.stored_pairs import FACTS, REJECTED, new_folder, read_facts
from mgie.data.verify import verify
from mgie.errors import DataError
from mgie.types import EditPair

Format = Literal["arrow", "parquet", "legacy"]


def prepare(
    source: str,
    out: str | Path,
    *,
    seed: int = 0,
    count: int | None = None,
    test: int | None = None,
    size: int = 64,
    clip: str | None = None,
    format: Format = "arrow",
    max_rejected: float = 0.01,
    workers: int = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write the data set `out` (a folder per split, a card, facts.json, rejected.jsonl) and return its facts.

    `source` is toy, ipr2pr:DIR_OR_HUB, magicbrush:DIR_OR_HUB, pairs:DIR_OR_JSONL or legacy:DIR. `count`
    limits the training split and `test` sets the held-out one: in pairs for toy (6000 and 500, drawn with
    `seed`, `size` pixels wide), in prompts or rows elsewhere (all, and a twentieth where the source has no
    split of its own). `clip` filters InstructPix2Pix by its CLIP scores: "paper", or such as
    "image=0.75,direction=0.2,best=4". `format` is arrow (to train from), parquet (for a hub) or legacy (the
    original program's files). `workers` threads check the pictures.

    A data set that the same arguments made is left as it is. Raises DataError if more than the share
    `max_rejected` of the rows had to be set aside, ConfigError for options that cannot work, DeviceError if
    `out` cannot be written.
    """
    arguments = {
        "source": source,
        "seed": seed,
        "count": count,
        "test": test,
        "size": size,
        "clip": clip,
        "format": format,
    }
    found = read_facts(out)
    if found is not None and not overwrite:
        if found.get("arguments") == arguments:
            return found | {"reused": True}
        raise DataError(
            f"{out} holds a data set made by `{found.get('command')}`: choose another --out, or "
            "remove it first."
        )
    chosen = ClipFilter.parse(clip) if clip else None
    splits = open_source(source, Options(seed=seed, count=count, test=test, size=size, clip=chosen))

    facts: dict[str, Any] = {"format": 1, "arguments": arguments, "command": command(arguments), "splits": {}}
    with new_folder(out, overwrite=overwrite) as folder:
        gate = fill(folder, splits, facts, workers=workers, progress=progress)
        check_rejected(gate, max_rejected)
        text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in gate.rejected)
        (folder / REJECTED).write_text(text, encoding="utf-8", errors="backslashreplace")
        write_card(folder, facts)
        (folder / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")
    return facts | {"reused": False}


def check(folder: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Verify a data set that `prepare` wrote: files, hashes, counts, and every picture. Raises DataError at
    the first fault."""
    return verify(folder, watch=_bar if progress else None)


def fill(folder: Path, splits: Splits, facts: dict[str, Any], *, workers: int, progress: bool) -> Gate:
    """Write the sound pairs of all splits into `folder`, and what is known of them into `facts`."""
    gate = Gate()
    for split, items in splits.items():
        watched = _bar(items, split) if progress else items
        facts["splits"][split] = asdict(
            _writer(facts["arguments"]["format"])(gate(watched, workers=workers), folder, split)
        )
    facts["rejected"] = {"rows": len(gate.rejected), "reasons": gate.counts}
    facts["filtered"] = dict(gate.filtered.most_common())
    return gate


def check_rejected(gate: Gate, allowed: float) -> None:
    """Raise DataError if nothing is left, or if too much was set aside."""
    total = gate.passed + len(gate.rejected)
    reasons = ", ".join(f"{reason} {rows}" for reason, rows in [*gate.counts.items(), *gate.filtered.items()])
    if not gate.passed:
        first = f" The first one: {gate.rejected[0].detail}" if gate.rejected else ""
        raise DataError(
            f"none of {total} rows could be used ({reasons or 'the source is empty'}): nothing was "
            f"written.{first}"
        )
    if len(gate.rejected) > allowed * total:
        raise DataError(
            f"{len(gate.rejected)} of {total} rows had to be set aside ({reasons}), more than "
            f"--max_rejected {allowed:g} "
            f"allows: mend them or allow more; nothing was written. The first one: {gate.rejected[0].detail}"
        )


def command(arguments: dict[str, Any]) -> str:
    """The command line that these arguments stand for, without its `--out`."""
    known = inspect.signature(prepare).parameters
    changed = {
        name: value for name, value in arguments.items() if name != "source" and value != known[name].default
    }
    return " ".join(
        ["mgie prepare", arguments["source"], *(f"--{name} {value}" for name, value in changed.items())]
    )


def table(facts: dict[str, Any]) -> str:
    """The counts of a data set as lines to print: pairs per split, rows set aside and left out per reason."""
    rows = [(f"{split} pairs", about["rows"]) for split, about in facts["splits"].items()]
    rows += [(f"set aside: {reason}", count) for reason, count in facts["rejected"]["reasons"].items()]
    rows += [("set aside", facts["rejected"]["rows"])]
    rows += [(f"left out: {reason}", count) for reason, count in facts["filtered"].items()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:<{width}}  {count:>9,}" for name, count in rows)


def _writer(format: str) -> Callable[[Iterable[tuple[EditPair, tuple[int, int]]], Path, str], SplitFacts]:
    return {"arrow": write_arrow, "parquet": write_parquet, "legacy": write_legacy}[format]


def _bar(items: Iterable[EditPair | Rejected], split: str) -> Iterator[EditPair | Rejected]:
    total = len(items) if hasattr(items, "__len__") else None  # type: ignore[arg-type]
    return iter(tqdm(items, desc=split, unit=" pairs", total=total, delay=2, file=sys.stderr))
