"""The contract of every searcher: ask for vectors, be told their scores. Higher scores are better, everywhere.

    searcher = SEARCHERS["cma"](Problem(start=np.full(4, 0.5), ties=(0, 0, 1, 1)), Settings(evaluations=100), seed=0)
    while told < evaluations:
        vectors = searcher.ask()
        searcher.tell(vectors, [score(v) for v in vectors])

Asking is deterministic: the same seed and the same scores told give the same vectors, bit for bit. That is what lets a
run resume from its store.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from evomm.genome.space import Vector
from evomm.plain import Plain

Vectors = Sequence[Vector]


class Settings(Plain):
    """How to search.

    evaluations: the budget. population: candidates per generation, by default 4 + floor(3 ln D). sigma: the first
    spread, in units of each gene's range. separable: whether CMA-ES learns a variance per gene and no covariances, which takes
    memory and time of D and not of D²; for more than 500 genes when absent. restarts: how often CMA-ES may begin anew, from a
    point drawn at random, once it has converged.
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

    start: (D,) in the unit cube. ties: (D,) genes with equal numbers mean the same thing in different blocks.
    """

    start: Vector
    ties: tuple[int, ...]


class Searcher(ABC):
    """Proposes vectors and learns from their scores."""

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
    def tell(self, vectors: Vectors, scores: Sequence[float]) -> None:
        """The scores of the vectors just asked for; a failed candidate has minus infinity."""

    def favourites(self) -> Vectors:
        """Vectors that were never asked but are worth a look at the end, such as the mean of the distribution."""
        return ()
