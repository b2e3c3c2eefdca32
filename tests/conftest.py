"""What holds for every test: one thread, fixed seeds, no network, golden files."""

import difflib
import gc
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

# Before torch is imported. One thread: sums in one order, and parallel tests do not fight for cores.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy
import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))  # tests/processes.py, whatever pytest's import mode
GOLDEN = ROOT / "tests" / "golden"
LONG = ("stories", "notebooks", "mgie/toy", "mgie/test_")
"""Where files take a minute or more. They come first: one that comes last keeps a worker while the others
have nothing left to do."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--rewrite-golden", action="store_true", help="write golden files instead of comparing with them"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        name = item.path.relative_to(ROOT / "tests").as_posix()
        return next((at for at, start in enumerate(LONG) if name.startswith(start)), len(LONG))

    items.sort(key=place)
    if any(item.get_closest_marker("gpu") for item in items):
        import torch

        if not torch.cuda.is_available():
            for item in items:
                if item.get_closest_marker("gpu"):
                    item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="module", autouse=True)
def loaded() -> None:
    """What is there before a file's tests is no garbage: collections look at what they make, and no more.
    Each command that is refused makes a whole one, which took most of a second among so many modules."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def seeds() -> None:
    """The same random numbers in every test, whatever ran before it."""
    random.seed(0)
    numpy.random.seed(0)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The folder of the project."""
    return ROOT


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden("tiny/losses.txt", text)`: text equals the file under tests/golden, or becomes it."""

    def check(name: str, text: str) -> None:
        path = GOLDEN / name
        if request.config.getoption("--rewrite-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        assert path.is_file(), f"there is no golden file {name}: `make golden` writes it"
        changes = list(
            difflib.unified_diff(path.read_text().splitlines(), text.splitlines(), name, "now", lineterm="")
        )
        assert not changes, "\n".join(["`make golden` rewrites it, if this is meant:", *changes])

    return check
