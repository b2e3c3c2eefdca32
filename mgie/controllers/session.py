"""Pictures painted again with some regions changed, the rest as it was.

Consistent, iterative editing of MIGC's program (Zhou et al., CVPR 2024; MIGC++, TPAMI 2024): the second run
starts from the first one's noise, its upper layers attend to the first one's states too, and after each step
latents away from what changed are put back. What is remembered belongs to a session, which is an argument of
calls: no module keeps it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from mgie.errors import ConfigError, DataError
from mgie.types import AttentionCall, Box, ControlPlan, Site, Size

GROWN = 5
"""Latents by which the box of what changed is made larger on each side."""
SOFT = 5
"""Side of the square of latents whose mean softens the edge."""
UPPER = "up_blocks."
"""Where the self-attention lies whose states are remembered."""
Placed = tuple[str, Box]
"""What tells a region from another: its phrase and its box."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Remembered:
    """One run, as it is noted while it goes on."""

    regions: tuple[Placed, ...]
    noise: Float[Tensor, "1 c h w"]
    key: Mapping[str, Any]
    """What a run that follows must have too, in words."""
    source: Float[Tensor, "1 3 y x"] | None = None
    latents: list[Tensor] = field(default_factory=list)
    """After each step, blended."""
    states: dict[tuple[int, str], Tensor] = field(default_factory=dict)
    """What came to a layer in a step."""


class LayoutSession:
    """Remembers the last picture that was painted with it, so that the next is the same but for its regions.

    For one picture at a time, and one call after the other. At 512 pixels, 50 steps take about 1.4 GB in half
    precision.
    """

    def __init__(self, *, device: str | None = None):
        """`device`: where what is remembered is kept, such as "cpu"; None: where it is painted."""
        self.device = device
        self.last: Remembered | None = None

    def plan(
        self,
        regions: tuple[Placed, ...],
        *,
        noise: Float[Tensor, "1 c h w"],
        scheduler: Any,
        source: Float[Tensor, "1 3 y x"] | None = None,
    ) -> ControlPlan:
        """Note the run that this plan is for, and follow the one before it, if there was one.

        `scheduler` has its timesteps set. Raises ConfigError for a run that cannot follow the one before it.
        """
        key = {
            "sampler": type(scheduler).__name__, "steps": len(scheduler.timesteps),
            "size": "x".join(map(str, noise.shape[-2:])),
            "schedule": (scheduler.timesteps.tolist(), dict(scheduler.config)),
        }  # fmt: skip
        run = Remembered(
            regions=regions, key=key, noise=self.kept(noise), source=None if source is None else source.cpu()
        )
        last = self.last
        if last is not None:
            _check_follows(run, last)
        steps, grid = len(scheduler.timesteps), (noise.shape[-2], noise.shape[-1])
        hooks = tuple(
            Remembering(run=run, last=last, step=step, keep=self.kept, during=during)
            for step, during in enumerate((step / steps, (step + 1) / steps) for step in range(steps))
        )
        mask = None if last is None else keep_mask(regions, last.regions, grid)
        return ControlPlan(
            attention=hooks,
            blend=Consistency(session=self, run=run, last=last, mask=mask, steps=steps),
        )

    def kept(self, values: Tensor) -> Tensor:
        """Values where the session keeps them."""
        return values.detach() if self.device is None else values.detach().to(self.device)


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Remembering:
    """Self-attention of the upper layers in one step: its states are noted, and it attends to those of the
    run before as well."""

    run: Remembered
    last: Remembered | None
    step: int
    keep: Callable[[Tensor], Tensor]
    during: tuple[float, float]
    order: int = 20

    def wants(self, site: Site) -> bool:
        """Self-attention on the way up."""
        return not site.cross and site.name.startswith(UPPER)

    def __call__(
        self, call: AttentionCall, attend: Callable[[AttentionCall], Tensor]
    ) -> Float[Tensor, "r p c"]:
        """All rows, each beside its own. Raises DataError for other rows than the run before had."""
        place = (self.step, call.site.name)
        self.run.states[place] = self.keep(call.states)
        if self.last is None:
            return attend(call)
        before = self.last.states[place]
        if before.shape != call.states.shape:
            raise DataError(
                f"the picture before was painted in {len(before)} rows of guidance, this one in "
                f"{len(call.states)}: ask for the same scales of guidance, or begin a new session."
            )
        both = torch.cat([call.states, before.to(call.states)], dim=1)
        return attend(replace(call, context=both))


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Consistency:
    """After each step, latents away from what changed are those of the run before."""

    session: LayoutSession
    run: Remembered
    last: Remembered | None
    mask: Float[Tensor, "1 1 h w"] | None
    """1 where the run before is kept."""
    steps: int

    def __call__(self, latents: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, "b c h w"]:
        """The latents after this step; they are noted as they are then. The last one ends the run."""
        if self.last is not None and self.mask is not None:
            mask, before = self.mask.to(latents), self.last.latents[step].to(latents)
            latents = mask * before + (1 - mask) * latents
        self.run.latents.append(self.session.kept(latents))
        if step == self.steps - 1:
            self.session.last = self.run
        return latents


def keep_mask(
    regions: tuple[Placed, ...], before: tuple[Placed, ...], grid: Size
) -> Float[Tensor, "1 1 h w"]:
    """1 away from the regions that only one of two layouts has, on latents of height and width `grid`."""
    height, width = grid
    mask = torch.ones(1, 1, height, width, dtype=torch.float64)
    for _, (x0, y0, x1, y1) in set(regions) ^ set(before):
        left, top = (max(int(side) - GROWN, 0) for side in (width * x0, height * y0))
        right, bottom = (int(side) + GROWN for side in (width * x1, height * y1))
        mask[..., top:bottom, left:right] = 0
    edge = min(SOFT // 2, height - 1, width - 1)
    around = functional.pad(mask, (edge,) * 4, mode="reflect")
    return functional.avg_pool2d(around, 2 * edge + 1, stride=1)


def _check_follows(run: Remembered, last: Remembered) -> None:
    """Refuse a run that has not what the one before had. Raises ConfigError."""
    apart = [name for name, value in run.key.items() if value != last.key[name]]
    if not apart and not torch.equal(run.noise, last.noise):
        apart = ["seed"]
    sources = (run.source, last.source)
    if not apart and not (
        all(each is None for each in sources)
        or (all(each is not None for each in sources) and torch.equal(*sources))  # pyright: ignore
    ):
        apart = ["photo"]
    if apart:
        raise ConfigError(
            f"this picture cannot follow the one before it in its session: it has another {apart[0]}; ask "
            "for the same, or begin a new session."
        )
