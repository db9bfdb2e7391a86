"""CMA-ES (Hansen, arXiv 1604.00772), from the `cma` package: the default searcher."""

import warnings
from collections.abc import Sequence

import numpy as np

from evomm.search.base import Problem, Searcher, Settings, Vectors

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # cma says at import that it cannot plot without matplotlib; we draw elsewhere
    import cma


class CMASearcher(Searcher):
    """Adapts a normal distribution; the unit cube's walls are handled by `cma`'s smooth boundary transformation."""

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        generator = np.random.default_rng(seed)
        self._strategy = cma.CMAEvolutionStrategy(
            problem.start,
            settings.sigma,
            {
                "bounds": [0.0, 1.0],
                "popsize": self.population,
                "randn": lambda *shape: generator.standard_normal(shape),  # its own numbers, not numpy's global ones
                "seed": np.nan,  # leave the global generator alone
                "maxstd_boundrange": np.inf,  # cma 4.5 fails on it with a single gene; the walls bound the spread anyway
                "verbose": -9,
            },
        )

    def ask(self) -> Vectors:
        """N vectors from the current distribution."""
        return [np.clip(np.asarray(x, dtype=np.float64), 0.0, 1.0) for x in self._strategy.ask()]

    def tell(self, vectors: Vectors, scores: Sequence[float]) -> None:
        """Move the distribution towards the better half. Here, and only here, the sign flips: `cma` minimises."""
        worst = min((s for s in scores if np.isfinite(s)), default=0.0)
        losses = [-(s if np.isfinite(s) else worst - 1.0) for s in scores]
        self._strategy.tell([np.asarray(v) for v in vectors], losses)

    def favourites(self) -> Vectors:
        """The mean of the distribution, often as good as the best vector drawn from it and less of a lucky one."""
        mean = self._strategy.result.xfavorite
        return [np.clip(np.asarray(mean, dtype=np.float64), 0.0, 1.0)]
