"""Toy pairs asked for by name: masks, orders, layouts, pictures in words, marked subjects.

A mask says where an edit is allowed. Orders are several instructions for one picture, each with its box. A
layout says in boxes what is to be where; its sentence says nothing. An instruction with `<image>` shows a
thing instead of describing it. A subject has a mark that no word describes, and a name: only who has learnt
it from pictures can paint it. What comes about is a scene like any other, and judged like any other.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

from PIL import Image, ImageDraw

from mgie.toy.edits import Edited, at_once, draw_edit, name_of
from mgie.toy.things import COLOURS, FORMS, PLACES, Thing, mask
from mgie.toy.world import GROUNDS, PATTERNS, Backdrop, Scene, draw_look, draw_scene, render, scene, shows
from mgie.types import Box, Region

ORDERED = ("recolour", "remove", "replace", "surface", "resize")
"""Kinds of edits that orders are made of, and those of scenes inside a mask."""
ASK_ORDERS = ("do in each box what it says", "carry out the orders in their boxes")
ASK_LAYOUT = ("paint it as the boxes say", "do as the boxes say", "put into each box what it says")
PLAINER = 0.5
"""Part of the boxes around something that is there, whose phrase says only what becomes of it."""

SUBJECTS: dict[str, Thing] = {
    name: Thing(form=form, size="large", colour=colour, surface="plain", x=32, y=32, mark=mark)
    for name, colour, form, mark in (
        ("ult", "purple", "circle", "core"),
        ("hta", "blue", "square", "band"),
        ("olis", "green", "triangle", "foot"),
        ("wem", "red", "heart", "core"),
    )
}
"""Name -> what it looks like, mark included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Controlled:
    """An edit, and what besides words is said of it."""

    edited: Edited | None = None
    mask: tuple[Box, ...] = ()
    """Boxes that the mask is made of."""
    regions: tuple[Region, ...] = ()
    pictures: tuple[Scene, ...] = ()
    subjects: tuple[str, ...] = ()


def hand_mask(draw: Random, side: int) -> Image.Image:
    """A box, an ellipse or a polygon of 15 to 60 % of a square picture, as a hand might draw it."""
    while True:
        image = Image.new("L", (side, side))
        pen, shape = ImageDraw.Draw(image), draw.choice(("box", "ellipse", "polygon"))
        width, height = (draw.uniform(0.35, 0.9) * side for _ in range(2))
        left, top = draw.uniform(0, side - width), draw.uniform(0, side - height)
        if shape == "polygon":
            turns = sorted(draw.uniform(0, 2 * math.pi) for _ in range(draw.randint(5, 8)))
            points = [
                (left + width * (1 + math.cos(t)) / 2, top + height * (1 + math.sin(t)) / 2) for t in turns
            ]
            pen.polygon(points, fill=255)
        else:
            (pen.rectangle if shape == "box" else pen.ellipse)(
                (left, top, left + width - 1, top + height - 1), fill=255
            )
        if 0.15 <= image.histogram()[255] / side**2 <= 0.6:
            return image


def draw_inside(draw: Random, split: str) -> Controlled:
    """An edit of one thing, and a box around it before and after."""
    edited = draw_edit(draw, split, draw.choice(ORDERED))
    return Controlled(edited=edited, mask=tuple(thing.box for thing in _touched(edited)))


def draw_orders(draw: Random, split: str) -> Controlled:
    """Two or three edits of one scene at once, each asked for in the box of what it changes."""
    while True:
        before = draw_scene(draw, split)
        if len(before.things) < 2:
            continue
        kinds = draw.choices(ORDERED, k=draw.randint(2, min(3, len(before.things))))
        found = at_once(draw, before, kinds)
        if found and found[0] != before and _fits(found[0], split):
            after, made = found
            edited = Edited(
                before=before, after=after, asked=draw.choice(ASK_ORDERS), edit=f"orders {after}",
                said=" and ".join(each.said for each in made),
            )  # fmt: skip
            regions = (Region(phrase=each.asked, box=_around(_touched(each))) for each in made)
            return Controlled(edited=edited, regions=tuple(regions))


def _touched(edited: Edited) -> list[Thing]:
    """Things that are there before the edit or after it alone."""
    assert edited.before is not None
    return sorted({*edited.before.things} ^ {*edited.after.things}, key=str)


def _around(things: list[Thing]) -> Box:
    left, top, right, bottom = zip(*(thing.box for thing in things))
    return min(left), min(top), max(right), max(bottom)


def draw_layout(draw: Random, split: str) -> Controlled:
    """Two to four boxes: some around what is there and changes, some where something new comes."""
    while True:
        before = draw_scene(draw, split, most=3)
        things, regions = list(before.things), []
        for thing in draw.sample(before.things, draw.randint(1, len(before.things))):
            new = replace(thing, colour=_another(draw, COLOURS, thing.colour))
            if draw.random() < PLAINER:
                new = replace(new, form=_another(draw, FORMS, thing.form))
            things[things.index(thing)] = new
            regions.append(Region(phrase=" ".join(new.look), box=new.box))
        free = [place for place in PLACES if place not in {thing.place for thing in things}]
        for place in draw.sample(free, draw.randint(2 - min(len(regions), 2), 4 - len(things))):
            things.append(draw_look(draw, place))
            regions.append(Region(phrase=" ".join(things[-1].look), box=things[-1].box))
        after = scene(before.backdrop, things)
        if _fits(after, split):
            said = " and ".join(f"a {thing}" for thing in after.things if thing not in before.things)
            edited = Edited(
                before=before, after=after, asked=draw.choice(ASK_LAYOUT), said=f"{said} in their boxes",
                edit=f"layout {after}",
            )  # fmt: skip
            draw.shuffle(regions)
            return Controlled(edited=edited, regions=tuple(regions))


