"""A genetic algorithm on recipes: what it exchanges are blocks.

1. Begin with the start and random recipes. 2. Evaluate. 3. Select: of everything seen, the N best are parents, and the better
of two drawn at random is chosen. 4. Cross: a child has each block, with all its genes, from one parent or the other. 5. Mutate:
about one gene of a child moves by a normal step, or chooses anew where it is a choice (such as a block's method).
"""

from collections.abc import Sequence

import numpy as np

from evomm.genome.space import Vector
from evomm.search.base import Problem, Result, Searcher, Settings, Vectors, first_generation, levels

_CROSSED = 0.9  # of children; the others are a parent, mutated


class GeneticSearcher(Searcher):
    """The five steps above; the best are never lost."""

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        self._generator = np.random.default_rng(seed)
        self._parents: list[tuple[Vector, Result]] = []  # the best first

    def ask(self) -> Vectors:
        """N children; in the first generation, the start and random vectors."""
        if not self._parents:
            return first_generation(self.problem, self.population, self._generator)
        return [self._mutated(self._crossed(self._chosen(), self._chosen())) for _ in range(self.population)]

    def tell(self, vectors: Vectors, results: Sequence[Result]) -> None:
        """The best N of parents and children are the next parents; the older of equals."""
        everyone = [*self._parents, *((np.array(v), r) for v, r in zip(vectors, results, strict=True))]
        ranked = levels([result for _, result in everyone])
        order = sorted(range(len(everyone)), key=lambda i: -ranked[i])
        self._parents = [everyone[i] for i in order[: self.population]]

    def _chosen(self) -> Vector:
        """The better of two."""
        return self._parents[int(self._generator.integers(len(self._parents), size=2).min())][0]

    def _crossed(self, one: Vector, other: Vector) -> Vector:
        if self._generator.random() > _CROSSED:
            return one.copy()
        ours = self._generator.random(max(self.problem.blocks) + 1) < 0.5  # (B,)
        return np.where(np.take(ours, self.problem.blocks), one, other)

    def _mutated(self, vector: Vector) -> Vector:
        hit = self._generator.random(len(vector)) < 1 / len(vector)
        steps = self._generator.normal(0.0, self.settings.sigma, len(vector))
        anew = self._generator.random(len(vector))
        moved = np.where(np.array(self.problem.choices) > 0, anew, np.clip(vector + steps, 0.0, 1.0))
        return np.where(hit, moved, vector)
