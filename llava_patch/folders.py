"""Folders that appear whole or not at all, tell what they hold, and are written by one process at a time.

A folder is written under a temporary name beside its place, gets a manifest, is synced and renamed. What a
killed process left is cleaned up by the next one that writes beside it. Only a folder whose manifest names
all that is in it is ever replaced.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from llava_patch.errors import ConfigError, DeviceError, WeightsError

MANIFEST = "manifest.json"
"""In each written folder: what kind of folder it is, and size and SHA-256 of each file."""
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.mgie-(?P<state>partial|replaced)")
"""Names of folders that are being written, or have made way: nobody else calls one so."""
DROPPINGS = {".DS_Store", "Thumbs.db", "desktop.ini"}
"""Files that file managers leave behind."""


@contextmanager
def whole_folder(out: str | Path, *, kind: str, replace: bool = True, hashed: bool = True) -> Iterator[Path]:
    """A temporary folder that becomes `out` when the block ends well, and vanishes when it does not.

    `kind` says what it holds, such as "release"; with `replace` a folder of the same kind makes way. Without
    `hashed` the manifest has sizes only, for large files whose hashes are written elsewhere. Raises
    ConfigError where `out` must not be written, DeviceError where it cannot be.
    """
    check_out(out, kind=kind, replace=replace)
    out = Path(out).resolve()  # a link stays, and what it leads to is replaced
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out):
            sweep(out.parent, held=out.name)
            check_out(out, kind=kind, replace=replace)
            partial = _beside(out, "partial")
            partial.mkdir()
            try:
                yield partial
                _publish(partial, out, kind, hashed)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        # One about a file elsewhere, which was to be read, tells of that file.
        if error.filename and not Path(error.filename).is_relative_to(out.parent):
            raise
        raise _device_error(error, out) from error


def check_out(out: str | Path, *, kind: str, replace: bool = True) -> None:
    """What `whole_folder` would refuse, before the work is done. Raises ConfigError or DeviceError."""
    out = Path(out)
    above = next(place for place in out.resolve().parents if place.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        what = "read-only" if above.is_dir() else "a file"
        raise DeviceError(f"{out} cannot be written, for {above} is {what}: choose another place.")
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out} is a file: expected the name of a folder to be written; choose another.")
    if not out.exists() or not any(out.iterdir()):
        return
    if not replace:
        raise ConfigError(f"{out} holds something already: choose another place, or remove it first.")
    try:
        found = read_manifest(out)["kind"]
    except WeightsError as error:
        raise ConfigError(
            f"{out} holds something that was not written here: choose another place, or remove it first."
        ) from error
    if found != kind:
        raise ConfigError(f"{out} holds a {found}, and a {kind} is to be written: choose another place.")
    if foreign := strangers(out):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise ConfigError(
            f"{out} would be replaced, but {foreign[0]}{more} in it was not written with it: move that away, "
            "or choose another place."
        )


def remove_folder(folder: Path) -> None:
    """Remove a folder that `whole_folder` wrote; a kill in the middle leaves nothing that looks whole."""
    gone = _beside(folder, "replaced")
    folder.rename(gone)
    shutil.rmtree(gone)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """`kind`, and `files`: path -> size and, where it was hashed, sha256. Raises WeightsError."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {
            str(name): {"size": int(facts["size"])} | dict(facts) for name, facts in manifest["files"].items()
        }
        if not files:
            raise ValueError("it names no file")
        return {"kind": str(manifest["kind"]), "files": files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"{path} is no manifest of a whole folder ({reason}): write or fetch the folder again."
        ) from error


def check_file(folder: str | Path, name: str, facts: dict[str, Any]) -> None:
    """Raise WeightsError unless a file is what the manifest says of it."""
    path = Path(folder) / name
    if not path.is_file():
        raise WeightsError(f"{path} is missing: write or fetch the folder again.")
    if path.stat().st_size != facts["size"]:
        raise WeightsError(
            f"{path} has {path.stat().st_size} bytes, expected {facts['size']}: it is damaged or was "
            "changed; write or fetch the folder again."
        )
    if "sha256" in facts and file_hash(path) != facts["sha256"]:
        raise WeightsError(
            f"{path} is not what was written (another SHA-256): it is damaged or was changed; write or fetch "
            "the folder again."
        )


