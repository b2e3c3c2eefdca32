"""Numbers have ranges, declared beside them and checked before anything is loaded.

steps: Annotated[int, Range(ge=1, le=1000)]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache, wraps
from inspect import signature
from numbers import Integral, Real
from types import UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

from llava_patch.errors import ConfigError

Given = ParamSpec("Given")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Range:
    """The numbers that are taken: at least `ge` or above `gt`, and at most `le` or below `lt`.

    Every range has two ends, so neither infinity nor what is no number is ever inside. (A class of our own:
    jsonargparse hands those of annotated-types to pydantic, whose messages are no sentences.)
    """

    ge: int | float | None = None
    gt: int | float | None = None
    le: int | float | None = None
    lt: int | float | None = None

    def __post_init__(self) -> None:
        """One end below and one above."""
        assert (self.ge is None) != (self.gt is None) and (self.le is None) != (self.lt is None)

    def holds(self, value: Any, kind: type) -> bool:
        """Whether `value` is a number of this kind (int or float) inside."""
        if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
            return False
        number: Any = value
        low = number > self.gt if self.gt is not None else number >= (self.ge or 0)
        high = number < self.lt if self.lt is not None else number <= (self.le or 0)
        return bool(low and high)

    def told(self, kind: type) -> str:
        """In words, such as "a whole number, at least 1 and at most 1000"."""
        what = "a whole number" if kind is int else "a number"
        low = f"at least {self.ge}" if self.ge is not None else f"above {self.gt}"
        high = f"at most {self.le}" if self.le is not None else f"below {self.lt}"
        return f"{what}, {low} and {high}"


def check_ranges(value: Any, hint: Any = None, name: str = "") -> None:
    """Raise ConfigError for the first number in `value` outside the range that its type hint declares.

    Fields, items and values of dataclasses, sequences and mappings are looked at one by one; `hint` is the
    type that `value` should have, and can be left out for a dataclass.
    """
    hint = type(value) if hint is None or (hint is Any and is_dataclass(value)) else hint
    kind, parts = get_origin(hint), get_args(hint)
    if kind is Annotated:
        for range in parts[1:]:
            if isinstance(range, Range) and not range.holds(value, parts[0]):
                raise ConfigError(f"{name}={value!r}: expected {range.told(parts[0])}.")
        check_ranges(value, parts[0], name)
    elif kind in (Union, UnionType):
        for part in parts if value is not None else ():
            if _has_items(value) == _is_container(part):
                check_ranges(value, part, name)
    elif isinstance(hint, type) and is_dataclass(hint) and isinstance(value, hint):
        hints = _hints(hint)
        for field in fields(hint):
            inner = f"{name}.{field.name}" if name else field.name
            check_ranges(getattr(value, field.name), hints[field.name], inner)
    elif isinstance(value, Mapping) and len(parts) == 2:
        for key, item in value.items():
            check_ranges(item, parts[1], f"{name}.{key}")
    elif _has_items(value) and parts:
        several = len(parts) == 1 or parts[-1] is Ellipsis
        items: Any = value
        for index, item in enumerate(items):
            if several or index < len(parts):
                check_ranges(item, parts[0 if several else index], f"{name}[{index}]")


def in_range(story: Callable[Given, Result]) -> Callable[Given, Result]:
    """`story`, but the numbers it is given are held to the ranges in its signature first: ConfigError."""

    @wraps(story)
    def checked(*given: Given.args, **named: Given.kwargs) -> Result:
        hints = _hints(story)
        for name, value in signature(story).bind(*given, **named).arguments.items():
            check_ranges(value, hints.get(name, Any), name)
        return story(*given, **named)

    return checked


def _has_items(value: Any) -> bool:
    return isinstance(value, (list, tuple, Mapping))


def _is_container(hint: Any) -> bool:
    return get_origin(hint) not in (None, Annotated, Union, UnionType)


@cache
def _hints(owner: Any) -> dict[str, Any]:
    return get_type_hints(owner, include_extras=True)
