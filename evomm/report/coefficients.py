"""A child's coefficients as a table: blocks by genes; of a path through layers, its steps."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomm.errors import UsageError
from evomm.genome.dataflow import Step, steps_of
from evomm.genome.space import GeneRule
from evomm.merge.recipe import Recipe


@dataclass(frozen=True)
class Table:
    """columns: (parameter, parent; none where all share it). rows: block -> a value per column, None where it has none."""

    columns: tuple[tuple[str, str | None], ...]
    rows: Mapping[str, tuple[float | None, ...]]

    def span(self, column: int, genes: Sequence[GeneRule] = ()) -> tuple[float, float]:
        """The least and largest value that a column could have: its genes' bounds; without a search, what it has, and 0."""
        parameter, _ = self.columns[column]
        rules = [rule for rule in genes if rule.parameter == parameter]
        values = [0.0, *(value for row in self.rows.values() if (value := row[column]) is not None)]
        low = min((rule.low for rule in rules), default=min(values))
        high = max((rule.high for rule in rules), default=max(values))
        return (low, high) if low < high else (low, low + 1.0)


def coefficients(recipe: Recipe) -> Table:
    """What each block's coefficients are; a recipe without blocks has one row, ``all``."""
    blocks = {block.name: block.parameters for block in recipe.blocks} or {"all": recipe.parameters}
    columns = dict.fromkeys(
        (name, label)
        for parameters in blocks.values()
        for name, value in parameters.items()
        for label in (value if isinstance(value, Mapping) else (None,))
    )
    rows = {}
    for block, parameters in blocks.items():
        found: list[float | None] = []
        for name, label in columns:
            value = parameters.get(name)
            if isinstance(value, Mapping):
                value = value.get(label or "")
            found.append(None if value is None else float(value))
        rows[block] = tuple(found)
    return Table(tuple(columns), rows)


def path(recipe: Recipe) -> tuple[Step, ...]:
    """The steps of a path through layers; none for other recipes."""
    try:
        return steps_of(recipe)
    except UsageError:
        return ()


def runs(steps: tuple[Step, ...]) -> list[tuple[str, int, int]]:
    """A path in short: (parent, first layer, last layer) of layers that follow each other."""
    found: list[tuple[str, int, int]] = []
    for step in steps:
        if found and found[-1][0] == step.label and found[-1][2] == step.layer - 1:
            found[-1] = (step.label, found[-1][1], step.layer)
        else:
            found.append((step.label, step.layer, step.layer))
    return found
