"""Edits of the toy world's scenes: what changes, how it is asked, what is said of it.

The words of `said` and the picture before determine the picture after to the pixel. What is asked often does
so only together with a look at the picture: about half of the names compare or tell a place, a new thing may
come "to the left of the star" or "between the circle and the heart".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from mgie.toy.things import COLOURS, FORMS, PLACES, SIZES, SURFACES, Thing
from mgie.toy.world import GROUNDS, PATTERNS, Backdrop, Scene, draw_look, draw_scene, names, scene, shows

ASKED: dict[str, tuple[str, ...]] = {
    "recolour": (
        "make {it} {new}",
        "turn {it} {new}",
        "paint {it} {new}",
        "change {it} to {new}",
        "recolour {it} to {new}",
        "change the colour of {it} to {new}",
    ),
    "remove": ("remove {it}", "delete {it}", "erase {it}", "take {it} away", "make {it} disappear"),
    "add": (
        "add a {new} {where}",
        "put a {new} {where}",
        "draw a {new} {where}",
        "paint a {new} {where}",
        "make a {new} appear {where}",
    ),
    "replace": (
        "replace {it} by a {new}",
        "turn {it} into a {new}",
        "change {it} into a {new}",
        "make {it} a {new}",
        "let {it} become a {new}",
    ),
    "surface": (
        "make {it} {new}",
        "turn {it} {new}",
        "change {it} to {new}",
        "make the surface of {it} {new}",
        "let {it} be {new}",
    ),
    "larger": ("make {it} larger", "enlarge {it}", "make {it} bigger", "let {it} grow", "scale {it} up"),
    "smaller": ("make {it} smaller", "shrink {it}", "scale {it} down", "let {it} shrink", "reduce {it}"),
    "move": (
        "move {it} {where}",
        "put {it} {where}",
        "shift {it} {where}",
        "bring {it} {where}",
        "place {it} {where}",
    ),
    "swap": (
        "swap {it} and {other}",
        "exchange {it} and {other}",
        "let {it} and {other} change places",
        "put {it} where {other} is and {other} where {it} is",
    ),
    "swap two": ("swap the two shapes", "exchange the two shapes", "let the two shapes change places"),
    "background": (
        "make the background {new}",
        "turn the background {new}",
        "paint the background {new}",
        "change the background to {new}",
        "use a {new} background",
    ),
    "paint": ("paint {scene}", "draw {scene}", "show {scene}", "make a picture of {scene}", "create {scene}"),
}
"""Kind of edit -> the ways to ask for it."""

BESIDE: dict[str, tuple[int, int]] = {
    "to the left of": (-16, 0),
    "to the right of": (16, 0),
    "above": (0, -16),
    "below": (0, 16),
}
"""Words -> from a place to the one beside it, in 64ths."""

KINDS: dict[str, float] = {
    "recolour": 0.15, "remove": 0.12, "add": 0.14, "replace": 0.1, "surface": 0.09, "resize": 0.09,
    "move": 0.1, "swap": 0.05, "background": 0.08, "two": 0.08,
}  # fmt: skip
"""Kinds of edits of a scene -> their parts of these."""
DOUBLED = ("recolour", "remove", "replace", "surface", "resize", "move")
"""Kinds of which two are asked for in one instruction."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edited:
    """A scene before and after an edit, with the words for it."""

    before: Scene | None
    """None: there is no source, the scene is painted from words."""
    after: Scene
    asked: str
    said: str
    edit: str
    """The edit without its object: two edits with different ones cannot be the same request."""


def draw_edit(draw: Random, split: str, kind: str) -> Edited:
    """A scene of the split, an edit of this kind, and the words for it."""
    while True:
        before = draw_scene(draw, split, named=kind == "paint")
        if kind == "paint":
            return _painted(draw, before)
        made = _two(draw, before) if kind == "two" else EDITS[kind](draw, before, draw.choice(before.things))
        if made is None or not made.after.valid or (split == "train" and made.after.unseen):
            continue
        if all(shows(thing, made.after.backdrop) for thing in made.after.things):
            return made


