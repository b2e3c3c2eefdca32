from collections.abc import Callable
from pathlib import Path

import pytest

from mgie.config import RunConfig, load_run
from mgie.prepare import prepare


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """A small data set of the toy world on disk."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    prepare("toy", folder, seed=3, count=48, test=12, size=32, progress=False)
    return folder


@pytest.fixture
def tiny_run(toy_data, tmp_path) -> Callable[..., RunConfig]:
    """The recipe `tiny` on the small data set, short: batches of 4, one thread. Takes `--a.b=value`."""

    def make(*overrides: str, samples: int = 16) -> RunConfig:
        fixed = {
            "data.path": toy_data, "data.workers": 0, "out": tmp_path / "runs", "train.samples": samples,
            "train.batch_size": 4, "train.micro_batch_size": 4, "train.threads": 1,
            "log.every": 4, "save.every": 8, "preview.every": 0,
        }  # fmt: skip
        return load_run("tiny", [f"--{key}={value}" for key, value in fixed.items()] + list(overrides))

    return make
