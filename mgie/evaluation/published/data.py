"""How published benchmarks lie on a disk: their items, and what outputs of them are called."""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgie.data.files import is_name, read_json
from mgie.data.images import no_pictures
from mgie.errors import DataError
from mgie.evaluation.published.emu_edit import read_emu_edit
from mgie.evaluation.published.entries import Counts, Entry, Turn, Views
from mgie.evaluation.published.pictured import read_dreambench, read_migebench
from mgie.evaluation.published.protocol import Protocol
from mgie.evaluation.subset import Subset


def is_published(protocol: Protocol, views: Views) -> bool:
    """Whether there are as many items as were published, and those that are pinned, where somebody has."""
    pins = protocol.items_sha256
    counted = (
        dict(protocol.counts) == LAYOUTS[protocol.layout].count(views) if protocol.counts else bool(pins)
    )
    return counted and (not pins or identity(views) == pins)


def read_layout(protocol: Protocol, folder: Path, *, unpinned: bool = False) -> Views:
    """The items of a benchmark. Raises DataError where the folder holds something else, and for other numbers
    of items than were published, unless those are to be taken (`unpinned`)."""
    layout = LAYOUTS[protocol.layout]
    views = layout.read(protocol, folder)
    for name in (name for entries in views.values() for entry in entries for name in files_of(entry)):
        if not is_name(name):
            raise DataError(
                f"{folder} has an item with the output {name!r}: expected a name inside a folder."
            )
    for view, entries in views.items():
        names = Counter(entry.key for entry in entries)
        if twice := [name for name, count in names.items() if count > 1]:
            raise DataError(
                f"{folder} has {len(twice)} names twice, such as {twice[0]} (view {view}): download it again."
            )
    if not views or not all(views.values()):
        raise DataError(f"{folder} holds no item of {protocol.name}: choose another --data.")
    counts = layout.count(views)
    if protocol.counts and dict(protocol.counts) != counts and not unpinned:
        told = ", ".join(f"{counts.get(name, 0)} {name}" for name in protocol.counts)
        expected = ", ".join(f"{count} {name}" for name, count in protocol.counts.items())
        raise DataError(
            f"{folder} holds {told} and the published data of {protocol.name} {expected}: choose another "
            "--data, or say --unpinned, and the numbers will say that they are of other data."
        )
    if protocol.items_sha256 and not is_published(protocol, views) and not unpinned:
        raise DataError(
            f"{folder} holds other items than {protocol.identity} pins: choose another --data, or say "
            "--unpinned, and the numbers will say that they are of other data."
        )
    return views


def part_of(views: Views, subset: Subset, name: str) -> Views:
    """The items of a subset, and the views that have any. Raises DataError for keys that no view has."""
    subset.check((entry.key for entries in views.values() for entry in entries), name)
    kept = {view: [each for each in entries if each.key in subset.keys] for view, entries in views.items()}
    return {view: entries for view, entries in kept.items() if entries}


def identity(views: Views) -> str:
    """SHA-256 of which items there are, whatever lies in them."""
    keys = sorted(f"{view}/{entry.key}\n" for view, entries in views.items() for entry in entries)
    return hashlib.sha256("".join(keys).encode()).hexdigest()