def name_of(draw: Random, scene: Scene, thing: Thing) -> str:
    """One of its names; half of them are those that take a look."""
    looks, compared = names(scene, thing)
    return draw.choice(looks if looks and draw.random() < 0.5 else compared)


def _say(kind: str, draw: Random, **words: str) -> str:
    return draw.choice(ASKED[kind]).format(**words)


def _another(draw: Random, among: object, *but: str) -> str:
    return draw.choice([name for name in among if name not in but])  # pyright: ignore - names


def _recolour(draw: Random, before: Scene, thing: Thing) -> Edited:
    new = _another(draw, COLOURS, thing.colour)
    which = f"the {thing.size} {thing.surface} {thing.form} at the {thing.place}"
    return Edited(
        before=before, after=before.changed(thing, colour=new), edit=f"recolour to {new}",
        asked=_say("recolour", draw, it=name_of(draw, before, thing), new=new),
        said=f"{which} turns from {thing.colour} to {new}",
    )  # fmt: skip


def _remove(draw: Random, before: Scene, thing: Thing) -> Edited:
    after = scene(before.backdrop, (other for other in before.things if other != thing))
    asked = _say("remove", draw, it=name_of(draw, before, thing))
    return Edited(before=before, after=after, asked=asked, said=f"the {thing} disappears", edit="remove")


def _add(draw: Random, before: Scene, thing: Thing) -> Edited | None:
    del thing
    if len(before.things) == 4:
        return None
    place, where = _somewhere(draw, before, before.things, "at")
    new = draw_look(draw, place)
    return Edited(
        before=before, after=scene(before.backdrop, (*before.things, new)),
        asked=_say("add", draw, new=_in_words(draw, new), where=where), said=f"a {new} appears",
        edit=f"add a {' '.join(new.look)}",
    )  # fmt: skip


def _replace(draw: Random, before: Scene, thing: Thing) -> Edited:
    new = _another(draw, FORMS, thing.form)
    return Edited(
        before=before, after=before.changed(thing, form=new), edit=f"replace by {new}",
        asked=_say("replace", draw, it=name_of(draw, before, thing), new=new),
        said=f"the {thing} becomes a {new}",
    )  # fmt: skip


def _surface(draw: Random, before: Scene, thing: Thing) -> Edited:
    new = _another(draw, SURFACES, thing.surface)
    which = f"the {thing.size} {thing.colour} {thing.form} at the {thing.place}"
    return Edited(
        before=before, after=before.changed(thing, surface=new), edit=f"surface to {new}",
        asked=_say("surface", draw, it=name_of(draw, before, thing), new=new),
        said=f"{which} turns from {thing.surface} to {new}",
    )  # fmt: skip


def _resize(draw: Random, before: Scene, thing: Thing) -> Edited:
    new = _another(draw, SIZES, thing.size)
    word, verb = ("larger", "grows") if new == "large" else ("smaller", "shrinks")
    return Edited(
        before=before, after=before.changed(thing, size=new), edit=f"make {word}",
        asked=_say(word, draw, it=name_of(draw, before, thing)), said=f"the {thing} {verb}",
    )  # fmt: skip


def _move(draw: Random, before: Scene, thing: Thing) -> Edited | None:
    others = tuple(other for other in before.things if other != thing)
    place, where = _somewhere(draw, before, others, "to")
    if place == thing.place:
        return None
    x, y = PLACES[place]
    return Edited(
        before=before, after=before.changed(thing, x=x, y=y), edit="move",
        asked=_say("move", draw, it=name_of(draw, before, thing), where=where),
        said=f"the {thing} moves to the {place}",
    )  # fmt: skip


def _swap(draw: Random, before: Scene, thing: Thing) -> Edited | None:
    if len(before.things) < 2:
        return None
    other = draw.choice([each for each in before.things if each != thing])
    after = before.changed(thing, x=other.x, y=other.y).changed(other, x=thing.x, y=thing.y)
    one, two = (it for it in before.things if it in (thing, other))
    asked = _say("swap", draw, it=name_of(draw, before, thing), other=name_of(draw, before, other))
    if len(before.things) == 2 and draw.random() < 0.5:
        asked = _say("swap two", draw)
    return Edited(
        before=before, after=after, edit="swap", asked=asked, said=f"the {one} and the {two} change places"
    )


