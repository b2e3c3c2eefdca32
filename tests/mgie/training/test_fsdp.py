"""Two and three processes that share out everything, on the CPU; whole runs of them are in
tests/mgie/test_train_together.py."""

import os
import re
from pathlib import Path

import pytest
import torch
from processes import in_processes
from safetensors.torch import save_file
from small_task import Stack, of_numbers, prepared, save, steps
from torch import nn
from torch.distributed.tensor import DTensor

from llava_patch import loading
from llava_patch.shards import each_shard
from mgie.errors import DeviceError, WeightsError
from mgie.training.ddp import DdpEngine
from mgie.training.fsdp import ShardedEngine, local_of
from mgie.training.optim import OptimConfig, build_optimizer
from mgie.training.task import AbstractTask
from mgie.training.world import World
from mgie.weights import checkpoint, shards


@pytest.fixture(autouse=True)
def _small_blocks_are_blocks_too(monkeypatch):
    monkeypatch.setattr(loading, "SMALL", 1)


@pytest.fixture
def alone(tmp_path) -> tuple[list[float], checkpoint.Snapshot]:
    """What one process makes of six steps, and the checkpoint after three of them."""
    with World(tmp_path, threads=1) as world:
        engine = DdpEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        told = steps(engine, average, count=3)
        save(engine, average, tmp_path / "alone", 3)
        told += steps(engine, average, count=3)
        return told, engine.state_dict(average.shadow_params)


def same(one: checkpoint.Snapshot, two: checkpoint.Snapshot) -> None:
    for left, right in ((one.trained, two.trained), (one.ema, two.ema), (one.optimizer, two.optimizer)):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_it_is_shared_out_and_learns_as_one_alone(alone, tmp_path, count):
    told, snapshot = alone

    def do(world: World) -> None:
        engine = ShardedEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        everything = list(engine.model.parameters())
        assert len(everything) == 10 and all(isinstance(each, DTensor) for each in everything)
        held = sum(local_of(each).numel() for each in everything)
        assert held <= sum(-(-each.shape[0] // count) * each[:1].numel() for each in everything)
        mine = steps(engine, average, count=3)
        found = save(engine, average, tmp_path / "together", 3)
        mine += steps(engine, average, count=3)  # while it is written
        engine.finish_saving()
        torch.testing.assert_close(mine, told)
        whole = engine.state_dict(average.shadow_params)
        if world.is_main:
            same(whole, snapshot)
        world.wait()
        for place in (found, tmp_path / "alone/checkpoints/0000000003"):  # shards, and simple files
            engine = ShardedEngine(world, clip=1.0, bf16=False)
            average = prepared(engine, place)
            torch.testing.assert_close(steps(engine, average, count=3), told[3:])

    in_processes(count, do, tmp_path)
    found = checkpoint.latest(tmp_path / "together")
    assert found is not None and shards.are_in(found)
    assert len(list((found / shards.SHARDS).iterdir())) == count
    with World(tmp_path, threads=1) as world:  # read by one alone
        engine = DdpEngine(world, clip=1.0, bf16=False)
        average = prepared(engine, found)
        torch.testing.assert_close(steps(engine, average, count=3), told[3:])


def test_the_whole_model_is_there_inside_and_shared_out_after(alone, tmp_path):
    told, _ = alone

    def do(world: World) -> None:
        engine = ShardedEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        mine = steps(engine, average, count=3)
        for averages in (average.shadow_params, None):
            with engine.full_parameters(averages), torch.no_grad():
                if world.is_main:  # alone
                    inside = engine.model.task(*of_numbers(torch.ones(2, 4, 1, 1)))["square"].sum
                    weight = engine.model.task.editor["head"].weight
                    assert weight.shape == (3, 1) and not isinstance(weight, DTensor) and inside.isfinite()
            assert all(isinstance(each, DTensor) for each in engine.model.parameters())
        mine += steps(engine, average, count=3)
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
    """Measured: 0.60 to 0.81 of the whole in float32: a half is what a process shall hold, up to a quarter
    are pages of the file, which the system takes back. Who reads all and shares it out then has 1.0 and
    more."""
    with torch.device("meta"):
        names = list(Wide().editor.state_dict())
    one = torch.randn(1024, 1024).half()

    def write(_: World) -> None:
        save_file({name: one + number for number, name in enumerate(names)}, tmp_path / "model.safetensors")

    in_processes(1, write, tmp_path)  # so that nobody here has had it in memory
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
        assert used < 0.9  # and less where the system counts pages of a mapped file elsewhere
        for number in (0, 50, 95):
            shared = engine.trained[names[number]]
            assert shared.dtype == torch.float32 and shared.is_leaf and shared.requires_grad
            assert torch.equal(shared.full_tensor().half(), one + number)

    in_processes(2, do, tmp_path)
