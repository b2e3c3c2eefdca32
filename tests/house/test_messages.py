"""The errors that docs/train.md shows are those that the program has."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "train.md"
SHORTEST = 12
"""Letters of a piece of a message that counts as said by the program."""
FILLED_IN = 0.4
"""Largest part of a message that may be names and numbers of the case."""


def messages() -> list[str]:
    blocks = re.findall(r"^```text\n(.*?)^```", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
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


def test_the_page_has_messages():
    assert len(messages()) >= 15 and all(line.startswith("mgie: ") for line in messages())


@pytest.mark.parametrize("message", messages(), ids=lambda message: message[6:40])
def test_each_message_is_one_of_the_program_s(message, pieces):
    left = told_by_nobody(message, pieces)
    assert len(left) <= FILLED_IN * len(message), f"the program does not say: {left}"


def test_a_message_that_has_changed_is_noticed(pieces):
    (one,) = [message for message in messages() if "is asked for" in message]
    other = one.replace("remove that folder", "throw that folder away")
    assert len(told_by_nobody(other, pieces)) > FILLED_IN * len(other)
