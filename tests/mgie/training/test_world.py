"""One process by itself; two of them are tried in tests/mgie/test_train.py."""

import os
import signal
import threading

import pytest
import torch
from torch import nn

from mgie.training.world import World, stop_requests


def test_one_process_is_the_whole_world(tmp_path):
    with World(tmp_path, threads=1) as world:
        assert (world.rank, world.size, world.is_main) == (0, 1, True)
        assert torch.get_num_threads() == 1
        sums = torch.tensor([2.0, 3.0])
        torch.testing.assert_close(world.sum(sums).cpu(), torch.tensor([2.0, 3.0]))
        world.wait()


def test_gradients_add_up_over_micro_batches_and_are_clipped(tmp_path):
    with World(tmp_path, threads=1) as world:
        model = nn.Linear(2, 1, bias=False)
        task, _ = world.prepare(model, torch.optim.SGD(model.parameters(), lr=0.1))
        for last in (False, True):
            with world.accumulating(task, last=last):
                world.backward(task(torch.tensor([[3.0, 4.0]], device=world.device)).sum() / 2)
        norm = world.clip(list(model.parameters()), 1.0)
        torch.testing.assert_close(float(norm), 5.0)
        assert model.weight.grad is not None
        torch.testing.assert_close(model.weight.grad.cpu(), torch.tensor([[0.6, 0.8]]))


@pytest.mark.parametrize("order", [("bf16", "fp32"), ("fp32", "bf16")])
def test_each_world_computes_in_its_own_precision(tmp_path, order):
    """The runs of one process (of a notebook, say) leave nothing to each other."""
    for precision in order:
        with World(tmp_path, precision=precision, threads=1) as world:
            layer = nn.Linear(2, 2).to(world.device)
            with world.autocast():
                result = layer(torch.ones(1, 2, device=world.device))
        assert result.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        assert layer.weight.dtype == torch.float32


def test_ctrl_c_and_sigterm_are_collected_and_then_as_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with stop_requests() as stop:
        assert not stop
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # an impatient scheduler
        assert stop == [signal.SIGTERM, signal.SIGTERM]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


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
