"""Vector -> recipe.

A genome decodes to a recipe: the template (method, parents, fixed parameters) with one block per group of tensors, and
in each block the values of its genes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from evomm.genome.space import Space, Vector
from evomm.merge.recipe import Block, Recipe, Value
from evomm.merge.table import parameters


@dataclass(frozen=True)
class Codec:
    """Decodes vectors of a space into recipes.

    template: a recipe whose parameters hold where no gene says otherwise. blocks: of the model, from `blocks.group`.
    """

    space: Space
    template: Recipe
    blocks: Sequence[Block]

    def decode(self, vector: Vector) -> Recipe:
        """(D,) in the unit cube -> the recipe that it means."""
        values = self.space.values(vector)
        methods = {gene.block: gene.chosen(values[gene.name]) for gene in self.space.genes if gene.choices}
        per_block: dict[str, dict[str, Value]] = {block.name: {} for block in self.blocks}
        for gene in self.space.genes:
            if gene.choices or gene.parameter not in parameters(methods.get(gene.block, self.template.method)):
                continue  # where a block's method has no use for a gene, it waits
            target = per_block[gene.block]
            if gene.parent is None:
                target[gene.parameter] = values[gene.name]
            else:
                inner = target.setdefault(gene.parameter, self._inherited(gene.parameter))
                assert isinstance(inner, dict)
                inner[gene.parent] = values[gene.name]
        blocks = tuple(
            Block(name=block.name, tensors=block.tensors, parameters=per_block[block.name], method=methods.get(block.name))
            for block in self.blocks
        )
        return self.template.model_copy(update={"blocks": blocks})

    def _inherited(self, parameter: str) -> dict[str, float]:
        """What parents without a gene of their own have: the template's value."""
        value = self.template.parameters.get(parameter)
        if value is None:
            return {}
        if isinstance(value, Mapping):
            return dict(value)
        return {label: float(value) for label in self.template.mixed}
