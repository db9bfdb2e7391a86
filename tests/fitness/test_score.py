"""Scores: intervals against what defines them."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from evomm.fitness.score import Score, interval, paired

Z = NormalDist().inv_cdf(0.975)
VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=30)


@given(st.integers(1, 300), st.data())
def test_right_or_wrong_gets_wilsons_interval(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    found = interval([1.0] * right + [0.0] * (n - right))
    assert found.n == n
    assert found.score == pytest.approx(right / n)
    for p in (found.low, found.high):  # the p from which the share lies just z of p's own standard errors away
        assert abs(right / n - p) == pytest.approx(Z * math.sqrt(p * (1 - p) / n), abs=1e-7)
    assert (found.low < right / n or not right) and (found.high > right / n or right == n)
    assert 0 <= found.low <= found.score + 1e-9 and found.score - 1e-9 <= found.high <= 1


@given(VALUES)
def test_other_values_get_the_normal_interval(values: list[float]) -> None:
    values = [*values, 0.5]  # so that it is not right or wrong
    found, half = interval(values), Z * np.std(values, ddof=1) / math.sqrt(len(values))
    assert [found.low, found.high] == pytest.approx([np.mean(values) - half, np.mean(values) + half], abs=1e-6)


@given(VALUES)
def test_a_paired_comparison_is_the_interval_of_the_differences(ours: list[float]) -> None:
    theirs = [value - 1.0 for value in ours]
    assert paired(ours, theirs).score == pytest.approx(1.0)
    assert paired(ours, theirs).low == pytest.approx(1.0, abs=1e-6)
    assert paired(ours, ours).high == 0.0
    mixed = paired([1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0])
    assert [mixed.score, mixed.high] == pytest.approx([0.5, 0.5 + Z * math.sqrt(1 / 3) / 2], abs=1e-6)


def test_comparing_other_numbers_of_examples_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        paired([1.0, 0.0], [1.0])


def test_one_value_has_no_spread() -> None:
    assert interval([0.3]).model_dump() == {"score": 0.3, "low": 0.3, "high": 0.3, "n": 1}


def test_a_score_has_its_mean_its_columns_and_at_least_one_example() -> None:
    score = Score(values=(1.0, 0.0), parts={"number": (1.0, 1.0)})
    assert (score.mean, score.interval.n, score.part("number").score) == (0.5, 2, 1.0)
    assert Score.model_validate_json(score.model_dump_json()) == score
    for wrong in ((), (float("nan"),)):
        with pytest.raises(ValidationError):
            Score(values=wrong)
