"""`mgie plot`: curves and previews of training runs, side by side, in one file.

mgie plot _ckpt/runs/tiny _ckpt/runs/longer --out runs.html
"""

import base64
import io
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from PIL import Image

from llava_patch.ranges import Range, in_range
from mgie.errors import ConfigError, DataError
from mgie.evaluation.page import document, html_table, text
from mgie.evaluation.plots import COLOURS, Curve, curves, stroke
from mgie.training.files import HELD_OUT, LINES

Points = list[tuple[float, float]]
"""Samples done, and a number."""

CAPTIONS = {
    "loss_ce": "loss of the words", "loss_edit": "loss of the painting",
    "loss_align": "loss of the alignment", "held_out_ce": "held-out loss of the words",
    "held_out_edit": "held-out loss of the painting", "grad_norm": "norm of the gradient",
    "skipped": "steps left out", "samples_per_second": "samples a second",
    "data_wait": "share of the time that is waited for data", "memory_gib": "peak of memory (GiB)",
    "tflops": "10^12 operations a second of a device", "mfu": "share of the device's peak (MFU)",
}  # fmt: skip
"""What a figure of a log is called, in the order of the page; others follow under their own names."""
ALONE = {"step", "samples"}
WIDEST, LARGEST = 1600, 300_000
"""Pixels and bytes of a preview that goes into the page as it is; a larger one becomes a JPEG."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run has left to be looked at."""

    name: str
    figures: dict[str, Points]
    previews: dict[int, Path]
    settings: dict[str, Any]


@in_range
def plot(
    runs: Sequence[str],
    *,
    out: str | Path = "runs.html",
    previews: Annotated[int, Range(ge=0, le=10_000)] = 12,
) -> dict[str, Any]:
    """Draw what runs have logged, one colour each, and show their previews beside each other.

    The page needs no other file and asks no host for anything; a run that is still training can be drawn.
    The facts: out, runs, plots, previews.

    Args:
        runs: Folders of runs, as `mgie train` leaves them.
        out: File to write; it ends in .html, and one that is there is replaced.
        previews: How many rows of previews at most, spread over the runs; 0 for none.
    """
    place = Path(out)
    if place.suffix != ".html":
        raise ConfigError(f"--out is {place}: expected a name that ends in .html.")
    if place.is_dir() or not place.absolute().parent.is_dir():
        raise ConfigError(f"--out is {place}: expected a file in a folder that is there.")
    found = [read(Path(run)) for run in runs]
    if not found:
        raise ConfigError("there is no run to draw: name the folder of one, such as _ckpt/runs/tiny.")
    names = _told_apart([Path(run) for run in runs])
    plots = [_plot(found, figure) for figure in _figures(found)]
    rows = _rows(found, previews)
    body = (
        _legend(found, names) + _differences(found, names) + f'<main class="several">{"".join(plots)}</main>'
    )
    page = document("Training: " + ", ".join(names), body + _previews(found, names, rows), "report")
    beside = place.with_name(f".{place.name}.new")
    beside.write_text(page, encoding="utf-8")
    beside.replace(place)
    return {"out": str(place), "runs": len(found), "plots": len(plots), "previews": len(rows)}


