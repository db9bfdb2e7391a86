"""What every searcher keeps: iterates over SEARCHERS."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evomm.genome.space import Vector
from evomm.search.base import Problem, Searcher, Settings
from evomm.search.cma import CMASearcher
from evomm.search.table import SEARCHERS

EVERY = pytest.mark.parametrize("method", SEARCHERS)
BUDGET = 240


def make(method: str, start: Sequence[float] = (0.5,) * 6, seed: int = 0, population: int | None = None) -> Searcher:
    """A searcher whose genes alternate between two ties."""
    problem = Problem(np.array(start), tuple(i % 2 for i in range(len(start))))
    return SEARCHERS[method](problem, Settings(evaluations=BUDGET, population=population), seed)


def sphere(vector: Vector) -> float:
    """Highest, 0, at a point off the middle and off every tie."""
    return -float(((vector - np.linspace(0.15, 0.8, len(vector))) ** 2).sum())


def search(searcher: Searcher, score: Callable[[Vector], float], budget: int = BUDGET) -> list[Vector]:
    """All vectors asked for, in order."""
    asked: list[Vector] = []
    while len(asked) < budget:
        vectors = searcher.ask()
        searcher.tell(vectors, [score(vector) for vector in vectors])
        asked += vectors
    return asked


def identical(a: Sequence[Vector], b: Sequence[Vector]) -> bool:
    """Bit for bit."""
    return [vector.tobytes() for vector in a] == [vector.tobytes() for vector in b]


@EVERY
@pytest.mark.parametrize("start", [(0.5,), (0.0, 1.0), (1.0, 1.0, 1.0), (0.3,) * 40], ids=lambda start: f"{len(start)} genes")
def test_vectors_stay_in_the_unit_cube(method: str, start: tuple[float, ...]) -> None:
    """From its corners, in one dimension, and when scores pull outwards."""
    searcher = make(method, start)
    asked = search(searcher, lambda vector: float(vector.sum()))
    for vector in [*asked, *searcher.favourites()]:
        assert vector.shape == (len(start),)
        assert vector.dtype == np.float64
        assert 0.0 <= vector.min() <= vector.max() <= 1.0


@EVERY
def test_a_generation_has_the_population(method: str) -> None:
    assert len(make(method, population=7).ask()) == make(method, population=7).population == 7
    assert len(make(method).ask()) == make(method).population == 4 + int(3 * np.log(6))


@EVERY
def test_the_same_seed_and_scores_ask_the_same_bit_for_bit(method: str) -> None:
    first = search(make(method), sphere)
    np.random.seed(123)  # what others do with numpy's global generator does not count
    assert identical(first, search(make(method), sphere))
    assert not identical(first, search(make(method, seed=1), sphere))


@EVERY
def test_numpys_global_generator_is_left_alone(method: str) -> None:
    np.random.seed(5)
    expected = np.random.random()
    np.random.seed(5)
    search(make(method), sphere, 30)
    assert np.random.random() == expected


@EVERY
def test_two_searchers_do_not_share_anything(method: str) -> None:
    """As the search and its baseline run in turns."""
    alone = search(make(method), sphere)
    one, other = make(method), make(method, seed=9)
    turns: list[Vector] = []
    while len(turns) < len(alone):
        turns += search(one, sphere, 1)
        search(other, sphere, 1)
    assert identical(alone, turns)


@EVERY
def test_asking_gives_vectors_of_ones_own(method: str) -> None:
    """Who changes a vector changes no later one."""
    searcher, spoilt = make(method), make(method)
    for _ in range(3):
        good, bad = searcher.ask(), spoilt.ask()
        searcher.tell(good, [sphere(vector) for vector in good])
        spoilt.tell([vector.copy() for vector in bad], [sphere(vector) for vector in good])
        for vector in bad:
            vector[:] = 0.25
    assert identical(searcher.ask(), spoilt.ask())


@EVERY
@pytest.mark.parametrize("failed", [0.0, 0.5, 1.0])
def test_failed_candidates_do_not_break_the_search(method: str, failed: float) -> None:
    """Some, half, or all of them."""
    generator = np.random.default_rng(0)

    def score(vector: Vector) -> float:
        return -np.inf if generator.random() < failed else sphere(vector)

    asked = search(make(method), score)
    assert all(np.isfinite(vector).all() for vector in asked)
    if failed < 1:
        assert max(map(sphere, asked)) > sphere(np.full(6, 0.5))


@EVERY
def test_equal_scores_do_not_break_the_search(method: str) -> None:
    assert all(np.isfinite(vector).all() for vector in search(make(method), lambda vector: 0.0, 2 * BUDGET))


def test_cma_is_far_better_than_random_search_at_an_equal_budget() -> None:
    for seed in range(3):
        best = {method: -max(map(sphere, search(make(method, seed=seed), sphere))) for method in ("cma", "random")}
        assert best["cma"] < best["random"] / 20


def test_cma_likes_the_middle_of_what_it_found() -> None:
    searcher = make("cma")
    search(searcher, sphere)
    assert sphere(searcher.favourites()[0]) > -1e-2


def axes(vector: Vector) -> float:
    """Highest, 0, at 0.4 everywhere; genes count very differently."""
    return -float((10 ** np.linspace(0, 4, len(vector)) * (vector - 0.4) ** 2).sum())


def cma(count: int, **settings: Any) -> CMASearcher:
    """A CMA-ES over so many genes."""
    problem = Problem(np.full(count, 0.5), tuple(range(count)))
    return CMASearcher(problem, Settings(evaluations=BUDGET, population=16, **settings), seed=0)


def test_separable_cma_learns_genes_one_by_one_sooner() -> None:
    best = {kind: max(map(axes, search(cma(40, separable=kind), axes, 3200))) for kind in (False, True)}
    assert best[True] > best[False] / 10


def test_many_genes_are_searched_separably() -> None:
    """4,288 genes, as the published search for paths has; a covariance of all pairs would take 147 MB."""
    many, alike = cma(4288), cma(4288, separable=True)
    assert identical(search(many, sphere, 48), search(alike, sphere, 48))
    assert identical(search(cma(40), sphere, 480), search(cma(40, separable=False), sphere, 480))


def two_hills(vector: Vector) -> float:
    """A hill near the start, and a higher one far away."""
    return float(np.exp(-60 * ((vector - 0.45) ** 2).sum()) + 2 * np.exp(-60 * ((vector - 0.9) ** 2).sum()))


def test_restarts_leave_a_hill_that_has_been_climbed() -> None:
    alone, again = cma(2, sigma=0.05), cma(2, sigma=0.05, restarts=9)
    assert max(map(two_hills, search(alone, two_hills, 8000))) < 1.5
    first = search(again, two_hills, 8000)
    assert max(map(two_hills, first)) > 1.9
    assert two_hills(again.favourites()[0]) > 1.9
    assert identical(first, search(cma(2, sigma=0.05, restarts=9), two_hills, 8000))


def test_random_search_begins_at_the_start_and_ties_every_other_vector() -> None:
    asked = search(make("random", (0.1, 0.2, 0.3, 0.4)), sphere)
    assert asked[0].tolist() == [0.1, 0.2, 0.3, 0.4]
    assert all(len(set(vector)) == 2 for vector in asked[1::2])
    assert all(len(set(vector)) == 4 for vector in asked[2::2])
    assert np.mean(asked[1:], axis=0) == pytest.approx([0.5] * 4, abs=0.1)


def test_a_grid_is_as_fine_as_the_budget_allows_and_has_both_bounds() -> None:
    asked = search(make("grid", (0.1, 0.2, 0.3, 0.4)), sphere)
    assert asked[0].tolist() == [0.1, 0.2, 0.3, 0.4]
    points = {tuple(vector) for vector in asked[1:226]}
    line = np.linspace(0, 1, 15)  # 15 x 15 of 240
    assert points == {(a, b, a, b) for a in line for b in line}
    assert all(len(set(vector)) <= 2 for vector in asked[226:])
