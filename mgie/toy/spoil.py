"""Outputs that are wrong in a known way, to try the judge on."""

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from PIL import Image, ImageFilter

from mgie.data.images import decode
from mgie.toy.things import COLOURS, FORMS, PLACES, SIZES, SURFACES, Thing, apart, inside
from mgie.toy.world import Scene, render
from mgie.types import EditPair

ILLEGIBLE = 3 / 64
"""Radius of a blur in which small forms cannot be told apart, as a part of the picture's side."""
OTHERWISE = {"form": FORMS, "colour": COLOURS, "size": SIZES, "surface": SURFACES}


def spoiled(pair: EditPair) -> Iterator[tuple[str, Image.Image]]:
    """What is wrong, and the picture: the source as it was, the edit half done, and of scenes one thing
    otherwise, displaced, doubled or missing, and all of it blurred."""
    draw, target = Random(pair.key), decode(pair.target, name=pair.key)
    if pair.source is not None:
        source = decode(pair.source, name=pair.key)
        yield "the source", source
        yield "half done", Image.blend(source, target, 0.5)
    if pair.meta["world"] != "scene" or not (after := Scene.from_json(pair.meta["after"])).things:
        return
    if any(thing.size != "large" for thing in after.things):  # large ones can still be told
        yield "blurred", target.filter(ImageFilter.GaussianBlur(ILLEGIBLE * target.width))
    thing = draw.choice(after.things)
    rest = tuple(other for other in after.things if other != thing)

    def drawn(*things: Thing) -> Image.Image:
        return render(Scene(after.backdrop, (*rest, *things)), target.width)

    for name, every in OTHERWISE.items():
        other = draw.choice([each for each in every if each != getattr(thing, name)])
        yield f"another {name}", drawn(replace(thing, **{name: other}))
    yield "a thing missing", drawn()
    steps = [(2 * thing.half * x, 2 * thing.half * y) for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    moved = [replace(thing, x=thing.x + right, y=thing.y + down) for right, down in steps]
    doubled = [replace(thing, x=x, y=y) for x, y in PLACES.values()]
    for what, among, kept in (("displaced by its width", moved, ()), ("a thing doubled", doubled, (thing,))):
        fitting = [each for each in among if inside(each) and all(apart(each, o) for o in (*rest, *kept))]
        if fitting:
            yield what, drawn(*kept, draw.choice(fitting))
