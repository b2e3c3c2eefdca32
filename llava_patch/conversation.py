"""Frozen prompt templates: turns -> text, and which parts of it are answers."""

from collections.abc import Sequence
from dataclasses import dataclass

from llava_patch.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """The text of a conversation and where its answers stand."""

    text: str
    answers: tuple[tuple[int, int], ...]
    """Start and end, in characters, of each answer with its closing separator."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conversation:
    """A prompt template. `render` is the only place where its parts are joined."""

    name: str
    system: str
    """Stands before everything else, with its own separator already at its end; may be empty."""
    roles: tuple[str, str]
    """What the user's and the assistant's lines begin with, e.g. "USER:"; may be empty."""
    separators: tuple[str, str]
    """What the user's and the assistant's lines end with."""

    def render(self, turns: Sequence[tuple[str, str | None]]) -> Prompt:
        """Join (question, answer) turns. An answer of None, in the last turn, leaves the assistant to speak.

        >>> TEMPLATES["brief"].render([("What is it?", "A cat.")]).text
        'USER: What is it? ASSISTANT: A cat.</s>'
        >>> TEMPLATES["brief"].render([("What is it?", None)]).text
        'USER: What is it? ASSISTANT:'
        """
        if not turns:
            raise DataError("the conversation has no turns, expected at least one question; pass one.")
        if any(answer is None for _, answer in turns[:-1]):
            raise DataError("a turn before the last one has no answer; only the last answer may be None.")
        text, answers = self.system, []
        for question, answer in turns:
            text += _line(self.roles[0], question) + self.separators[0] + self.roles[1]
            if answer is None:
                break
            start = len(text)
            text += (f" {answer}" if self.roles[1] else answer) + self.separators[1]
            answers.append((start, len(text)))
        return Prompt(text=text, answers=tuple(answers))


def _line(role: str, words: str) -> str:
    return f"{role} {words}" if role else words


_VICUNA = Conversation(
    name="vicuna_v1_1",
    system="A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. ",
    roles=("USER:", "ASSISTANT:"),
    separators=(" ", "</s>"),
)

TEMPLATES = {
    template.name: template
    for template in (
        _VICUNA,
        Conversation(name="brief", system="", roles=_VICUNA.roles, separators=_VICUNA.separators),
        Conversation(name="plain", system="", roles=("", ""), separators=("\n", "</s>")),
    )
}
"""By name: "vicuna_v1_1" (LLaVA-v1), "brief" (the same without the system's words), "plain" (no roles)."""


def template(name: str) -> Conversation:
    """The template that is called `name`."""
    if name not in TEMPLATES:
        raise ConfigError(f"no template is called {name!r}; choose one of {', '.join(sorted(TEMPLATES))}.")
    return TEMPLATES[name]