def _magicbrush(protocol: Protocol, folder: Path) -> Views:
    """The evaluation layout, which `mgie prepare magicbrush:DIR` reads too; in the folder or in its test/."""
    folder = folder if (folder / "edit_sessions.json").is_file() else folder / "test"
    if not (folder / "edit_sessions.json").is_file():
        raise DataError(
            f"{folder.parent} has no edit_sessions.json: --data expects MagicBrush's test set as published, "
            "with images/, edit_sessions.json and its descriptions."
        )
    form = '{id: [{"input": FILE, "output": FILE, "instruction": TEXT}]}'
    sessions = read_json(folder / "edit_sessions.json", _sessions, form)
    captions = read_json(
        folder / f"{protocol.captions}_descriptions.json", _captions, "{id: {file: caption}}"
    )
    views: Views = {}
    for name, view in protocol.views.items():
        for session, turns in sessions.items():
            files = [
                view.output[min(turn, 1)].format(session=session, turn=turn + 1) for turn in range(len(turns))
            ]
            way = [
                Turn(key=f"{session}-{turn + 1}", instruction=turns[turn]["instruction"], output=files[turn])
                for turn in range(len(turns))
            ]
            places = range(len(turns))[-1:] if view.items == "last" else range(len(turns))
            for place in places:
                own, turn = view.input == "own_output", turns[place]
                first, lying = turns[0] if own else turn, folder / "images" / session
                entry = Entry(
                    key=f"{session}-{place + 1}", cluster=session, instruction=turn["instruction"],
                    source=lying / first["input"], target=lying / turn["output"],
                    output=files[place], way=tuple(way[:place]) if own else (),
                    caption=captions.get(session, {}).get(turn["output"], ""),
                    source_caption=captions.get(session, {}).get(first["input"], ""),
                )  # fmt: skip
                views.setdefault(name, []).append(entry)
    return views


def _sessions(found: Any) -> dict[str, list[dict[str, str]]]:
    fields = ("input", "output", "instruction")
    sessions = {
        str(name): [{field: str(turn[field]) for field in fields} for turn in turns]
        for name, turns in found.items()
    }
    names = [turn[field] for turns in sessions.values() for turn in turns for field in ("input", "output")]
    for name in (*sessions, *names):
        if not is_name(name):
            raise ValueError(f"{name!r} names no file")
    return {name: turns for name, turns in sessions.items() if turns}


def _captions(found: Any) -> dict[str, dict[str, str]]:
    return {str(name): {str(file): str(text) for file, text in each.items()} for name, each in found.items()}


IP2P_TEST = 0.95
"""Where the test split begins, as a part of the list of prompts."""
IP2P_DRAWS = 5000


def _ip2p(protocol: Protocol, folder: Path) -> Views:
    """InstructPix2Pix's own files: seeds.json, and a folder for each prompt. Of each of 5000 prompts of the
    test split one of its pictures is drawn, by torch's generator of seed 0 (the published script's generator
    is also used up by its sampler, so its draws cannot be repeated)."""
    import torch

    form = "[[folder, [seed, ...]], ...]: --data expects InstructPix2Pix as published"
    listed = read_json(folder / "seeds.json", lambda rows: [(str(n), [*map(str, s)]) for n, s in rows], form)
    tested = listed[int(IP2P_TEST * len(listed)) :]
    draw = torch.Generator().manual_seed(0)
    found: list[tuple[str, str, dict[str, str]]] = []
    for place in torch.randperm(len(tested), generator=draw)[:IP2P_DRAWS].tolist():
        name, seeds = tested[place]
        seed = seeds[int(torch.randint(len(seeds), (), generator=draw))]
        if not (is_name(name) and is_name(seed)):
            raise DataError(f"{folder / 'seeds.json'} names {name!r}: expected names of folders beside it.")
        told = read_json(
            folder / name / "prompt.json", _prompt, '{"edit": TEXT, "input": ..., "output": ...}'
        )
        found.append((name, seed, told))
    views: Views = {}
    for label, view in protocol.views.items():
        for name, seed, told in found:
            key = f"{name.replace('/', '_')}_{seed}"
            entry = Entry(
                key=key, cluster=name, instruction=told["edit"], source=folder / name / f"{seed}_0.jpg",
                caption=told["output"], source_caption=told["input"], output=view.output[0].format(key=key),
            )  # fmt: skip
            views.setdefault(label, []).append(entry)
    return views


def _prompt(found: Any) -> dict[str, str]:
    return {name: str(found[name]) for name in ("edit", "input", "output")}


REASONING = "Reasoning"
"""How the folder of Reason-Edit begins whose items are no matter of understanding alone."""
WORDS = "CLIP:"
"""What stands between an instruction and the words for what should be seen."""


