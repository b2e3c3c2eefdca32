"""The notebooks run as they are, on an editor that was just trained for one step."""

import re

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image
from small_pipelines import saved
from subject_data import write_subjects

from mgie.config import load_run
from mgie.data.stored_pairs import StoredPairs
from mgie.extract import extract
from mgie.prepare import check, prepare
from mgie.train import train

PICTURE = "picture.png"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    prepare("toy", folder / "toy", seed=5, count=8, test=2, size=64, progress=False)
    fixed = {
        "data.path": folder / "toy", "data.workers": 0, "out": folder / "runs", "train.samples": 4,
        "train.batch_size": 4, "train.micro_batch_size": 4, "train.threads": 1, "preview.every": 0,
    }  # fmt: skip
    return train(load_run("tiny", [f"--{key}={value}" for key, value in fixed.items()]))["run_dir"]


@pytest.fixture(scope="module")
def release(run_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("release") / "tiny"
    extract(run_dir, out=folder)
    return folder


def read(root, name):
    return nbformat.read(root / "notebooks" / f"{name}.ipynb", as_version=4)


def run(notebook, root, settings):
    """Execute the notebook with other settings; what it shows."""
    next(cell for cell in notebook.cells if cell.cell_type == "code").source += f"\n{settings}"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(root / "notebooks")}}).execute()
    shown = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in shown if output.output_type == "error"]
    return shown


@pytest.mark.parametrize("name", ["demo", "extract_ckpt", "personalize", "process_data", "tour"])
def test_its_shape(root, name):
    notebook = read(root, name)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) <= 10
    assert cells[0].source.startswith("# Settings")
    assert not any(re.search(r"^\s*(def|class) ", cell.source, flags=re.MULTILINE) for cell in cells)
    assert not any(cell.outputs or cell.execution_count for cell in cells), "strip its output"


def test_the_demo_shows_before_and_after(release, root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))  # where the project is not installed
    picture = tmp_path / PICTURE
    Image.effect_noise((70, 45), 90).convert("RGB").save(picture)
    settings = f"MODEL = {str(release)!r}\nPICTURES = {{{str(picture)!r}: 'make it darker'}}"
    shown = run(read(root, "demo"), root, settings)
    assert sum("image/png" in output.get("data", {}) for output in shown) == 1
    assert any("make it darker" in output.get("data", {}).get("text/markdown", "") for output in shown)


def test_a_run_is_extracted_in_both_forms(run_dir, root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))
    release, apple = tmp_path / "release", tmp_path / "apple"
    settings = f"RUN, RELEASE, APPLE = {str(run_dir)!r}, {str(release)!r}, {str(apple)!r}"
    shown = run(read(root, "extract_ckpt"), root, settings)
    assert (release / "model_index.json").is_file()
    assert {path.name for path in apple.iterdir()} >= {"mllm.pt", "unet.pt"}
    assert any("MGIEPipeline" in output.get("data", {}).get("text/plain", "") for output in shown)


def test_raw_pairs_become_a_data_set_with_expressive_texts(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))
    shown = run(read(root, "process_data"), root, f"OUT = {str(tmp_path / 'set')!r}")
    assert sum("image/png" in output.get("data", {}) for output in shown) == 3
    texts = [output["data"]["text/markdown"] for output in shown if "text/markdown" in output.get("data", {})]
    assert len(texts) == 3 and all("→ *" in text for text in texts)
    assert any("train pairs" in output.get("text", "") for output in shown)
    said = [pair.expressive for pair in StoredPairs(tmp_path / "set", "train")]
    assert len(said) == 5 and all(said)
    assert check(tmp_path / "set")["express"]["rows"] == 6


def test_things_are_learnt_and_painted(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))
    base, things = saved("sd15", tmp_path / "base"), write_subjects(tmp_path / "things", "ab")
    short = {
        "train.samples": 4, "train.batch_size": 2, "train.precision": "fp32", "train.threads": 1,
        "data.size": 16, "data.workers": 0, "log.every": 2, "save.every": 2, "optim.lr": 0.05,
        "train.denoiser_checkpointing": "none", "sampling.scheduler": "DDIMScheduler",
    }  # fmt: skip
    keys, out = [f"--{key}={value}" for key, value in short.items()], tmp_path / "adapter"
    places = f"SUBJECTS, MODEL, OUT, KEYS = {str(things)!r}, {str(base)!r}, {str(out)!r}, {keys!r}"
    settings = f"{places}\nDEVICE, STEPS, SEEDS, GAMMA, SIDE = 'cpu', 2, [0, 1], 1.0, 32"
    shown = run(read(root, "personalize"), root, settings)
    assert sum("image/png" in output.get("data", {}) for output in shown) == 2 + 3 + 2
    assert any("(4, 2)" in output.get("data", {}).get("text/plain", "") for output in shown)
    assert (out / "pytorch_lora_weights.safetensors").is_file()


def test_the_tour_goes_the_whole_way(root, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))
    small = {
        "--train.batch_size": 4, "--train.micro_batch_size": 4, "--train.threads": 1, "--data.workers": 0,
        "--log.every": 4, "--save.every": 8, "--preview.every": 8, "--preview.count": 2,
    }  # fmt: skip
    keys = [f"{key}={value}" for key, value in small.items()]
    settings = f"WORK, KEYS = {str(tmp_path)!r}, {keys!r}\nPAIRS, HELD_OUT, SAMPLES, EVERY = 16, 6, 8, 0.5"
    notebook = read(root, "tour")
    shown = run(notebook, root, f"{settings}\nEDITS, COUNT = 2, 3")
    pictures = [output for output in shown if "image/png" in output.get("data", {})]
    assert len(pictures) == 1 + 2 + 3 + 1  # a preview, edits, other seeds, a sheet
    drawn = [output for output in shown if "image/svg+xml" in output.get("data", {})]
    assert len(drawn) == 2 and all("<polyline" in output["data"]["image/svg+xml"] for output in drawn)
    assert any("right" in output.get("data", {}).get("text/markdown", "") for output in shown)
    assert (tmp_path / "release" / "model_index.json").is_file()
