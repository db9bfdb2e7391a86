"""What mergekit demands of each method, as far as evomm's own table does not say it: bases and required parameters."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from evomm.errors import nearest
from evomm.merge.mergekit.settings import Case, Scalar
from evomm.merge.method import Parameter
from evomm.merge.table import METHODS, parameters

_TYPES: Mapping[str, TypeAdapter[bool] | TypeAdapter[int] | TypeAdapter[float]] = {
    "switch": TypeAdapter(bool),
    "count": TypeAdapter(int),
    "number": TypeAdapter(float),
    "per parent": TypeAdapter(float),
}
_WANTED = {"switch": "true or false", "count": "a whole number"}


@dataclass(frozen=True)
class Rules:
    """One method as mergekit has it.

    Attributes:
        base: whether a base is "required", "optional" (then it changes what is computed), or "ignored".
        required: the parameter that must be given.
        random: whether the result depends on random numbers.
        idle: parameters that mergekit accepts and that change no result.
    """

    base: Literal["required", "optional", "ignored"]
    required: str | None = None
    random: bool = False
    idle: frozenset[str] = frozenset({"int8_mask"})


RULES: Mapping[str, Rules] = {
    "linear": Rules("ignored", "weight"),
    "passthrough": Rules("ignored"),
    "karcher": Rules("ignored"),
    "slerp": Rules("required", "t"),
    "nuslerp": Rules("optional", "weight"),
    "multislerp": Rules("optional", "weight"),
    "task_arithmetic": Rules("required", "weight", idle=frozenset({"int8_mask", "density", "rescale"})),
    "ties": Rules("required", "weight"),
    "breadcrumbs": Rules("required", "weight"),
    "breadcrumbs_ties": Rules("required", "weight"),
    "dare_linear": Rules("required", "weight", random=True),
    "dare_ties": Rules("required", "weight", random=True),
    "della": Rules("required", "weight", random=True),
    "della_linear": Rules("required", "weight", random=True),
    "model_stock": Rules("required"),
    "sce": Rules("required"),
    "ram": Rules("required"),
    "ramplus_tl": Rules("required"),
    "nearswap": Rules("required", "t"),
    "arcee_fusion": Rules("required"),
}


def converted(method: str, spec: Parameter, value: Scalar) -> bool | float:
    """A value as the parameter takes it, text that reads as a number included; ValueError when it is none or out of range."""
    try:
        found = _TYPES[spec.kind].validate_python(value)
    except ValidationError as error:
        raise ValueError(f"'{spec.name}' of {method} takes {_WANTED.get(spec.kind, 'a number')}, got {value!r}") from error
    if isinstance(found, bool):
        return found
    if not math.isfinite(found) or not spec.range.low <= found <= spec.range.high:
        raise ValueError(f"'{spec.name}' of {method} is {found}, expected {spec.range.low:g} to {spec.range.high:g}")
    return float(found)


def check_settings(method: str, settings: Mapping[str, tuple[Case, ...]], where: str, own: bool) -> None:
    """Raise ValueError unless every parameter is one of the method's, with values that it can have.

    own: they are given for one model, where only parameters that each model has can stand.
    """
    specs, idle = parameters(method), RULES[method].idle
    for name, setting in settings.items():
        if name in idle:
            continue
        if name not in specs:
            raise ValueError(
                f"{where}: {method} has no parameter '{name}'{nearest(name, specs)}; mergekit ignores it, so it can be removed"
            )
        if own and specs[name].kind != "per parent":
            raise ValueError(f"{where}: '{name}' of {method} is one value for all models; write it outside of the models")
        for case in setting:
            for scalar in case.scalars:
                try:
                    converted(method, specs[name], scalar)
                except ValueError as error:
                    raise ValueError(f"{where}: {error}") from error


def idle_settings(method: str, settings: Mapping[str, tuple[Case, ...]]) -> Iterator[str]:
    """Parameters that are given and change nothing."""
    return (name for name in settings if name in RULES[method].idle)


def refuse_count(method: str, count: int, has_base: bool, where: str) -> None:
    """Raise ValueError unless the method can mix so many models, the base among them."""
    deltas = METHODS[method].takes_deltas("base" if has_base else None)
    low, high = METHODS[method].parents
    got = count - deltas
    if not low <= got <= high:
        wanted = f"{low}" if low == high else f"at least {low}"
        raise ValueError(f"{where}: {method} mixes {wanted} model(s){' besides the base' if deltas else ''}, got {got}")