def draw_pictures(draw: Random, split: str) -> Controlled:
    """An instruction that shows a thing: one becomes it, it appears, or lends its colour or surface."""
    while True:
        before, shown = draw_scene(draw, split, most=3), draw_scene(draw, split, most=1)
        (model,), thing = shown.things, draw.choice(before.things)
        it = name_of(draw, before, thing)
        kind = draw.choice(("replace", "add", "colour", "surface"))
        if kind == "add":
            place = draw.choice(list(PLACES))
            x, y = PLACES[place]
            new = replace(model, x=x, y=y)
            after = scene(before.backdrop, (*before.things, new))
            asked, said = f"<image> appears at the {place} of <source>", f"a {new} appears"
        else:
            own = {"form": model.form, "colour": model.colour, "surface": model.surface, "size": model.size}
            own = own if kind == "replace" else {kind: own[kind]}
            after = before.changed(thing, **own)
            words = {
                "replace": (f"replace {it} by <image>", f"{it} becomes <image>"),
                "colour": (f"{it} takes the colour of <image>", f"give {it} the colour of <image>"),
                "surface": (f"{it} takes the surface of <image>", f"give {it} the surface of <image>"),
            }
            asked = draw.choice(words[kind])
            new = replace(thing, **own)
            said = f"the {thing} becomes a {' '.join(new.look)}"
        if after != before and _fits(after, split):
            edited = Edited(before=before, after=after, asked=asked, said=said, edit=f"{kind} by a picture")
            return Controlled(edited=edited, pictures=(shown,))


def draw_shown(draw: Random, split: str) -> Controlled:
    """One or two things that are shown, painted from nothing at the places that are told."""
    while True:
        count = draw.randint(1, 2)
        shown = tuple(draw_scene(draw, split, most=1) for _ in range(count))
        things = []
        for each, place in zip(shown, draw.sample(list(PLACES), count)):
            x, y = PLACES[place]
            things.append(replace(each.things[0], x=x, y=y))
        backdrop = Backdrop(pattern=draw.choice(PATTERNS), colour=draw.choice(list(GROUNDS)))
        after = scene(backdrop, things)
        if _fits(after, split):
            told = " and ".join(f"<image> at the {thing.place}" for thing in things)
            edited = Edited(
                before=None, after=after, asked=f"paint {told} on a {backdrop}", said=str(after),
                edit=f"show {after}",
            )  # fmt: skip
            return Controlled(edited=edited, pictures=shown)


def draw_subjects(draw: Random, split: str) -> Controlled:
    """Two subjects, by their names, at two places, painted from nothing."""
    while True:
        chosen, places = draw.sample(list(SUBJECTS), 2), draw.sample(list(PLACES), 2)
        things = []
        for name, place in zip(chosen, places):
            x, y = PLACES[place]
            things.append(replace(SUBJECTS[name], x=x, y=y))
        backdrop = Backdrop(pattern=draw.choice(PATTERNS), colour=draw.choice(list(GROUNDS)))
        after = scene(backdrop, things)
        told = [
            f"{name} {thing.colour} {thing.form} at the {thing.place}" for name, thing in zip(chosen, things)
        ]
        if _fits(after, split):
            words = " and ".join(told)
            edited = Edited(
                before=None, after=after, asked=f"paint {words} on a {backdrop}", said=f"{backdrop}, {words}",
                edit=f"subjects {words}",
            )  # fmt: skip
            return Controlled(edited=edited, subjects=tuple(chosen))


CONTROLS: dict[str, Callable[[Random, str], Controlled]] = {
    "inside": draw_inside, "orders": draw_orders, "layout": draw_layout, "pictures": draw_pictures,
    "shown": draw_shown, "subjects": draw_subjects,
}  # fmt: skip
"""Kinds of pairs that are made when they are asked for by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubjectPhoto:
    """A picture of a subject, alone."""

    image: Image.Image
    mask: Image.Image
    place: str
    backdrop: Backdrop


def subject_photos(name: str, count: int, *, seed: int, side: int) -> list[SubjectPhoto]:
    """Pictures of a subject to learn it from, alone on different backdrops."""
    draw, found = Random(f"{seed}/{name}"), []
    grounds = [Backdrop(pattern=pattern, colour=colour) for pattern in PATTERNS for colour in GROUNDS]
    for backdrop in draw.sample([each for each in grounds if shows(SUBJECTS[name], each)], count):
        x, y = PLACES[draw.choice(list(PLACES))]
        thing = replace(SUBJECTS[name], x=x, y=y)
        image, cover = render(Scene(backdrop, (thing,)), side), mask(thing, side)
        found.append(SubjectPhoto(image=image, mask=cover, place=thing.place, backdrop=backdrop))
    return found


def _another(draw: Random, among: object, but: str) -> str:
    return draw.choice([name for name in among if name != but])  # pyright: ignore - names


def _fits(after: Scene, split: str) -> bool:
    """Whether it is a scene of the split on which everything can be seen."""
    seen = split == "test" or not after.unseen
    return after.valid and seen and all(shows(thing, after.backdrop) for thing in after.things)
