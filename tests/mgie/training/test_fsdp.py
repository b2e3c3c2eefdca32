"""Two and three processes that share out everything, on the CPU; whole runs of them are in
tests/mgie/test_train_together.py."""

import itertools
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from processes import together
from safetensors.torch import save_file
from torch import nn
from torch.distributed.tensor import DTensor

from llava_patch import loading
from llava_patch.shards import each_shard
from mgie.errors import DeviceError, WeightsError
from mgie.training.ddp import DdpEngine
from mgie.training.engine import AbstractEngine
from mgie.training.fsdp import ShardedEngine, local_of
from mgie.training.optim import Average, OptimConfig, build_optimizer
from mgie.training.task import AbstractTask
from mgie.training.world import World
from mgie.types import Batch, Draws, Losses, Term
from mgie.weights import checkpoint, shards
from mgie.weights.checkpoint import TrainState


class Stack(AbstractTask):
    """Five layers, of which the first is frozen, with rows that no two or three processes divide evenly."""

    weights = {"square": 1.0}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        widths = [4, 7, 5, 5, 1]
        layers = nn.ModuleList(nn.Linear(one, two) for one, two in itertools.pairwise(widths))
        self.editor = nn.ModuleDict({"layers": layers, "head": nn.Linear(1, 3)})
        layers[0].requires_grad_(False)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"square": len(batch.keys)}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        states = draws.posterior.flatten(1)
        for layer in self.editor["layers"]:
            states = layer(states).tanh()
        return {"square": Term(sum=(self.editor["head"](states) - 1).square().sum(), count=len(batch.keys))}


def prepared(engine: AbstractEngine, found: Path | None = None) -> Average:
    """An engine with its task, and the averages; gone on with from `found`."""
    task = Stack()
    members = [each for each in task.editor.parameters() if each.requires_grad]
    trained = {name: each for name, each in task.editor.named_parameters() if each.requires_grad}
    optimizer = build_optimizer({"all": members}, ("all",), OptimConfig(lr=0.01))
    if found:
        engine.read(found, trained)
    engine.prepare(task, optimizer, trained)
    average = Average(engine.local_parameters(), decay=0.5)
    if found:
        engine.resume(found, average.shadow_params)
        average.optimization_step = checkpoint.load_state(found).steps
    return average


def steps(engine: AbstractEngine, average: Average, batch: Batch, draws: Draws, *, count: int) -> list[float]:
    """The losses of steps of the same two samples on each process, and how they go down."""
    told = []
    for _ in range(count):
        for last in (False, True):
            with engine.accumulating(last=last):
                losses = engine(batch, replace(draws, posterior=draws.posterior / 8))
                engine.backward(losses["square"].sum / (4 * engine.world.size))
        told.append(float(losses["square"].sum.detach()))
        _, taken = engine.step()
        average.step(engine.local_parameters(), taken)
    return told


def save(engine: AbstractEngine, average: Average, folder: Path, samples: int) -> Path:
    state = TrainState(samples=samples, steps=samples)
    engine.save(folder, state, average.shadow_params, begun={}, run_yaml="", keep=9)
    return checkpoint.place(folder, state)


def in_processes(count: int, do: Callable[[World], None], folder: Path) -> None:
    """Do it on so many that have met; what they leave for the test is in `folder`."""

    def one() -> int:
        with World(folder, threads=1) as world:
            do(world)
        return 0

    runs = together(one, folder / "said", count)
    assert [run.code() for run in runs] == [0] * count, "\n".join(run.said for run in runs)


@pytest.fixture(autouse=True)
def _small_blocks_are_blocks_too(monkeypatch):
    monkeypatch.setattr(loading, "SMALL", 1)


@pytest.fixture
def alone(tmp_path, on_the_host) -> tuple[list[float], checkpoint.Snapshot]:
    """What one process makes of six steps, and the checkpoint after three of them."""
    with World(tmp_path, threads=1) as world:
        engine = DdpEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        told = steps(engine, average, *on_the_host, count=3)
        save(engine, average, tmp_path / "alone", 3)
        told += steps(engine, average, *on_the_host, count=3)
        return told, engine.state_dict(average.shadow_params)


