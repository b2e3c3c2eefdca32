"""What a page shows of a request, as HTML and lines; what somebody wrote is escaped."""

import base64
from html import escape
from io import BytesIO

from PIL import Image

from mgie.data.photo_files import plain
from mgie.errors import DeviceError
from mgie.web.history import History, Turn
from mgie.web.worker import Told

SIDE = 1024
"""Pixels along the longer side of what is looked at; what is downloaded is whole."""
EXAMPLES = ("recolour", "remove", "background")
"""Kinds of edits of the toy world."""
IDLE = '<div class="mgie-told mgie-idle" role="status">What the model says of the edit appears here.</div>'
TRUST = "It did not call for the edit by itself: trust the result less."


def panel(told: Told) -> str:
    """How far a request is."""
    if told.error is not None:
        return failure(told.error)
    lines = [_line(told)]
    if told.said is not None:
        lines.append(said(told.said, forced=told.forced))
    if told.stage == "painting" and told.steps:
        share = min((told.number + told.step / told.steps) / told.count, 1.0)
        lines.append(
            f'<progress max="1" value="{share:.3f}" aria-label="progress">{round(100 * share)}%</progress>'
        )
    elif not told.done:
        lines.append('<progress aria-label="progress"></progress>')
    if told.preview is not None:
        data = base64.b64encode(told.preview).decode("ascii")
        lines.append(f'<img alt="the picture so far" src="data:image/jpeg;base64,{data}">')
    return f'<div class="mgie-told" role="status" aria-live="polite">{"".join(lines)}</div>'


def _line(told: Told) -> str:
    if told.stage == "waiting":
        line = "waiting" if not told.ahead else f"waiting: {told.ahead} before this one"
    elif told.stage == "looking":
        line = "the model looks at the picture"
    elif told.stage == "painting":
        which = f"picture {told.number + 1} of {told.count}, " if told.count > 1 else ""
        line = f"painting: {which}step {told.step} of {told.steps}"
    else:
        line = "done"
    return f'<p class="mgie-line">{line}</p>'


def said(words: str, *, forced: bool) -> str:
    """What the model said."""
    told = escape(words) or "<em>(nothing)</em>"
    trust = f'<p class="mgie-line">{TRUST}</p>' if forced else ""
    return f'<blockquote class="mgie-said" aria-label="what the model says">{told}</blockquote>{trust}'


def failure(sentence: str) -> str:
    """Why there is no result."""
    return f'<div class="mgie-told mgie-wrong" role="alert">{escape(sentence)}</div>'


def finished(turn: Turn) -> str:
    """What is told of a turn that is there."""
    facts = ", ".join(
        f"{name} {turn.facts[name]}" for name in ("seed", "steps", "size") if name in turn.facts
    )
    if not turn.instruction:
        return IDLE
    asked_ = f'<p class="mgie-line">{escape(turn.instruction)} <span>({escape(facts)})</span></p>'
    words = said(turn.said, forced=bool(turn.facts.get("forced")))
    return f'<div class="mgie-told" role="status" aria-live="polite">{asked_}{words}</div>'


def choices(history: History) -> list[tuple[str, int]]:
    """The turns as lines, further in below what they were made of."""
    return [(_label(depth, turn), turn.number) for depth, turn in history.tree()]


def _label(depth: int, turn: Turn) -> str:
    words = turn.instruction if len(turn.instruction) < 48 else turn.instruction[:45] + "..."
    seed = f" (seed {turn.facts['seed']})" if "seed" in turn.facts else ""
    return f"{turn.number}: {'> ' * depth}{words or 'your picture'}{seed}"


def on_screen(turn: Turn) -> Image.Image:
    """The picture of a turn as a browser shows it: not larger than a screen, in sRGB."""
    picture = turn.picture
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE))
    return plain(picture, None if turn.like is None else turn.like.profile)


def pair(history: History, turn: Turn) -> tuple[Image.Image, Image.Image]:
    """Before and after."""
    after = on_screen(turn)
    before = history.turns.get(turn.parent) if turn.parent is not None else None
    return (after if before is None else on_screen(before)), after


def examples(side: int) -> list[tuple[str, Image.Image]]:
    """Words and pictures to begin with: scenes that this project draws itself, at about the editor's own
    size. None where the packages that they need are missing."""
    from mgie.toy.pairs import ToyPairs
    from mgie.toy.things import UNIT

    size = max(side // UNIT, 1) * UNIT
    try:
        pairs = [ToyPairs(1, seed=5, split="test", size=size, kinds=[kind])[0] for kind in EXAMPLES]
    except DeviceError:
        return []
    return [(pair.instruction, Image.open(BytesIO(pair.source))) for pair in pairs if pair.source]
