"""M2N2, model merging with competition and attraction (Abrantes, Lange, Tang, arXiv 2508.16204), on genomes.

Examples are resources: what a candidate gets of one is shared with all others of the archive that solve it too, so that
specialists survive. Parent a is drawn by fitness, parent b by attraction, which is high where b solves what a does not. A random
point splits the model; before it the child is w a + (1 - w) b, after it (1 - w) a + w b.

The paper splits the flat vector of weights, mixes by SLERP, and keeps each child's weights. Here a child is a vector of
coefficients: for methods that are linear in them, mixing coefficients is mixing weights, and no member needs a model in memory.
Coefficients can only contract that way, so some genes of a child also move by a normal step.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomm.genome.space import Vector
from evomm.search.base import Problem, Result, Searcher, Settings, Vectors, first_generation

_MOVED = 0.2  # of a child's genes
_TINY = 1e-9


class M2N2Searcher(Searcher):
    """An archive of N that competes for examples."""

    wants_values = True

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        self._generator = np.random.default_rng(seed)
        self._vectors: list[Vector] = []
        self._results: list[Result] = []

    def ask(self) -> Vectors:
        """N children; in the first generation, the start and random vectors."""
        if not self._vectors:
            return first_generation(self.problem, self.population, self._generator)
        got = self._got()
        return [self._child(got) for _ in range(self.population)]

    def tell(self, vectors: Vectors, results: Sequence[Result]) -> None:
        """Those who get most of the examples stay; who misses constraints stays only where too few meet them."""
        new = [(np.array(v), r) for v, r in zip(vectors, results, strict=True) if not r.failed]
        self._vectors += [vector for vector, _ in new]
        self._results += [result for _, result in new]
        if self._vectors:
            fitness = self._fitness(self._got())
            order = sorted(range(len(fitness)), key=lambda i: (self._results[i].violation, -fitness[i]))[: self.population]
            self._vectors = [self._vectors[i] for i in order]
            self._results = [self._results[i] for i in order]

    def _got(self) -> NDArray[np.float64]:
        """(N, E) what each member has of each example, 0 and more."""
        values = np.array([result.values for result in self._results])
        got: NDArray[np.float64] = values - np.minimum(values.min(0), 0.0)
        return got

    def _fitness(self, got: NDArray[np.float64]) -> NDArray[np.float64]:
        """(N,) Σ_j s_ij / Σ_k s_kj."""
        found: NDArray[np.float64] = (got / (got.sum(0) + _TINY)).sum(1)
        return found

    def _child(self, got: NDArray[np.float64]) -> Vector:
        a = self._draw(self._fitness(got))
        attraction = (np.maximum(got - got[a], 0.0) / (got.sum(0) + _TINY)).sum(1)  # Σ_j max(s_bj - s_aj, 0) / z_j
        b = self._draw(attraction)
        before = np.array(self.problem.blocks) < self._generator.integers(max(self.problem.blocks) + 2)
        weight = np.where(before, (w := self._generator.random()), 1 - w)  # (D,)
        mixed = weight * self._vectors[a] + (1 - weight) * self._vectors[b]
        chosen = np.where(weight >= 0.5, self._vectors[a], self._vectors[b])  # a choice is one or the other
        steps = self._generator.normal(0.0, self.settings.sigma, len(mixed))
        moved = self._generator.random(len(mixed)) < _MOVED
        choices = np.array(self.problem.choices) > 0
        return np.where(choices, chosen, np.clip(np.where(moved, mixed + steps, mixed), 0.0, 1.0))

    def _draw(self, shares: NDArray[np.float64]) -> int:
        """A member, drawn in proportion to its share; any of them when none has one."""
        total = shares.sum()
        return int(self._generator.choice(len(shares), p=shares / total if total > _TINY else None))
