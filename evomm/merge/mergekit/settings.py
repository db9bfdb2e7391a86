"""Parameter settings of mergekit's documents: one value, a gradient over the layers, or different values by tensor name.

t: 0.5                                          one value
t: [0, 0.5, 1]                                  a gradient: from the first to the last layer of a slice, straight in between
t: [{filter: self_attn, value: [0, 1]}, {value: 0.5}]     the first whose filter is part of the tensor's name counts
"""

import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from evomm.errors import nearest
from evomm.plain import Plain

Scalar = bool | int | float | str


class Case(Plain):
    """One value or gradient, for the tensors whose name contains the filter; for all without one."""

    value: Scalar | tuple[Scalar, ...]
    filter: str | None = None

    @property
    def scalars(self) -> tuple[Scalar, ...]:
        """The value, or the points of the gradient."""
        return self.value if isinstance(self.value, tuple) else (self.value,)

    def matches(self, tensor: str) -> bool:
        """Whether it is meant for this tensor."""
        return self.filter is None or self.filter == "*" or self.filter in tensor


def read_setting(value: Any) -> tuple[Case, ...]:
    """Any of mergekit's forms as cases, the first that matches counts; ValueError says what is wrong."""
    if not isinstance(value, list | tuple):
        return (_case(value) if isinstance(value, Mapping) else Case(value=_scalar(value)),)
    conditions = [isinstance(item, Mapping | Case) for item in value]
    if any(conditions):
        if not all(conditions):
            raise ValueError("expected a list of values or a list of {filter, value}, got both in one")
        return tuple(item if isinstance(item, Case) else _case(item) for item in value)
    return (Case(value=tuple(_scalar(item) for item in value)),)


Setting = Annotated[tuple[Case, ...], BeforeValidator(read_setting)]
Settings = Annotated[Mapping[str, Setting], BeforeValidator(lambda value: {} if value is None else value)]


def evaluate(setting: tuple[Case, ...], tensor: str, t: float, convert: Callable[[Scalar], bool | float]) -> bool | float | None:
    """What a setting says of a tensor at t between the first layer (0) and the last (1); None when it says nothing.

    Numbers are interpolated, and checked by ``convert`` again; of true and false the one at or before t is taken.
    """
    case = next((case for case in setting if case.matches(tensor)), None)
    if case is None or not case.scalars:
        return None
    points = [convert(scalar) for scalar in case.scalars]
    at = t * (len(points) - 1)
    before = int(at)
    if not isinstance(case.value, tuple) or isinstance(points[before], bool):
        return points[before]
    after = min(before + 1, len(points) - 1)
    part = at - before
    return convert((1 - part) * points[before] + part * points[after])


def _case(value: Any) -> Case:
    for key in value:
        if key not in Case.model_fields:
            raise ValueError(f"unknown key '{key}'{nearest(str(key), Case.model_fields)}")
    if "value" not in value:
        raise ValueError("key 'value' is missing beside 'filter'")
    name, inner = value.get("filter"), value["value"]
    if name is not None and not isinstance(name, str):
        raise ValueError(f"filter: expected a part of tensor names, got {name!r}")
    return Case(filter=name, value=tuple(map(_scalar, inner)) if isinstance(inner, list | tuple) else _scalar(inner))


def _scalar(value: Any) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"expected a number, true or false, a list of them, or {{filter, value}}, got {type(value).__name__}")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"expected a finite number, got {value}")
    return value
