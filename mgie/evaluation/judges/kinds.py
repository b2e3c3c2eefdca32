"""Which judge a user names: local:DIR, an endpoint's URL, replay:FILE or scripted:FILE."""

from dataclasses import dataclass
from pathlib import Path

import torch

from mgie.errors import ConfigError
from mgie.evaluation.judges.base import Judge
from mgie.evaluation.judges.rubric import rubric_names

FORMS = "local:DIR, http:URL, replay:FILE or scripted:FILE"


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeOptions:
    """What a user says of judging."""

    judge: str = ""
    """One of FORMS. Nobody is asked unless named."""
    model: str = ""
    """What an endpoint calls its model, or one of several that were recorded."""
    key_env: str | None = None
    """Environment variable that holds an endpoint's key."""
    repeats: int | None = None
    """How often each question is asked. None: as often as the rubric says."""
    controls: int = 24
    """On how many items it is seen whether the judge is usable. 0: on none."""
    budget: int | None = None
    """How many new answers at most."""
    prompts: str | Path | None = None
    """Published prompts: a file or a folder."""
    answers: str | Path | None = None
    """Where answers are kept. None: beside the report."""
    timeout: float = 180.0
    """Of one try at an endpoint, in seconds."""


def check_judged(options: JudgeOptions, suite: str) -> None:
    """Raise ConfigError where something is said of judging, and nothing in the suite is judged."""
    if options != JudgeOptions() and suite not in rubric_names():
        raise ConfigError(
            f"there is nothing to judge in {suite}: --judge and what belongs to it are for "
            f"{', '.join(rubric_names())}."
        )


def open_judge(options: JudgeOptions, device: torch.device, dtype: torch.dtype) -> Judge:
    """The judge that was named. Raises ConfigError, WeightsError, DataError."""
    kind, _, rest = options.judge.partition(":")
    if kind == "https" or (kind == "http" and rest.startswith("//")):
        kind, rest = "http", options.judge
    if kind != "http" and options.key_env:
        raise ConfigError(f"--judge_key_env is for endpoints, and the judge is {kind}: leave it out.")
    if kind not in ("http", "replay") and options.model:
        raise ConfigError(
            f"--judge_model is for endpoints and recorded answers, and the judge is {kind}: leave it out."
        )
    if kind == "local" and rest:
        from mgie.evaluation.judges.local import LocalJudge

        return LocalJudge(rest, device, dtype)
    if kind == "http" and rest:
        from mgie.evaluation.judges.endpoint import Endpoint

        return Endpoint(rest, options.model, key_env=options.key_env, timeout=options.timeout)
    if kind == "replay" and rest:
        from mgie.evaluation.judges.recorded import Replay

        return Replay(rest, options.model)
    if kind == "scripted" and rest:
        from mgie.evaluation.judges.recorded import Scripted

        return Scripted(rest)
    # An endpoint's URL may hold what nobody should read: it is not shown.
    raise ConfigError(
        f"there is no judge of the kind {kind[:20]!r}: expected {FORMS}, such as local:_ckpt/judge."
    )
