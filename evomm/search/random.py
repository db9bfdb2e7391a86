"""Random search: the honest baseline.

Every other vector ties genes that mean the same thing in different blocks (one weight per parent, say): in many blocks
independent draws are nearly all alike on average, and a baseline should not be weak by construction.
"""

from collections.abc import Sequence

import numpy as np

from evomm.genome.space import Vector
from evomm.search.base import Problem, Searcher, Settings, Vectors


class RandomSearcher(Searcher):
    """Uniform in the unit cube; learns nothing."""

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        self._generator = np.random.default_rng(seed)
        self._asked = 0

    def ask(self) -> Vectors:
        """N vectors, alternately tied and free; the very first is the start itself."""
        return [self._draw() for _ in range(self.population)]

    def tell(self, vectors: Vectors, scores: Sequence[float]) -> None:
        """Nothing to learn."""

    def _draw(self) -> Vector:
        ties = np.array(self.problem.ties)
        number, self._asked = self._asked, self._asked + 1
        if number == 0:
            return self.problem.start.copy()
        if number % 2:
            shared: Vector = self._generator.random(int(ties.max()) + 1)
            return np.take(shared, ties)
        return self._generator.random(len(ties))
