"""How good an editor is while it is trained: figures of a suite, once in so many samples.

RUN/evaluations/SAMPLES/    the folder of each evaluation
RUN/best/                   the checkpoint with the best value of one metric, as a run that can be extracted
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from mgie.errors import ConfigError
from mgie.evaluation.making import Editing, Making
from mgie.evaluation.measures.eyes import Eyes
from mgie.evaluation.pair_suites import PairBenchmark
from mgie.evaluation.published.protocol import Metric
from mgie.evaluation.run_folder import PLAN, RESULTS, RunFolder
from mgie.evaluation.shards import Shard
from mgie.evaluation.stages import Run, carry_out
from mgie.evaluation.suites import Request, find_metrics, find_suite
from mgie.ranges import Few, Number, NumberOrNone, Seed

SHARES = {"right": "higher", "control_right": "lower", "said_exactly": "higher", "l1_ratio": "lower"}
"""Figures of a suite that are no metrics of single pictures -> which way is better."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """How a run is measured on the way; it changes nothing of what is learnt."""

    every: NumberOrNone = 0
    """Samples between evaluations, each on the averaged weights where there are some; 0 for none."""
    suite: Literal["toy", "pairs"] = "pairs"
    """`pairs`: the test split of the data, against its targets; `toy`: pairs that are made for it, judged."""
    data: str | None = None
    """Folder that `mgie prepare` wrote. None: data.path, or for `toy` fresh pairs."""
    count: Number = 100
    """How many pairs at most."""
    seed: Seed = 1
    """Of the pairs that the suite makes, and of the noise."""
    batch_size: Few = 25
    """How many pictures a process edits at once."""
    control: bool = False
    """Edit all pictures a second time, each by another pair's instruction (`toy`)."""
    metrics: tuple[str, ...] = ()
    """Further metrics: l2, psnr, ssim."""
    best: str | None = None
    """Name of a figure, such as l1_ratio: the checkpoint where it was best is kept in RUN/best."""

    def __post_init__(self) -> None:
        """Refuse figures that there are not. Raises ConfigError."""
        measured = self.measured
        judged = find_suite(self.suite, "").judge is not None
        shares = [name for name in SHARES if judged or name in ("said_exactly", "l1_ratio")]
        shares = [name for name in shares if self.control or name != "control_right"]
        if self.best not in (None, *shares, *measured):
            known = ", ".join([*shares, *measured])
            raise ConfigError(f"evaluate.best is {self.best!r}: expected one of {known}.")

    @property
    def measured(self) -> dict[str, Metric]:
        """Metric -> how it is measured. Raises ConfigError."""
        return find_metrics([*find_suite(self.suite, "").metrics, *self.metrics], Eyes())


class Watch:
    """The evaluations of one run."""

    def __init__(self, config: EvaluateConfig, folder: Path, *, data: str, size: int):
        """`data` and `size` are the run's: where its pairs lie, and the side of their pictures. Raises
        DataError and ConfigError for pairs that cannot be measured."""
        self.config, self.folder, self.size = config, folder, size
        where = config.data or (data if config.suite == "pairs" else None)
        self.request = Request(
            count=config.count, seed=config.seed, size=size, data=None if where is None else Path(where)
        )
        self.bench  # noqa: B018 - what cannot be measured is told before anything is trained

    @cached_property
    def bench(self) -> PairBenchmark:
        """The pairs: the same ones each time."""
        suite = find_suite(self.config.suite, self.request.data)
        return PairBenchmark(suite, self.request, self.config.measured, Eyes(), control=self.config.control)

    def place(self, samples: int) -> Path:
        """Where the evaluation after so many samples lies."""
        return self.folder / "evaluations" / f"{samples:010d}"

    def forget(self, samples: int) -> None:
        """Remove an evaluation that a run has left which was stopped, and goes over this place again."""
        if (self.place(samples) / PLAN).is_file():
            shutil.rmtree(self.place(samples))

    def measure(
        self, samples: int, system: Callable[[], Editing], shard: Shard, *, device: torch.device
    ) -> dict[str, Any] | None:
        """This process's part of an evaluation; on the first one its facts, when all have done theirs. Global
        generators are left as they are."""
        making = Making(seed=self.config.seed, batch_size=self.config.batch_size, options={}, side=self.size)
        run = Run(
            folder=RunFolder(self.place(samples)), bench=self.bench, making=making,
            plan={"weights": f"those after {samples} samples", "batch_size": self.config.batch_size},
            told={"model": f"{self.folder.name} after {samples} samples"}, system=system, progress=False,
        )  # fmt: skip
        beside = [Shard(other, shard.count) for other in range(1, shard.count)]
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            facts, complete = carry_out(run, shard, awaited=None if shard.index else beside)
        return facts if complete else None

    def figures(self, facts: dict[str, Any]) -> dict[str, int | float]:
        """The numbers of an evaluation by the names that a log gives them."""
        names = [name for name in ("n", *SHARES, *self.config.measured) if facts.get(name) is not None]
        return {f"evaluate/{self.config.suite}/{name}": facts[name] for name in names}

    def is_best(self, samples: int, facts: dict[str, Any], kept: Path | None) -> bool:
        """Whether the checkpoint `kept`, the best one until now, has to make way. One of another suite or
        other pairs cannot be compared, and makes way."""
        name = self.config.best
        if name is None or facts.get(name) is None:
            return False
        if kept is None or int(kept.name) == samples:
            return True
        try:
            before = json.loads((self.place(int(kept.name)) / RESULTS).read_text())
            if any(before[key] != facts[key] for key in ("suite", "n", "seed", "data_sha256")):
                return True
            value = float(before[name])
        except (OSError, ValueError, KeyError, TypeError):
            return True
        better = SHARES.get(name) or self.config.measured[name].better
        return facts[name] > value if better == "higher" else facts[name] < value
