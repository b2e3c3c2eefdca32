"""The demo notebook runs as it is, on a release that was just trained for one step."""

import re

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from mgie.config import load_run
from mgie.extract import extract
from mgie.prepare import prepare
from mgie.train import train

PICTURE = "picture.png"


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    prepare("toy", folder / "toy", seed=5, count=8, test=2, size=32, progress=False)
    fixed = {
        "data.path": folder / "toy", "data.workers": 0, "out": folder / "runs", "train.samples": 4,
        "train.batch_size": 4, "train.micro_batch_size": 4, "train.threads": 1, "preview.every": 0,
    }  # fmt: skip
    facts = train(load_run("tiny", [f"--{key}={value}" for key, value in fixed.items()]))
    extract(facts["run_dir"], out=folder / "tiny")
    return folder / "tiny"


@pytest.fixture
def notebook(root):
    return nbformat.read(root / "notebooks" / "demo.ipynb", as_version=4)


def test_its_shape(notebook):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) <= 10
    assert cells[0].source.startswith("# Settings")
    assert not any(re.search(r"^\s*(def|class) ", cell.source, flags=re.MULTILINE) for cell in cells)
    assert not any(cell.outputs or cell.execution_count for cell in cells), "strip its output"


def test_it_runs(notebook, release, root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))  # where the project is not installed
    picture = tmp_path / PICTURE
    Image.effect_noise((70, 45), 90).convert("RGB").save(picture)
    settings = next(cell for cell in notebook.cells if cell.cell_type == "code")
    settings.source += f"\nMODEL = {str(release)!r}\nPICTURES = {{{str(picture)!r}: 'make it darker'}}"
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root / "notebooks")}})
    client.execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in shown) == 1
    assert any("make it darker" in output.get("data", {}).get("text/markdown", "") for output in shown)
    assert not [output for output in shown if output.output_type == "error"]
