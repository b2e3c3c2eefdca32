"""The command line: what it prints, what it exits with, and that a user's mistake gets one sentence."""

import errno
import io
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from itertools import chain

import pytest
from tqdm import tqdm

from mgie.cli import GRACE, arguments, main
from mgie.errors import DataError, explain
from mgie.verbs import VERBS


def sentence(capsys, *words: str) -> str:
    """What a command that must fail says: exactly one line on stderr, nothing on stdout, exit code 2."""
    assert main(list(words)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mgie: ") and said.err.count("\n") == 1 and "Traceback" not in said.err
    return said.err


def test_help_lists_every_verb(capsys):
    assert main([]) == 0
    overview = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name} " in overview and verb.about in overview


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_verb_has_a_worked_example(verb, capsys):
    with pytest.raises(SystemExit) as exit:
        main([*verb.split(), "--help"])
    assert exit.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"example: {VERBS[verb].example}" in text
    assert "--json" in text and "--debug" in text


@pytest.mark.parametrize("verb", [name for name in VERBS if name != "train"])
def test_the_worked_example_is_understood(verb):
    words = shlex.split(VERBS[verb].example)[1 + len(verb.split()) :]
    understood = arguments(verb, words)
    given = [word for word in words if not word.startswith("--")]
    several = [value for value in understood.values() if isinstance(value, list)]
    found = {str(value) for value in [*understood.values(), *chain.from_iterable(several)]}
    assert found >= {*given}
    assert understood.get("photos") == (["photo.jpg"] if verb == "edit" else None)


def test_unknown_verb(capsys):
    assert "did you mean prepare?" in sentence(capsys, "prepar")
    assert "expected one of prepare, " in sentence(capsys, "qqqq")
    assert "delta apply, delta make" in sentence(capsys, "delta")


def test_unknown_option_offers_the_nearest(capsys):
    assert "did you mean --out" in sentence(capsys, "prepare", "toy", "--outt", "x")
    assert "has no option --qqqq" in sentence(capsys, "prepare", "toy", "--qqqq=3")


def test_missing_and_mistyped(capsys):
    assert "out" in sentence(capsys, "prepare", "toy")
    words = ["prepare", "toy", "--out", "x"]
    assert "--seed is many: expected a whole number;" in sentence(capsys, *words, "--seed", "many")
    assert "--count is many: expected a whole number;" in sentence(capsys, *words, "--count", "many")
    assert "--format is zip: expected arrow or " in sentence(capsys, *words, "--format", "zip")


def test_train_takes_a_recipe(capsys):
    assert "did you mean --config tiny?" in sentence(capsys, "train", "tiny")
    assert "--config" in sentence(capsys, "train")
    assert "did you mean --config?" in sentence(capsys, "train", "--confg", "tiny")
    assert "did you mean --dry_run?" in sentence(capsys, "train", "--config", "tiny", "--dry-run")
    assert "expected tiny" in sentence(capsys, "train", "--config", "tinny")
    assert "optim.lr" in sentence(capsys, "train", "--config", "tiny", "--optim.lrr", "3")
    batch = ["--train.batch_size", "3", "--train.micro_batch_size", "2"]
    assert "train.batch_size=3" in sentence(capsys, "train", "--config", "tiny", *batch, "--dry_run")


def test_dry_run_and_print_config_show_the_run_and_stop(capsys, tmp_path, monkeypatch):
    from mgie.config import load_run

    monkeypatch.chdir(tmp_path)
    for stop in ("--dry_run", "--print_config"):
        assert main(["train", "--config", "tiny", "--seed", "7", "--optim.lr=0.25", stop]) == 0
        (tmp_path / "shown.yaml").write_text(capsys.readouterr().out)
        assert load_run("shown.yaml") == load_run("tiny", ["--seed", "7", "--optim.lr=0.25"])
    assert os.listdir(tmp_path) == ["shown.yaml"]


def test_a_run_may_begin_with_another(capsys):
    for words in (["--from", "there"], ["--from=there"], ["--model.start", "there"]):
        assert main(["train", "--config", "tiny", *words, "--print_config"]) == 0
        assert "start: there" in capsys.readouterr().out
    twice = ("train", "--config", "tiny", "--from", "there", "--model.start=here")
    assert "--from and --model.start are the same" in sentence(capsys, *twice)


@pytest.mark.parametrize(
    "words, told",
    [
        (("--model.encoder.template", "nope"), "no template is called 'nope'; choose one of brief"),
        (("--optim.lrs", "{nope: 1.0e-4}"), "optim.lrs names nope: expected some of the trained groups"),
        (("--train.precision", "bf61"), "train.precision is bf61: expected fp32 or bf16"),
    ],
)
def test_what_would_fail_late_is_refused_at_once(capsys, words, told):
    assert told in sentence(capsys, "train", "--config", "tiny", "--data.path", "none", *words)


def test_a_suite_of_pairs_asks_for_them(capsys, tmp_path):
    words = ("--model", str(tmp_path), "--out", str(tmp_path / "report"))
    assert "--data" in sentence(capsys, "evaluate", "--suite", "pairs", *words)


def test_completion_asks_for_what_it_needs(capsys, monkeypatch):
    monkeypatch.setattr("mgie.cli.find_spec", lambda _: None)
    assert "pip install shtab" in sentence(capsys, "--print_completion", "bash")
    assert "expected bash, zsh or tcsh" in sentence(capsys, "--print_completion", "fish")


