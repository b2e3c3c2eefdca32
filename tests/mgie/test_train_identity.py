"""The group identity: trained beside an editor that stays as it is, resumed, released, and asked for."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from mgie.build import build_editor, make_trainable
from mgie.build_data import build_batches
from mgie.config import RunConfig, load_run
from mgie.controllers.identity_options import IdentityOptions
from mgie.errors import ConfigError, WeightsError
from mgie.extract import extract
from mgie.pipeline import MGIEPipeline
from mgie.prepare import prepare
from mgie.train import draw_for, train
from mgie.training.task import look_of
from mgie.weights import checkpoint

FEW = {"num_inference_steps": 1, "seed": 3, "output_type": "pt", "max_new_tokens": 2}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("pairs") / "toy"
    prepare("toy", out=str(out), count=8, test=0)
    return out


def settled(out: Path, pairs: Path, *overrides: str, samples: int = 8) -> RunConfig:
    fixed = {
        "data.path": pairs, "data.workers": 0, "out": out, "train.samples": samples, "train.batch_size": 4,
        "train.micro_batch_size": 4, "train.threads": 1, "log.every": 4, "save.every": 4, "preview.every": 0,
        "train.align_weight": 0, "train.groups": "[identity]", "optim.lrs": "{}",
    }  # fmt: skip
    return load_run("tiny", [f"--{key}={value}" for key, value in fixed.items()] + list(overrides))


def tensors(run: RunConfig) -> dict[str, torch.Tensor]:
    found = checkpoint.latest(run.folder)
    assert found is not None
    return load_file(found / "trained.safetensors")


def test_a_run_its_resumption_and_its_release(pairs, tmp_path):
    run = settled(tmp_path / "runs", pairs)
    train(run)
    trained = tensors(run)
    assert trained and all(name.startswith("controllers.identity.") for name in trained)
    assert any(bool(value.any()) for name, value in trained.items() if ".to_v." in name)

    # Its last checkpoint is lost, and it goes on from the one before, to the bit.
    newest = checkpoint.latest(run.folder)
    assert newest is not None
    shutil.rmtree(newest)
    train(run)
    assert all(torch.equal(value, tensors(run)[name]) for name, value in trained.items())

    extract(run.folder, out=tmp_path / "release")
    pipe, photo = MGIEPipeline.from_pretrained(tmp_path / "release"), Image.new("RGB", (64, 64), "red")
    plain = pipe(photo, "make it blue", **FEW).images
    known = pipe(photo, "make it blue", identity=IdentityOptions(), **FEW).images
    off = pipe(photo, "make it blue", identity=IdentityOptions(scale=0.0), **FEW).images
    part = pipe(photo, "make it blue", identity=IdentityOptions(box=(0.0, 0.0, 0.5, 0.5)), **FEW).images
    assert torch.equal(plain, off)
    assert not torch.equal(plain, known) and not torch.equal(known, part)
    # Several at once, and what is kept in a folder again, are the same to the bit or to rounding.
    both = pipe([photo, photo], ["make it blue"] * 2, identity=IdentityOptions(), **FEW).images
    assert torch.allclose(both[1], known[0], atol=1e-4)
    pipe.save_pretrained(tmp_path / "again")
    kept = MGIEPipeline.from_pretrained(tmp_path / "again")
    assert torch.equal(kept(photo, "make it blue", identity=IdentityOptions(), **FEW).images, known)

    (tmp_path / "again/controllers/identity/config.json").write_text('{"vision": 3}')
    with pytest.raises(WeightsError, match="identity tokens"):
        MGIEPipeline.from_pretrained(tmp_path / "again", verify=False)


def test_a_run_of_the_original_has_no_identity(pairs, tmp_path):
    with pytest.raises(ConfigError, match="identity with compat=reference"):
        settled(tmp_path, pairs, "--compat=reference", "--train.timestep_shift=1").validate()


def test_whose_look_is_left_out_is_drawn_apart_and_heeded(pairs, tmp_path):
    run = settled(tmp_path, pairs)
    parts = build_editor(run)
    make_trainable(run, parts.editor)
    blocks = parts.editor.controllers.for_identity
    assert blocks is not None
    batch = build_batches(run, parts.prompts, rank=0, world=1, editor=parts.editor)[0, 4]
    draws = draw_for(run, parts, batch)
    assert draws.known is not None and torch.equal(draws.keep, draw_for(run, parts, batch).keep)
    told = torch.ones_like(batch.has_source)
    for drop, left in ((0.0, batch.has_source), (1.0, ~told)):
        (hook,) = look_of(parts.editor, batch, draws, told, drop=drop).attention
        assert torch.equal(hook.present, left)
