"""Judges that cost nothing: answers recorded earlier, and answers written down for a test."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mgie.data.files import read_json
from mgie.errors import ConfigError, DataError
from mgie.evaluation.judges.answers import recorded
from mgie.evaluation.judges.base import Answer, Ask


class Replay:
    """The answers of a file, as some judge gave them. What is not in it is an error: so a published result is
    reproduced, or it is not."""

    together, steady = 1, False

    def __init__(self, path: str | Path, model: str = ""):
        """`model` picks one of several judges by the model it names. Raises ConfigError and DataError."""
        self.path = Path(path)
        self.known, judges = recorded(self.path)
        fitting = [each for each in judges if not model or each.get("model") == model]
        if len(fitting) != 1:
            names = sorted({str(each.get("model")) for each in judges})
            raise ConfigError(
                f"{path} holds answers of {len(fitting)} judges{f' called {model}' if model else ''} "
                f"({', '.join(names)}): name one of them, --judge_model."
            )
        self._identity = fitting[0]
        self.steady = bool(self._identity.get("greedy"))
        self.label = f"{self._identity.get('model', 'a judge')}, recorded in {self.path.name}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """That of whoever gave the answers."""
        return self._identity

    def answer(self, ask: Ask, key: str) -> Answer:
        """What was recorded. Raises DataError for a question that nobody asked then."""
        if key not in self.known:
            raise DataError(
                f"{self.path} has no answer to question {key[:12]} (repeat {ask.repeat}, attempt "
                f"{ask.attempt}): expected the same pictures, rubric and judge as when it was recorded."
            )
        return self.known[key]


class Scripted:
    """Answers by a list of rules, for tests: the first rule whose words are in the question gives its answers
    in turn, by repeat and attempt; `*` fits every question."""

    together, steady = 1, False

    def __init__(self, path: str | Path):
        """Raises DataError."""
        self.path = Path(path)
        form = '{"model": NAME, "rules": [[WORDS, ANSWER or [ANSWER, ...]], ...]}'
        self.model, self.rules = read_json(self.path, _rules, form)
        self.sha256 = hashlib.sha256(self.path.read_bytes()).hexdigest()
        self.label = f"{self.model}, scripted by {self.path.name}"

    @property
    def identity(self) -> Mapping[str, Any]:
        """Its file's hash."""
        return {"kind": "scripted", "model": self.model, "sha256": self.sha256}

    def answer(self, ask: Ask, key: str) -> Answer:  # noqa: ARG002
        """What the first fitting rule says. Raises DataError where none does."""
        words = "\n".join(part if isinstance(part, str) else part.sha256 for part in ask.parts)
        for wanted, answers in self.rules:
            if wanted == "*" or wanted in words:
                return Answer(text=answers[(ask.repeat + ask.attempt) % len(answers)], model=self.model)
        raise DataError(f"{self.path} has no rule for {words[:60]!r}: add one, or a last one for `*`.")


def _rules(said: Any) -> tuple[str, list[tuple[str, list[str]]]]:
    rules = [(str(words), [told] if isinstance(told, str) else list(told)) for words, told in said["rules"]]
    if wrong := [
        words for words, told in rules if not told or not all(isinstance(each, str) for each in told)
    ]:
        raise ValueError(f"the rule for {wrong[0]!r} has no answer")
    return str(said["model"]), rules
