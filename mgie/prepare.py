"""`mgie prepare`: raw pairs -> expressive instructions -> a checked data set.

mgie prepare toy --out _data/toy
mgie prepare magicbrush:/downloads/MagicBrush --out _data/magicbrush
"""

import inspect
import json
import sys
from collections import abc
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from llava_patch.folders import whole_folder
from llava_patch.ranges import in_range
from mgie.data.captions import Spoken, Voice, open_voice
from mgie.data.card import write_card
from mgie.data.shards import write_arrow, write_parquet
from mgie.data.sources import fingerprint, open_source
from mgie.data.sources.base import ClipFilter, Options, Splits
from mgie.data.sources.legacy import write_legacy
from mgie.data.stored_pairs import FACTS, FORMATS, KIND, REJECTED, SplitFacts, read_facts
from mgie.data.validation import Gate, Sized
from mgie.devices import Dtype, find_device
from mgie.errors import ConfigError, DataError
from mgie.lines import say
from mgie.ranges import Few, Number, NumberOrNone, Seed, Share, Side, Threads

Format = Literal["arrow", "parquet", "legacy"]
WRITERS: dict[str, Callable[[Iterable[Sized], Path, str], SplitFacts]] = {
    "arrow": write_arrow,
    "parquet": write_parquet,
    "legacy": write_legacy,
}


