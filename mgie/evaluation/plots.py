"""Points or curves -> a plot as SVG, which pages and papers show without a library."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mgie.evaluation.page import text

WIDE, HIGH, LEFT, BELOW, MARGIN = 640, 400, 72, 56, 24
"""Of a plot, and of what its axes take, in units of the SVG."""
COLOURS = ("#1a56b0", "#b3470f", "#0f6b33", "#7a2f8f", "#8a6d00", "#0f6d78", "#a11d4d", "#4d4d55")
SHAPES = ("circle", "square", "diamond", "up")
DASHES = ("", "7 3", "2 3")
_PALE = 'stroke="#b9b9c2" stroke-width="1"'
"""Colours and shapes go round with different lengths, so that a point is known without its colour."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One system in a plot."""

    name: str
    x: float
    y: float
    low: float | None = None
    high: float | None = None
    """Interval of y."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """What one system did over time."""

    number: int
    """Which system, from 0: it has the same look in all plots."""
    points: Sequence[tuple[float, float]]


Span = tuple[float, float]
Place = Callable[[float, float], tuple[float, float]]
"""Numbers on both axes -> where they lie in the SVG."""


def plot(series: Sequence[Sequence[Point]], *, title: str, x: str, y: str) -> str:
    """An SVG of the points with the names of both axes; a line leads from each point of a series to the next.
    Every number is finite."""
    points = [point for line in series for point in line]
    xs = _span([point.x for point in points])
    ys = _span([value for p in points for value in (p.y, p.low, p.high) if value is not None])

    def at(horizontal: float, vertical: float) -> tuple[float, float]:
        right = LEFT + (horizontal - xs[0]) / (xs[1] - xs[0]) * (WIDE - LEFT - MARGIN)
        return right, HIGH - BELOW - (vertical - ys[0]) / (ys[1] - ys[0]) * (HIGH - BELOW - MARGIN)

    drawn = [_axes(xs, ys, at, x, y)]
    for line in series:
        way = " ".join("{:.1f},{:.1f}".format(*at(point.x, point.y)) for point in line)
        drawn.append(f'<polyline points="{way}" fill="none" stroke="#8a8a92" stroke-width="1.5"/>')
    labels: list[tuple[float, float]] = []
    looks = [(number, point) for number, line in enumerate(series) for point in line]
    if len(series) == 1:
        looks = list(enumerate(points))
    for number, point in looks:
        right, down = at(point.x, point.y)
        colour = COLOURS[number % len(COLOURS)]
        if point.low is not None and point.high is not None:
            top, bottom = at(point.x, point.high)[1], at(point.x, point.low)[1]
            caps = "".join(f"M{right - 4:.1f},{end:.1f}h8" for end in (top, bottom))
            path = f"M{right:.1f},{top:.1f}V{bottom:.1f}{caps}"
            drawn.append(f'<path d="{path}" stroke="{colour}" stroke-width="1.5" fill="none"/>')
        drawn.append(_mark(SHAPES[number % len(SHAPES)], right, down, colour))
        drawn.append(_label(point.name, right, down, colour, labels))
    told = "; ".join(f"{point.name}: {point.x:.4g}, {point.y:.4g}" for point in points)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'font-family="sans-serif" font-size="13"><title>{text(title)}</title><desc>{text(told)}</desc>'
        f'<rect width="{WIDE}" height="{HIGH}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def curves(series: Sequence[Curve], *, title: str, x: str, y: str) -> str:
    """An SVG of curves: what was measured, pale, and over it the mean of what lies around each point, in the
    system's `stroke`. Every number is finite, and each curve has a point."""
    xs = _span([point[0] for curve in series for point in curve.points])
    ys = _span([point[1] for curve in series for point in curve.points])

    def at(horizontal: float, vertical: float) -> tuple[float, float]:
        right = LEFT + (horizontal - xs[0]) / (xs[1] - xs[0]) * (WIDE - LEFT - MARGIN)
        return right, HIGH - BELOW - (vertical - ys[0]) / (ys[1] - ys[0]) * (HIGH - BELOW - MARGIN)

    drawn = [_axes(xs, ys, at, x, y)]
    ways = [(curve, thinned(curve.points)) for curve in series]
    for smooth in (False, True):
        for curve, points in ways:
            shown = smoothed(points) if smooth else points
            way = " ".join("{:.1f},{:.1f}".format(*at(*point)) for point in shown)
            look = f'{stroke(curve.number)} stroke-width="2"' if smooth else _PALE
            if len(points) > 1:
                drawn.append(f'<polyline points="{way}" fill="none" {look}/>')
            elif smooth:
                drawn.append(_mark("circle", *at(*points[0]), COLOURS[curve.number % len(COLOURS)]))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {HIGH}" role="img" '
        f'font-family="sans-serif" font-size="13"><title>{text(title)}</title>'
        f'<rect width="{WIDE}" height="{HIGH}" fill="#fff"/>{"".join(drawn)}</svg>\n'
    )


