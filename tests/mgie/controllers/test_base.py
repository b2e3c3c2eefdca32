from dataclasses import dataclass

import pytest
import torch

from mgie.controllers.base import join
from mgie.errors import ConfigError
from mgie.types import ControlPlan


@dataclass(frozen=True)
class Doubled:
    order: int
    during: tuple[float, float] = (0.0, 1.0)

    def wants(self, site):
        return site.cross

    def __call__(self, call, attend):
        return 2 * attend(call)


def halved(latents, step):
    return latents / (step + 1)


def test_plans_are_joined_in_their_order():
    joined = join(
        {
            "layout": ControlPlan(
                attention=(Doubled(20),), loss_weight=torch.full((1, 1, 2, 2), 3.0), finish=(torch.sin,)
            ),
            "region": ControlPlan(
                attention=(Doubled(10),), loss_weight=torch.full((1, 1, 2, 2), 2.0), finish=(torch.cos,),
                blend=halved, losses={"inside": torch.ones},
            ),
        }
    )  # fmt: skip
    assert [hook.order for hook in joined.attention] == [10, 20]
    assert joined.loss_weight is not None and joined.loss_weight.unique().tolist() == [6.0]
    assert joined.finish == (torch.sin, torch.cos) and joined.blend is halved
    assert list(joined.losses) == ["inside"]
    assert join({}) == join({"a": ControlPlan()}) == ControlPlan()


@pytest.mark.parametrize("part", ["features", "blend", "guidance", "losses"])
def test_what_only_one_can_have_is_refused_from_two(part):
    given = {
        "features": Blended(), "blend": halved, "guidance": torch.ones(1, 1, 2, 2),
        "losses": {"inside": torch.ones},
    }[part]  # fmt: skip
    plan = ControlPlan(**{part: given})
    with pytest.raises(ConfigError, match=r"the controls layout and region .*loss of|layout and region both"):
        join({"layout": plan, "region": plan})


@dataclass(frozen=True)
class Blended:
    during: tuple[float, float] = (0.0, 0.5)

    def __call__(self, _point, states, _rows, _grid):
        return states


def test_a_plan_says_what_acts_now():
    early, late = Doubled(10, (0.0, 0.5)), Doubled(20, (0.5, 1.0))
    plan = ControlPlan(attention=(early, late), features=Blended(), blend=halved)
    assert plan.given == ("attention", "features", "blend")
    assert plan.at(0.25) == ControlPlan(attention=(early,), features=Blended(), blend=halved)
    assert plan.at(0.5).inner == ControlPlan(attention=(late,))
    assert ControlPlan(attention=(early,)).at(0.5) == ControlPlan()
