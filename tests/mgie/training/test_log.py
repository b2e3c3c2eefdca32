import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from mgie.training.files import LINES
from mgie.training.log import Means, RunLog
from mgie.training.optim import OptimConfig
from mgie.training.world import World
from mgie.types import Term
from mgie.weights.checkpoint import TrainState

PACE = {"samples_per_second": 8.0, "data_wait": 0.25, "memory_gib": 1.5, "tflops": 0.5}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with World(tmp_path, threads=1) as alone:
        yield alone


def opened(folder: Path, world: World, done: int = 0) -> RunLog:
    return RunLog(folder, world, total=32, done=done, run_yaml="name: x\n")


def told(log: RunLog, samples: int) -> None:
    """The line of a step."""
    log.advance(samples)
    state = TrainState(samples=samples, steps=samples // 8, losses={"ce": 1.5, "edit": 0.25})
    log.step(state, grad_norm=2.0, rates={"eye": 0.1}, pace=PACE)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / LINES).read_text().splitlines()]


def test_a_line_has_the_names_of_all_metrics(tmp_path, world):
    log = opened(tmp_path / "run", world)
    told(log, 8)
    told(log, 16)
    log.close()
    first, second = lines(tmp_path / "run")
    assert first == {
        "step": 1,
        "samples": 8,
        "loss_ce": 1.5,
        "loss_edit": 0.25,
        "grad_norm": 2.0,
        "lr_eye": 0.1,
        "skipped": 0,
        **PACE,
    }
    assert (second["step"], second["samples"]) == (2, 16)
    assert (tmp_path / "run" / "run.yaml").read_text() == "name: x\n"


def test_the_first_line_says_how_long_the_rest_will_take(tmp_path, world, capsys):
    log = opened(tmp_path, world, done=8)
    told(log, 16), told(log, 24)
    assert len(re.findall(r"samples per second: about \d+ seconds to go", capsys.readouterr().err)) == 1


def test_a_gradient_that_is_no_number_is_null(tmp_path, world):
    log = opened(tmp_path, world)
    log.step(TrainState(samples=8, steps=1, skipped=3), grad_norm=float("nan"), rates={}, pace={})
    assert (lines(tmp_path)[0]["grad_norm"], lines(tmp_path)[0]["skipped"]) == (None, 3)


def test_the_outlook_says_epochs_and_what_another_length_means(tmp_path, world, capsys):
    new = TrainState()

    def outlook(state, **facts):
        opened(tmp_path, world).outlook(state, OptimConfig(lr=1.0, warmup=0.0), batch_size=8, **facts)
        return capsys.readouterr().err

    assert "32 samples in 4 steps: 2 epochs of 16 pairs.\n" in outlook(new, epoch=16)
    assert "32 samples in 4 steps.\n" in outlook(new, epoch=None)
    assert "by heart" not in outlook(new, epoch=1)
    RunLog(tmp_path, world, total=60, done=0, run_yaml="").outlook(
        TrainState(), OptimConfig(lr=1.0), batch_size=4, epoch=1
    )
    assert "Each pair comes 60 times and is learnt by heart: 50 epochs are train.samples=50." in (
        capsys.readouterr().err
    )
    longer = outlook(TrainState(samples=16, total=16), epoch=16)
    assert "instead of 16 samples" in longer and "it goes on at 0.5 of its peak, not at 0)" in longer


def test_steps_that_are_taken_again_are_told_once(tmp_path, world):
    log = opened(tmp_path, world)
    for samples in (8, 16, 24):
        told(log, samples)
    with (tmp_path / LINES).open("a") as file:
        file.write('{"step": 4, "sam')  # the process died here
    log = opened(tmp_path, world, done=16)  # the last checkpoint
    assert [line["samples"] for line in lines(tmp_path)] == [8, 16]
    told(log, 24)
    assert [line["samples"] for line in lines(tmp_path)] == [8, 16, 24]


def test_a_preview_is_a_file(tmp_path, world):
    opened(tmp_path, world).picture("0000000008", Image.new("RGB", (6, 4), "red"))
    with Image.open(tmp_path / "previews" / "0000000008.png") as image:
        assert image.size == (6, 4)