@in_range
def prepare(
    source: str,
    out: str | Path,
    *,
    seed: Seed = 0,
    count: Number | None = None,
    test: NumberOrNone | None = None,
    size: Side = 64,
    clip: str | None = None,
    express: str | None = None,
    summarise: str | None = None,
    express_batch: Few = 8,
    device: str | None = None,
    format: Format = "arrow",
    store: str | None = None,
    model: str | None = None,
    precision: Dtype = "float16",
    max_rejected: Share = 0.01,
    workers: Threads = 1,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Write a checked data set and return its facts; what the same arguments made before is left as it is.

    Raises DataError if a source or a file cannot be used, or too many rows had to be set aside; ConfigError
    for options that cannot work; WeightsError for a model that cannot be loaded; DeviceError if `out`
    cannot be written or `device` is not there.

    Args:
        source: toy, ipr2pr:DIR_OR_HUB, magicbrush:DIR_OR_HUB, mige:FILE.json,
            pairs:DIR_OR_JSONL or legacy:DIR.
        out: Folder to be made: a folder per split, README.md, facts.json, rejected.jsonl.
        seed: Which drawings the toy world makes.
        count: Pairs to train on; of ipr2pr folders, prompts. All; of toy, 16000.
        test: The same, held out, where the source has no such split. A twentieth; of toy, 500.
        size: Width of the toy world's pictures.
        clip: Filter InstructPix2Pix by CLIP scores: "paper", or such as "image=0.75,direction=0.2,best=4".
        express: Expressive instructions: llava:DIR makes them (a kill loses nothing), file:JSON has them.
        summarise: What shortens the model's words: a folder, a hub id, none. Default: the published one.
        express_batch: Pairs that the model reads at a time.
        device: Where the model runs, such as cpu or cuda:1. Default: the GPU, where there is one.
        format: arrow to train from, parquet for a hub, legacy for the original program.
        store: Store what frozen parts compute: vae, clip or vae,clip.
        model: Whose parts compute it: a recipe, or the folder of a run or a release.
        precision: Of the stored numbers. With float32 a training step has the loss of one from pixels.
        max_rejected: Largest share of rows that may be set aside.
        workers: Threads that decode and check the pictures.
        overwrite: Replace the data set in `out`; what was not written with it is never removed.
        progress: Show bars.
    """
    arguments = {name: value for name, value in locals().items() if name in ARGUMENTS}
    kinds = features_wanted(store, model, format)
    place = str(find_device(device))
    check_apart(out, source, express, model)
    facts = None if overwrite else done_already(out, arguments)
    reused = facts is not None
    if reused:
        say(f"{out} is complete: the same command made it, and nothing is read again.")
    if facts is None:
        facts = {"format": FORMATS[-1], "arguments": arguments, "command": command(arguments), "splits": {}}
        with whole_folder(out, kind=KIND, replace=overwrite, hashed=False) as folder:
            facts |= {"read": seen(arguments)}
            voice = open_voice(express, summarise, Path(out), batch_size=express_batch, device=place)
            splits = open_source(source, options_of(arguments))
            say(outlook(source, out, splits, voice))
            gate = fill(folder, splits, facts, voice, workers=workers, progress=progress)
            check_rejected(gate, max_rejected)
            facts |= voice.facts() if voice else {}
            write_papers(folder, facts, gate)
        if isinstance(voice, Spoken):
            voice.notes.unlink(missing_ok=True)
    if model is not None and kinds:
        facts |= {"features": store_from(out, model, kinds, precision, device=place, progress=progress)}
    return facts | {"reused": reused}


ARGUMENTS = ("source", "seed", "count", "test", "size", "clip", "express", "summarise", "format")
"""Parameters of `prepare` that decide what is in the data set."""


def check(folder: str | Path, *, progress: bool = True) -> dict[str, Any]:
    """Verify a data set that `prepare` wrote: files, hashes, counts, every picture.

    Raises DataError at a fault.

    Args:
        folder: The data set.
        progress: Show bars.
    """
    from mgie.data.verify import verify  # brings the models whose features may be stored

    facts = verify(folder, watch=_bar if progress else None)
    return facts | {"pairs": sum(about["rows"] for about in facts["splits"].values()), "whole": True}


def features_wanted(store: str | None, model: str | None, format: str) -> tuple[str, ...]:
    """The kinds that --store names. Raises ConfigError for what cannot work."""
    kinds = tuple(store.split(",")) if store else ()
    if set(kinds) - {"vae", "clip"}:
        raise ConfigError(f"store={store!r} is not understood: expected vae, clip or vae,clip.")
    if bool(kinds) != bool(model):
        raise ConfigError(
            "--store and --model belong together: say what to store, and whose parts compute it."
        )
    if kinds and format != "arrow":
        raise ConfigError(
            f"features belong to a data set to train from: --store needs --format arrow, not {format}."
        )
    return kinds


def store_from(
    folder: str | Path,
    model: str,
    kinds: tuple[str, ...],
    precision: Dtype,
    *,
    device: str,
    progress: bool,
) -> dict[str, Any]:
    """Store features of a data set by the parts of the recipe, run or release `model`."""
    from mgie.build import build_editor  # it brings every part of an editor
    from mgie.build_data import build_examples
    from mgie.config import load_run
    from mgie.data.stored_features import FeatureExtractor, store_features

    run = load_run(str(Path(model) / "run.yaml") if Path(model).is_dir() else model)
    parts = build_editor(run)
    extractor = FeatureExtractor(
        build_examples(run, parts.prompts),
        codec=parts.editor.codec.eval().to(device) if "vae" in kinds else None,
        encoder=parts.editor.encoder.eval().to(device) if "clip" in kinds else None,
    )
    return store_features(
        folder, extractor, precision=precision, device=device, watch=_bar if progress else None
    )


def options_of(arguments: dict[str, Any]) -> Options:
    """What the reader of a source is told."""
    clip = arguments["clip"]
    taken = {name: arguments[name] for name in ("seed", "count", "test", "size")}
    return Options(clip=ClipFilter.parse(clip) if clip else None, **taken)


def check_apart(out: str | Path, source: str, express: str | None, model: str | None) -> None:
    """Raise ConfigError where `out` is something that is read, lies in it, or has it inside."""
    kind, _, where = source.partition(":")
    read = {
        "the source": where if kind != "toy" else "",
        "--express": (express or "").partition(":")[2],
        "--model": model or "",
    }
    target = Path(out).resolve()
    for name, where in read.items():
        place = Path(where).resolve()
        if where and place.exists() and (place in (target, *target.parents) or target in place.parents):
            raise ConfigError(
                f"--out {out} is {name}, {where}, or one lies in the other, and what is read must not be "
                "written: choose another --out."
            )


def seen(arguments: dict[str, Any]) -> dict[str, Any]:
    """What the source and the expressive instructions look like from outside."""
    return {what: fingerprint(what) for what in (arguments["source"], arguments["express"]) if what}


def done_already(out: str | Path, arguments: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of a data set that the same arguments made of the same files. Raises DataError where others
    did.

    Where nothing of the source can be looked at (a hub id, a folder that is gone) it is taken as it is.
    """
    if not (Path(out) / FACTS).is_file():
        return None
    found = read_facts(out)
    if found.get("arguments") != arguments:
        raise DataError(
            f"{out} holds a data set made by `{found.get('command')}`: choose another --out, or say "
            "--overwrite."
        )
    for what, now in seen(arguments).items():
        then = found.get("read", {}).get(what, now)
        if now != then and now["files"]:
            how = f"{then['files']} files then, {now['files']} now"
            if now["files"] == then["files"]:
                how = "the same number of files, but not the same names, sizes and times"
            raise DataError(
                f"{what} has changed since {out} was made of it ({how}): say --overwrite to make it anew, or "
                "choose another --out."
            )
    return found


def fill(
    folder: Path, splits: Splits, facts: dict[str, Any], voice: Voice | None, *, workers: int, progress: bool
) -> Gate:
    """Write the sound pairs of all splits into `folder`, and what is known of them into `facts`."""
    gate = Gate()
    for split, items in splits.items():
        watched, checked = _bar(items, split) if progress else items, partial(gate, workers=workers)
        sound = voice(watched, checked) if voice else checked(watched)
        written = WRITERS[facts["arguments"]["format"]](sound, folder, split)
        facts["splits"][split] = asdict(written)
    facts["rejected"] = {"rows": len(gate.rejected), "reasons": dict(gate.counts.most_common())}
    facts["filtered"] = dict(gate.filtered.most_common())
    return gate


def outlook(source: str, out: str | Path, splits: Splits, voice: Voice | None) -> str:
    """What will happen, in one line; how many pairs there are, where that is known before they are read."""
    many = {split: _known_length(rows) for split, rows in splits.items()}
    counts = (split if count is None else f"{count} {split}" for split, count in many.items())
    told = f"{out} is made from {source}: {', '.join(counts)} pairs"
    if isinstance(voice, Spoken):
        told += f"; a model reads and speaks of each, {voice.known} texts are there from an earlier start"
    return f"{told}."


def check_rejected(gate: Gate, allowed: float) -> None:
    """Raise DataError if nothing is left, or if too much was set aside."""
    total = gate.passed + len(gate.rejected)
    counted = [*gate.counts.most_common(), *gate.filtered.items()]
    reasons = ", ".join(f"{reason} {rows}" for reason, rows in counted)
    first = f" The first one: {gate.rejected[0].detail}" if gate.rejected else ""
    if not gate.passed:
        why = reasons or "the source is empty"
        raise DataError(f"none of {total} rows could be used ({why}): nothing was written.{first}")
    if len(gate.rejected) > allowed * total:
        raise DataError(
            f"{len(gate.rejected)} of {total} rows had to be set aside ({reasons}), more than --max_rejected "
            f"{allowed:g} allows: mend them or allow more; nothing was written.{first}"
        )


def write_papers(folder: Path, facts: dict[str, Any], gate: Gate) -> None:
    """The card, the facts, and what was set aside."""
    rows = "".join(json.dumps(vars(row), ensure_ascii=False) + "\n" for row in gate.rejected)
    (folder / REJECTED).write_text(rows, encoding="utf-8", errors="backslashreplace")
    write_card(folder, facts)
    (folder / FACTS).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def command(arguments: dict[str, Any]) -> str:
    """The command line that these arguments stand for, without its `--out`."""
    known = inspect.signature(prepare).parameters
    changed = {n: value for n, value in arguments.items() if n != "source" and value != known[n].default}
    options = (f"--{name} {value}" for name, value in changed.items())
    return " ".join(["mgie prepare", arguments["source"], *options])


def table(facts: dict[str, Any]) -> str:
    """The counts of a data set as lines to print: pairs per split, rows set aside and left out per reason;
    pairs that a model or a file had no words for; and what is stored beside them."""
    rows = [(f"{split} pairs", about["rows"]) for split, about in facts["splits"].items()]
    rows += [("set aside", facts["rejected"]["rows"])]
    rows += [(f"  {reason}", count) for reason, count in facts["rejected"]["reasons"].items()]
    rows += [(f"left out: {reason}", count) for reason, count in facts["filtered"].items()]
    if facts.get("express", {}).get("without"):
        rows.append(("without expressive text", facts["express"]["without"]))
    width = max(len(name) for name, _ in rows)
    lines = [f"{name:<{width}}  {count:>9,}" for name, count in rows]
    if "features" in facts:
        kinds, precision = ", ".join(facts["features"]["made_by"]), facts["features"]["precision"]
        lines.append(f"stored features: {kinds} in {precision}")
    return "\n".join(lines)


def _bar(items: Iterable[Any], split: str) -> Iterator[Any]:
    bar = tqdm(items, desc=split, unit=" pairs", total=_known_length(items), delay=2, file=sys.stderr)
    return iter(bar)


def _known_length(items: Iterable[Any]) -> int | None:
    return len(items) if isinstance(items, abc.Sized) else None
