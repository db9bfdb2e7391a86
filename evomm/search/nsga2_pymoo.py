"""NSGA-II as pymoo has it. Imported when such a search begins: pymoo is an extra, and takes a second to import."""

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import Problem as Bounds
from pymoo.core.termination import NoTermination
from pymoo.problems.static import StaticProblem

from evomm.search.base import Problem

Array = NDArray[Any]


def begin(problem: Problem, population: int, seed: int, sampling: Array) -> tuple[Any, Callable[[Array, Array, Array], Any]]:
    """The algorithm, and what makes a population of it out of (N, D) vectors, (N, K) losses and (N, 1) violations.

    Args:
        sampling: (N, D) the first generation.
    """
    bounds = Bounds(n_var=len(problem.start), n_obj=problem.goals, n_ieq_constr=1, xl=0.0, xu=1.0)
    algorithm = NSGA2(pop_size=population, sampling=sampling)
    algorithm.setup(bounds, termination=NoTermination(), seed=seed)

    def evaluated(vectors: Array, losses: Array, violations: Array) -> Any:
        return Evaluator().eval(StaticProblem(bounds, F=losses, G=violations), Population.new(X=vectors))

    return algorithm, evaluated