def _reason_edit(protocol: Protocol, folder: Path) -> Views:
    """Reason-Edit's folders, each with pictures, masks and one text. The n-th line of the text belongs to the
    n-th picture by name; a mask is found by its picture's name (the published program takes the n-th)."""
    views: Views = {}
    for place in sorted(path for path in folder.glob("*") if path.is_dir()):
        pictures, texts = sorted(place.glob("*.png")), sorted(place.glob("*.txt"))
        if not pictures:
            continue
        try:
            lines = [line for line in texts[0].read_text(encoding="utf-8").splitlines() if line.strip()]
            pairs = [line.split(WORDS) for line in lines]
            told = [(before.strip(), words.strip()) for before, words in pairs]
        except (OSError, ValueError, LookupError) as error:
            raise DataError(
                f"{place} has no readable text: expected one .txt with a line `instruction {WORDS} words` "
                "for each picture."
            ) from error
        if len(told) != len(pictures):
            raise DataError(f"{place} has {len(pictures)} pictures and {len(told)} lines: expected as many.")
        view = "reasoning" if place.name.startswith(REASONING) else "understanding"
        for picture, (instruction, words) in zip(pictures, told):
            mask = picture.with_name(f"{picture.stem}_mask.jpg")
            if not mask.is_file():
                raise DataError(f"{mask} is missing: download Reason-Edit again.")
            entry = Entry(
                key=f"{place.name}/{picture.stem}", cluster=picture.stem, kind=place.name, mask=mask,
                instruction=instruction, source=picture, caption=words,
                output=protocol.views[view].output[0].format(session=place.name, key=picture.stem),
            )  # fmt: skip
            views.setdefault(view, []).append(entry)
    return views


def _views(views: Views) -> Counts:
    return {view: len(found) for view, found in views.items()}


def _items(name: str) -> Callable[[Views], Counts]:
    return lambda views: {name: len(next(iter(views.values())))}


@dataclass(frozen=True, slots=True)
class Layout:
    """One way in which published data lie."""

    read: Callable[[Protocol, Path], Views]
    count: Callable[[Views], Counts]
    """Of what is counted, how many there are."""


LAYOUTS = {
    "magicbrush": Layout(
        _magicbrush,
        lambda views: {
            "sessions": len({entry.cluster for entry in views["single"]}),
            "turns": len(views["single"]),
        },
    ),
    "emu_edit": Layout(read_emu_edit, _items("items")),
    "emu_edit_generations": Layout(read_emu_edit, _items("items")),
    "ip2p": Layout(_ip2p, _items("prompts")),
    "migebench": Layout(read_migebench, _views),
    "dreambench": Layout(read_dreambench, _items("prompts")),
    "reason_edit": Layout(_reason_edit, _views),
}
"""Name -> layout."""


def files_of(entry: Entry) -> tuple[str, ...]:
    """All outputs that an item needs, that which is scored first."""
    return (entry.output, *(turn.output for turn in entry.way))


def outputs_of(folder: Path, views: Views) -> tuple[Callable[[str, Entry], Path], list[str]]:
    """Where each output lies in a folder of a system's pictures, in the official layout, and the names of
    files that nothing asks for. Raises DataError, before anything is scored, if one is missing or damaged."""
    wanted = {name for entries in views.values() for entry in entries for name in files_of(entry)}
    missing = sorted(
        name for name in wanted if not (folder / name).is_file() or not (folder / name).stat().st_size
    )
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(wanted)} outputs, such as {', '.join(missing[:3])}: "
            "nothing is scored until all are there."
        )
    if damaged := no_pictures(folder / name for name in sorted(wanted)):
        raise DataError(
            f"{len(damaged)} of {len(wanted)} outputs are no pictures, such as "
            f"{', '.join(map(str, damaged[:3]))}: nothing is scored until they are replaced."
        )
    lying = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return (lambda _, entry: folder / entry.output), sorted(lying - wanted)


def kinds(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What means may be grouped by -> of each item its group."""
    return {"kind": [entry.kind for entry in entries], "cluster": [entry.cluster for entry in entries]}
