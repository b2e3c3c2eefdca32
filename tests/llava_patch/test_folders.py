import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llava_patch import folders
from llava_patch.errors import ConfigError, DeviceError, WeightsError
from llava_patch.folders import (
    MANIFEST,
    check_file,
    check_out,
    locked,
    read_manifest,
    remove_folder,
    strangers,
    whole_folder,
)

WRITES = """
import sys, time
from pathlib import Path
from llava_patch.folders import whole_folder
with whole_folder(sys.argv[1], kind="report") as partial:
    (partial / "file").write_text(sys.argv[2])
    print("writing", flush=True)
    time.sleep(float(sys.argv[3]))
"""


def write(out: Path, text: str = "x", **options) -> None:
    with whole_folder(out, kind="report", **options) as partial:
        (partial / "deep").mkdir()
        (partial / "deep" / "file").write_text(text)


def another(out: Path, text: str, seconds: float) -> subprocess.Popen:
    """Another process that has begun to write `out`."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITES, str(out), text, str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.stdout.close()
    return process


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path):
    out = tmp_path / "deep" / "out"
    with whole_folder(out, kind="report") as partial:
        (partial / "file").write_text("x")
        assert not out.exists()
    assert names(out.parent) == ["out"] and names(out) == ["file", MANIFEST]
    with pytest.raises(KeyError), whole_folder(tmp_path / "deep" / "other", kind="report") as partial:
        (partial / "file").write_text("x")
        raise KeyError
    assert names(out.parent) == ["out"]


def test_the_manifest_names_size_and_hash_of_every_file(tmp_path: Path):
    write(tmp_path / "out")
    write(tmp_path / "large", hashed=False)
    assert read_manifest(tmp_path / "out") == {
        "kind": "report",
        "files": {
            "deep/file": {
                "size": 1,
                "sha256": "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881",
            }
        },
    }
    assert read_manifest(tmp_path / "large")["files"] == {"deep/file": {"size": 1}}


@pytest.mark.parametrize(
    "text", ["{}", "[]", "null", "x", '{"kind": "a"}', '{"kind": "a", "files": {}}', "[" * 9999]
)
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str):
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(WeightsError, match="no manifest of a whole folder"):
        read_manifest(tmp_path)


def test_a_changed_file_is_noticed(tmp_path: Path):
    write(tmp_path / "out")
    file, facts = tmp_path / "out" / "deep" / "file", read_manifest(tmp_path / "out")["files"]["deep/file"]
    check_file(tmp_path / "out", "deep/file", facts)
    for text, why in (("y", "another SHA-256"), ("yy", "has 2 bytes, expected 1")):
        file.write_text(text)
        with pytest.raises(WeightsError, match=why):
            check_file(tmp_path / "out", "deep/file", facts)
    file.unlink()
    with pytest.raises(WeightsError, match="is missing"):
        check_file(tmp_path / "out", "deep/file", facts)


def test_only_what_was_written_here_is_replaced(tmp_path: Path):
    out = tmp_path / "out"
    out.mkdir()
    write(out)  # an empty folder may be filled
    write(out, "y")
    assert (out / "deep" / "file").read_text() == "y"
    with pytest.raises(ConfigError, match="holds something already"):
        write(out, "z", replace=False)
    with pytest.raises(ConfigError, match="holds a report, and a release is to be written"):
        check_out(out, kind="release")
    (out / "photograph.jpg").write_text("dear")
    with pytest.raises(ConfigError, match=r"photograph\.jpg in it was not written with it"):
        write(out, "z")
    assert (out / "photograph.jpg").read_text() == "dear" and (out / "deep" / "file").read_text() == "y"
    (out / "photograph.jpg").unlink()
    (out / ".DS_Store").write_text("")
    write(out, "z")


def test_a_folder_of_somebody_else_is_never_replaced(tmp_path: Path):
    out = tmp_path / "mine"
    (out / "before").mkdir(parents=True)
    (out / "before" / "a.jpg").write_text("dear")
    with pytest.raises(ConfigError, match="was not written here"):
        write(out)
    with pytest.raises(ConfigError, match="is a file"):
        write(out / "before" / "a.jpg")
    assert (out / "before" / "a.jpg").read_text() == "dear" and names(tmp_path) == ["mine"]


def test_a_folder_written_within_another_is_known(tmp_path: Path):
    write(tmp_path / "set")
    write(tmp_path / "set" / "features")
    assert strangers(tmp_path / "set") == []
    (tmp_path / "set" / "features" / "mine").write_text("dear")
    assert strangers(tmp_path / "set") == ["features/mine"]


def test_places_that_cannot_be_written_are_told_at_once(tmp_path: Path, monkeypatch):
    (tmp_path / "file").write_text("dear")
    with pytest.raises(DeviceError, match=r"cannot be written, for .*file is a file: choose another place"):
        check_out(tmp_path / "file" / "deep" / "out", kind="report")
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(DeviceError, match="is read-only: choose another place"):
        check_out(tmp_path / "out", kind="report")


def test_a_full_disk_is_one_sentence(tmp_path: Path):
    with (
        pytest.raises(DeviceError, match="disk is full") as caught,
        whole_folder(tmp_path / "o", kind="report"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert "\n" not in str(caught.value) and names(tmp_path) == []


def test_an_error_of_a_file_that_is_read_stays_its_own(tmp_path: Path):
    (tmp_path / "out").mkdir()
    with (
        pytest.raises(FileNotFoundError, match="source"),
        whole_folder(tmp_path / "out" / "x", kind="report"),
    ):
        Path(tmp_path / "source").read_bytes()


@pytest.mark.parametrize("existing", [False, True])
def test_a_failure_while_renaming_leaves_what_was_there(tmp_path: Path, monkeypatch, existing: bool):
    if existing:
        write(tmp_path / "out", "old")
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        if self.name.endswith("partial"):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DeviceError, match="Input/output error"):
        write(tmp_path / "out", "new")
    assert names(tmp_path) == (["out"] if existing else [])
    assert not existing or (tmp_path / "out" / "deep" / "file").read_text() == "old"


def test_a_second_writer_is_told_who_writes(tmp_path: Path):
    process = another(tmp_path / "out", "first", 1.5)
    with pytest.raises(ConfigError, match=rf"out is in use by process {process.pid} on \S+ since \d{{4}}-"):
        write(tmp_path / "out", "second")
    assert process.wait() == 0
    assert (tmp_path / "out" / "file").read_text() == "first" and names(tmp_path) == ["out"]
    write(tmp_path / "out", "second")


def test_what_a_killed_process_left_is_cleaned_up_and_what_a_live_one_writes_is_not(tmp_path: Path):
    dead, live = another(tmp_path / "a", "x", 60), another(tmp_path / "b", "live", 3)
    dead.kill()
    dead.wait()
    assert sum(path.name.endswith("mgie-partial") for path in tmp_path.iterdir()) == 2
    write(tmp_path / "c")
    assert [path.name[:3] for path in tmp_path.iterdir() if path.name.endswith("mgie-partial")] == [".b."]
    assert live.wait() == 0 and (tmp_path / "b" / "file").read_text() == "live"
    assert names(tmp_path) == ["b", "c"]


def test_a_kill_between_the_two_renames_loses_nothing(tmp_path: Path):
    write(tmp_path / "out", "old")
    (tmp_path / "out").rename(tmp_path / ".out.abcdefgh.mgie-replaced")
    write(tmp_path / "other")
    assert (tmp_path / "out" / "deep" / "file").read_text() == "old" and names(tmp_path) == ["other", "out"]


def test_folders_of_others_that_look_alike_stay(tmp_path: Path):
    for name in (".out.abcdefgh.partial", ".git", ".out.mgie-partial"):
        (tmp_path / name).mkdir()
    write(tmp_path / "out")
    assert names(tmp_path) == [".git", ".out.abcdefgh.partial", ".out.mgie-partial", "out"]


def test_a_removed_folder_is_gone_at_once(tmp_path: Path, monkeypatch):
    write(tmp_path / "out")
    monkeypatch.setattr(folders.shutil, "rmtree", lambda _: None)  # killed before the first file is gone
    remove_folder(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_lock_ends_with_its_process(tmp_path: Path):
    process = another(tmp_path / "out", "x", 60)
    with pytest.raises(ConfigError, match="in use"), locked(tmp_path / "out"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    with locked(tmp_path / "out"):
        assert json.loads((tmp_path / ".out.holder.json").read_text())["process"] == os.getpid()
    assert not any(name.startswith(".out.lock") or "holder" in name for name in names(tmp_path))


def test_a_lock_is_not_inherited_by_helpers(tmp_path: Path):
    """A loader's worker lives some seconds longer than a parent that was killed."""
    code = """
import os, sys, time
from pathlib import Path
from llava_patch.folders import locked
here, there = os.pipe()
with locked(Path(sys.argv[1])):
    if os.fork() == 0:
        os.write(there, b"x")
        time.sleep(2)
        os._exit(0)
    os.read(here, 1)  # the helper has begun
    os._exit(3)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")])
    assert done.returncode == 3
    with locked(tmp_path / "run"):
        pass


@pytest.mark.parametrize("name", ["{}", "{}/", "{}/..", "/", "."])
def test_what_the_command_stands_in_is_not_replaced(tmp_path: Path, monkeypatch, name: str):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ConfigError, match="is where this runs, above that, or a disk of its own"):
        check_out(name.format(tmp_path / "here"), kind="report")


def test_a_disk_of_its_own_is_refused_before_the_work(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("os.path.ismount", lambda path: path == tmp_path / "out")
    with pytest.raises(ConfigError, match="a disk of its own"):
        check_out(tmp_path / "out", kind="report")


def test_links_in_a_circle_lead_nowhere(tmp_path: Path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for out in (tmp_path / "a", f"{tmp_path}/x\0y"):
        with pytest.raises((ConfigError, DeviceError), match=r"leads nowhere|cannot be written"):
            write(Path(out))


@pytest.mark.parametrize(
    "name", [".hidden", "..two", "a b", "zwei\nZeilen", "größe 漢字", "x.lock", "x" * 231]
)
def test_names_of_all_kinds(tmp_path: Path, name: str):
    write(tmp_path / name, "first")
    (tmp_path / f".{name}.abcdefgh.mgie-partial").mkdir()  # somebody was killed
    write(tmp_path / name, "second")
    assert names(tmp_path) == [name]
    assert (tmp_path / name / "deep" / "file").read_text() == "second"


def test_a_name_is_too_long_before_the_work_is_done(tmp_path: Path):
    for out in (tmp_path / ("x" * 232), tmp_path / ("x" * 300), tmp_path / ("x" * 300) / "out"):
        with pytest.raises(DeviceError, match="too long, choose one of at most 231 bytes"):
            check_out(out, kind="report")


def test_a_manifest_names_nothing_outside(tmp_path: Path):
    for name in ("/etc/passwd", "../x", "a/../../x", "a\0b"):
        (tmp_path / MANIFEST).write_text(json.dumps({"kind": "report", "files": {name: {"size": 1}}}))
        with pytest.raises(WeightsError, match="which is not inside"):
            read_manifest(tmp_path)
    (tmp_path / MANIFEST).write_text('{"kind": "report", "files": {"a": {"size": Infinity}}}')
    with pytest.raises(WeightsError, match="no manifest of a whole folder"):
        read_manifest(tmp_path)


def test_a_removal_that_was_killed_brings_nothing_back(tmp_path: Path, monkeypatch):
    write(tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(folders.shutil, "rmtree", lambda _: None)
        remove_folder(tmp_path / "out")
    write(tmp_path / "other")
    assert names(tmp_path) == ["other"]


def test_what_another_user_left_does_not_stop_the_work(tmp_path: Path, monkeypatch):
    (tmp_path / ".theirs.abcdefgh.mgie-partial").mkdir()
    acquire = folders.FileLock.acquire

    def refused(self, *args, **options):
        if "theirs" in str(self.lock_file):
            raise PermissionError(errno.EACCES, "Permission denied", self.lock_file)
        return acquire(self, *args, **options)

    monkeypatch.setattr(folders.FileLock, "acquire", refused)
    write(tmp_path / "mine")
    assert names(tmp_path) == [".theirs.abcdefgh.mgie-partial", "mine"]


def test_an_error_of_what_is_read_beside_it_stays_its_own(tmp_path: Path):
    for error in (
        PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "source")),
        BrokenPipeError(errno.EPIPE, "Broken pipe"),
        ConnectionError("no route"),
    ):
        with pytest.raises(type(error)) as caught, whole_folder(tmp_path / "out", kind="report"):
            raise error
        assert caught.value is error and names(tmp_path) == []


def test_disks_that_know_no_rights_and_sync_no_folders(tmp_path: Path, monkeypatch):
    sync = os.fsync

    def files_only(handle: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    def refused(self: Path, _mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(self))

    monkeypatch.setattr(os, "fsync", files_only)
    monkeypatch.setattr(Path, "chmod", refused)
    write(tmp_path / "out")
    assert names(tmp_path) == ["out"]


def test_a_shared_folder_stays_one(tmp_path: Path):
    tmp_path.chmod(0o2770)
    write(tmp_path / "out")
    assert (tmp_path / "out" / "deep").stat().st_mode & 0o2000


@pytest.mark.filterwarnings("error")
def test_a_disk_that_knows_no_locks(tmp_path: Path, monkeypatch):
    """As some network file systems: the lock file itself is the lock, and a warning says so."""
    import fcntl

    def flock(*_: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.warns(UserWarning, match="falling back to SoftFileLock") as warned:
        with (
            locked(tmp_path / "run"),
            pytest.raises(ConfigError, match=r"in use by process \d+ on .*remove .*run\.lock if that"),
            locked(tmp_path / "run"),
        ):
            pass
        assert names(tmp_path) == []
        write(tmp_path / "out")
        write(tmp_path / "out", "second")
    assert names(tmp_path) == ["out"]
    assert not [warning for warning in warned if "\n" in str(warning.message)]
