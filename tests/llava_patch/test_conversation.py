import pytest

from llava_patch.conversation import TEMPLATES, template
from llava_patch.errors import ConfigError, DataError


def test_vicuna_speaks_as_llava_was_trained():
    prompt = TEMPLATES["vicuna_v1_1"].render([("What is it?", "A cat."), ("And where?", None)])
    assert prompt.text == (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
        "USER: What is it? ASSISTANT: A cat.</s>USER: And where? ASSISTANT:"
    )


@pytest.mark.parametrize("name", sorted(TEMPLATES))
def test_answers_are_where_the_spans_say(name: str):
    prompt = template(name).render([("one", "first"), ("two", "second")])
    assert [prompt.text[start:end].strip() for start, end in prompt.answers] == ["first</s>", "second</s>"]


def test_brief_is_vicuna_without_the_system_s_words():
    turns = [("What is it?", "A cat.")]
    brief, vicuna = TEMPLATES["brief"].render(turns).text, TEMPLATES["vicuna_v1_1"].render(turns).text
    assert vicuna.endswith(brief)
    assert brief == "USER: What is it? ASSISTANT: A cat.</s>"


def test_plain_has_no_roles():
    assert TEMPLATES["plain"].render([("What is it?", "A cat.")]).text == "What is it?\nA cat.</s>"


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ConfigError, match=r"'vicuna'.*brief, plain, vicuna_v1_1"):
        template("vicuna")


@pytest.mark.parametrize("turns", [[], [("one", None), ("two", None)]])
def test_conversations_that_make_no_sense(turns: list):
    with pytest.raises(DataError):
        TEMPLATES["brief"].render(turns)