def same(one: checkpoint.Snapshot, two: checkpoint.Snapshot) -> None:
    for left, right in ((one.trained, two.trained), (one.ema, two.ema), (one.optimizer, two.optimizer)):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_it_is_shared_out_and_learns_as_one_alone(alone, on_the_host, tmp_path, count):
    told, snapshot = alone

    def do(world: World) -> None:
        engine = ShardedEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        everything = list(engine.model.parameters())
        assert len(everything) == 10 and all(isinstance(each, DTensor) for each in everything)
        held = sum(local_of(each).numel() for each in everything)
        assert held <= sum(-(-each.shape[0] // count) * each[:1].numel() for each in everything)
        mine = steps(engine, average, *on_the_host, count=3)
        found = save(engine, average, tmp_path / "together", 3)
        mine += steps(engine, average, *on_the_host, count=3)  # while it is written
        engine.finish_saving()
        torch.testing.assert_close(mine, told)
        whole = engine.state_dict(average.shadow_params)
        if world.is_main:
            same(whole, snapshot)
        world.wait()
        for place in (found, tmp_path / "alone/checkpoints/0000000003"):  # shards, and simple files
            engine = ShardedEngine(world, clip=1.0, bf16=False)
            average = prepared(engine, place)
            torch.testing.assert_close(steps(engine, average, *on_the_host, count=3), told[3:])

    in_processes(count, do, tmp_path)
    found = checkpoint.latest(tmp_path / "together")
    assert found is not None and shards.are_in(found)
    assert len(list((found / shards.SHARDS).iterdir())) == count
    with World(tmp_path, threads=1) as world:  # read by one alone
        engine = DdpEngine(world, clip=1.0, bf16=False)
        average = prepared(engine, found)
        torch.testing.assert_close(steps(engine, average, *on_the_host, count=3), told[3:])


def test_the_whole_model_is_there_inside_and_shared_out_after(alone, on_the_host, tmp_path):
    told, _ = alone

    def do(world: World) -> None:
        engine = ShardedEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        mine = steps(engine, average, *on_the_host, count=3)
        for averages in (average.shadow_params, None):
            with engine.full_parameters(averages), torch.no_grad():
                if world.is_main:  # alone
                    inside = engine.model.task(*on_the_host)["square"].sum
                    weight = engine.model.task.editor["head"].weight
                    assert weight.shape == (3, 1) and not isinstance(weight, DTensor) and inside.isfinite()
            assert all(isinstance(each, DTensor) for each in engine.model.parameters())
        mine += steps(engine, average, *on_the_host, count=3)
        torch.testing.assert_close(mine, told)

    in_processes(2, do, tmp_path)


def test_a_checkpoint_that_cannot_be_written_is_a_sentence_everywhere(tmp_path, monkeypatch):
    def do(world: World) -> None:
        engine = ShardedEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        save(engine, average, tmp_path / "run", 1)
        engine.finish_saving()
        if world.rank == 1:

            def full(*_: object, **__: object) -> None:
                raise OSError(28, "No space left on device")

            monkeypatch.setattr(os, "fsync", full)
        save(engine, average, tmp_path / "run", 2)
        with pytest.raises(DeviceError, match=r"the disk is full: checkpoint .*0000000002 could not be"):
            engine.finish_saving()
        monkeypatch.undo()
        local_of(next(iter(engine.trained.values()))).fill_(float("nan"))
        with pytest.raises(WeightsError, match="numbers that are not finite"):
            save(engine, average, tmp_path / "run", 3)

    in_processes(2, do, tmp_path)
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["0000000001"]


def test_shards_that_are_cut_or_changed_are_passed_over(tmp_path):
    def do(world: World) -> None:
        engine = ShardedEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        for samples in (1, 2, 3):
            save(engine, average, tmp_path / "run", samples)
        engine.finish_saving()

    in_processes(2, do, tmp_path)
    first, second, third = sorted((tmp_path / "run/checkpoints").iterdir())
    (one, _), (_, two) = (sorted((place / shards.SHARDS).iterdir()) for place in (third, second))
    one.write_bytes(one.read_bytes()[:-8])
    content = bytearray(two.read_bytes())
    content[-3] ^= 4
    two.write_bytes(content)
    found = checkpoint.find(tmp_path / "run")
    assert found.path == first and len(found.skipped) == 2
    assert "-00001-of-00001.safetensors has" in found.skipped[0] and "another SHA-256" in found.skipped[1]
    with pytest.raises(WeightsError, match="do not fit the model or are damaged"):
        checkpoint.load_tensors(third)


class Wide(Stack):
    """Of 96 million parameters."""

    def __init__(self):
        AbstractTask.__init__(self)
        self.editor = nn.ModuleDict(
            {"layers": nn.ModuleList(nn.Linear(1024, 1024, bias=False) for _ in range(96))}
        )


def memory(line: str) -> float:
    """A line of this process's status, in bytes."""
    return 1024 * float(re.findall(rf"{line}:\s+(\d+)", Path("/proc/self/status").read_text())[0])


def test_no_process_reads_what_another_holds(tmp_path):
    """Measured: 0.60 to 0.72 of the whole in float32, of which a half is what a process shall hold; who reads
    all of it and shares it out then has 1.0 and more."""
    with torch.device("meta"):
        names = list(Wide().editor.state_dict())
    one = torch.randn(1024, 1024).half()
    save_file({name: one + number for number, name in enumerate(names)}, tmp_path / "model.safetensors")
    whole = 4 * len(names) * one.numel()

    def do(world: World) -> None:
        engine = ShardedEngine(world, clip=1.0, bf16=False)
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before = memory("VmRSS")
        with torch.device("meta"):
            task = Wide()
        with engine.reading(whole=False):
            loading.put(task.editor, each_shard(tmp_path, progress=False), where=tmp_path)
        trained = dict(task.editor.named_parameters())
        assert all(each.is_meta for each in trained.values())
        optimizer = build_optimizer({"all": list(trained.values())}, ("all",), OptimConfig(lr=0.01))
        engine.prepare(task, optimizer, trained)
        used = (memory("VmHWM") - before) / whole
        assert 0.5 <= used < 0.8
        for number in (0, 50, 95):
            shared = engine.trained[names[number]]
            assert shared.dtype == torch.float32 and shared.is_leaf and shared.requires_grad
            assert torch.equal(shared.full_tensor().half(), one + number)

    in_processes(2, do, tmp_path)
