"""The door for controls: what belongs where becomes a plan, and several plans one."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from mgie.errors import ConfigError
from mgie.types import Condition, Context, ControlBatch, ControlPlan, Size

ALONE = ("features", "blend", "guidance")
"""Parts of a plan that only one controller can have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """What a controller is told of the pictures that are painted."""

    grid: Size
    """Height and width of the latents."""
    context: Context
    source: Float[Tensor, "b 3 y x"] | None = None
    """Pixels of the pictures before the edit. None: there are none."""
    pixels: Size | None = None
    """Height and width of the pictures, where there is no source to tell."""
    phrases: Condition | None = None
    """What the encoder made of the phrases of regions: a row for each region of each picture, padding
    included. None: there are none, or they are not read."""
    steps: int = 0
    """Of the sampling; 0 in training."""
    reference: Callable[[int], Tensor] | None = None
    """The pictures before the edit at the level of noise after so many steps; none in training."""


class AbstractController(nn.Module, ABC):
    """Says how a denoiser is to heed what belongs where. What it remembers of a request is in the plan."""

    @abstractmethod
    def plan(self, controls: ControlBatch, setting: Setting) -> ControlPlan:
        """What is to be done in this sampling or training step. Raises ConfigError and DataError."""


def join(plans: Mapping[str, ControlPlan]) -> ControlPlan:
    """One plan of those that the controllers of these names made: what goes around attention is nested by its
    order, weights are multiplied, finishes follow each other.

    Raises ConfigError where two have what only one can have.
    """
    alone: dict[str, Any] = {}
    for part in ALONE:
        having = [name for name, plan in plans.items() if getattr(plan, part) is not None]
        if len(having) > 1:
            raise ConfigError(
                f"the controls {' and '.join(having)} both have {part}: expected at most one; leave one out."
            )
        alone[part] = getattr(plans[having[0]], part) if having else None
    weights = [plan.loss_weight for plan in plans.values() if plan.loss_weight is not None]
    losses = [(name, loss) for plan in plans.values() for name, loss in plan.losses.items()]
    if len(dict(losses)) < len(losses):
        raise ConfigError(
            f"the controls {' and '.join(plans)} have a loss of the same name, among "
            f"{', '.join(sorted(dict(losses)))}: expected different names; rename one."
        )
    return ControlPlan(
        attention=tuple(
            sorted((hook for plan in plans.values() for hook in plan.attention), key=lambda hook: hook.order)
        ),
        finish=tuple(finish for plan in plans.values() for finish in plan.finish),
        loss_weight=reduce(mul, weights) if weights else None,
        losses=dict(losses),
        **alone,
    )
