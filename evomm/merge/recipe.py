"""The recipe: a frozen plan that says which block of which parent goes in, and how much. Round-trips through YAML.

method: task_arithmetic
base: base
parents:
  base: {model: zoo:tiny/llm/base}
  ja: {model: zoo:tiny/llm/ja}
  math: {model: zoo:tiny/llm/math}
parameters: {weight: {ja: 1.0, math: 1.0}}       # for every tensor ...
blocks:                                          # ... that no block claims; the first block that matches counts
  - {name: layers.0, tensors: [model.layers.0.*], parameters: {weight: {ja: 0.7, math: 1.3}}}
dtype: float16
"""

import fnmatch
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from evomm.errors import nearest
from evomm.merge.methods import METHODS, Parameter, parameters
from evomm.plain import Plain, dump_yaml, load_yaml, parse

Value = bool | float | Mapping[str, float]
DTYPE_NAMES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
DtypeName = Literal["float16", "bfloat16", "float32"]


class Source(Plain):
    """Where a parent comes from.

    model: a zoo name, folder or hub id. digest: of its files, checked before merging when given.
    """

    model: str
    digest: str | None = None


class Block(Plain):
    """Tensors that share coefficients.

    tensors: glob patterns over tensor names (`*` also crosses dots). parameters: override the recipe's.
    """

    name: str
    tensors: tuple[str, ...]
    parameters: Mapping[str, Value] = Field(default_factory=dict)

    def matches(self, tensor: str) -> bool:
        """Whether one of the patterns names this tensor."""
        return _pattern(self.tensors).fullmatch(tensor) is not None


class Recipe(Plain):
    """Everything that determines the child's bytes.

    parents: label -> where it comes from, the base among them. base: label of the base, for methods on task vectors.
    dtype: of the child; that of the first parent when absent. seed: of the random masks. tokenizer: label of the parent
    whose config and tokenizer files the child gets; the base, or else the first parent, when absent.
    """

    method: str
    parents: Mapping[str, Source]
    base: str | None = None
    parameters: Mapping[str, Value] = Field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    dtype: DtypeName | None = None
    seed: int = 0
    tokenizer: str | None = None

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        if method not in METHODS:
            raise ValueError(f"unknown method '{method}'{nearest(method, METHODS)}")
        return method

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for role, label in (("base", self.base), ("tokenizer", self.tokenizer)):
            if label is not None and label not in self.parents:
                raise ValueError(f"{role} '{label}' is no parent{nearest(label, self.parents)}")
        method = METHODS[self.method]
        if method.on == "deltas" and self.base is None:
            raise ValueError(f"{self.method} works on task vectors (parent - base): name the base, as `base: LABEL`")
        low, high = method.parents
        if not low <= len(self.mixed) <= high:
            wanted = f"{low}" if low == high else f"at least {low}"
            raise ValueError(f"{self.method} mixes {wanted} parent(s), got {len(self.mixed)}: {', '.join(self.mixed)}")
        for values in (self.parameters, *(block.parameters for block in self.blocks)):
            check_parameters(self.method, values, self.mixed)
        return self

    @property
    def mixed(self) -> tuple[str, ...]:
        """Labels of the parents that the method mixes, in order; for methods on task vectors the base is not one."""
        on_deltas = METHODS[self.method].on == "deltas"
        return tuple(label for label in self.parents if not (on_deltas and label == self.base))

    @property
    def carrier(self) -> str:
        """Label of the parent whose config and tokenizer the child gets."""
        return self.tokenizer or self.base or next(iter(self.parents))

    def block_of(self, tensor: str) -> Block | None:
        """The first block that names this tensor."""
        return next((block for block in self.blocks if block.matches(tensor)), None)

    def arguments(self, tensor: str) -> dict[str, float | bool | tuple[float, ...]]:
        """The method's keyword arguments for one tensor, per-parent ones in the order of `mixed`."""
        block = self.block_of(tensor)
        values = {**self.parameters, **(block.parameters if block else {})}
        return {name: _argument(spec, values, self.mixed) for name, spec in parameters(self.method).items()}

    def to_yaml(self) -> str:
        """As YAML that `from_yaml` reads back to an equal recipe; floats keep every bit."""
        return dump_yaml(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Self:
        """Raises UsageError that names the key, and the nearest known one when it is misspelt."""
        return parse(cls, load_yaml(text, where), where)


def check_parameters(method: str, values: Mapping[str, Value], labels: Iterable[str]) -> None:
    """Raise ValueError unless every value belongs to the method, is in range, and names known parents."""
    specs = parameters(method)
    known = set(labels)
    for name, value in values.items():
        if name not in specs:
            raise ValueError(f"{method} has no parameter '{name}'{nearest(name, specs)}")
        spec = specs[name]
        if isinstance(value, Mapping):
            if spec.kind != "per parent":
                raise ValueError(f"'{name}' of {method} is one value for all parents, got one per parent")
            for label in set(value) - known:
                raise ValueError(f"'{name}' is given for '{label}', which is no parent{nearest(label, known)}")
        if isinstance(value, bool) != (spec.kind == "switch"):
            raise ValueError(f"'{name}' of {method} takes {'true or false' if spec.kind == 'switch' else 'a number'}")
        for number in value.values() if isinstance(value, Mapping) else [value]:
            if not spec.range.low <= number <= spec.range.high:
                raise ValueError(f"'{name}' is {number}, expected {spec.range.low:g} to {spec.range.high:g}")


def _argument(spec: Parameter, values: Mapping[str, Value], labels: tuple[str, ...]) -> float | bool | tuple[float, ...]:
    value = values.get(spec.name, spec.default)
    if spec.kind != "per parent":
        if isinstance(value, Mapping):
            raise TypeError(spec.name)  # excluded by check_parameters
        return value
    if isinstance(value, Mapping):
        return tuple(float(value.get(label, spec.default)) for label in labels)
    return (float(value),) * len(labels)


@lru_cache(maxsize=4096)
def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs))
