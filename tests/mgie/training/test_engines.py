"""Every engine learns the same, and goes on with what any other has saved, on one, two, three processes."""

import math

import pytest
import torch
from processes import in_processes
from small_task import SAMPLES, prepared, save, steps

from llava_patch import loading
from mgie.training.ddp import DdpEngine
from mgie.training.deepspeed import ZeroEngine
from mgie.training.engine import AbstractEngine
from mgie.training.fsdp import ShardedEngine
from mgie.training.world import World
from mgie.weights import checkpoint

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp2")
SAME = 1e-5
"""Relative: losses of a step whose sums were split otherwise; measured below 2e-6 over 20 steps."""


@pytest.fixture(autouse=True)
def _deepspeed_is_read_before_anything_is_forked(monkeypatch):
    pytest.importorskip("deepspeed.runtime.zero.muon.muon_optimizer")
    monkeypatch.setattr(loading, "SMALL", 1)


def engine_of(strategy: str, world: World) -> AbstractEngine:
    how = {"clip": 1.0, "bf16": False}
    if strategy == "ddp":
        return DdpEngine(world, **how)
    if strategy == "fsdp2":
        return ShardedEngine(world, **how)
    micro = SAMPLES // world.size // 2
    return ZeroEngine(world, **how, stage=int(strategy[-1]), batch_size=SAMPLES, micro_batch_size=micro)


@pytest.mark.dist
def test_every_engine_learns_the_same_and_goes_on_with_any_other_s(tmp_path):
    with World(tmp_path, threads=1) as world:
        engine = DdpEngine(world, clip=1.0, bf16=False)
        average = prepared(engine)
        told = steps(engine, average, count=10)
        save(engine, average, tmp_path / "alone", 10)
        told += steps(engine, average, count=10)
    assert told[19] < told[10] < told[0] and all(map(math.isfinite, told))

    def learn(world: World) -> None:
        for strategy in STRATEGIES:
            engine = engine_of(strategy, world)
            average = prepared(engine)
            mine = steps(engine, average, count=10)
            save(engine, average, tmp_path / f"{strategy}{world.size}", 10)
            mine += steps(engine, average, count=10)
            engine.finish_saving()
            torch.testing.assert_close(mine, told, rtol=SAME, atol=0, msg=f"{strategy}: {mine}, alone {told}")

    for size in (2, 3):
        in_processes(size, learn, tmp_path)
    saved = [f"{strategy}{size}" for strategy in STRATEGIES for size in (2, 3)]
    places = {name: checkpoint.latest(tmp_path / name) for name in ("alone", *saved)}

    def go_on(world: World) -> None:
        for strategy in STRATEGIES if world.size > 1 else ("ddp",):
            for name, place in places.items():
                if world.size == 3 and name.endswith("3"):
                    continue
                engine = engine_of(strategy, world)
                mine = steps(engine, prepared(engine, place), count=10)
                what = f"{strategy} on {world.size} after {name}: {mine}, alone {told[10:]}"
                torch.testing.assert_close(mine, told[10:], rtol=SAME, atol=0, msg=what)

    with World(tmp_path, threads=1) as world:
        go_on(world)
    for size in (2, 3):
        in_processes(size, go_on, tmp_path)


@pytest.mark.dist
@pytest.mark.parametrize("strategy", ["zero2", "zero3", "fsdp2"])
def test_a_process_by_itself_can_have_the_engine_of_several(tmp_path, strategy):
    """As one GPU has, which keeps moments elsewhere."""

    def learn(world: World) -> None:
        plain = DdpEngine(world, clip=1.0, bf16=False)
        average = prepared(plain)
        told = steps(plain, average, count=4)
        world.meet_alone()
        own = engine_of(strategy, world)
        average = prepared(own)
        assert steps(own, average, count=4) == pytest.approx(told, rel=SAME)
        save(own, average, tmp_path, 4)
        own.finish_saving()

    in_processes(1, learn, tmp_path)
    assert checkpoint.latest(tmp_path) is not None