def strangers(folder: Path) -> list[str]:
    """Paths in a written folder that neither its manifest nor that of a folder within it names."""
    known = {MANIFEST, *read_manifest(folder)["files"]}
    found = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        ours = (
            name in known or path.name in DROPPINGS or any(TEMPORARY.fullmatch(part) for part in path.parts)
        )
        inner = next((place for place in path.parents if (place / MANIFEST).is_file()), folder)
        if inner != folder and inner.is_relative_to(folder):
            ours = (
                path.name == MANIFEST or path.relative_to(inner).as_posix() in read_manifest(inner)["files"]
            )
        if not ours and not (path.is_dir() and not path.is_symlink()):
            found.append(name)
    return found


@contextmanager
def locked(place: Path) -> Iterator[None]:
    """Hold `place`, a file or folder that need not be there, against every other process.

    The system frees it when this process ends, however it ends; on network file systems their server does.
    Raises ConfigError that tells who holds it.
    """
    path, holder = place.with_name(f".{place.name}.lock"), place.with_name(f".{place.name}.holder.json")
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ConfigError(
            f"{place} is in use by {_who(holder)}: wait until that has ended, or choose another place."
        ) from error
    try:
        facts = {
            "host": socket.gethostname(),
            "process": os.getpid(),
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        holder.write_text(json.dumps(facts), encoding="utf-8")
        yield
    finally:
        # While it is held: whoever has opened it meanwhile finds it without a name, and opens a new one.
        holder.unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        lock.release()


def sweep(folder: Path, *, held: str = "") -> None:
    """Clean up what killed processes left in `folder`; what a live one writes stays.

    `held` is locked already. Where one was killed between moving the old folder away and the new one in, the
    old one comes back.
    """
    for path in sorted(folder.glob(".*")):
        found = TEMPORARY.fullmatch(path.name)
        if found is None or not path.is_dir():
            continue
        if found["name"] == held:
            _clean(path, folder / held, found["state"])
            continue
        try:
            with locked(folder / found["name"]):
                _clean(path, folder / found["name"], found["state"])
        except ConfigError:
            continue  # its process lives


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_to_others(path: Path) -> None:
    """Give a file, or a folder and all in it, the rights of any new one.

    Temporary files and safetensors' are for their owner alone.
    """
    mask = os.umask(0)
    os.umask(mask)
    for each in (path, *path.rglob("*")):
        each.chmod((0o777 if each.is_dir() else 0o666) & ~mask)


def file_hash(path: Path) -> str:
    """SHA-256 of a file of any size."""
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _publish(partial: Path, out: Path, kind: str, hashed: bool) -> None:
    files = {
        path.relative_to(partial).as_posix(): path for path in sorted(partial.rglob("*")) if path.is_file()
    }
    manifest = {
        "kind": kind,
        "files": {
            name: {"size": path.stat().st_size} | ({"sha256": file_hash(path)} if hashed else {})
            for name, path in files.items()
        },
    }
    (partial / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    open_to_others(partial)
    for path in (*partial.rglob("*"), partial):
        sync(path)
    old = _beside(out, "replaced")
    if out.exists():
        out.rename(old)
    try:
        partial.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _clean(path: Path, home: Path, state: str) -> None:
    if state == "replaced" and not home.exists() and (path / MANIFEST).is_file():
        path.rename(home)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _beside(out: Path, state: str) -> Path:
    """A name that nobody has."""
    return Path(tempfile.mktemp(prefix=f".{out.name}.", suffix=f".mgie-{state}", dir=out.parent))


def _who(holder: Path) -> str:
    try:
        facts = json.loads(holder.read_text(encoding="utf-8"))
        return f"process {facts['process']} on {facts['host']} since {facts['since']}"
    except (OSError, ValueError, TypeError, KeyError):  # it has just begun, or is about to end
        return "another process"


def _device_error(error: OSError, out: Path) -> DeviceError:
    reasons = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EACCES: "there is no permission to write there",
        errno.EROFS: "that disk is read-only",
        errno.ENAMETOOLONG: "its name is too long",
    }
    reason = reasons.get(error.errno or 0, " ".join(str(error).split())[:200] or type(error).__name__)
    return DeviceError(
        f"{out} cannot be written: {reason}; nothing was left half-written, choose another place."
    )
