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
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Literal, Self

import torch
from pydantic import Field, field_validator, model_validator

from evomm.errors import nearest
from evomm.merge.method import Parameter, keyword
from evomm.merge.table import METHODS, parameters
from evomm.merge.vocabulary import Vocabulary
from evomm.plain import Plain, dump_yaml, load_yaml, parse

Value = bool | float | Mapping[str, float]
DTYPE_NAMES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
DtypeName = Literal["float16", "bfloat16", "float32"]


class Source(Plain):
    """Where a parent comes from.

    model: a zoo name, folder, single-file checkpoint or hub id. lora: a LoRA that is put on top of it. scale: of the LoRA.
    digest: of its files, checked before merging when given.
    """

    model: str
    lora: str | None = None
    scale: float = 1.0
    digest: str | None = None

    @model_validator(mode="after")
    def _scaled(self) -> Self:
        if self.scale != 1.0 and self.lora is None:
            raise ValueError(f"scale {self.scale:g} is of a LoRA, and '{self.model}' is given without one")
        return self


class Block(Plain):
    """Tensors that share coefficients.

    tensors: glob patterns over the child's tensor names (`*` also crosses dots). parameters: override the recipe's.
    parents: labels of the parents that are mixed here, when not all are. base: overrides the recipe's. method: overrides the
    recipe's, by one that works on the same (task vectors, or weights).
    """

    name: str
    tensors: tuple[str, ...]
    parameters: Mapping[str, Value] = Field(default_factory=dict)
    parents: tuple[str, ...] | None = None
    base: str | None = None
    method: str | None = None

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str | None) -> str | None:
        return method if method is None else known_method(method)

    def matches(self, tensor: str) -> bool:
        """Whether one of the patterns names this tensor."""
        return _pattern(self.tensors).fullmatch(tensor) is not None


class Slice(Plain):
    """Consecutive layers of the child: for each parent that is mixed in them, its [first, last + 1] layers."""

    layers: Mapping[str, tuple[int, int]]

    @model_validator(mode="after")
    def _same_length(self) -> Self:
        if not self.layers:
            raise ValueError("a slice needs at least one parent")
        for label, (first, stop) in self.layers.items():
            if not 0 <= first < stop:
                raise ValueError(f"layers {first} to {stop} of '{label}': expected [first, last + 1] with 0 <= first < last + 1")
        lengths = {label: stop - first for label, (first, stop) in self.layers.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"the parents of a slice must give equally many layers, got {lengths}")
        return self

    @property
    def length(self) -> int:
        """Number of layers."""
        first, stop = next(iter(self.layers.values()))
        return stop - first


