from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from mgie.training.task import AbstractTask
from mgie.training.world import World
from mgie.types import Batch, Draws, Losses, Term


class LineTask(AbstractTask):
    """A line that shall be zero at what `draws.posterior` says: four numbers a sample."""

    weights = {"square": 1.0}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.editor = nn.Linear(4, 2)

    def counts(self, batch: Batch) -> dict[str, int]:
        return {"square": len(batch.keys)}

    def forward(self, batch: Batch, draws: Draws) -> Losses:
        self.answer = self.editor(draws.posterior.flatten(1))
        return {"square": Term(sum=self.answer.square().sum(), count=len(batch.keys))}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, threads=1) as alone:
        yield alone


@pytest.fixture
def line() -> LineTask:
    return LineTask()


@pytest.fixture
def on_the_host() -> tuple[Batch, Draws]:
    """Two samples of nothing; what the line reads are the numbers from 1 to 8."""
    pixels, four = torch.zeros(2, 3, 8, 8), torch.arange(1.0, 9.0).view(2, 1, 2, 2)
    batch = Batch(
        input_ids=torch.zeros(2, 1).long(), labels=torch.zeros(2, 1).long(), mask=torch.ones(2, 1).bool(),
        read_at=torch.zeros(2, 0).long(), clip_pixels=torch.zeros(0, 3, 1, 1), source=pixels, target=pixels,
        has_source=torch.ones(2).bool(), keys=("a", "b"), positions=(0, 1),
    )  # fmt: skip
    return batch, Draws(posterior=four, noise=four, t=torch.zeros(2).long(), keep=torch.zeros(2))


@pytest.fixture
def batch(world: World, on_the_host: tuple[Batch, Draws]) -> Batch:
    return world.put(on_the_host[0])


@pytest.fixture
def draws(world: World, on_the_host: tuple[Batch, Draws]) -> Draws:
    return world.put(on_the_host[1])
