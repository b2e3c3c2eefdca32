"""A small task for engines, how one is prepared and how it steps, for tests of one process and of several."""

import itertools
from dataclasses import fields, replace
from pathlib import Path

import torch
from torch import nn

from mgie.training.engine import AbstractEngine
from mgie.training.optim import Average, OptimConfig, build_optimizer
from mgie.training.task import AbstractTask
from mgie.types import Batch, Draws, Losses, Term
from mgie.weights import checkpoint
from mgie.weights.checkpoint import TrainState

SAMPLES = 12


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
    optimizer = build_optimizer({"all": members}, ("all",), OptimConfig(lr=0.01), fused=engine.fused)
    if found:
        engine.read(found, trained)
    engine.prepare(task, optimizer, trained)
    average = Average(engine.local_parameters(), decay=0.5)
    if found:
        engine.resume(found, average.shadow_params)
        average.optimization_step = checkpoint.load_state(found).steps
    return average


def steps(engine: AbstractEngine, average: Average, *, count: int) -> list[float]:
    """Steps of the same twelve samples over all processes, each in two micro-batches; the losses."""
    told, share = [], SAMPLES // engine.world.size
    mine = torch.randn(SAMPLES, 4, 1, 1, generator=torch.Generator().manual_seed(1))
    micros = mine[engine.world.rank * share :][:share].chunk(2)
    for _ in range(count):
        total = torch.zeros(())
        for micro in micros:
            with engine.accumulating(last=micro is micros[-1]):
                losses = engine(*of_numbers(micro))
                engine.backward(losses["square"].sum / SAMPLES)
            total += losses["square"].sum.detach()
        told.append(float(engine.world.sum(total)))
        _, taken = engine.step()
        average.step(engine.local_parameters(), taken)
    return told


def of_numbers(numbers: torch.Tensor) -> tuple[Batch, Draws]:
    """Samples of nothing, whose draws are these numbers."""
    count = len(numbers)
    pixels, ids = torch.zeros(count, 3, 1, 1), torch.zeros(count, 1).long()
    batch = Batch(
        input_ids=ids, labels=ids, mask=torch.ones(count, 1).bool(), read_at=torch.zeros(count, 0).long(),
        clip_pixels=torch.zeros(0, 3, 1, 1), source=pixels, target=pixels,
        has_source=torch.ones(count).bool(), keys=("a",) * count, positions=tuple(range(count)),
    )  # fmt: skip
    return batch, Draws(posterior=numbers, noise=numbers, t=ids[:, 0], keep=torch.zeros(count))


def save(engine: AbstractEngine, average: Average, folder: Path, samples: int) -> Path:
    state = TrainState(samples=samples, steps=samples)
    engine.save(folder, state, average.shadow_params, begun={}, run_yaml="", keep=9)
    return checkpoint.place(folder, state)


def as_wide_as(record, dtype: torch.dtype):
    """A batch, or its draws, with its numbers in `dtype`."""
    values = {f.name: getattr(record, f.name) for f in fields(record)}
    floats = {n: v.to(dtype) for n, v in values.items() if torch.is_tensor(v) and v.is_floating_point()}
    return replace(record, **floats)
