"""Ten attacks on runs that share out everything; two hundred where there is time (`make test-slow`)."""

import multiprocessing
import os
import random
import signal
import sys

import pytest
from tqdm import tqdm


@pytest.fixture(scope="module")
def shares(root):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root / "benchmarks")
        from attacks import shares

        yield shares


@pytest.mark.parametrize("count", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_the_end_is_the_same_to_the_bit(shares, tmp_path, monkeypatch, count):
    from attacks import laboratory

    monkeypatch.setattr(laboratory, "LIMIT", 90.0)

    tqdm.get_lock()  # as after any bar of an earlier test

    class Here:
        folder = tmp_path

    bad = []
    for number, each in enumerate(shares.tries(Here(), count)):
        folder = tmp_path / f"{number}" / "here"
        folder.mkdir(parents=True)
        found = each.attack(folder, random.Random(f"shares 0 {number}"))
        if found.result != "done":
            bad.append(f"{number} {each.what}: {found.result}: {found.detail}")
        if found.result == "hang":  # told at once: several would outlast this test's own limit
            break
    assert not bad, "\n".join(bad)


def test_a_command_that_is_killed_takes_no_lock_with_it(shares, tmp_path, monkeypatch):
    """tqdm's lock is one for all that are forked, as soon as a process has had a bar."""
    monkeypatch.setattr(tqdm, "_lock", multiprocessing.RLock(), raising=False)

    def dies():
        tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    def draws():
        tqdm.write("it goes on", file=sys.stderr)
        return 0

    assert shares.call(dies, tmp_path).code == -signal.SIGKILL
    assert shares.call(draws, tmp_path, limit=5).code == 0
