"""Fronts: nobody on them is beaten, and what stands for them is spread over them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.search.front import compromise, front, spread

POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=30)


def beats(mine: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    """At least as good in all, better in one."""
    return mine != theirs and all(a >= b for a, b in zip(mine, theirs, strict=True))


@given(POINTS)
def test_a_front_is_who_is_beaten_by_nobody(points: list[tuple[int, ...]]) -> None:
    members = [points[i] for i in front(points)]
    assert len(members) == len(set(members))
    assert set(members) == {one for one in points if not any(beats(other, one) for other in points)}


@given(POINTS, st.integers(1, 9))
def test_a_spread_has_different_places_and_the_best_of_each_goal_first(points: list[tuple[int, ...]], count: int) -> None:
    chosen = spread(points, count)
    assert len(chosen) == len(set(chosen)) == min(count, len(points))
    if count >= 3:
        for goal in range(3):
            assert max(points[i][goal] for i in chosen) == max(point[goal] for point in points)


def test_a_spread_leaves_out_who_has_near_neighbours() -> None:
    line = [(0.0, 1.0), (0.1, 0.9), (0.5, 0.5), (0.9, 0.1), (1.0, 0.0)]
    assert sorted(spread(line, 3)) == [0, 2, 4]


@given(st.lists(st.floats(-1e6, 1e6), min_size=1))
def test_with_one_goal_the_compromise_is_the_best(scores: list[float]) -> None:
    assert compromise([(score,) for score in scores]) == scores.index(max(scores))


def test_a_compromise_is_measured_in_spans() -> None:
    """In goals of different units: the middle of a front, not the best in the larger unit."""
    assert compromise([(1000.0, 0.0), (700.0, 0.7), (0.0, 1.0)]) == 1
    assert compromise([(0.0, 0.0), (1.0, 1.0)]) == 1
    with pytest.raises(ValueError):
        compromise([])
