"""One process by itself; two of them are tried in tests/mgie/test_train.py."""

import os
import signal
import threading
import time

import pytest
import torch
from torch import nn

from mgie.data.batches import STOPS
from mgie.errors import ConfigError, DeviceError
from mgie.training.optim import Average, OptimConfig, build_optimizer
from mgie.training.world import World, stop_requests, stopping_at_once


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


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_whose_gradient_is_not_finite_leaves_all_as_it_was(tmp_path, fused: bool, bad: float):
    """Fused as on a GPU, where nobody knows it but the device; torch has such an optimizer for CPUs too."""
    with World(tmp_path, threads=1) as world:
        world.fused = fused
        model = nn.Linear(3, 2).to(world.device)
        config = OptimConfig(lr=0.1, weight_decay=0.1)
        parameters = dict(model.named_parameters())
        optimizer = build_optimizer({"all": list(model.parameters())}, ("all",), config, fused=fused)
        task, optimizer = world.prepare(model, optimizer)
        average = Average(list(model.parameters()), decay=0.5)

        def step(scale: float) -> tuple[float, dict[str, torch.Tensor]]:
            world.backward(task(torch.full((1, 3), scale, device=world.device)).square().sum())
            taken = world.step(optimizer, world.clip(list(model.parameters()), 1.0))
            optimizer.zero_grad()
            average.step(model.parameters(), taken)
            held = world.state_dict(parameters, optimizer, average.shadow_params)
            averages = {f"{name}|average": tensor for name, tensor in (held.ema or {}).items()}
            tensors = held.trained | held.optimizer | averages
            return float(taken), {name: tensor.clone() for name, tensor in tensors.items()}

        (one, first), (none, second), (again, third) = step(1.0), step(bad), step(1.0)
        assert (one, none, again) == (1, 0, 1)
        assert len(first) == 2 * 5
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), name
            assert not torch.equal(tensor, third[name]), name
            assert third[name].isfinite().all()


def test_a_fused_optimizer_goes_on_from_a_checkpoint(tmp_path):
    """Counts of steps lie on its device."""
    with World(tmp_path, threads=1) as world:
        world.fused = True
        results = []
        for resumed in (False, True):
            torch.manual_seed(0)
            model = nn.Linear(3, 2).to(world.device)
            parameters = dict(model.named_parameters())

            def new(model=model):
                config = OptimConfig(lr=0.1)
                return build_optimizer({"all": list(model.parameters())}, ("all",), config, fused=True)

            optimizer = new()
            for number in range(4):
                if resumed and number == 2:
                    held = world.state_dict(parameters, optimizer, None)
                    optimizer = new()
                    world.load_state_dict(held, parameters, optimizer, None)
                model(torch.ones(1, 3, device=world.device)).square().sum().backward()
                optimizer.step()
                optimizer.zero_grad()
            results.append(model.weight.detach())
        assert torch.equal(*results)


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
    with pytest.raises(KeyboardInterrupt), stopping_at_once():
        os.kill(os.getpid(), number)
        time.sleep(1)


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
        assert world.any(True) and not world.any(False)
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
