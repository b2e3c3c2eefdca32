"""The errors that the pages show are those that the program has."""

import ast
import re
from pathlib import Path

import pytest
from PIL import Image

from mgie.cli import main

ROOT = Path(__file__).parents[2]
PAGES = {"train.md": 15, "faq.md": 40}
"""Pages with sentences of the program, and how many these have at least."""
SHORTEST = 12
"""Letters of a piece of a message that counts as said by the program."""
FILLED_IN = 0.4
"""Largest part of a message that may be names and numbers of the case."""

SAID = {
    "edit photo.jpg dark --guidence 2 --model there --out out.png": "has no option --guidence",
    "delta": "`mgie delta` needs more",
    "train --config tyni": "no recipe is called 'tyni'",
    "train tiny": "takes no 'tiny' by itself",
    "train --config tiny --gpu 24GiB": "--gpu is 24GiB",
    "edit photo.jpg --model there --out out.png": "something is missing: instruction",
    "edit beach.jpg dark --model there --out out.png": "there is no photo beach.jpg",
    "edit photos/*.jpg dark --model there --out out.png": "no photo is called photos/*.jpg",
    "edit photo.jpg dark --model _ckpt/tiny --out out.png": "there is no release folder _ckpt/tiny",
    "edit photo.jpg dark --model there --out results": "out is the folder results",
    "edit photo.jpg dark --model there --chain --out results": "--chain is for several",
    "extract _ckpt/runs/mine --out new": "there is no run folder _ckpt/runs/mine",
    "evaluate --suite toy --out new": "nothing is named that could be measured",
    "evaluate _ckpt/report-a --out new": "_ckpt/report-a is one report",
    "prepare --check _data/mine": "_data/mine is no data set",
}
"""Commands in an empty folder, but for a photo, a folder `results` and a release that is none, and which
sentence of the page on errors they end with."""


def messages(*pages: str) -> list[str]:
    texts = [(ROOT / "docs" / page).read_text() for page in pages or PAGES]
    blocks = re.findall(r"^```text\n(.*?)^```", "\n".join(texts), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture(scope="module")
def pieces() -> list[str]:
    """What stands between the gaps of all texts of the program, longest first."""
    found: set[str] = set()
    for folder in ("mgie", "llava_patch"):
        for file in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Constant) and isinstance(node.value, str):
                    found.add(node.value)
    return sorted((piece for piece in found if len(piece) >= SHORTEST), key=len, reverse=True)


def told_by_nobody(message: str, pieces: list[str]) -> str:
    """What is left of a message when all that the program says is taken out."""
    left = message.removeprefix("mgie: ")
    for piece in pieces:
        left = left.replace(piece, "")
    return left


@pytest.mark.parametrize("page", PAGES)
def test_the_page_has_messages(page):
    said = messages(page)
    assert len(said) >= PAGES[page] and all(line.startswith("mgie: ") for line in said)


def test_no_message_stands_on_two_pages():
    assert len({*messages()}) == len(messages())


@pytest.mark.parametrize("message", messages(), ids=lambda message: message[6:40])
def test_each_message_is_one_of_the_program_s(message, pieces):
    if any(words in message for words in SAID.values()):
        return  # held word for word below
    left = told_by_nobody(message, pieces)
    assert len(left) <= FILLED_IN * len(message), f"the program does not say: {left}"


def test_a_message_that_has_changed_is_noticed(pieces):
    (one,) = [message for message in messages("train.md") if "is asked for" in message]
    other = one.replace("remove that folder", "throw that folder away")
    assert len(told_by_nobody(other, pieces)) > FILLED_IN * len(other)


@pytest.mark.parametrize("command", SAID)
def test_commands_end_with_the_page_s_sentences(command, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "model_index.json").write_text("{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.jpg")
    assert main(command.split()) == 2
    (sentence,) = [message for message in messages("faq.md") if SAID[command] in message]
    assert capsys.readouterr().err.strip() == sentence
