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
        trained=trained, optimizer=moments, ema={name: tensor * 0.5 for name, tensor in trained.items()}
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
    with pytest.raises(
        WeightsError, match=r"use the recipe .* misshapen weight in .*: \[2, 3\], expected \[2, 4\]"
    ):
        checkpoint.load_into(checkpoint.load_tensors(found), other, where=found)
    with pytest.raises(WeightsError, match="missing extra"):
        checkpoint.load_into(
            checkpoint.load_tensors(found), other | {"extra": nn.Parameter(torch.ones(1))}, where=found
        )


def test_the_manifest_names_every_file(tmp_path):
    found = save(tmp_path, 8)
    manifest = json.loads((found / "manifest.json").read_text())
    assert set(manifest["files"]) == {path.name for path in found.iterdir()} - {"manifest.json"}


def names(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def damage(found):
    (found / "trained.safetensors").write_bytes(b"nothing")


@pytest.mark.parametrize("keep", [-1, 0, 1])
def test_the_one_just_written_always_stays(tmp_path, keep):
    save(tmp_path, 8, keep=keep)
    save(tmp_path, 16, keep=keep)
    assert names(tmp_path) == [f"{16:010d}"]


@pytest.mark.parametrize("newer", [24, 8])
def test_a_damaged_one_does_not_push_out_a_good_one(tmp_path, newer):
    save(tmp_path, 4)
    damage(save(tmp_path, newer))
    save(tmp_path, 16)
    assert {f"{4:010d}", f"{16:010d}"} <= set(names(tmp_path))


def test_a_damaged_one_is_told_and_moved_aside_when_it_is_in_the_way(tmp_path):
    save(tmp_path, 8)
    damage(save(tmp_path, 16))
    (tmp_path / "checkpoints" / f"{16:010d}" / "mine.txt").write_text("do not lose me")
    found = checkpoint.find(tmp_path)
    assert found.path and found.samples == 8
    assert "damaged: " in found.skipped[0] and "trained.safetensors has 7 bytes" in found.skipped[0]
    save(tmp_path, 16)
    aside = tmp_path / "checkpoints" / f"{16:010d}.damaged"
    assert (aside / "mine.txt").read_text() == "do not lose me"
    assert checkpoint.find(tmp_path).samples == 16


@pytest.mark.parametrize("text", ["{}", "[]", "", '{"kind": "checkpoint", "files": {"x": {"size": 1}}}'])
def test_where_none_is_intact_nothing_is_begun_anew(tmp_path, text):
    (save(tmp_path, 8) / "manifest.json").write_text(text)
    with pytest.raises(WeightsError, match=r"none of the checkpoints .* choose another --name, or remove"):
        checkpoint.latest(tmp_path)


def test_others_see_the_same_one_or_say_so(tmp_path):
    found = checkpoint.find(tmp_path)
    assert found.path is None and found.otherwise_here() is None
    save(tmp_path, 8)
    found = checkpoint.find(tmp_path)
    assert found.otherwise_here() is None
    save(tmp_path, 8, seed=1)
    assert "another checkpoint" in str(found.otherwise_here())


@pytest.mark.parametrize("part", ["trained", "ema", "optimizer"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_saved_and_nothing_goes(tmp_path, part, bad):
    for samples in (8, 16):
        save(tmp_path, samples)
    broken = snapshot()
    name = next(iter(getattr(broken, part)))
    getattr(broken, part)[name].view(-1)[-1] = bad
    with pytest.raises(
        WeightsError, match=rf"was therefore not written, has 1 tensors.*{name[:6]}.*diverged"
    ):
        checkpoint.save(tmp_path, TrainState(samples=24), broken, run_yaml="name: x\n", keep=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"{8:010d}", f"{16:010d}"]


def test_what_is_not_finite_is_not_put_into_a_model():
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    with pytest.raises(WeightsError, match="checkpoint there has 1 tensors"):
        checkpoint.load_into(
            {"weight": torch.full((2, 3), float("nan")), "bias": torch.zeros(2)},
            dict(model.named_parameters()),
            where="there",
        )
    assert torch.equal(model.weight, before)


def test_what_a_run_began_with_comes_back(tmp_path):
    whole = replace(snapshot(), begun={"frozen": torch.ones(2)})
    found = checkpoint.save(tmp_path, TrainState(samples=8), whole, run_yaml="name: x\n", keep=2)
    assert torch.equal(checkpoint.load(found)[1].begun["frozen"], torch.ones(2))
    assert checkpoint.load_tensors(found).keys() == {"weight", "bias"}
    model = nn.ModuleDict({"frozen": nn.Linear(1, 2)})
    names = {"frozen": model["frozen"].bias, "other": model["frozen"].weight}
    checkpoint.load_into(checkpoint.load_begun(found), names, where=found, every=False)
    assert torch.equal(model["frozen"].bias.detach(), torch.ones(2))
    with pytest.raises(WeightsError, match="unexpected frozen"):
        checkpoint.load_into(checkpoint.load_begun(found), {}, where=found, every=False)


def test_older_ones_are_read_once(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(checkpoint, "check_file", lambda folder, name, _: read.append((folder.name, name)))
    for samples in range(4, 32, 4):
        save(tmp_path, samples, keep=3)
    assert len(read) == len(set(read)) > 0


def test_a_state_of_another_version_is_refused(tmp_path):
    (tmp_path / "state.json").write_text('{"samples": 8, "loss_ce": 1.0}')
    with pytest.raises(WeightsError, match=r"another version of mgie.*--from"):
        checkpoint.load_state(tmp_path)
