"""Folders written whole or not at all, with a manifest, by one process at a time.

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
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from llava_patch.errors import ConfigError, DeviceError, WeightsError

MANIFEST = "manifest.json"
"""In each written folder: what kind of folder it is, and size and SHA-256 of each file."""
TEMPORARY = re.compile(r"\.(?P<name>.+)\.[a-z0-9_]{8}\.mgie-(?P<state>partial|replaced)", re.DOTALL)
"""Names of folders that are being written, or have made way: nobody else calls one so."""
ABOUT_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE}
"""Errors without a file's name that writing meets; others are somebody else's."""
UNSYNCED = {errno.EINVAL, errno.ENOTSUP, errno.EACCES}
"""What disks of other systems answer to the wish to sync a folder."""
ROOM = len("..12345678.mgie-replaced")
"""Bytes by which a temporary name is longer than its folder's."""
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
    out = _resolved(out)  # a link stays, and what it leads to is replaced
    partial = _beside(out, "partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out):
            sweep(out.parent, held=out.name)
            check_out(out, kind=kind, replace=replace)
            partial.mkdir()
            try:
                yield partial
                _publish(partial, out, kind, hashed)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        # One about a file elsewhere, which was to be read, tells of that file; a broken pipe is none of ours.
        about = error.filename and Path(os.fsdecode(error.filename))
        ours = about in (out, *out.parents, *_lock_files(out)) or (about and about.is_relative_to(partial))
        if ours or (not about and error.errno in ABOUT_THE_DISK):
            raise _device_error(error, out) from error
        raise


def check_out(out: str | Path, *, kind: str, replace: bool = True) -> None:
    """What `whole_folder` would refuse, before the work is done. Raises ConfigError or DeviceError."""
    out, place = Path(out), _resolved(out)
    if place in (Path.cwd(), *Path.cwd().parents) or os.path.ismount(place):
        raise ConfigError(
            f"{out} is where this runs, above that, or a disk of its own, and cannot be put in place as a "
            "whole: name a folder in it."
        )
    above = next(folder for folder in place.parents if os.path.exists(folder))
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        what = "read-only" if above.is_dir() else "a file"
        raise DeviceError(f"{out} cannot be written, for {above} is {what}: choose another place.")
    longest = os.pathconf(above, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    names = (*place.relative_to(above).parts, _beside(place, "replaced").name)
    if max(len(os.fsencode(name)) for name in names) > longest:
        raise DeviceError(
            f"{out} cannot be written: its name is too long, choose one of at most {longest - ROOM} bytes."
        )
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
    gone = _beside(folder, "partial")  # nobody takes it for an older one that is to come back
    folder.rename(gone)
    shutil.rmtree(gone)


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """`kind`, and `files`: path -> size and, where it was hashed, sha256. Raises WeightsError."""
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        files = {
            str(name): dict(facts) | {"size": int(facts["size"])} for name, facts in manifest["files"].items()
        }
        if not files:
            raise ValueError("it names no file")
        for name in files:
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\0" in name:
                raise ValueError(f"it names {name!r}, which is not inside")
        return {"kind": str(manifest["kind"]), "files": files}
    except (
        OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError
    ) as error:  # fmt: skip
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WeightsError(
            f"{path} is no manifest of a whole folder ({reason}): write or fetch the folder again."
        ) from error


def check_file(
    folder: str | Path, name: str, facts: dict[str, Any], *, stop: threading.Event | None = None
) -> None:
    """Raise WeightsError unless a file is what the manifest says of it. `stop`, when set, gives up."""
    path = Path(folder) / name
    if not path.is_file():
        raise WeightsError(f"{path} is missing: write or fetch the folder again.")
    if path.stat().st_size != facts["size"]:
        raise WeightsError(
            f"{path} has {path.stat().st_size} bytes, expected {facts['size']}: it is damaged or was "
            "changed; write or fetch the folder again."
        )
    if "sha256" in facts and file_hash(path, stop=stop) != facts["sha256"]:
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
    path, holder = _lock_files(place)
    lock = FileLock(path, thread_local=False)  # what one thread has begun another may end
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        # Where the disk knows no locks, the file itself is one, and outlives a machine that has died.
        dead = f", remove {path} if that machine is gone" if isinstance(lock, SoftFileLock) else ""
        raise ConfigError(
            f"{place} is in use by {_who(holder)}: wait until that has ended{dead}, or choose another place."
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


def break_lock(place: Path) -> None:
    """Take away the lock of a holder that is dead although the disk does not know it."""
    for path in _lock_files(place):
        path.unlink(missing_ok=True)


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
        except (ConfigError, OSError):
            continue  # its process lives, or it is another user's


def sync(path: Path) -> None:
    """Wait until a file, or the list of a folder's files, is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if not (path.is_dir() and error.errno in UNSYNCED):
            raise
    finally:
        os.close(handle)


def open_to_others(path: Path) -> None:
    """Give a file, or a folder and all in it, the rights of any new one.

    Temporary files and safetensors' are for their owner alone. A folder goes on giving its group to what is
    made in it; disks that know no rights keep what they have.
    """
    mask = os.umask(0)
    os.umask(mask)
    for each in (path, *path.rglob("*")):
        if each.is_symlink():
            continue
        with suppress(PermissionError):
            each.chmod((0o777 if each.is_dir() else 0o666) & ~mask | each.stat().st_mode & stat.S_ISGID)


def file_hash(path: Path, *, stop: threading.Event | None = None) -> str:
    """SHA-256 of a file of any size; of its beginning, where `stop` was set meanwhile."""
    digest = hashlib.sha256()  # hashlib.file_digest came with Python 3.11
    with path.open("rb") as file:
        while not (stop and stop.is_set()) and (block := file.read(1 << 20)):
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


def _resolved(out: str | Path) -> Path:
    """Where `out` really is. Raises ConfigError for what is no path."""
    try:
        return Path(out).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a null character
        raise ConfigError(f"{str(out)!r} leads nowhere ({error}): choose another place.") from error


def _lock_files(place: Path) -> tuple[Path, Path]:
    """The lock, and who holds it."""
    return place.with_name(f".{place.name}.lock"), place.with_name(f".{place.name}.holder.json")


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
