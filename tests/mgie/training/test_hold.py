"""A run's folder is held across machines: these are processes that say they are on some."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Started

from llava_patch import folders
from mgie.errors import ConfigError
from mgie.training import hold
from mgie.training.hold import held, read


@pytest.fixture(autouse=True)
def _fast(monkeypatch):
    monkeypatch.setattr(hold, "BEAT", 0.1)
    monkeypatch.setattr(hold, "DEAD", 1.0)


@pytest.fixture
def on(monkeypatch) -> Callable[[str], None]:
    """From here on this process is on that machine."""
    return lambda host: monkeypatch.setattr(socket, "gethostname", lambda: host)


def holder(place: Path) -> Started:
    """Another process that holds it until it is ended."""

    def keep() -> int:
        with held(place, say=print):
            print("held", flush=True)
            time.sleep(60)
        return 0

    started = Started(keep, place.with_suffix(".said"))
    for _ in range(200):
        if "held" in started.said:
            return started
        time.sleep(0.05)
    raise AssertionError(started.said)


def said(told: list[str]) -> bool:
    return any("waits up to 1 seconds for a sign of life" in each for each in told)


def test_one_on_this_machine_is_refused_at_once_and_none_is_left_behind(tmp_path, on):
    on("here")
    other, told = holder(tmp_path / "run"), []
    with pytest.raises(ConfigError, match=f"in use by process {other.pid} on here"):
        held(tmp_path / "run", say=told.append).__enter__()
    other.kill_group(signal.SIGKILL), other.code()
    with held(tmp_path / "run", say=told.append):
        assert read(tmp_path / ".run.alive.json")[:2] == ("here", os.getpid())
    assert not told and not list(tmp_path.glob(".run*"))


def test_one_that_lives_elsewhere_is_refused_when_it_gives_a_sign(tmp_path, on):
    on("there")
    other, told = holder(tmp_path / "run"), []
    on("here")
    began = time.monotonic()
    with pytest.raises(ConfigError, match=f"in use by process {other.pid} on there"):
        held(tmp_path / "run", say=told.append).__enter__()
    assert said(told) and time.monotonic() - began < 0.9
    other.kill_group(signal.SIGKILL), other.code()


def test_a_dead_machine_leaves_nothing_behind_and_gives_way_if_it_was_not_dead(tmp_path, on):
    """What holds the disk's lock and gives no sign is a machine that its server still believes in."""
    on("there")
    other, told = holder(tmp_path / "run"), []
    other.kill_group(signal.SIGSTOP)
    on("here")
    with held(tmp_path / "run", say=told.append):
        assert said(told) and read(tmp_path / ".run.alive.json")[0] == "here"
        other.kill_group(signal.SIGCONT)
        assert other.code() == 2 and "was taken over by another run" in other.said
        with pytest.raises(ConfigError, match=r"in use by process \d+ on here"):
            held(tmp_path / "run", say=told.append).__enter__()
    assert not list(tmp_path.glob(".run*"))


def test_a_disk_that_tells_machines_nothing_of_each_other_s_locks(tmp_path, on):
    on("there")
    other, told = holder(tmp_path / "run"), []
    (tmp_path / ".run.lock").unlink()  # so that the lock is free here
    on("here")
    with pytest.raises(ConfigError, match="though this disk's lock says nothing of it"):
        held(tmp_path / "run", say=told.append).__enter__()
    other.kill_group(signal.SIGKILL), other.code()
    with held(tmp_path / "run", say=told.append):
        assert said(told)


def test_of_two_that_take_over_one_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="was just taken over by another run"):
        hold._claim(tmp_path / ".run.alive.json", tmp_path / "run")


def test_what_is_no_sign_is_none(tmp_path):
    assert read(tmp_path / "nothing") is None
    for content in ("", "[1]", "{}", '{"host": 1, "process": "x", "token": 2}'):
        (tmp_path / "sign").write_text(content)
        assert read(tmp_path / "sign") is None
    folders.break_lock(tmp_path / "nothing")
