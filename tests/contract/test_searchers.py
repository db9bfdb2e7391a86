"""What every searcher keeps: iterates over SEARCHERS."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from evomm.genome.space import Vector
from evomm.search.base import Problem, Result, Searcher, Settings, levels
from evomm.search.cma import CMASearcher
from evomm.search.front import front
from evomm.search.genetic import GeneticSearcher
from evomm.search.m2n2 import M2N2Searcher
from evomm.search.table import SEARCHERS

EVERY = pytest.mark.parametrize("method", SEARCHERS)
BUDGET = 240


def make(method: str, start: Sequence[float] = (0.5,) * 6, seed: int = 0, population: int | None = None) -> Searcher:
    """A searcher whose genes alternate between two ties."""
    return SEARCHERS[method](problem(start), Settings(evaluations=BUDGET, population=population), seed)


def problem(start: Sequence[float], goals: int = 1, choices: Sequence[int] | None = None) -> Problem:
    """Genes of two ties, three of them in a block."""
    count = len(start)
    blocks, ties = tuple(i // 3 for i in range(count)), tuple(i % 2 for i in range(count))
    return Problem(np.array(start), ties, blocks, tuple(choices or (0,) * count), goals)


def result(score: float) -> Result:
    """One goal, which two examples share."""
    return Result((score,)) if np.isinf(score) else Result((score,), values=(score, score))


def sphere(vector: Vector) -> float:
    """Highest, 0, at a point off the middle and off every tie."""
    return -float(((vector - np.linspace(0.15, 0.8, len(vector))) ** 2).sum())


def search(searcher: Searcher, score: Callable[[Vector], float], budget: int = BUDGET) -> list[Vector]:
    """All vectors asked for, in order."""
    asked: list[Vector] = []
    while len(asked) < budget:
        vectors = searcher.ask()
        searcher.tell(vectors, [result(score(vector)) for vector in vectors])
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
        searcher.tell(good, [result(sphere(vector)) for vector in good])
        spoilt.tell([vector.copy() for vector in bad], [result(sphere(vector)) for vector in good])
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


@pytest.mark.parametrize("method", [method for method in SEARCHERS if method != "grid"])
def test_choices_and_numbers_are_searched_together(method: str) -> None:
    """The second gene is right in its last third, the fourth in its first half."""

    def score(vector: Vector) -> float:
        return sphere(vector) - float(vector[1] < 2 / 3) - float(vector[3] >= 1 / 2)

    searcher = SEARCHERS[method](problem((0.5,) * 6, choices=(0, 3, 0, 2, 0, 0)), Settings(evaluations=BUDGET), 0)
    assert max(map(score, search(searcher, score))) > -1


@pytest.mark.parametrize("method", [method for method in SEARCHERS if method not in {"grid", "random"}])
def test_constraints_come_before_goals(method: str) -> None:
    """The best point, 0.15 to 0.8, is forbidden: the first gene must not be below 0.5."""
    searcher, best = make(method), -np.inf
    for _ in range(BUDGET // searcher.population):
        vectors = searcher.ask()
        missed = [max(0.0, 0.5 - vector[0]) for vector in vectors]
        scores = [sphere(vector) for vector in vectors]
        best = max([best, *(s for s, m in zip(scores, missed, strict=True) if m == 0)])
        searcher.tell(vectors, [Result((s,), m, (s, s)) for s, m in zip(scores, missed, strict=True)])
    allowed = sum(m == 0 for m in missed) / len(missed)
    assert best > -0.35 - 0.35**2, "where only the first gene is off, it is -0.35²"
    assert allowed > 0.3, "at the end it asks for what is allowed"


def test_levels_rank_goals_then_violations_then_failures() -> None:
    results = [Result((0.2,)), Result((0.9,), 0.3), Result((0.9,), 0.1), Result((-np.inf,)), Result((0.5,))]
    order = np.argsort(levels(results))[::-1].tolist()
    assert order == [4, 0, 2, 1, 3]
    assert np.isfinite(levels([Result((-np.inf,))])).all()


def test_nsga2_finds_the_whole_front_and_random_search_does_not() -> None:
    """Of x and 1 - x, spoilt by how far the other genes are from 0.3: a front is wide and unspoilt."""

    def goals(vector: Vector) -> tuple[float, float]:
        spoilt = float(((vector[1:] - 0.3) ** 2).sum())
        return (float(vector[0]) - spoilt, 1 - float(vector[0]) - spoilt)

    def volume(method: str) -> float:
        searcher = SEARCHERS[method](problem((0.5,) * 6, goals=2), Settings(evaluations=400, population=20), 0)
        found: list[tuple[float, float]] = []
        while len(found) < 400:
            vectors = searcher.ask()
            searcher.tell(vectors, [Result(goals(vector)) for vector in vectors])
            found += map(goals, vectors)
        points = sorted((found[i] for i in front(found) if min(found[i]) > 0), reverse=True)
        heights = [0.0, *(y for _, y in points)]
        return sum(x * (y - below) for (x, y), below in zip(points, heights, strict=False))  # above (0, 0); at most 1/2

    assert volume("nsga2") > 0.4 > volume("random")


def test_crossing_keeps_blocks_together() -> None:
    """Children of two recipes, one of zeros and one of ones, without mutation: each block is one or the other."""
    searcher = GeneticSearcher(problem((0.5,) * 12), Settings(evaluations=BUDGET, population=40, sigma=1e-12), 0)
    searcher.ask()
    parents = [np.zeros(12), np.ones(12)] * 20
    searcher.tell(parents, [Result((1.0,), values=(1.0,))] * 40)
    children = np.array(searcher.ask()).round(6).reshape(40, 4, 3)
    assert (children == children[:, :, :1]).all()
    assert (children[:, :, 0].std(1) > 0).sum() > 5, "and not all blocks come from the same parent"


def test_specialists_survive_in_m2n2() -> None:
    """Thirty solve the first nine examples, one the tenth only: with one tenth of their score it is still among the best ten."""
    searcher = M2N2Searcher(problem((0.5,) * 4), Settings(evaluations=BUDGET, population=10), 0)
    common, rare = (1.0,) * 9 + (0.0,), (0.0,) * 9 + (1.0,)
    vectors = [np.full(4, i / 31) for i in range(31)]
    searcher.tell(vectors, [Result((float(np.mean(v)),), values=v) for v in [common] * 30 + [rare]])
    assert any((vector == vectors[30]).all() for vector in searcher._vectors)


def test_m2n2_mates_with_who_knows_the_rest() -> None:
    """Parents that solve one half each: every child lies between two different ones, on either side of a split."""
    searcher = M2N2Searcher(problem((0.5,) * 6), Settings(evaluations=BUDGET, population=10, sigma=1e-12), 0)
    halves = [(1.0, 0.0), (0.0, 1.0)]
    searcher.tell([np.zeros(6), np.ones(6)], [Result((0.5,), values=half) for half in halves])
    for child in np.array(searcher.ask()).round(6).reshape(10, 2, 3):
        assert (child == child[:, :1]).all(), "a split is between blocks"
        first, second = child[:, 0]
        assert first == pytest.approx(1 - second, abs=1e-5) or first == second
        assert 0 < first < 1


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
    return CMASearcher(problem([0.5] * count), Settings(evaluations=BUDGET, population=16, **settings), seed=0)


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