def test_the_bar_says_how_far_it_is(tmp_path, world, capsys):
    log = opened(tmp_path, world, done=8)
    told(log, 8)
    log.say("stopped at sample 16.")
    log.close()
    shown = capsys.readouterr()
    assert "stopped at sample 16." in shown.out + shown.err
    assert re.search(r"16/32 .*ce=1\.5000, edit=0\.2500", shown.err)


def test_only_the_main_process_writes(tmp_path, world, capsys):
    world.is_main = False
    log = opened(tmp_path / "run", world)
    told(log, 8)
    log.say("nothing")
    assert not (tmp_path / "run").exists()
    assert not any(capsys.readouterr())


def test_tensorboard_gets_the_numbers(tmp_path):
    pytest.importorskip("tensorboard")
    with World(tmp_path, trackers=("tensorboard",), threads=1) as world:
        world.start_trackers("run")
        told(opened(tmp_path, world), 8)
    events = list((tmp_path / "run").glob("events.*"))
    assert len(events) == 1
    content = events[0].read_bytes()
    assert all(name in content for name in (b"loss_ce", b"loss_edit", b"grad_norm", b"lr_eye", b"data_wait"))


def test_lines_of_others_stay_and_crash_nothing(tmp_path, world):
    foreign = [b"my note", b'{"samples": "many"}', b"[" * 5000, b"\xff\xfe", b"[1]", b""]
    told(opened(tmp_path, world), 8)
    with (tmp_path / LINES).open("ab") as file:
        file.write(b"".join(line + b"\n" for line in foreign))
    told(opened(tmp_path, world, done=8), 16)
    opened(tmp_path, world, done=8)
    assert (tmp_path / LINES).read_bytes().splitlines()[1:] == foreign


def test_where_nothing_is_resumed_no_line_is_lost(tmp_path, world):
    told(opened(tmp_path, world), 8)
    told(opened(tmp_path, world), 8)
    assert [line["samples"] for line in lines(tmp_path)] == [8, 8]


def test_means_are_of_the_steps_that_were_taken(world):
    means = Means(("ce", "edit"), world.device)

    def step(*ce: tuple[float, int], taken: float = 1.0) -> None:
        for value, count in ce:
            words = Term(sum=torch.tensor(value, device=world.device), count=torch.tensor(count))
            edit = Term(sum=torch.tensor(0.5, device=world.device), count=2)
            means.add({"ce": words, "edit": edit})
        means.close_step(torch.tensor(taken, device=world.device))

    assert means.read(world) == {}
    step((6.0, 3), (1.0, 1))
    step((float("nan"), 3), taken=0.0)
    step((1.0, 0))
    assert means.read(world) == {"ce": 8 / 4, "edit": 0.25}
    step((5.0, 3), taken=0.0)
    assert means.read(world) == {}


def test_a_loss_of_nothing_is_zero(world):
    means = Means(("ce", "edit"), world.device)
    means.add({"ce": Term(sum=torch.zeros(()), count=0), "edit": Term(sum=torch.ones(()), count=2)})
    means.close_step(torch.ones(()))
    assert means.read(world) == {"ce": 0.0, "edit": 0.5}


def test_held_out_losses_that_rise_are_told_of_once(tmp_path, world, capsys):
    def look(log: RunLog, samples: int, words: float, painting: float) -> str:
        capsys.readouterr()
        losses = {"ce": words, "edit_0.2": painting, "edit_0.8": painting}
        log.held_out(TrainState(samples=samples, steps=samples), losses)
        return capsys.readouterr().err

    log = opened(tmp_path / "run", world)
    words = (2.0, 1.0, 1.1, 1.3)
    assert not any("held-out" in look(log, at, loss, 0.5 / at) for at, loss in enumerate(words, 1))
    log.close()
    log = opened(tmp_path / "run", world, done=4)  # what was seen before a stop counts
    said = look(log, 5, 1.4, 0.1)
    assert "the held-out loss of the words was lowest at sample 2 (1), and is 1.4 now: " in said
    assert "of the painting" not in said
    assert not any("held-out" in look(log, at, 1.5, 0.5 / at) for at in (6, 7, 8))
    assert not any("held-out" in look(log, at, 0.9, 0.01) for at in range(9, 14))  # as good is not worse
    log.close()
