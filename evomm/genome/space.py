"""The space that is searched: named genes with bounds and a start.

A searcher sees vectors in the unit cube; `Space` maps them to what the genes mean, value = low + x (high - low).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from evomm.errors import UsageError, nearest
from evomm.merge.method import Parameter
from evomm.merge.recipe import Block, known_method
from evomm.merge.table import parameters
from evomm.plain import Plain

Vector = NDArray[np.float64]


METHOD = "method"  # the parameter that chooses a block's merge method


class GeneRule(Plain):
    """Which parameter is searched, where, and in which bounds.

    parents and blocks narrow the rule to some; the last rule that names a gene sets its bounds. choices: instead of bounds, of
    the parameter "method": the merge methods that a block chooses from; it starts with the first.
    """

    parameter: str
    low: float
    high: float
    start: float
    parents: tuple[str, ...] | None = None
    blocks: tuple[str, ...] | None = None
    choices: tuple[str, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _chosen(cls, given: Any) -> Any:
        """A choice is a number below the number of choices, rounded down."""
        choices = given.get("choices") if isinstance(given, dict) else None
        return {"low": 0.0, "high": float(len(choices)), "start": 0.5, **given} if choices else given

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if (self.parameter == METHOD) != bool(self.choices):
            raise ValueError(f"gene '{self.parameter}': `choices` (two or more merge methods) belong to the parameter '{METHOD}'")
        if self.choices and (len(self.choices) < 2 or (self.low, self.high) != (0, len(self.choices)) or self.parents):
            raise ValueError(f"gene '{METHOD}': takes two or more `choices`, and no bounds or parents")
        for method in self.choices:
            known_method(method)
        if not self.low < self.high:
            raise ValueError(f"gene '{self.parameter}': low ({self.low:g}) must be below high ({self.high:g})")
        if not self.low <= self.start <= self.high:
            raise ValueError(f"gene '{self.parameter}': start ({self.start:g}) must lie in {self.low:g} to {self.high:g}")
        return self


@dataclass(frozen=True)
class Gene:
    """One coefficient: a block's parameter, for one parent or (parent None) for all."""

    block: str
    parent: str | None
    parameter: str
    low: float
    high: float
    start: float
    choices: tuple[str, ...] = ()

    def chosen(self, value: float) -> str:
        """Which of its choices a value means."""
        return self.choices[min(int(value), len(self.choices) - 1)]

    @property
    def name(self) -> str:
        """Such as ``layers.7/math/weight`` or ``layers.7/t``."""
        return "/".join(part for part in (self.block, self.parent, self.parameter) if part is not None)

    @property
    def tie(self) -> str:
        """What this gene shares with the same gene of other blocks, such as ``math/weight``."""
        return "/".join(part for part in (self.parent, self.parameter) if part is not None)


@dataclass(frozen=True)
class Space:
    """D genes in order; the axes of the searched cube."""

    genes: tuple[Gene, ...]

    @property
    def start(self) -> Vector:
        """(D,) the start, in the unit cube."""
        return np.array([(g.start - g.low) / (g.high - g.low) for g in self.genes])

    @property
    def ties(self) -> tuple[int, ...]:
        """(D,) genes with the same number mean the same thing in different blocks."""
        kinds = list(dict.fromkeys(gene.tie for gene in self.genes))
        return tuple(kinds.index(gene.tie) for gene in self.genes)

    @property
    def blocks(self) -> tuple[int, ...]:
        """(D,) the number of the block that each gene belongs to, in the model's order."""
        names = list(dict.fromkeys(gene.block for gene in self.genes))
        return tuple(names.index(gene.block) for gene in self.genes)

    @property
    def choices(self) -> tuple[int, ...]:
        """(D,) how many things each gene chooses from, 0 for a number."""
        return tuple(len(gene.choices) for gene in self.genes)

    def values(self, vector: Vector) -> dict[str, float]:
        """(D,) unit cube -> gene name: value."""
        if vector.shape != (len(self.genes),):
            raise ValueError(f"expected a vector of {len(self.genes)} genes, got shape {vector.shape}")
        return {g.name: float(g.low + x * (g.high - g.low)) for g, x in zip(self.genes, vector, strict=True)}

    def vector(self, values: Mapping[str, float]) -> Vector:
        """Gene name: value -> (D,) unit cube."""
        return np.array([(values[g.name] - g.low) / (g.high - g.low) for g in self.genes])


def make_space(blocks: Sequence[Block], labels: Iterable[str], method: str, rules: Sequence[GeneRule]) -> Space:
    """One gene per block (× parent) for every parameter that a rule names.

    Args:
        labels: of the parents that the method mixes.

    Raises UsageError when a rule names a parameter, parent or block that is not there, or bounds that are not allowed.
    """
    labels = tuple(labels)
    methods = methods_of(method, rules)
    for rule in rules:
        _check_rule(rule, methods, labels, [block.name for block in blocks])
    genes: dict[tuple[str, str | None, str], Gene] = {}
    for rule in rules:
        owners: Sequence[str | None] = (None,)
        if _specs(rule, methods) and _specs(rule, methods)[0].kind == "per parent":
            owners = labels if rule.parents is None else rule.parents
        for block in (b.name for b in blocks if rule.blocks is None or b.name in rule.blocks):
            for owner in owners:
                key = (block, owner, rule.parameter)
                genes[key] = Gene(*key, low=rule.low, high=rule.high, start=rule.start, choices=rule.choices)
    if not genes:
        raise UsageError("no genes: a search needs at least one, such as {parameter: weight, low: 0, high: 2, start: 1}")
    return Space(tuple(genes.values()))


def methods_of(method: str, rules: Sequence[GeneRule]) -> tuple[str, ...]:
    """All methods that a block may have: the recipe's, and those that rules let it choose from."""
    return tuple(dict.fromkeys([method, *(choice for rule in rules for choice in rule.choices)]))


def _specs(rule: GeneRule, methods: Sequence[str]) -> list[Parameter]:
    """The parameter that a rule names, of each method that has it."""
    return [parameters(method)[rule.parameter] for method in methods if rule.parameter in parameters(method)]


def _check_rule(rule: GeneRule, methods: Sequence[str], labels: Sequence[str], blocks: Sequence[str]) -> None:
    specs, told = _specs(rule, methods), " and ".join(methods)
    if not specs and not rule.choices:
        known = {name for method in methods for name in parameters(method)}
        raise UsageError(f"gene '{rule.parameter}': {told} has no such parameter{nearest(rule.parameter, known)}")
    for spec in specs:
        if spec.kind in {"switch", "count"}:
            raise UsageError(f"gene '{rule.parameter}': is a {spec.kind} of {told}, and a gene is any number; put it in `fixed`")
        if not spec.range.low <= rule.low <= rule.high <= spec.range.high:
            raise UsageError(
                f"gene '{rule.parameter}': bounds {rule.low:g} to {rule.high:g} leave what {told} allows, "
                f"{spec.range.low:g} to {spec.range.high:g}"
            )
        if rule.parents is not None and spec.kind != "per parent":
            raise UsageError(f"gene '{rule.parameter}': is one value for all parents, so it takes no `parents`")
    if len({spec.kind for spec in specs}) > 1:
        raise UsageError(f"gene '{rule.parameter}': means something else in each of {told}; search it with one of them")
    for parent in rule.parents or ():
        if parent not in labels:
            raise UsageError(f"gene '{rule.parameter}': '{parent}' is no parent of it{nearest(parent, labels)}")
    for block in rule.blocks or ():
        if block not in blocks:
            raise UsageError(f"gene '{rule.parameter}': '{block}' is no block{nearest(block, blocks)}")