def test_a_shell_completes_verbs_options_and_keys(capsys, tmp_path):
    pytest.importorskip("shtab")
    assert main(["--print_completion", "bash"]) == 0
    (tmp_path / "mgie.sh").write_text(capsys.readouterr().out)
    (tmp_path / "photos").mkdir()
    ask = 'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9; _shtab_mgie; echo "${COMPREPLY[*]}"'
    for words, offered in (
        (["pre"], "prepare"),
        (["delta", ""], "apply make"),
        (["prepare", "toy", "--o"], "--out --overwrite"),
        (["prepare", "toy", "--format", ""], "arrow parquet legacy"),
        (["train", "--optim.sch"], "--optim.schedule --optim.schedules"),
        (["train", "--optim.schedule", ""], "cosine constant"),
        (["edit", "ph"], "photos"),
        (["evaluate", "--data", "ph"], "photos"),
    ):
        command = ["bash", "-c", f"source mgie.sh; {ask}", "bash", "mgie", *words]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert done.stdout.strip() == offered, (words, done.stderr)


def test_json_is_the_last_line(capsys, tmp_path):
    words = ["prepare", "toy", "--out", str(tmp_path / "toy"), "--count", "6", "--test", "2", "--size", "64"]
    assert main([*words, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["splits"]["train"]["rows"] == 6
    # A person is shown lines instead.
    assert main(words) == 0
    assert "train pairs" in capsys.readouterr().out


def test_only_the_first_process_speaks(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert (
        main(["prepare", "toy", "--out", str(tmp_path / "toy"), "--count", "6", "--test", "2", "--json"]) == 0
    )
    assert capsys.readouterr().out == ""


def test_the_other_processes_wait_before_they_complain(capsys, monkeypatch):
    waited = []
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr("mgie.cli.time.sleep", waited.append)
    assert "process 1: " in sentence(capsys, "prepare", "nothing:here", "--out", "x")
    assert waited == [GRACE]


def test_debug_shows_where(capsys):
    assert main(["prepare", "nothing:here", "--out", "x", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("mgie: ")


def test_what_is_explained():
    from llava_patch.errors import WeightsError

    assert explain(DataError("one\n  two")) == "one two"
    assert explain(WeightsError("torn")) == "torn"
    assert explain(PermissionError(errno.EACCES, "denied", "there")).startswith("there: no permission")
    assert "disk is full" in explain(OSError(errno.ENOSPC, "No space left on device"))
    assert "disk is full" in explain(RuntimeError("I/O error: No space left on device (os error 28)"))
    torn = "[enforce fail at inline_container.cc:672] . unexpected pos 167680 vs 167632"
    assert "disk is full" in explain(RuntimeError(torn))
    # What a hub's client raises for a name that is none.
    assert explain(OSError("nobody/nothing is\nnot a model")) == "nobody/nothing is not a model"
    # Our own mistakes keep their traceback.
    assert explain(KeyError("x")) is None
    assert explain(RuntimeError("x")) is None


def test_our_own_mistakes_are_not_hidden(monkeypatch):
    monkeypatch.setattr("mgie.cli._run", lambda _: {}["nothing"])
    with pytest.raises(KeyError):
        main(["prepare"])


def test_a_null_character_is_no_word(capsys):
    assert main(["prepare", "toy", "--out", "a\0b"]) == 2
    assert "'a\\x00b' holds a null character" in capsys.readouterr().err


def test_a_terminal_that_lacks_a_letter(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    assert main(["train", "--config", "tiny", "--name", "caf\u00e9", "--print_config"]) == 0
    terminal.flush()
    assert rb"name: caf\xe9" in terminal.buffer.getvalue()


@pytest.mark.parametrize("error", [DataError, KeyboardInterrupt])
@pytest.mark.parametrize("debug", [[], ["--debug"]])
def test_a_sentence_has_a_line_of_its_own_below_an_open_bar(error, debug, monkeypatch, capsys):
    """Also where nobody closes the bar: a generator reads it, and an error and its frame hold each other."""

    def rows():
        yield from tqdm(range(9), desc="rows", file=sys.stderr, mininterval=0)

    def work(_):
        for _ in rows():
            try:
                raise KeyError("first")
            except KeyError as first:
                kept = first
            raise error("torn") from kept

    monkeypatch.setattr("mgie.cli._run", work)
    assert main(["prepare", *debug]) in (2, 130)
    *above, last, end = capsys.readouterr().err.split("\n")
    assert last.startswith("mgie: ") and not end
    assert [line.count("rows: ") > 0 for line in above].count(True) == 1
    assert not [line for line in above if "rows: " in line and "Traceback" in line]


def test_ctrl_c_is_ctrl_c_whatever_a_library_makes_of_it(monkeypatch, capsys):
    def work(_):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ValueError("no shape") from None

    monkeypatch.setattr("mgie.cli._run", work)
    assert main(["edit"]) == 130 and "mgie: stopped" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_closed_pipe_is_no_error():
    command = f"{sys.executable} -m mgie train --config tiny --print_config | head -n 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_ctrl_c(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mgie",
        "prepare",
        "toy",
        "--out",
        str(tmp_path / "toy"),
        "--count",
        "100000",
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not os.listdir(tmp_path):  # until it writes
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("mgie: stopped;") and "Traceback" not in said
    assert os.listdir(tmp_path) == []