def _background(draw: Random, before: Scene, thing: Thing) -> Edited:
    del thing
    old = before.backdrop
    new = Backdrop(pattern=draw.choice(PATTERNS), colour=_another(draw, GROUNDS, old.colour))
    words = f"{new.pattern} {new.colour}"
    turned = f"the {old} turns {words}"
    return Edited(
        before=before, after=Scene(new, before.things), edit=f"background to {words}",
        asked=_say("background", draw, new=words), said=turned,
    )  # fmt: skip


EDITS: dict[str, Callable[[Random, Scene, Thing], Edited | None]] = {
    "recolour": _recolour, "remove": _remove, "add": _add, "replace": _replace, "surface": _surface,
    "resize": _resize, "move": _move, "swap": _swap, "background": _background,
}  # fmt: skip


def _two(draw: Random, before: Scene) -> Edited | None:
    """Two edits of two things in one instruction."""
    if len(before.things) < 2:
        return None
    found = at_once(draw, before, draw.sample(DOUBLED, 2))
    if found is None:
        return None
    after, (one, two) = found
    return Edited(
        before=before, after=after, asked=f"{one.asked} and {two.asked}", said=f"{one.said} and {two.said}",
        edit=f"{one.edit} and {two.edit}",
    )  # fmt: skip


def at_once(draw: Random, before: Scene, kinds: Sequence[str]) -> tuple[Scene, list[Edited]] | None:
    """Edits of these kinds of as many things, none of which changes what another one's words mean, and the
    scene after all of them; None where chance had it otherwise."""
    things = draw.sample(before.things, len(kinds))
    made = [found for kind, thing in zip(kinds, things) if (found := EDITS[kind](draw, before, thing))]
    if len(made) < len(kinds) or not all(each.after.valid for each in made):
        return None
    kept = tuple(thing for thing in before.things if thing not in things)
    new = (thing for each in made for thing in each.after.things if thing not in before.things)
    return scene(before.backdrop, (*kept, *new)), made


def _painted(draw: Random, after: Scene) -> Edited:
    if after.backdrop.photo:
        after = Scene(Backdrop(pattern="flat", colour=draw.choice(list(GROUNDS))), after.things)
    told = [f"a {thing}" for thing in after.things]
    draw.shuffle(told)
    words = " and ".join(told) + f" on a {after.backdrop}"
    return Edited(
        before=None,
        after=after,
        asked=_say("paint", draw, scene=words),
        said=str(after),
        edit=f"paint {after}",
    )


def _somewhere(draw: Random, before: Scene, others: tuple[Thing, ...], towards: str) -> tuple[str, str]:
    """A place, and words for it: by its name, beside a thing, or between two of them."""
    places: dict[tuple[float, float], str] = {middle: name for name, middle in PLACES.items()}
    beside: list[tuple[str, str]] = []
    between: list[tuple[str, str]] = []
    for thing in others:
        it, (x, y) = name_of(draw, before, thing), PLACES[thing.place]
        for words, (right, down) in BESIDE.items():
            if place := places.get((x + right, y + down)):
                beside.append((place, f"{words} {it}"))
        for other in others:
            left, top = PLACES[other.place]
            place = places.get(((x + left) / 2, (y + top) / 2))
            if thing != other and place:
                between.append((place, f"between {it} and {name_of(draw, before, other)}"))
    ways = between if between and draw.random() < 0.5 else beside
    if ways and draw.random() < 0.5:
        return draw.choice(ways)
    place = draw.choice(list(PLACES))
    return place, f"{towards} the {place}"


def _in_words(draw: Random, thing: Thing) -> str:
    """A thing as one asks for it: plain surfaces need no word."""
    return " ".join(word for word in thing.look if word != "plain" or draw.random() < 0.3)
