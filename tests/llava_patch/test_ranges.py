from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import pytest

from llava_patch.errors import ConfigError
from llava_patch.ranges import Range, check_ranges, in_range

Count = Annotated[int, Range(ge=1, le=9)]
Part = Annotated[float, Range(gt=0, lt=1)]


@dataclass
class Inner:
    part: Part = 0.5
    parts: tuple[Part, Part] = (0.1, 0.2)


@dataclass
class Outer:
    count: Count | None = 1
    rates: dict[str, Part] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


@in_range
def story(name: str, count: Count = 1, *, seeds: Count | Sequence[Count] | None = None) -> str:
    return f"{name} {count} {seeds}"


@pytest.mark.parametrize("value", [1, 9, np.int64(5)])
def test_numbers_inside(value):
    check_ranges(Outer(count=value))
    assert story("a", value, seeds=[1, value]).startswith(f"a {value}")


@pytest.mark.parametrize("value", [0, 10, -1, 1.5, True, "many", float("nan"), float("inf"), 2**70])
def test_whole_numbers_outside(value):
    with pytest.raises(ConfigError, match=r"^count=.*: expected a whole number, at least 1 and at most 9\.$"):
        check_ranges(Outer(count=value))
    with pytest.raises(ConfigError, match=r"^count="):
        story("a", value)
    with pytest.raises(ConfigError, match=r"^seeds="):
        story("a", seeds=value)


@pytest.mark.parametrize("value", [0, 1, -1, 2.0, True, "many", None, float("nan"), float("-inf"), 10**400])
def test_items_outside_are_named(value):
    for wrong, name in (
        (Outer(rates={"eye": value}), "rates.eye"),
        (Outer(inner=Inner(part=value)), "inner.part"),
        (Outer(inner=Inner(parts=(0.5, value))), r"inner.parts\[1\]"),
    ):
        with pytest.raises(ConfigError, match=f"^{name}=.*: expected a number, above 0 and below 1"):
            check_ranges(wrong)
    with pytest.raises(ConfigError, match=r"^seeds\[1\]="):
        story("a", seeds=[1, 0])


def test_none_where_it_may_be():
    check_ranges(Outer(count=None))
    assert story("a") == "a 1 None"
