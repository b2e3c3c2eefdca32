"""Is a release still what was written, and does nothing in it lead out of it?"""

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

from llava_patch.folders import MANIFEST, check_file, read_manifest, strangers
from mgie.errors import WeightsError
from mgie.weights.model_card import CARD

WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".ckpt"}
"""How names of files of weights end."""
THREADS = 4
"""Files that are hashed at the same time; one core hashes about 1 to 2 GB in a second."""
ANYWAY = "or set verify to false to take the folder as it is"


@contextmanager
def intact(folder: Path, *, kind: str, verify: bool = True, expected: bool = True) -> Iterator[None]:
    """Around the reading of a folder: its files are what its manifest says, or WeightsError.

    Small files are compared before the block, the weights beside it, in threads: they and the block read the
    same files at about the same time, so that a disk is read once. Without `verify`, or a manifest, a folder
    is read as it is; where one is `expected`, as in a release, there is a warning, and links lead nowhere
    else. The model card is for editing by hand, and not compared.
    """
    if expected:
        _check_links(folder)
    if not verify:
        yield
        return
    if not (folder / MANIFEST).is_file():
        if expected:
            warnings.warn(
                f"{folder} has no {MANIFEST}, so its files are taken as they are: damage cannot be told.",
                stacklevel=2,
            )
        yield
        return
    files = _listed(folder, kind)
    for name, facts in files.items():
        if Path(name).suffix not in WEIGHTS:
            _check(folder, name, facts)
    stop = Event()
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        checks = [
            pool.submit(_check, folder, name, facts, stop)
            for name, facts in files.items()
            if Path(name).suffix in WEIGHTS
        ]
        try:
            yield
        except Exception:
            # That a file is damaged says more than what it led to.
            for check in checks:
                check.result()
            raise
        except BaseException:
            stop.set()
            raise
        for check in checks:
            check.result()


def _listed(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """What the manifest says of each file, once sizes and names are known to be right."""
    manifest = read_manifest(folder)
    if manifest["kind"] != kind:
        raise WeightsError(
            f"{folder} holds a {manifest['kind']}, expected a {kind}: name another folder, {ANYWAY}."
        )
    files = {name: facts for name, facts in manifest["files"].items() if name != CARD}
    rooms = {name.split("/")[0] for name in files if "/" in name}
    foreign = [
        name
        for name in strangers(folder)
        if (name.split("/")[0] in rooms and not Path(name).name.startswith("."))
        or Path(name).suffix in WEIGHTS
    ]
    if foreign:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise WeightsError(
            f"{folder} has {foreign[0]}{more}, which was not written with it and might be read instead: move "
            f"it away, {ANYWAY}."
        )
    for name, facts in files.items():
        if "sha256" not in facts:
            raise WeightsError(
                f"{folder / MANIFEST} has no SHA-256 of {name}: write or fetch the folder again, {ANYWAY}."
            )
        _check(folder, name, {"size": facts["size"]})
    return files


def _check(folder: Path, name: str, facts: dict[str, Any], stop: Event | None = None) -> None:
    try:
        check_file(folder, name, facts, stop=stop)
    except WeightsError as error:
        raise WeightsError(f"{str(error).rstrip('.')}, {ANYWAY}.") from error


def _check_links(folder: Path) -> None:
    """Refuse links that lead out of the folder, but for those of the hub's cache to its own files."""
    home = folder.resolve()
    homes = [home, home.parent.parent / "blobs"] if home.parent.name == "snapshots" else [home]
    for path in folder.rglob("*"):
        if path.is_symlink():
            target = Path(os.path.realpath(path))
            if not any(target.is_relative_to(place) for place in homes):
                raise WeightsError(
                    f"{path} is a link to {target}, out of its folder: a release has all its parts inside; "
                    "put the file itself there."
                )
