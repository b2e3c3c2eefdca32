import errno
import json

import pytest
import torch
from torch import nn

from mgie.errors import DeviceError, WeightsError
from mgie.weights import checkpoint
from mgie.weights.checkpoint import TrainState


def stepped(seed: int = 0):
    """A model after two optimizer steps."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(2):
        model(torch.ones(1, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.named_parameters()), optimizer, [p.detach() * 0.5 for p in model.parameters()]


def save(folder, samples, seed=0, keep=2):
    trained, optimizer, ema = stepped(seed)
    state = TrainState(samples=samples, steps=samples // 8)
    return checkpoint.save(
        folder, state, trained=trained, optimizer=optimizer, ema=ema, run_yaml="name: x\n", keep=keep
    )


def test_what_is_saved_comes_back_to_the_bit(tmp_path):
    found = save(tmp_path, 16)
    saved, old, ema = stepped(0)
    trained, optimizer, shadow = stepped(1)
    state = checkpoint.resume(found, trained=trained, optimizer=optimizer, ema=shadow)
    assert (state.samples, state.steps) == (16, 2)
    for name in saved:
        assert torch.equal(saved[name], trained[name])
        for kind, value in old.state[saved[name]].items():
            assert torch.equal(value, optimizer.state[trained[name]][kind])
    assert all(torch.equal(a, b) for a, b in zip(ema, shadow, strict=True))


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
    assert set(manifest) == {path.name for path in found.iterdir()} - {"manifest.json"}
