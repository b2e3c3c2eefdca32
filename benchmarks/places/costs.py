"""What a control costs: calls with and without it, in turn."""

import time
from statistics import median
from typing import Any

from places.pairs import drawn, masks, sources
from places.telling import Line

from mgie.controllers.region import RegionOptions
from mgie.pipeline import MGIEPipeline
from mgie.types import Region

QUARTERS = ((0.0, 0.0, 0.5, 0.5), (0.5, 0.0, 1.0, 0.5), (0.0, 0.5, 0.5, 1.0), (0.5, 0.5, 1.0, 1.0))


def costs(pipe: MGIEPipeline, turns: int) -> list[Line]:
    """Each against the plain edit of the same picture that ran just before."""
    pair = drawn("inside", 1, 0)[0]
    (image,), (mask,) = sources([pair]), masks([pair])
    regions = [Region(phrase=pair.instruction, box=box) for box in QUARTERS]
    ways: dict[str, tuple[dict[str, Any], float]] = {
        "a mask": ({"mask": mask}, 1.10),
        "a mask with features": ({"mask": mask, "region": RegionOptions(features=True)}, 1.45),
        "a layout of four phrases": ({"regions": regions}, 1.6),
    }

    def seconds(more: dict[str, Any]) -> float:
        began = time.perf_counter()
        pipe(image, pair.instruction, seed=0, **more)
        return time.perf_counter() - began

    for more, _ in ways.values():
        seconds(more)
    found: dict[str, list[float]] = {name: [] for name in ways}
    alone = []
    for _ in range(turns):
        for name, (more, _) in ways.items():
            alone.append(seconds({}))
            found[name].append(seconds(more) / alone[-1])
    lines = [Line(what="seconds of a plain edit", value=median(alone), unit=" s")]
    for name, (_, most) in ways.items():
        lines.append(Line(what=f"{name}, by a plain edit", value=median(found[name]), most=most, unit=" "))
    return lines
