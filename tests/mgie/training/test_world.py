"""One process by itself; two of them are tried in tests/mgie/test_train_together.py."""

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from processes import together

from mgie.data.batches import STOPS
from mgie.errors import ConfigError, DeviceError
from mgie.training.world import REQUEUE, TIMEOUT, World, pinned, stop_requests, stopping_at_once


def test_one_process_is_the_whole_world(tmp_path):
    with World(tmp_path, threads=1) as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert torch.get_num_threads() == 1
        sums = torch.tensor([2.0, 3.0], device=world.device)
        assert world.sum(sums).tolist() == [2.0, 3.0]
        assert world.totals([2, 3]) == [2, 3]
        world.wait()


def test_two_processes_add_up_and_wait_for_a_long_checkpoint(tmp_path):
    def meet() -> int:
        with World(tmp_path, threads=1) as world:
            mine = world.rank + 1
            assert world.totals([mine, 10 * mine]) == [3, 30]
            assert world.sum(torch.tensor([float(mine)], device=world.device)).tolist() == [3.0]
            assert world.asked_to_stop([signal.SIGTERM] if mine == 2 else []) == REQUEUE
            assert world.asked_to_stop([signal.SIGINT] if mine == 1 else []) == 130
            assert world.asked_to_stop([]) == 0
            for group in (dist.group.WORLD, world.hosts):
                backend = group._get_backend(
                    torch.device("cpu" if group is world.hosts else world.device.type)
                )
                assert backend.options._timeout == TIMEOUT
        return 0

    pair = together(meet, tmp_path / "notes")
    assert [each.code() for each in pair] == [0, 0], pair[0].said + pair[1].said


@pytest.mark.gpu
def test_what_goes_to_a_gpu_is_pinned_on_the_way(world, on_the_host):
    for record in on_the_host:
        ready, there = pinned(record), world.put(record)
        for field in fields(record):
            value = getattr(record, field.name)
            if torch.is_tensor(value) and value.numel():
                assert getattr(ready, field.name).is_pinned() and not value.is_pinned()
                assert getattr(there, field.name).is_cuda
                assert torch.equal(getattr(there, field.name).cpu(), value)


def test_ctrl_c_and_what_schedulers_send_are_collected_and_then_as_before():
    before = [signal.getsignal(number) for number in STOPS]
    with stop_requests() as stop:
        assert not stop
        for number in (
            signal.SIGTERM,
            signal.SIGTERM,
            signal.SIGUSR1,
            signal.SIGHUP,
        ):  # an impatient scheduler
            os.kill(os.getpid(), number)
        assert stop == [signal.SIGTERM, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP]
    assert [signal.getsignal(number) for number in STOPS] == before


def test_a_second_ctrl_c_does_not_wait():
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), stop_requests() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop == [signal.SIGINT]
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_signals_are_not_ours_in_another_thread():
    before, collected = signal.getsignal(signal.SIGTERM), []

    def elsewhere() -> None:
        with stop_requests() as stop:
            collected.append((list(stop), signal.getsignal(signal.SIGTERM) is before))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert collected == [([], True)]


@pytest.mark.parametrize("number", STOPS)
def test_where_there_is_nothing_to_save_a_signal_ends_it(number):
    with pytest.raises(KeyboardInterrupt) as told, stopping_at_once():
        os.kill(os.getpid(), number)
        time.sleep(1)
    asks = number in (signal.SIGTERM, signal.SIGUSR1)
    assert getattr(told.value, "code", 130) == (REQUEUE if asks else 130)


def test_one_that_hangs_is_not_waited_for_longer_than_was_said(tmp_path):
    def wait() -> int:
        with World(tmp_path, threads=1, timeout=timedelta(seconds=3)) as world:
            world.wait()
            if world.rank == 1:
                time.sleep(40)
                return 0
            world.totals([1])
        return 0

    first, hanging = together(lambda: 2 if raises(wait) else 1, tmp_path / "notes")
    began = time.monotonic()
    assert first.code() == 2, first.said
    assert time.monotonic() - began < 30
    os.kill(hanging.pid, signal.SIGKILL)
    hanging.code()


def raises(wait: Callable[[], int]) -> bool:
    with pytest.raises(DeviceError, match=r"has not answered for as long as train\.timeout says"):
        wait()
    return True


def test_what_one_cannot_do_none_has_done(tmp_path):
    def act(rank: int) -> None:
        if rank == 1:
            raise ConfigError("no")

    def meet() -> int:
        with World(tmp_path, threads=1) as world:
            world.all_or_none(lambda: None)
            with pytest.raises(ConfigError, match="no"):
                world.all_or_none(lambda: act(world.rank))
        return 0

    pair = together(meet, tmp_path / "notes")
    assert [each.code() for each in pair] == [0, 0], pair[0].said + pair[1].said


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_main_process_answers_for_all(tmp_path):
    def refuse() -> int:
        raise ConfigError("no")

    with World(tmp_path, threads=1) as world:
        assert world.from_main(lambda: 3) == 3
        assert world.from_all("x") == ["x"]
        with pytest.raises(ConfigError, match="no"):
            world.from_main(refuse)


def test_a_folder_is_held_by_one_run(tmp_path):
    with World(tmp_path, threads=1) as world, world.holding(tmp_path / "runs" / "x"):
        with world.holding(tmp_path / "runs" / "y"):
            pass
        refused = pytest.raises(ConfigError, match=f"in use by process {os.getpid()}")
        with refused, world.holding(tmp_path / "runs" / "x"):
            pass
    assert not any((tmp_path / "runs").iterdir())


def test_a_helper_that_is_killed_is_one_sentence(tmp_path):
    words = "DataLoader worker (pid 7) is killed by signal: Killed."
    told = pytest.raises(DeviceError, match=r"data was killed.*goes on from the last checkpoint")
    with told, World(tmp_path, threads=1):
        raise RuntimeError(words)
