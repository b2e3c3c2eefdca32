"""Texts are cleaned as OpenAI's program does it, and what could not be done is said."""

import re
import sys
from types import SimpleNamespace

import pytest

from mgie.errors import DataError
from mgie.evaluation.measures import texts
from mgie.evaluation.measures.texts import clean, read_text


@pytest.fixture(autouse=True)
def no_ftfy(monkeypatch):
    """As on a machine without the package."""
    monkeypatch.setattr(texts, "_ftfy", lambda: None)


def words(text, **_):
    """A tokenizer of one id a word, and two marks."""
    return {"input_ids": [1, *(10 + len(word) for word in text.split()), 2]}


def test_entities_quotes_and_spaces():
    assert clean("  Cats &amp;amp; DOGS\t it\u2019s \u201cnew\u201d \n") == ('cats & dogs it\'s "new"', True)
    assert clean("a dog \u2013 and a cat\u2026") == ("a dog \u2013 and a cat\u2026", True)
    assert clean("") == ("", True)


def test_a_text_that_only_ftfy_could_repair_is_left_and_said_to_be_so(monkeypatch):
    for text in ("a Caf\u00e9 &amp; bar", "two\u00a0spaces", "\u00e2\u20ac\u2122s"):
        assert clean(text) == (text, False)
        assert not read_text(text, words, 77, "error").cleaned
    monkeypatch.setattr(texts, "_ftfy", lambda: SimpleNamespace(fix_text=lambda text: text.replace("é", "e")))
    assert clean("a Café &amp; bar") == ("a cafe & bar", True)


def test_a_long_text_is_an_error_or_cut_and_counted():
    long = "word " * 76
    assert not read_text("word " * 75, words, 77, "error").cut
    with pytest.raises(DataError, match=re.escape("has 78 tokens and CLIP reads 77")):
        read_text(long, words, 77, "error")
    found = read_text(long, words, 77, "cut")
    assert found.cut and len(found.ids) == 77 and found.ids[-1] == 2


def test_ftfy_is_used_where_it_is_installed_and_never_imported_at_once():
    assert "ftfy" not in sys.modules or texts.importlib.util.find_spec("ftfy")
