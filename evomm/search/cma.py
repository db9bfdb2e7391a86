"""CMA-ES (Hansen, arXiv 1604.00772), from the `cma` package: the default searcher.

With many genes it is separable: a variance per gene, no covariances (Ros and Hansen, PPSN 2008).
"""

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from evomm.genome.space import Vector
from evomm.search.base import Problem, Result, Searcher, Settings, Vectors, levels


@contextmanager
def _no_plots() -> Iterator[None]:
    """Hides matplotlib from what is imported inside: cma takes its pyplot, a second's work, and we draw elsewhere."""
    if "matplotlib" in sys.modules:
        yield
        return
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # how the import system is told that there is none
    try:
        yield
    finally:
        del sys.modules["matplotlib"]


with warnings.catch_warnings(), _no_plots():
    warnings.simplefilter("ignore")  # cma says so where it cannot plot
    import cma

_MANY = 500  # genes: above, a covariance of each pair is neither affordable nor learned within any budget


class CMASearcher(Searcher):
    """Adapts a normal distribution; the unit cube's walls are handled by `cma`'s smooth boundary transformation."""

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        self._generator = np.random.default_rng(seed)
        self._restarts = settings.restarts
        self._finished: list[tuple[float, Vector]] = []  # (best score, mean) of what converged
        self._highest = -np.inf
        self._strategy = self._begin(problem.start)

    def _begin(self, start: Vector) -> Any:
        generator, many = self._generator, len(start) > _MANY
        return cma.CMAEvolutionStrategy(
            start,
            self.settings.sigma,
            {
                "bounds": [0.0, 1.0],
                "popsize": self.population,
                "randn": lambda *shape: generator.standard_normal(shape),  # its own numbers, not numpy's global ones
                "seed": np.nan,  # leave the global generator alone
                "maxstd_boundrange": np.inf,  # cma 4.5 fails on it with a single gene; the walls bound the spread anyway
                "CMA_diagonal": many if self.settings.separable is None else self.settings.separable,
                "verbose": -9,
            },
        )

    def ask(self) -> Vectors:
        """N vectors from the current distribution; from a new one, where it has converged and restarts are left."""
        if self._restarts and self._strategy.stop():
            self._restarts -= 1
            self._finished.append((self._highest, self._mean()))
            self._highest = -np.inf
            self._strategy = self._begin(self._generator.random(len(self.problem.start)))
        return [np.clip(np.asarray(x, dtype=np.float64), 0.0, 1.0) for x in self._strategy.ask()]

    def tell(self, vectors: Vectors, results: Sequence[Result]) -> None:
        """Move the distribution towards the better half. Here the sign flips: `cma` minimises."""
        self._highest = max([self._highest, *(r.goals[0] for r in results if r.violation == 0)])
        self._strategy.tell([np.asarray(v) for v in vectors], [-level for level in levels(results)])

    def favourites(self) -> Vectors:
        """The mean of the best distribution, often as good as the best vector drawn from it and less of a lucky one."""
        return [max([*self._finished, (self._highest, self._mean())], key=lambda one: one[0])[1]]

    def _mean(self) -> Vector:
        return np.clip(np.asarray(self._strategy.result.xfavorite, dtype=np.float64), 0.0, 1.0)
