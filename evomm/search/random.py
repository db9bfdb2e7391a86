"""Random search: the honest baseline.

Every other vector ties genes that mean the same thing in different blocks (one weight per parent, say): in many blocks
independent draws are nearly all alike on average, and a baseline should not be weak by construction.
"""

from collections.abc import Sequence

import numpy as np

from evomm.search.base import Problem, Result, Searcher, Settings, Vectors, first_generation, uniform


class RandomSearcher(Searcher):
    """Uniform in the unit cube; learns nothing."""

    many_goals = True

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        self._generator = np.random.default_rng(seed)
        self._asked = 0

    def ask(self) -> Vectors:
        """N vectors, alternately tied and free; the very first is the start itself."""
        first, self._asked = self._asked, self._asked + self.population
        if first == 0:
            return first_generation(self.problem, self.population, self._generator)
        return [uniform(self.problem, self._generator, tied=number % 2 == 1) for number in range(first, self._asked)]

    def tell(self, vectors: Vectors, results: Sequence[Result]) -> None:
        """Nothing to learn."""
