"""One process by itself; two of them are tried in tests/mgie/test_train_together.py."""

import copy
from dataclasses import replace

import pytest
import torch

from mgie.training.ddp import DdpEngine
from mgie.training.optim import Average, OptimConfig, build_optimizer
from mgie.training.world import World


def prepared(world, task, *, fused: bool = False, bf16: bool = False, clip: float = 1e9) -> DdpEngine:
    """An engine that trains all of a task, and its optimizer."""
    engine = DdpEngine(world, clip=clip, bf16=bf16)
    engine.fused = fused
    members, config = {"all": list(task.editor.parameters())}, OptimConfig(lr=0.1, weight_decay=0.1)
    optimizer = build_optimizer(members, ("all",), config, fused=fused)
    engine.prepare(task, optimizer, dict(task.editor.named_parameters()))
    return engine


def one_step(engine, batch, draws, *, scale: float = 1.0) -> float:
    """One step of two micro-batches; whether it was taken."""
    for last in (False, True):
        with engine.accumulating(last=last):
            losses = engine(batch, replace(draws, posterior=scale * draws.posterior))
            engine.backward(losses["square"].sum / 4)
    _, taken = engine.step()
    return float(taken)


def test_gradients_add_up_over_micro_batches_and_are_clipped(world, line, batch, draws, monkeypatch):
    engine = prepared(world, line, clip=1.0)
    line(batch, draws)["square"].sum.div(2).backward()
    whole = [parameter.grad.clone() for parameter in engine.trained.values()]
    engine.optimizer.zero_grad()
    stepped = []
    monkeypatch.setattr(
        engine.optimizer, "step", lambda: stepped.extend(p.grad.clone() for p in engine.trained.values())
    )
    for last in (False, True):
        with engine.accumulating(last=last):
            engine.backward(engine(batch, draws)["square"].sum / 4)
    norm, taken = engine.step()
    torch.testing.assert_close(norm, torch.nn.utils.get_total_norm(whole))
    assert norm > 1 and taken == 1
    torch.testing.assert_close(stepped, [each / norm for each in whole])
    assert all(parameter.grad is None for parameter in engine.trained.values())


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_whose_gradient_is_not_finite_leaves_all_as_it_was(
    world, line, batch, draws, fused: bool, bad: float
):
    """Fused as on a GPU, where nobody knows it but the device; torch has such an optimizer for CPUs too."""
    engine = prepared(world, line, fused=fused)
    average = Average(engine.local_parameters(), decay=0.5)

    def step(scale: float) -> tuple[float, dict[str, torch.Tensor]]:
        taken = one_step(engine, batch, draws, scale=scale)
        average.step(engine.local_parameters(), torch.tensor(taken))
        held = engine.state_dict(average.shadow_params)
        averages = {f"{name}|average": tensor for name, tensor in (held.ema or {}).items()}
        tensors = held.trained | held.optimizer | averages
        return taken, {name: tensor.clone() for name, tensor in tensors.items()}

    (one, first), (none, second), (again, third) = step(1.0), step(bad), step(1.0)
    assert (one, none, again) == (1, 0, 1)
    assert len(first) == 2 * 5
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name
        assert not torch.equal(tensor, third[name]), name
        assert third[name].isfinite().all()


@pytest.mark.parametrize("fused", [False, True])
def test_it_goes_on_from_what_it_has_saved(world, line, batch, draws, fused: bool):
    """A fused optimizer's counts of steps lie on its device."""
    engine = prepared(world, line, fused=fused)
    average = Average(engine.local_parameters(), decay=0.5)
    one_step(engine, batch, draws)
    average.step(engine.local_parameters())
    saved = copy.deepcopy(engine.state_dict(average.shadow_params))
    one_step(engine, batch, draws)
    whole = copy.deepcopy(engine.state_dict(None))

    resumed = prepared(world, line, fused=fused)
    with torch.no_grad():
        for name, parameter in resumed.trained.items():
            parameter.copy_(saved.trained[name])
    shadow = [torch.zeros_like(parameter) for parameter in resumed.local_parameters()]
    resumed.load_state_dict(saved, shadow)
    assert all(torch.equal(one.cpu(), two) for one, two in zip(shadow, (saved.ema or {}).values()))
    one_step(resumed, batch, draws)
    again = resumed.state_dict(None)
    for before, after in ((whole.trained, again.trained), (whole.optimizer, again.optimizer)):
        assert before.keys() == after.keys() and len(before) in (2, 6)
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_the_averages_are_in_place_inside_and_the_weights_after(world, line, batch, draws):
    engine = prepared(world, line)
    shadow = [torch.full_like(parameter, 0.5) for parameter in engine.local_parameters()]
    before = {name: parameter.clone() for name, parameter in engine.trained.items()}
    with engine.full_parameters(shadow):
        assert all((parameter == 0.5).all() for parameter in line.editor.parameters())
    with engine.full_parameters(None):
        assert all(torch.equal(engine.trained[name], before[name]) for name in before)
    assert one_step(engine, batch, draws) == 1
    assert not any(torch.equal(engine.trained[name], before[name]) for name in before)
    assert all((average == 0.5).all() for average in shadow)


@pytest.mark.parametrize("order", [(True, False), (False, True)])
def test_each_engine_computes_in_its_own_precision(tmp_path, line, batch, draws, order):
    """The runs of one process (of a notebook, say) leave nothing to each other."""
    for bf16 in order:
        with World(tmp_path, threads=1) as world:
            engine = prepared(world, line, bf16=bf16)
            engine(batch, draws)
        assert line.answer.dtype == (torch.bfloat16 if bf16 else torch.float32)
        assert all(parameter.dtype == torch.float32 for parameter in engine.trained.values())


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_gpu_leaves_a_bad_step_out_and_nobody_waits_for_it(world, line, batch, draws):
    """The library's fused AdamW is told by `found_inf`, on the device."""
    assert DdpEngine(world, clip=1.0, bf16=False).fused
    engine = prepared(world, line, fused=True, clip=1.0)
    assert one_step(engine, batch, draws) == 1
    before = engine.state_dict(None)
    for scale, taken in ((float("nan"), 0), (1.0, 1)):
        losses = engine(batch, replace(draws, posterior=scale * draws.posterior))
        engine.backward(losses["square"].sum / 4)
        torch.cuda.set_sync_debug_mode("error")
        try:
            _, whether = engine.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert float(whether) == taken
        after = engine.state_dict(None)
        for name, tensor in (before.trained | before.optimizer).items():
            same = torch.equal(tensor, (after.trained | after.optimizer)[name])
            assert same == (not taken), name


@pytest.mark.gpu
def test_a_step_in_bfloat16_on_a_gpu_keeps_its_master_weights(world, line, batch, draws):
    """They move by less than bfloat16 can tell."""
    engine = prepared(world, line, fused=True, bf16=True)
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e-4
    before = {name: parameter.detach().clone() for name, parameter in engine.trained.items()}
    one_step(engine, batch, draws)
    assert line.answer.dtype == torch.bfloat16
    for name, parameter in engine.trained.items():
        assert parameter.is_cuda and parameter.dtype == torch.float32
        assert 0 < (parameter - before[name]).abs().max() < 2e-4
        moments = engine.optimizer.state[parameter]
        assert {moments[kind].dtype for kind in ("exp_avg", "exp_avg_sq")} == {torch.float32}
        assert not torch.equal(parameter, parameter.bfloat16().float())
