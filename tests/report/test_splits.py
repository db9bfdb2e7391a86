"""Whether a winner fell from split to split, and by how much more than chance."""

import pytest

from evomm.fitness.score import Interval, interval
from evomm.report.splits import Finalist, difference, in_words


def share(right: int, n: int) -> Interval:
    """So many right of so many."""
    return interval([1.0] * right + [0.0] * (n - right))


def test_the_published_example() -> None:
    """Newcombe, Stat. Med. 17 (1998), table II: 56/70 - 48/80 by the square-and-add interval, 0.0524 to 0.3339."""
    found = difference(share(56, 70), share(48, 80))
    assert found.score == pytest.approx(0.2)
    assert found.low == pytest.approx(0.0524, abs=5e-5)
    assert found.high == pytest.approx(0.3339, abs=5e-5)


@pytest.mark.parametrize(
    ("validation", "test", "said"),
    [
        (share(190, 200), share(120, 200), "more than chance explains"),
        (share(150, 200), share(145, 200), "within what chance explains"),
        (share(100, 200), share(180, 200), "the test split is easier"),
    ],
)
def test_words(validation: Interval, test: Interval, said: str) -> None:
    assert said in in_words([Finalist("cma/1", 0.99, validation, test, wins=True)])


def test_before_the_test() -> None:
    assert "not tested yet" in in_words([Finalist("cma/1", 0.5, share(1, 2), None, wins=False)])
    assert "not tested yet" in in_words([])