def stroke(number: int) -> str:
    """How the curves of a system look, as attributes: colours go round with another length than dashes."""
    dashes = DASHES[number % len(DASHES)]
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'stroke="{COLOURS[number % len(COLOURS)]}"{dashed}'


def thinned(points: Sequence[tuple[float, float]], most: int = 400) -> list[tuple[float, float]]:
    """At most so many points: means of those beside each other."""
    size = -(-len(points) // most)
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]


def smoothed(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The mean of each point and those around it, a tenth of all at most; the ends stay near themselves."""
    most, last, found = len(points) // 20, len(points) - 1, []
    for place, (x, _) in enumerate(points):
        reach = min(most, place, last - place)
        around = points[place - reach : place + reach + 1]
        found.append((x, sum(y for _, y in around) / len(around)))
    return found


def _span(values: Sequence[float]) -> Span:
    """From where to where an axis goes: a little beyond its values; where all are equal, from nothing to
    there, and for nothing itself from 0 to 1."""
    low, high = min(values), max(values)
    if math.isclose(low, high):
        low, high = (min(low, 0.0), max(high, 0.0)) if low else (0.0, 1.0)
    edge = (high - low) * 0.08
    return low - edge, high + edge


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers within a span: one, two or five times a power of ten apart."""
    raw = (high - low) / most
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * power for unit in (1, 2, 5, 10) if unit * power >= raw * (1 - 1e-9))
    return [count * step for count in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _axes(xs: Span, ys: Span, at: Place, x: str, y: str) -> str:
    parts = []
    for value in ticks(*xs):
        right, down = at(value, ys[0])
        parts.append(
            f'<path d="M{right:.1f},{down:.1f}V{MARGIN}" stroke="#e4e4e8"/>'
            f'<text x="{right:.1f}" y="{down + 18:.1f}" text-anchor="middle" fill="#3c3c44">'
            f"{value:.4g}</text>"
        )
    for value in ticks(*ys):
        right, down = at(xs[0], value)
        parts.append(
            f'<path d="M{right:.1f},{down:.1f}H{WIDE - MARGIN}" stroke="#e4e4e8"/>'
            f'<text x="{right - 8:.1f}" y="{down + 4:.1f}" text-anchor="end" fill="#3c3c44">'
            f"{value:.4g}</text>"
        )
    left, floor = at(xs[0], ys[0])
    parts.append(
        f'<path d="M{left:.1f},{MARGIN}V{floor:.1f}H{WIDE - MARGIN}" stroke="#3c3c44" fill="none"/>'
        f'<text x="{(LEFT + WIDE - MARGIN) / 2}" y="{HIGH - 14}" text-anchor="middle" fill="#19191c">'
        f"{text(x)}</text>"
        f'<text x="16" y="{(HIGH - BELOW) / 2}" text-anchor="middle" fill="#19191c" '
        f'transform="rotate(-90 16 {(HIGH - BELOW) / 2})">{text(y)}</text>'
    )
    return "".join(parts)


def _mark(shape: str, right: float, down: float, colour: str) -> str:
    paths = {
        "square": f"M{right - 5:.1f},{down - 5:.1f}h10v10h-10z",
        "diamond": f"M{right:.1f},{down - 7:.1f}l7,7l-7,7l-7,-7z",
        "up": f"M{right:.1f},{down - 7:.1f}l7,12h-14z",
    }
    if shape == "circle":
        return f'<circle cx="{right:.1f}" cy="{down:.1f}" r="5.5" fill="{colour}"/>'
    return f'<path d="{paths[shape]}" fill="{colour}"/>'


def _label(name: str, right: float, down: float, colour: str, taken: list[tuple[float, float]]) -> str:
    """The name beside its point, on the side with more room, and below names that stand there already."""
    shown = name if len(name) <= 28 else name[:27] + "…"
    beside = right < WIDE / 2
    where, down = right + (11 if beside else -11), down - 9
    while any(abs(down - other) < 14 and abs(where - place) < 200 for place, other in taken):
        down += 14
    taken.append((where, down))
    anchor = "start" if beside else "end"
    return f'<text x="{where:.1f}" y="{down:.1f}" text-anchor="{anchor}" fill="{colour}">{text(shown)}</text>'
