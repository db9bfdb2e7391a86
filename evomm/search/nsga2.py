"""NSGA-II (Deb et al., IEEE TEC 6, 2002), from pymoo: a front of several goals in one search. Extra: evomm[pareto]."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from evomm.errors import UsageError
from evomm.genome.space import Vector
from evomm.search.base import Problem, Result, Searcher, Settings, Vectors, first_generation, uniform

_FAILED = 1e9  # as a loss and as a violation: behind whatever was scored


class NSGA2Searcher(Searcher):
    """Sorts by domination and crowding; constraints by domination too. Also good for one goal."""

    many_goals = True

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        super().__init__(problem, settings, seed)
        self._generator = np.random.default_rng(seed)
        sampling = first_generation(problem, self.population, self._generator)
        self._algorithm, self._evaluated = _begin(problem, self.population, seed, sampling)
        self._asked: Any = None

    def ask(self) -> Vectors:
        """N vectors; where mating finds too few that are new, random ones."""
        self._asked = self._algorithm.ask()
        vectors: list[Vector] = [] if self._asked is None else [np.clip(x, 0.0, 1.0) for x in self._asked.get("X")]
        lacking = self.population - len(vectors)
        return [*vectors, *(uniform(self.problem, self._generator, tied=False) for _ in range(lacking))]

    def tell(self, vectors: Vectors, results: Sequence[Result]) -> None:
        """Who survives is NSGA-II's matter. Here the sign flips: pymoo minimises."""
        losses = np.array([[_FAILED] * self.problem.goals if r.failed else [-goal for goal in r.goals] for r in results])
        violations = np.array([[_FAILED if r.failed else r.violation] for r in results])
        self._algorithm.tell(infills=self._evaluated(np.array(vectors), losses, violations))


def _begin(problem: Problem, population: int, seed: int, sampling: Vectors) -> tuple[Any, Any]:
    try:
        from evomm.search import nsga2_pymoo
    except ImportError as error:
        raise UsageError("searcher 'nsga2' needs pymoo: pip install 'evomm[pareto]', or choose another search.method") from error
    return nsga2_pymoo.begin(problem, population, seed, np.array(sampling))