class Recipe(Plain):
    """Everything that determines the child's bytes.

    parents: label -> where it comes from, the base among them. base: label of the base, for methods on task vectors.
    dtype: of the child; that of the first parent when absent. seed: of the random masks. tokenizer: label of the parent
    whose config and tokenizer files the child gets; the base, or else the first parent, when absent. slices: the child's
    layers in order; layer by layer as in the parents when absent. vocabulary: how parents with different tokens are aligned.
    chat_template: of the child, as Jinja text; the carrier's when absent. components: component (the first word of its
    tensors' names, such as vae) -> label of the parent that it is taken from whole; the others are mixed. generation: how the
    child is meant to be asked, such as the number of steps of a few-step model. block_weights: label -> the parent's weights as
    the string of numbers that block-weight users of image models know, instead of blocks.
    """

    method: str
    parents: Mapping[str, Source]
    base: str | None = None
    parameters: Mapping[str, Value] = Field(default_factory=dict)
    blocks: tuple[Block, ...] = ()
    dtype: DtypeName | None = None
    seed: int = 0
    tokenizer: str | None = None
    slices: tuple[Slice, ...] = ()
    vocabulary: Vocabulary | None = None
    chat_template: str | None = None
    components: Mapping[str, str] = Field(default_factory=dict)
    generation: Mapping[str, bool | int | float | str] = Field(default_factory=dict)
    block_weights: Mapping[str, str] = Field(default_factory=dict)

    @field_validator("method")
    @classmethod
    def _known_method(cls, method: str) -> str:
        return known_method(method)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for role, label in self._named():
            if label not in self.parents:
                raise ValueError(f"{role} '{label}' is no parent{nearest(label, self.parents)}")
        if METHODS[self.method].needs_base and self.base is None:
            why = (
                "works on task vectors (parent - base)"
                if METHODS[self.method].on == "deltas"
                else "mixes parents with their base"
            )
            raise ValueError(f"{self.method} {why}: name the base, as `base: LABEL`")
        if not self.slices:
            self.refuse_count(self.mixed, "the recipe")
        everywhere = not self.slices and all(block.parents is None and block.base is None for block in self.blocks)
        self._refuse_other_methods()
        labels = self.mixed if everywhere else self.parents
        check_parameters(self.method, self.parameters, labels)
        for block in self.blocks:
            known = parameters(self.method_of(block))
            inherited = {name: value for name, value in self.parameters.items() if block.method and name in known}
            check_parameters(self.method_of(block), {**inherited, **block.parameters}, labels)
        return self

    def _refuse_other_methods(self) -> None:
        """A block's own method gets what the recipe's would get."""
        for block in self.blocks:
            if block.method is not None:
                refuse_mixture((self.method, block.method), self.base)
                if not self.slices:
                    where = f"block '{block.name}'"
                    self.refuse_count(self.values(block.parents or self.parents, self.base), where, block.method)

    def _named(self) -> Iterator[tuple[str, str]]:
        """(role, label) of every parent that is named somewhere."""
        yield from ((role, label) for role, label in (("base", self.base), ("tokenizer", self.tokenizer)) if label is not None)
        for block in self.blocks:
            yield from ((f"parent of block '{block.name}'", label) for label in block.parents or ())
            if block.base is not None:
                yield f"base of block '{block.name}'", block.base
        for part in self.slices:
            yield from (("parent of a slice", label) for label in part.layers)
        yield from ((f"owner of component '{name}'", label) for name, label in self.components.items())
        yield from (("parent with block_weights", label) for label in self.block_weights)

    @property
    def mixed(self) -> tuple[str, ...]:
        """Labels of the parents that the method mixes, in order, where no block or slice says otherwise."""
        return self.values(self.parents, self.base)

    def values(self, labels: Iterable[str], base: str | None) -> tuple[str, ...]:
        """What the method gets of these labels: the base first for methods on weights; without it for those on task vectors."""
        others = tuple(label for label in labels if label != base)
        if METHODS[self.method].takes_deltas(base):
            return others
        return (base, *others) if base is not None and base in labels else others

    def refuse_count(self, values: tuple[str, ...], where: str, method: str | None = None) -> None:
        """Raise ValueError unless the method, the recipe's when absent, can mix so many."""
        method = method or self.method
        low, high = METHODS[method].parents
        if not low <= len(values) <= high:
            wanted = f"{low}" if low == high else f"at least {low}"
            told = f"{len(values)}: {', '.join(values)}" if values else "none"
            raise ValueError(f"{method} mixes {wanted} parent(s), {where} has {told}")

    @property
    def carrier(self) -> str:
        """Label of the parent whose config and tokenizer the child gets."""
        return self.tokenizer or self.base or next(iter(self.parents))

    def block_of(self, tensor: str) -> Block | None:
        """The first block that names this tensor."""
        return next((block for block in self.blocks if block.matches(tensor)), None)

    def arguments(self, tensor: str, labels: tuple[str, ...] | None = None) -> dict[str, float | bool | tuple[float, ...]]:
        """The method's keyword arguments for one tensor, per-parent ones in the order of the labels, `mixed` when absent."""
        block = self.block_of(tensor)
        values = {**self.parameters, **(block.parameters if block else {})}
        labels = self.mixed if labels is None else labels
        return {keyword(name): _argument(spec, values, labels) for name, spec in parameters(self.method_of(block)).items()}

    def method_of(self, block: Block | None) -> str:
        """The method that mixes a block, or what no block names."""
        return self.method if block is None or block.method is None else block.method

    def to_yaml(self) -> str:
        """As YAML that `from_yaml` reads back to an equal recipe; floats keep every bit."""
        return dump_yaml(self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def from_yaml(cls, text: str, where: str = "recipe") -> Self:
        """Raises UsageError that names the key, and the nearest known one when it is misspelt."""
        return parse(cls, load_yaml(text, where), where)


def known_method(method: str) -> str:
    """The name itself; ValueError with the nearest one when there is no such method."""
    if method not in METHODS:
        raise ValueError(f"unknown method '{method}'{nearest(method, METHODS)}")
    return method


def refuse_mixture(methods: Iterable[str], base: str | None) -> None:
    """Raise ValueError unless all methods of a recipe get the same: task vectors, or weights."""
    kinds = {method: METHODS[method].takes_deltas(base) for method in methods}
    if len(set(kinds.values())) > 1:
        told = ", ".join(f"{method} on {'task vectors' if deltas else 'weights'}" for method, deltas in kinds.items())
        raise ValueError(f"methods of one recipe work on the same, got {told}")


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
        if spec.kind == "count" and value != int(value):  # type: ignore[arg-type]
            raise ValueError(f"'{name}' of {method} takes a whole number, got {value}")
        for number in value.values() if isinstance(value, Mapping) else [value]:
            if not spec.range.low <= number <= spec.range.high:
                raise ValueError(f"'{name}' is {number}, expected {spec.range.low:g} to {spec.range.high:g}")


def _argument(spec: Parameter, values: Mapping[str, Value], labels: tuple[str, ...]) -> float | bool | tuple[float, ...]:
    value = values.get(spec.name, spec.default)
    if spec.kind != "per parent":
        if isinstance(value, Mapping):
            raise TypeError(spec.name)  # excluded by check_parameters
        return int(value) if spec.kind == "count" else value
    if isinstance(value, Mapping):
        return tuple(float(value.get(label, spec.default)) for label in labels)
    return (float(value),) * len(labels)


@lru_cache(maxsize=4096)
def _pattern(globs: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(fnmatch.translate(glob) for glob in globs))
