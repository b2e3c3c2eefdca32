"""What terminals, schedulers, crashes and a second command do to a run: nothing is lost, and each is told."""

import os
import re
import signal
import socket
import time
from pathlib import Path

import pytest
from processes import Started, free_port, together

from mgie.cli import main
from mgie.weights import checkpoint

SAMPLES = 4000


def until_it_trains(run: Started) -> None:
    while not re.search(rf" [1-9]\d*/{SAMPLES} ", run.said):
        assert os.waitpid(run.pid, os.WNOHANG) == (0, 0), run.said
        time.sleep(0.05)


def lives(pid: int) -> bool:
    """Whether a process, nobody's child here, is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("stop") / "toy")
    assert main(["prepare", "toy", "--out", folder, "--count", "16", "--test", "4", "--size", "64"]) == 0
    return folder


@pytest.fixture
def words(data, tmp_path) -> list[str]:
    """A long run that says and saves nothing by itself."""
    return [
        "train", "--config", "tiny", "--data.path", data, "--out", str(tmp_path / "runs"),
        "--data.workers", "2", "--train.threads", "1", "--train.batch_size", "4",
        "--train.samples", str(SAMPLES), "--log.every", "100000", "--save.every", "100000",
        "--preview.every", "0",
    ]  # fmt: skip


def saved_samples(said: str) -> int:
    found = re.search(rf"saved at sample (\d+) of {SAMPLES}; the same command goes on from here", said)
    assert found, said
    return int(found[1])


@pytest.mark.parametrize(
    ("number", "code"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGHUP", 130), ("SIGINT", 130)]
)
def test_a_signal_to_all_processes_of_a_run_saves_and_stops(words, tmp_path, number, code):
    """A scheduler's asks for the run to be started again."""
    run = Started(words, tmp_path / "notes")
    until_it_trains(run)
    run.kill_group(getattr(signal, number))
    assert run.code() == code
    found = checkpoint.find(tmp_path / "runs/tiny")
    assert 0 < found.samples == saved_samples(run.said) < SAMPLES
    assert "Traceback" not in run.said and "new: " in run.said


def test_a_second_command_on_one_folder_is_refused_until_the_first_has_ended(words, tmp_path, capsys):
    run, short = Started(words, tmp_path / "notes"), [*words, "--train.samples", "4"]
    until_it_trains(run)
    helpers = run.children
    assert len(helpers) >= 2
    assert main(short) == 2
    assert f"is in use by process {run.pid} on {socket.gethostname()}" in capsys.readouterr().err
    assert main([*short, "--name", "another"]) == 0
    os.kill(run.pid, signal.SIGKILL)
    assert run.code() == -signal.SIGKILL
    assert main(short) == 0  # at once, although helpers of the first live a little longer
    while any(map(lives, helpers)):
        time.sleep(0.1)


def test_a_signal_to_one_of_two_processes_stops_both(words, tmp_path):
    runs = together(words, tmp_path / "notes")
    until_it_trains(runs[0])
    runs[1].kill_group(signal.SIGTERM)
    assert [run.code() for run in runs] == [75, 75]
    assert checkpoint.find(tmp_path / "runs/tiny").samples == saved_samples(runs[0].said)
    assert "Traceback" not in runs[0].said + runs[1].said


def test_two_processes_are_refused_together(words, tmp_path):
    first = Started(words, tmp_path / "first")
    until_it_trains(first)
    runs = together(words, tmp_path / "notes")
    assert [run.code() for run in runs] == [2, 2]
    assert all(f"is in use by process {first.pid}" in run.said for run in runs)
    first.kill_group(signal.SIGKILL)
    first.code()


def test_processes_that_see_different_checkpoints_do_not_begin(words, tmp_path, monkeypatch):
    words[words.index("--out") + 1] = "runs"  # each in a folder of its own
    for place in ("here", "there"):
        (tmp_path / place).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert main([*words, "--train.samples", "4"]) == 0
    port, runs = free_port(), []
    for rank, place in enumerate(("here", "there")):
        monkeypatch.chdir(tmp_path / place)
        runs.append(
            Started([*words, "--train.samples", "4"], tmp_path / "notes", rank=rank, count=2, port=port)
        )
    assert [run.code() for run in runs] == [2, 2]
    assert all("process 1 sees no checkpoint at runs/tiny" in run.said for run in runs)


def test_one_process_that_fails_ends_the_others_with_a_sentence(words, tmp_path):
    runs = together(words, tmp_path / "notes")
    until_it_trains(runs[0])
    os.kill(runs[1].pid, signal.SIGKILL)
    assert runs[0].code() == 2
    assert "another process of this run has ended" in runs[0].said and "Traceback" not in runs[0].said
    runs[1].code()


def test_one_process_that_hangs_ends_the_others_with_a_sentence_in_time(words, tmp_path):
    runs = together([*words, "--train.timeout", "0.2"], tmp_path / "notes")
    until_it_trains(runs[0])
    os.kill(runs[1].pid, signal.SIGSTOP)
    began = time.monotonic()
    assert runs[0].code() == 2
    assert time.monotonic() - began < 60
    assert "has not answered for as long as train.timeout says" in runs[0].said
    assert "Traceback" not in runs[0].said
    os.kill(runs[1].pid, signal.SIGKILL)
    runs[1].code()