def read(folder: Path) -> Trained:
    """The figures, previews and settings of a run. Raises DataError where there are none."""
    if not (folder / LINES).is_file():
        raise DataError(
            f"{folder} has no {LINES}: expected the folder of a run that has logged something, such as "
            "_ckpt/runs/tiny."
        )
    figures: dict[str, Points] = {}
    for file, prefix in ((LINES, ""), (HELD_OUT, "held_out_")):
        for line in _lines(folder / file):
            for name, value in line.items():
                number = isinstance(value, (int, float)) and not isinstance(value, bool)
                if name not in ALONE and number and math.isfinite(value):
                    figures.setdefault(prefix + name, []).append((float(line["samples"]), float(value)))
    if not figures:
        raise DataError(f"{folder / LINES} holds no figures yet: wait for the first line of the run.")
    try:
        settings = _flat(yaml.safe_load((folder / "run.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, AttributeError, yaml.YAMLError):
        settings = {}
    pictures = {int(path.stem): path for path in folder.glob("previews/*.png") if path.stem.isdecimal()}
    return Trained(name=folder.resolve().name, figures=figures, previews=pictures, settings=settings)


def _lines(file: Path) -> Iterable[dict[str, Any]]:
    """Lines of ours; one that is just being written, or another's, is passed over."""
    for line in file.read_bytes().splitlines() if file.is_file() else ():
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(values, dict) and isinstance(values.get("samples"), int):
            yield values


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def _told_apart(folders: Sequence[Path]) -> list[str]:
    """Names of folders; with so much of what is above them that no two are the same."""
    parts = [folder.resolve().parts for folder in folders]
    for count in range(1, max(map(len, parts)) + 1):
        names = ["/".join(each[-count:]) for each in parts]
        if len({*names}) == len(names):
            return names
    raise ConfigError(f"{folders[0]} is named twice: expected each run once.")


def _figures(runs: Sequence[Trained]) -> list[str]:
    """All that any run has, in the order of the page; what was 0 all the time is left out."""
    there = dict.fromkeys(name for run in runs for name in run.figures)
    held_out = [name for name in there if name.startswith("held_out_edit_")]
    measured = [name for name in there if name.startswith("evaluate/")]
    known = [name for name in CAPTIONS if name in there]
    rest = [name for name in there if name not in {*known, *measured, *held_out}]
    first = [name for name in known if name.startswith(("loss", "held"))]
    order = [*first, *measured, *(name for name in known if name not in first), *sorted(rest), *held_out]
    return [name for name in order if any(y for run in runs for _, y in run.figures.get(name, ()))]


def _plot(runs: Sequence[Trained], name: str) -> str:
    series = [
        Curve(number=number, points=run.figures[name])
        for number, run in enumerate(runs)
        if name in run.figures
    ]
    caption = CAPTIONS.get(name) or (f"learning rate of {name[3:]}" if name.startswith("lr_") else name)
    svg = curves(series, title=caption, x="samples", y=caption)
    return f'<figure class="plot">{svg}<figcaption>{text(name)}</figcaption></figure>'


def _legend(runs: Sequence[Trained], names: Sequence[str]) -> str:
    """How each run's curves look, how far it is, and its last losses."""
    lines = [
        f'<p><svg viewBox="0 0 44 12" style="width:44px;height:12px;background:none" aria-hidden="true">'
        f'<path d="M0 6h44" {stroke(number)} stroke-width="3"/></svg> '
        f'<b style="color:{COLOURS[number % len(COLOURS)]}">{text(name)}</b></p>'
        for number, name in enumerate(names)
    ]
    heads = [name for name in CAPTIONS if any(name in run.figures for run in runs) and name != "skipped"]
    rows = [
        [
            name,
            str(int(max(x for points in run.figures.values() for x, _ in points))),
            *(f"{run.figures[head][-1][1]:.4g}" if head in run.figures else "" for head in heads),
        ]
        for name, run in zip(names, runs)
    ]
    return "".join(lines) + html_table(
        [["run", "samples", *heads], *rows], caption="The last line of each run"
    )


def _differences(runs: Sequence[Trained], names: Sequence[str]) -> str:
    """Keys of the recipes that are not the same in all runs."""
    if len(runs) < 2:
        return ""
    keys = dict.fromkeys(key for run in runs for key in run.settings if key not in ("name", "out"))
    told = {key: [str(run.settings.get(key, "")) for run in runs] for key in keys}
    rows = [[key, *values] for key, values in told.items() if len({*values}) > 1]
    if not rows:
        return "<p>All runs have the same settings.</p>"
    return html_table([["key", *names], *rows], caption="What differs in their settings")


def _rows(runs: Sequence[Trained], most: int) -> list[int]:
    """Samples at which previews are shown: spread evenly, the last ones among them."""
    every = sorted({samples for run in runs for samples in run.previews})
    if len(every) <= most:
        return every
    last = len(every) - 1
    return sorted({every[last - round(place * last / max(1, most - 1))] for place in range(most)})


def _previews(runs: Sequence[Trained], names: Sequence[str], rows: Sequence[int]) -> str:
    shown = []
    for samples in reversed(rows):
        cells = [
            f"<figure>{_picture(run.previews[samples], f'{name} after {samples} samples')}"
            f"<figcaption>{text(name)}</figcaption></figure>"
            for run, name in zip(runs, names)
            if samples in run.previews
        ]
        pictures = f'<div class="pictures">{"".join(cells)}</div>'
        shown.append(f"<article><h3>after {samples} samples</h3>{pictures}</article>")
    return f"<h2>Previews</h2>{''.join(shown)}" if shown else ""


def _picture(path: Path, alt: str) -> str:
    """A preview as a part of the page."""
    data, kind = path.read_bytes(), "png"
    if len(data) > LARGEST:
        with Image.open(io.BytesIO(data)) as image:
            image.thumbnail((WIDEST, 10 * WIDEST))
            buffer = io.BytesIO()
            image.convert("RGB").save(buffer, "JPEG", quality=85)
        data, kind = buffer.getvalue(), "jpeg"
    inside = base64.b64encode(data).decode()
    return f'<img src="data:image/{kind};base64,{inside}" alt="{text(alt)}">'
