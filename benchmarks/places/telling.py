"""Lines of the report, with what each is held to."""

import os
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib.metadata import version


@dataclass(frozen=True, kw_only=True)
class Line:
    """One figure."""

    what: str
    value: float
    least: float | None = None
    most: float | None = None
    beside: float | None = None
    """The figure that it is compared with, where its limit was made of one: 0 shows nothing."""
    unit: str = "%"
    part: str = ""

    def of(self, part: str) -> "Line":
        """The same, of this part of the report."""
        return replace(self, part=part)

    @property
    def held(self) -> str:
        """Whether it is what it should be."""
        if self.least is None and self.most is None:
            return ""
        if self.beside == 0:
            return "nothing to compare with"
        too_low = self.least is not None and self.value < self.least
        too_high = self.most is not None and self.value > self.most
        return "**no**" if too_low or too_high else "yes"

    def told(self, value: float | None) -> str:
        """A number in the unit."""
        if value is None:
            return ""
        return f"{value:.1%}" if self.unit == "%" else f"{value:.3f}{self.unit}"

    def row(self) -> str:
        """A line of the table."""
        least, most = (self.told(value) for value in (self.least, self.most))
        wanted = " and ".join([f"at least {least}"] * bool(least) + [f"at most {most}"] * bool(most))
        return f"| {self.part} | {self.what} | {self.told(self.value)} | {wanted} | {self.held} |"


def report(lines: Sequence[Line], identity: str) -> str:
    """The figures as Markdown."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "diffusers", "transformers"))
    head = [
        "# What masks and layouts hold to, get right, and cost",
        "",
        f"`python {shlex.join(sys.argv)}`, {date.today()}; {os.cpu_count()} cores ({platform.machine()}), "
        f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'not set')}, Python "
        f"{platform.python_version()}, {libraries}; editor {identity[:12]}.",
        "",
        "Shares are of pairs or, where it says so, of things; the judge is the toy world's. What must fail",
        "has an upper limit. A limit that is made of another figure of the same run holds only where that",
        "figure is more than 0. Costs are medians of ratios, each of two calls one right after the other.",
        "",
        "| part | figure | found | wanted | held |",
        "| --- | --- | ---: | --- | --- |",
    ]
    return "\n".join([*head, *(line.row() for line in lines)]) + "\n"
