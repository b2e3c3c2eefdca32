import errno
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from mgie.errors import DeviceError, WeightsError
from mgie.weights import checkpoint
from mgie.weights.checkpoint import Snapshot, TrainState


def snapshot(seed: int = 0) -> Snapshot:
    """Tensors as of a model after some steps."""
    torch.manual_seed(seed)
    trained = {"weight": torch.randn(2, 3), "bias": torch.randn(2)}
    moments = {f"{name}|exp_avg": torch.randn_like(tensor) for name, tensor in trained.items()}
    moments |= {f"{name}|step": torch.tensor(2.0) for name in trained}
    return Snapshot(
        trained=trained, moments=moments, ema={name: tensor * 0.5 for name, tensor in trained.items()}
    )


def save(folder, samples, seed=0, keep=2):
    state = TrainState(samples=samples, steps=samples // 8)
    return checkpoint.save(folder, state, snapshot(seed), run_yaml="name: x\n", keep=keep)


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    state, loaded = checkpoint.load(save(tmp_path, 16))
    assert (state.samples, state.steps) == (16, 2)
    for name, tensors in vars(snapshot()).items():
        found = getattr(loaded, name)
        assert found.keys() == tensors.keys()
        assert all(torch.equal(found[key], tensors[key]) for key in tensors)


def test_others_may_read_it(tmp_path):
    (tmp_path / "plain").write_text("")
    modes = {path.stat().st_mode for path in (*save(tmp_path, 16).iterdir(), tmp_path / "plain")}
    assert len(modes) == 1


def test_a_run_without_an_average_has_none(tmp_path):
    whole = replace(snapshot(), ema=None)
    found = checkpoint.save(tmp_path, TrainState(samples=8), whole, run_yaml="name: x\n", keep=2)
    assert checkpoint.load(found)[1].ema is None


def test_the_newest_whole_one_is_found_and_old_ones_go(tmp_path):
    for samples in (8, 16, 24):
        save(tmp_path, samples)
    assert checkpoint.latest(tmp_path).name == f"{24:010d}"
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"{16:010d}", f"{24:010d}"]


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no manifest"])
def test_a_damaged_one_does_not_exist(tmp_path, damage):
    save(tmp_path, 8)
    newest = save(tmp_path, 16)
    file = newest / "trained.safetensors"
    content = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(content[:-4])
    elif damage == "changed":
        content[-1] ^= 1
        file.write_bytes(content)
    elif damage == "missing":
        file.unlink()
    else:
        (newest / "manifest.json").unlink()
    assert checkpoint.latest(tmp_path).name == f"{8:010d}"


def test_an_interrupted_write_leaves_nothing_that_counts(tmp_path, monkeypatch):
    save(tmp_path, 8)

    def full(*_args, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(DeviceError, match="disk is full"):
        save(tmp_path, 16)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [f"{8:010d}"]


def test_another_model_is_refused_with_the_names(tmp_path):
    found = save(tmp_path, 8)
    other = dict(nn.Linear(4, 2).named_parameters())
    with pytest.raises(WeightsError, match=r"weight is \(2, 3\) but the model has \(2, 4\)"):
        checkpoint.put(checkpoint.load_tensors(found), other, where=found)
    with pytest.raises(WeightsError, match="missing extra"):
        checkpoint.put(
            checkpoint.load_tensors(found), other | {"extra": nn.Parameter(torch.ones(1))}, where=found
        )


def test_the_manifest_names_every_file(tmp_path):
    found = save(tmp_path, 8)
    manifest = json.loads((found / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in found.iterdir()} - {"manifest.json"}
