"""New pictures, edits, and edits by a picture in the same batches: every task is learnt from."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from mgie.build import build_editor
from mgie.build_data import build_batches
from mgie.config import load_run
from mgie.data.images import encode
from mgie.errors import DataError
from mgie.prepare import prepare
from mgie.train import train
from mgie.weights import checkpoint

TASKS = {
    "subject": ("a<imagehere>with<imagehere>", ["1.png", "2.png"], []),
    "edit": ("make it dark in<imagehere>", ["0.png"], ["0.png"]),
    "subject_edit": ("replace the circle in<imagehere>by<imagehere>", ["0.png", "1.png"], ["0.png"]),
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A data set of each task, four pairs each."""
    place, rng = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        (place / f"{number}.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    for task, (words, shown, source) in TASKS.items():
        record = {"multi_prompt": words, "entity_path": shown, "source_path": source}
        records = [record | {"image": f"{each}.png", "idx": f"{task}-{each}"} for each in range(2, 6)]
        (place / f"{task}.json").write_text(json.dumps(records))
        prepare(f"mige:{place / task}.json", place / task, test=0, progress=False)
    return {task: place / task for task in TASKS}


@pytest.fixture
def mixed(mige_folder, sets, tmp_path):
    """The recipe `mige`, short, on all three."""

    def make(name, *more):
        shares = json.dumps({str(folder): 1 for folder in sets.values()})
        fixed = {
            "name": name, "model.release": mige_folder, "data.path": sets["edit"], "data.mixture": shares,
            "data.size": 32, "data.max_length": 48, "data.workers": 0, "out": tmp_path / "runs",
            "train.samples": 12, "train.batch_size": 6, "train.micro_batch_size": 3, "train.threads": 1,
            "train.precision": "fp32", "train.strategy": "ddp", "save.every": 12, "log.every": 6,
            "optim.lr": 0.01, "optim.weight_decay": 0, "optim.warmup": 0, "sampling.steps": 2,
        }  # fmt: skip
        return load_run("mige", [f"--{key}={value}" for key, value in fixed.items()] + list(more))

    return make


def test_batches_hold_all_tasks_and_only_what_was_given(mixed):
    run = mixed("batches")
    batches = build_batches(run, build_editor(run).prompts, rank=0, world=1)
    keys = [key for start in range(0, 12, 3) for key in batches[start, start + 3].keys]
    assert len(keys) == 12 and {key.split("-")[0] for key in keys} == set(TASKS)
    assert set(keys) <= {f"{task}-{number}" for task in TASKS for number in range(2, 6)}


def weights(**told):
    return f"--train.loss.task_weights={json.dumps(dict.fromkeys(TASKS, 0.0) | told)}"


def moved(run) -> set[str]:
    """Of which groups something is other than it was."""
    train(run)
    tensors, editor = checkpoint.load_tensors(checkpoint.latest(run.folder)), build_editor(run).editor
    named, groups = dict(editor.named_parameters()), editor.groups()
    changed = {name for name, value in tensors.items() if not torch.equal(value, named[name])}
    return {
        group
        for group, held in groups.items()
        if any(named[name] is value for name in changed for value in held)
    }


@pytest.mark.parametrize("task", TASKS)
def test_each_task_of_the_mixture_moves_the_weights(mixed, task):
    """It alone counts: in the original no edit was ever learnt from, and nobody saw."""
    found = moved(mixed(task, weights(**{task: 1.0})))
    assert found == {"qformer", "fusion", "projector", "text_encoder", "denoiser"}


def test_what_counts_nothing_moves_nothing(mixed):
    assert moved(mixed("none", weights())) == set()


def test_a_pair_that_cannot_be_read_ends_the_run(mixed):
    """It is not replaced by another one."""
    run = mixed("long", "--data.max_length=5")
    with pytest.raises(DataError, match="places of 5: expected fewer"):
        train(run)
