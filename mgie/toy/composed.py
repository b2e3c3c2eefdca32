"""Edits of the toy world that need a mask, a layout, a subject and a picture at once.

pair = draw_composed(Random(1))
judge(pair, pipeline(photo, pair.instruction, images=..., mask=..., regions=pair.regions).images[0])
"""

from dataclasses import replace
from random import Random

from PIL import Image

from mgie.toy.controls import SUBJECTS
from mgie.toy.pairs import png
from mgie.toy.subjects import phrase_of
from mgie.toy.things import PLACES, UNIT
from mgie.toy.world import draw_look, draw_scene, render, scene, shows
from mgie.types import EditPair, Region


def draw_composed(draw: Random) -> EditPair:
    """A scene of one thing, to which come: a subject and a look in boxes with phrases, and, at the place that
    is told, what a picture shows. Its mask is white where these three are."""
    while True:
        before, shown = (draw_scene(draw, "test", most=1) for _ in range(2))
        places = [place for place in PLACES if place != before.things[0].place]
        one, two, three = draw.sample(places, 3)
        name, at = draw.choice(list(SUBJECTS)), PLACES
        subject = replace(SUBJECTS[name], x=at[one][0], y=at[one][1])
        look = draw_look(draw, two)
        model = replace(shown.things[0], x=at[three][0], y=at[three][1])
        new = (subject, look, model)
        after = scene(before.backdrop, (*before.things, *new))
        if after.valid and all(shows(thing, after.backdrop) for thing in new):
            break
    mask = Image.new("L", (UNIT, UNIT))
    for thing in new:
        left, top, right, bottom = (round(edge * UNIT) for edge in thing.box)
        mask.paste(255, (left, top, right, bottom))
    phrases = (phrase_of(name), " ".join(look.look))
    return EditPair(
        key=f"composed/{after}", instruction=f"<image> appears at the {three} of <source>",
        expressive=f"a {model} appears", kind="composed", task="composed", source=png(render(before, UNIT)),
        target=png(render(after, UNIT)), mask=png(mask), pictures=(png(render(shown, UNIT)),),
        regions=tuple(Region(phrase=told, box=thing.box) for told, thing in zip(phrases, new)),
        subjects=(name,), meta={
            "world": "scene", "edit": "composed", "after": after.to_json(), "before": before.to_json(),
        },
    )  # fmt: skip
