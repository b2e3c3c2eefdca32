from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from mgie.build import build_editor, build_release
from mgie.config import RunConfig, load_run
from mgie.pipeline import MGIEPipeline
from mgie.prepare import prepare
from mgie.weights.release import Release


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    """A small data set of the toy world on disk."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    prepare("toy", folder, seed=3, count=48, test=12, size=32, progress=False)
    return folder


@pytest.fixture(scope="session")
def tiny_recipe(toy_data) -> Callable[..., RunConfig]:
    """The recipe `tiny` on the small data set, short: batches of 4, one thread. Takes the folder of its runs
    and `--a.b=value`."""

    def make(out: Path, *overrides: str, samples: int = 16) -> RunConfig:
        fixed = {
            "data.path": toy_data, "data.workers": 0, "out": out, "train.samples": samples,
            "train.batch_size": 4, "train.micro_batch_size": 4, "train.threads": 1,
            "log.every": 4, "save.every": 8, "preview.every": 0,
        }  # fmt: skip
        return load_run("tiny", [f"--{key}={value}" for key, value in fixed.items()] + list(overrides))

    return make


@pytest.fixture
def tiny_run(tiny_recipe, tmp_path) -> Callable[..., RunConfig]:
    """The same in a folder of the test's own."""
    return partial(tiny_recipe, tmp_path / "runs")


@pytest.fixture(scope="session")
def release() -> Release:
    run = load_run("tiny")
    return build_release(build_editor(run), run)


@pytest.fixture
def pipe(release: Release) -> MGIEPipeline:
    """At the recipe's settings, but saying little."""
    pipeline = MGIEPipeline.from_release(release)
    pipeline.register_to_config(max_new_tokens=6)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
