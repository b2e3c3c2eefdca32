"""What a profile leaves behind, and that it changes nothing."""

import json

import torch
from safetensors.torch import load_file

from mgie.train import train
from mgie.weights import checkpoint


def test_a_profile_tells_the_parts_of_a_step_and_changes_no_bit(tiny_run):
    plain, timed = tiny_run("--name=plain", samples=24), tiny_run("--name=timed", samples=24)
    train(plain), train(timed, profile=2)
    found = [checkpoint.find(run.folder).path or run.folder for run in (plain, timed)]
    one, two = (load_file(path / "trained.safetensors") for path in found)
    assert all(torch.equal(one[name], two[name]) for name in one)

    lines = (timed.folder / "profile" / "table.md").read_text().splitlines()
    rows = {cells[1].strip(): float(cells[2]) for cells in (line.split("|") for line in lines[2:])}
    parts = {"data wait", "codec", "vision tower", "language model", "word scores", "edit head", "denoiser"}
    assert rows.keys() == parts | {"backward", "optimizer", "all else", "a step"}
    assert abs(sum(rows.values()) - 2 * rows["a step"]) < 1
    assert all(ms > 0 for ms in rows.values())
    trace = json.loads((timed.folder / "profile" / "trace.json").read_text())
    assert parts - {"data wait"} <= {event.get("name") for event in trace["traceEvents"]}
