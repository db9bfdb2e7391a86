"""The space that is searched: named genes with bounds and a start.

A searcher sees vectors in the unit cube; `Space` maps them to what the genes mean, value = low + x (high - low).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from evomm.errors import UsageError, nearest
from evomm.merge.recipe import Block
from evomm.merge.table import parameters
from evomm.plain import Plain

Vector = NDArray[np.float64]


class GeneRule(Plain):
    """Which parameter is searched, where, and in which bounds.

    parents and blocks narrow the rule to some; the last rule that names a gene sets its bounds.
    """

    parameter: str
    low: float
    high: float
    start: float
    parents: tuple[str, ...] | None = None
    blocks: tuple[str, ...] | None = None

    @model_validator(mode="after")
    def _bounded(self) -> Self:
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
    for rule in rules:
        _check_rule(rule, method, labels, [block.name for block in blocks])
    genes: dict[tuple[str, str | None, str], Gene] = {}
    for rule in rules:
        per_parent = parameters(method)[rule.parameter].kind == "per parent"
        owners: Sequence[str | None] = (labels if rule.parents is None else rule.parents) if per_parent else (None,)
        for block in (b.name for b in blocks if rule.blocks is None or b.name in rule.blocks):
            for owner in owners:
                key = (block, owner, rule.parameter)
                genes[key] = Gene(*key, low=rule.low, high=rule.high, start=rule.start)
    if not genes:
        raise UsageError("no genes: a search needs at least one, such as {parameter: weight, low: 0, high: 2, start: 1}")
    return Space(tuple(genes.values()))


def _check_rule(rule: GeneRule, method: str, labels: Sequence[str], blocks: Sequence[str]) -> None:
    specs = parameters(method)
    if rule.parameter not in specs:
        raise UsageError(f"gene '{rule.parameter}': {method} has no such parameter{nearest(rule.parameter, specs)}")
    spec = specs[rule.parameter]
    if spec.kind in {"switch", "count"}:
        raise UsageError(f"gene '{rule.parameter}': is a {spec.kind} of {method}, and a gene is any number; put it in `fixed`")
    if not spec.range.low <= rule.low <= rule.high <= spec.range.high:
        raise UsageError(
            f"gene '{rule.parameter}': bounds {rule.low:g} to {rule.high:g} leave what {method} allows, "
            f"{spec.range.low:g} to {spec.range.high:g}"
        )
    if rule.parents is not None and spec.kind != "per parent":
        raise UsageError(f"gene '{rule.parameter}': is one value for all parents, so it takes no `parents`")
    for parent in rule.parents or ():
        if parent not in labels:
            raise UsageError(f"gene '{rule.parameter}': '{parent}' is no parent of it{nearest(parent, labels)}")
    for block in rule.blocks or ():
        if block not in blocks:
            raise UsageError(f"gene '{rule.parameter}': '{block}' is no block{nearest(block, blocks)}")
