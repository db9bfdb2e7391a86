"""Races: verdicts by an independent formula and how often they are wrong; levels that compare; limits that follow the need."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.fitness.racing import Racing, abilities, decide, levelled

Z95 = 1.6448536269514722


def test_the_quantile_is_that_of_a_one_sided_test() -> None:
    assert Racing(confidence=0.95).z == pytest.approx(Z95)
    assert Racing(confidence=0.99).z == pytest.approx(NormalDist().inv_cdf(0.99))


def test_who_is_clearly_better_is_in_and_who_is_clearly_worse_is_out() -> None:
    good, bad = [1.0, 1.0, 0.0, 1.0] * 8, [0.0, 0.0, 0.0, 1.0] * 8
    assert decide([good, bad], keep=1, z=Z95) == ["in", "out"]
    assert decide([good, list(good)], keep=1, z=Z95) == ["open", "open"], "equals cannot be told apart"
    assert decide([good, good[:16], bad[:16]], keep=2, z=Z95) == ["in", "in", "out"]


def test_pairs_are_compared_on_what_both_answered() -> None:
    """By the formula: mean(d) > z sd(d) / sqrt(n) over the common examples."""
    generator = np.random.default_rng(1)
    ours, theirs = generator.random(48) + 0.1, generator.random(32)
    d = ours[:32] - theirs
    beats = bool(d.mean() > Z95 * d.std(ddof=1) / math.sqrt(32))
    assert (decide([list(ours), list(theirs)], keep=1, z=Z95)[0] == "in") == beats


def test_a_verdict_is_seldom_wrong() -> None:
    """Of two candidates that are equally good on average, one is called better in about 5% of comparisons each way."""
    generator = np.random.default_rng(0)
    wrong = 0
    for _ in range(2000):
        one, other = (list((generator.random(64) < 0.6).astype(float)) for _ in range(2))
        wrong += decide([one, other], keep=1, z=Z95)[0] == "in"
    assert 0.03 < wrong / 2000 < 0.07


@given(st.lists(st.floats(0, 1), min_size=4, max_size=30), st.integers(1, 5), st.data())
def test_levels_of_those_who_answered_all_are_their_means(scores: list[float], count: int, data: st.DataObject) -> None:
    rows = [data.draw(st.permutations(scores)) for _ in range(count)]
    assert levelled(rows) == pytest.approx([float(np.mean(row)) for row in rows])


def test_easy_examples_give_no_lead() -> None:
    """The second saw the easy half only and did as well there as the first: it is not the better for it."""
    whole = [1.0, 1.0, 0.0, 0.0]
    assert levelled([whole, [1.0, 1.0]]) == [0.5, 0.5]
    assert levelled([whole, [1.0, 0.0]]) == [0.5, 0.0]


def test_the_limit_follows_the_need() -> None:
    racing = Racing(block=16, first=0.25, most=0.5)
    assert racing.limit([], 160) == 48  # 40, in whole blocks
    assert racing.limit([48], 160) == 80  # undecided: half as much again, 72
    assert racing.limit([48, 80], 160) == 80  # never more than half
    assert racing.limit([32], 160) == 32  # decided before: a third less
    assert racing.limit([32, 16], 160) == 32  # never less than two blocks
    assert racing.limit([], 20) == 20, "and never more than there are"


def test_abilities_are_the_effects_that_made_the_scores() -> None:
    """Scores that are ability + ease, each candidate asked a third of the examples: abilities are means over all of them."""
    generator = np.random.default_rng(0)
    able, ease = generator.random(12), generator.random(90)
    rows = [{int(e): float(a + ease[e]) for e in generator.choice(90, 30, replace=False)} for a in able]
    asked = sorted({example for row in rows for example in row})
    assert abilities(rows) == pytest.approx((able + ease[asked].mean()).tolist(), abs=1e-3)


def test_abilities_are_least_squares_less_a_standard_error() -> None:
    """Right-or-wrong scores, by a linear solver; who answered less is the less sure."""
    generator = np.random.default_rng(1)
    counts = [48, 48, 16, 32, 48, 16]
    rows = [{int(e): float(generator.random() < 0.6) for e in generator.choice(48, n, replace=False)} for n in counts]
    equations = [(i, e, value) for i, row in enumerate(rows) for e, value in row.items()]
    design = np.zeros((len(equations), len(rows) + 48))
    for line, (i, e, _) in enumerate(equations):
        design[line, [i, len(rows) + e]] = 1.0
    values = np.array([value for *_, value in equations])
    found = np.linalg.lstsq(design, values)[0]
    left = values - design @ found
    who = np.array([i for i, *_ in equations])
    errors = np.array([left[who == i].std() / math.sqrt(n) for i, n in enumerate(counts)])
    expected = found[: len(rows)] + found[len(rows) :].mean() - errors
    assert abilities(rows) == pytest.approx(expected.tolist(), abs=1e-4)
    assert errors[[2, 5]].min() > errors[[0, 1, 4]].max()


def test_easy_examples_make_no_ability() -> None:
    """The second was asked what everyone gets right."""
    hard, easy = {e: float(e < 20) for e in range(40)}, dict.fromkeys(range(20), 1.0)
    assert abilities([hard, easy]) == pytest.approx([0.5, 0.5], abs=1e-4)
