"""The contract of every searcher: ask for vectors, be told what they got. Higher goals are better, everywhere.

    searcher = SEARCHERS["cma"](problem, Settings(evaluations=100), seed=0)
    while told < evaluations:
        vectors = searcher.ask()
        searcher.tell(vectors, [Result((score(v),)) for v in vectors])

Asking is deterministic: the same seed and the same results told give the same vectors, bit for bit. That is what lets a
run resume from its store.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from pydantic import Field

from evomm.genome.space import Vector
from evomm.plain import Plain

Vectors = Sequence[Vector]


class Settings(Plain):
    """How to search.

    evaluations: the budget. population: candidates per generation, by default 4 + floor(3 ln D). sigma: the first
    spread, in units of each gene's range; of searchers that mutate, how far a mutated gene moves. separable: whether CMA-ES
    learns a variance per gene and no covariances, which takes memory and time of D and not of D²; for more than 500 genes when
    absent. restarts: how often CMA-ES may begin anew, from a point drawn at random, once it has converged.
    """

    evaluations: int = Field(default=200, ge=1)
    population: int | None = Field(default=None, ge=2)
    sigma: float = Field(default=1 / 6, gt=0, le=1)
    separable: bool | None = None
    restarts: int = Field(default=0, ge=0)

    def size(self, genes: int) -> int:
        """N, candidates per generation in a space of so many genes."""
        return self.population or 4 + int(3 * np.log(genes))


@dataclass(frozen=True)
class Problem:
    """What a searcher knows of the space.

    start: (D,) in the unit cube. ties: (D,) genes with equal numbers mean the same thing in different blocks. blocks: (D,)
    the number of the block that each gene belongs to, in the model's order. choices: (D,) how many things a gene chooses
    from, 0 for one that is a number. goals: K.
    """

    start: Vector
    ties: tuple[int, ...]
    blocks: tuple[int, ...]
    choices: tuple[int, ...]
    goals: int = 1


@dataclass(frozen=True)
class Result:
    """What a candidate got.

    goals: (K,), minus infinity where it failed. violation: by how much it misses the constraints, in all; 0 when it meets
    them. values: (E,) the first goal example by example; empty where it failed, or did not answer all of them.
    """

    goals: tuple[float, ...]
    violation: float = 0.0
    values: tuple[float, ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is no score."""
        return not all(np.isfinite(self.goals))


class Searcher(ABC):
    """Proposes vectors and learns from their results."""

    many_goals: ClassVar[bool] = False
    """Whether it can look for a front of several goals."""
    wants_values: ClassVar[bool] = False
    """Whether it looks at single examples, so that each candidate must answer all of them."""

    def __init__(self, problem: Problem, settings: Settings, seed: int) -> None:
        self.problem = problem
        self.settings = settings
        self.seed = seed

    @property
    def population(self) -> int:
        """N, the vectors per `ask`."""
        return self.settings.size(len(self.problem.start))

    @abstractmethod
    def ask(self) -> Vectors:
        """The next generation: N vectors (D,) in the unit cube."""

    @abstractmethod
    def tell(self, vectors: Vectors, results: Sequence[Result]) -> None:
        """What the vectors just asked for got."""

    def favourites(self) -> Vectors:
        """Vectors that were never asked but are worth a look at the end, such as the mean of the distribution."""
        return ()


def levels(results: Sequence[Result]) -> list[float]:
    """One finite number per result that ranks them by their first goal: who meets the constraints before who does not.

    Of two that miss constraints the one that misses less is better, whatever its goal (Deb, CMAME 186, 2000); failures are last.
    """
    floor = min((r.goals[0] for r in results if not r.failed and r.violation == 0), default=0.0)
    found = [floor - 1 - r.violation if r.violation > 0 else r.goals[0] for r in results]
    worst = min((level for level, r in zip(found, results, strict=True) if not r.failed), default=floor)
    return [worst - 1 if r.failed else level for level, r in zip(found, results, strict=True)]


def first_generation(problem: Problem, count: int, generator: np.random.Generator) -> list[Vector]:
    """The start, then uniform vectors in which, every other time, genes that mean the same in different blocks are equal."""
    return [problem.start.copy(), *(uniform(problem, generator, tied=number % 2 == 1) for number in range(1, count))]


def uniform(problem: Problem, generator: np.random.Generator, tied: bool) -> Vector:
    """(D,) drawn in the unit cube: in many blocks independent draws are nearly all alike on average, tied ones are not."""
    if not tied:
        return generator.random(len(problem.ties))
    shared: Vector = generator.random(max(problem.ties) + 1)
    return np.take(shared, problem.ties)
