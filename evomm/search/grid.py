"""A plain grid: what people try by hand, and so what a search has to beat.

Genes that mean the same thing in different blocks share one value (one weight per parent, say); the grid is over those
values, as fine as the budget allows, both bounds included.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from evomm.genome.space import Vector
from evomm.search.base import Problem, Result, Searcher, Settings, Vectors, uniform


class GridSearcher(Searcher):
    """The start, then the points of the grid in an order that the seed gives, then tied random draws for what is left."""

    many_goals = True

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        self._points = self._all()

    def ask(self) -> Vectors:
        """The next N points."""
        return list(itertools.islice(self._points, self.population))

    def tell(self, vectors: Vectors, results: Sequence[Result]) -> None:
        """Nothing to learn."""

    def _all(self) -> Iterator[Vector]:
        ties = np.array(self.problem.ties)
        shared = int(ties.max()) + 1
        generator = np.random.default_rng(self.seed)
        yield self.problem.start.copy()
        levels = 1
        while (levels + 1) ** shared <= self.settings.evaluations - 1:
            levels += 1
        line = np.linspace(0.0, 1.0, levels) if levels > 1 else np.array([0.5])
        points = np.array(list(itertools.product(line, repeat=shared)))  # (levels ** shared, shared)
        for point in generator.permutation(points):
            yield np.take(point, ties)
        while True:
            yield uniform(self.problem, generator, tied=True)
