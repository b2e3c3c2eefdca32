"""Training and editing on a GPU, compared with the CPU (`make test-gpu`)."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image

from mgie.build import build_editor, build_release
from mgie.config import load_run
from mgie.pipeline import MGIEPipeline
from mgie.train import train
from mgie.training.task import EditTask
from mgie.weights import checkpoint
from mgie.weights.release import Release

pytestmark = pytest.mark.gpu

PROMPTS = ["make it darker", "make the background pink, please", "make it black and white"]

AWAY = {
    torch.float32: (0.02, 1e-3),
    torch.float16: (0.03, 2e-3),
    torch.bfloat16: (0.06, 5e-3),
}
"""How far an edited picture in [0, 1] may be from the CPU's in float32: at most, and in the mean. A GPU
convolves float32 with ten bits after the point (TF32). Measured on a CPU: 0.004 and 1e-4 in float16, 0.009
and 1e-3 in bfloat16."""

SHORT = 0.05
"""By which part losses in bfloat16 may differ in four steps; measured below 0.02 on a CPU."""


@pytest.fixture(scope="module")
def release() -> Release:
    run = load_run("tiny")
    return build_release(build_editor(run), run)


def pipe_of(release: Release) -> MGIEPipeline:
    """One that says little, of parts of its own."""
    pipeline = MGIEPipeline.from_release(copy.deepcopy(release))
    pipeline.register_to_config(max_new_tokens=6)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def edits(pipeline: MGIEPipeline) -> tuple[list[str], np.ndarray]:
    """What it says of three pictures, and what it makes of them: 3 y x c in [0, 1]."""
    rng = np.random.default_rng(0)
    small = [Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)) for _ in PROMPTS]
    pictures = [picture.resize((32, 32), Image.Resampling.BICUBIC) for picture in small]
    result = pipeline(pictures, PROMPTS, seed=0, output_type="np")
    return list(result.said), np.stack(list(result.images))


@pytest.mark.parametrize("dtype", AWAY, ids=str)
def test_an_edit_is_the_cpu_s(release, dtype):
    said, pictures = edits(pipe_of(release))
    pipeline = pipe_of(release).to("cuda", dtype)
    assert pipeline.denoiser.dtype == dtype and pipeline.device.type == "cuda"
    said_there, pictures_there = edits(pipeline)
    away, (most, mean) = np.abs(pictures_there - pictures), AWAY[dtype]
    assert said_there == said
    assert away.max() <= most and away.mean() <= mean


def test_parts_are_offloaded_to_the_cpu_between_their_turns(release):
    plain = pipe_of(release).to("cuda")
    offloading = pipe_of(release)
    offloading.enable_model_cpu_offload()
    for _ in range(2):
        said, pictures = edits(offloading)
        assert {part.device.type for part in offloading.editor.children()} == {"cpu"}
        expected, wanted = edits(plain)
        assert said == expected
        assert np.abs(pictures - wanted).max() <= AWAY[torch.float32][0]


def test_a_run_in_bfloat16(tiny_run, monkeypatch):
    """Frozen weights in bfloat16, trained ones and all that the optimizer knows of them in float32."""
    tasks = []

    def make(*args, **options) -> EditTask:
        tasks.append(EditTask(*args, **options))
        return tasks[-1]

    monkeypatch.setattr("mgie.train.EditTask", make)
    gentle = (
        "--train.groups=[embeddings, lm_head, edit_head, denoiser]",
        "--optim.lrs={}",
        "--optim.lr=1e-4",
    )
    watched = ("--data.workers=1", "--preview.every=8", "--preview.count=2")
    short = tiny_run(*gentle, *watched, "--name=short", "--train.precision=bf16")
    exact = tiny_run(*gentle, "--name=exact")
    facts, wanted = train(short), train(exact)
    for name in ("loss_ce", "loss_edit"):
        assert facts[name] != wanted[name]
        assert facts[name] == pytest.approx(wanted[name], rel=SHORT)
    for task, dtype in zip(tasks, (torch.bfloat16, torch.float32)):
        assert all(parameter.is_cuda for parameter in task.parameters())
        assert {p.dtype for p in task.parameters() if p.requires_grad} == {torch.float32}
        assert {p.dtype for p in task.parameters() if not p.requires_grad} == {dtype}
    assert len(list((short.folder / "previews").iterdir())) == 2
    _, saved = checkpoint.load(checkpoint.latest(short.folder))
    assert {tensor.dtype for tensor in [*saved.trained.values(), *saved.optimizer.values()]} == {
        torch.float32
    }
