"""How published benchmarks lie on a disk: their items, and what outputs of them are called."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mgie.data.files import is_name, read_json
from mgie.errors import DataError
from mgie.evaluation.protocol import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One item of one view."""

    key: str
    """Unique in its view."""
    instruction: str
    source: Path | bytes
    """What doing nothing would give: the picture that the view's first edit begins with."""
    output: str
    """Official name of the output's file, in the folder of a system's pictures."""
    target: Path | bytes | None = None
    caption: str = ""
    """What the target shows, in words."""
    source_caption: str = ""
    kind: str = ""
    cluster: str = ""
    """Items of one cluster are no independent samples (turns of one session)."""
    way: tuple[str, ...] = ()
    """Outputs of earlier turns that this one was made from: not scored here, but they must be there."""


Views = dict[str, list[Entry]]
"""View -> its items, in the order of their keys."""


def read_layout(protocol: Protocol, folder: Path, *, unpinned: bool = False) -> Views:
    """The items of a benchmark. Raises DataError where the folder holds something else, and for other numbers
    of items than were published, unless those are to be taken (`unpinned`)."""
    views, counts = LAYOUTS[protocol.layout](protocol, folder)
    if dict(protocol.counts) != counts and not unpinned:
        told = ", ".join(f"{counts.get(name, 0)} {name}" for name in protocol.counts)
        expected = ", ".join(f"{count} {name}" for name, count in protocol.counts.items())
        raise DataError(
            f"{folder} holds {told} and the published data of {protocol.name} {expected}: choose another "
            "--data, or say --unpinned true, and the numbers will say that they are of other data."
        )
    for view, entries in views.items():
        twice = {entry.key for entry in entries}
        if len(twice) < len(entries):
            raise DataError(f"{folder} has items of one name in the view {view}: download it again.")
    return {view: sorted(entries, key=lambda entry: entry.key) for view, entries in views.items()}


def identity(views: Views) -> str:
    """SHA-256 of which items there are, whatever lies in them."""
    keys = "".join(f"{view}/{entry.key}\n" for view in sorted(views) for entry in views[view])
    return hashlib.sha256(keys.encode()).hexdigest()


def _magicbrush(protocol: Protocol, folder: Path) -> tuple[Views, dict[str, int]]:
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
            places = range(len(turns))[-1:] if view.items == "last" else range(len(turns))
            for place in places:
                own, turn = view.input == "own_output", turns[place]
                first, lying = turns[0] if own else turn, folder / "images" / session
                entry = Entry(
                    key=f"{session}-{place + 1}", cluster=session, instruction=turn["instruction"],
                    source=lying / first["input"], target=lying / turn["output"],
                    output=files[place], way=tuple(files[:place]) if own else (),
                    caption=captions.get(session, {}).get(turn["output"], ""),
                    source_caption=captions.get(session, {}).get(first["input"], ""),
                )  # fmt: skip
                views.setdefault(name, []).append(entry)
    return views, {"sessions": len(sessions), "turns": sum(map(len, sessions.values()))}


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


LAYOUTS: Mapping[str, Callable[[Protocol, Path], tuple[Views, dict[str, int]]]] = {"magicbrush": _magicbrush}
"""Name -> what reads it, and counts what was published."""


def outputs_of(folder: Path, views: Views) -> tuple[Callable[[str, Entry], Path], list[str]]:
    """Where each output lies in a folder of a system's pictures, in the official layout, and the names of
    files that nothing asks for. Raises DataError, before anything is scored, if an output is missing."""
    wanted = {name for entries in views.values() for entry in entries for name in (*entry.way, entry.output)}
    missing = sorted(
        name for name in wanted if not (folder / name).is_file() or not (folder / name).stat().st_size
    )
    if missing:
        raise DataError(
            f"{folder} lacks {len(missing)} of {len(wanted)} outputs, such as {', '.join(missing[:3])}: "
            "nothing is scored until all are there."
        )
    lying = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    return (lambda _, entry: folder / entry.output), sorted(lying - wanted)


def kinds(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What means may be grouped by -> of each item its group."""
    return {"kind": [entry.kind for entry in entries], "cluster": [entry.cluster for entry in entries]}
