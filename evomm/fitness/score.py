"""Scores: one value per example, from which means, intervals and paired comparisons follow."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from pydantic import Field

from evomm.plain import Plain

Z95 = 1.959963984540054  # two-sided 95% of the normal distribution


class Interval(Plain):
    """A mean and its 95% confidence interval over n examples."""

    score: float
    low: float
    high: float
    n: int


class Score(Plain):
    """What a model got on a task.

    values: (E,) fitness per example, in the order of the examples. parts: further per-example columns that explain it,
    such as whether the number alone was right.
    """

    values: tuple[float, ...] = Field(min_length=1)
    parts: Mapping[str, tuple[float, ...]] = Field(default_factory=dict)

    @property
    def mean(self) -> float:
        """The fitness: the mean over examples."""
        return fmean(self.values)

    @property
    def interval(self) -> Interval:
        """The mean with its 95% interval."""
        return interval(self.values)

    def joined(self, more: "Score") -> "Score":
        """This score and that of further examples; columns that both have."""
        parts = {name: (*column, *more.parts[name]) for name, column in self.parts.items() if name in more.parts}
        return Score(values=(*self.values, *more.values), parts=parts)

    def part(self, name: str) -> Interval:
        """Mean and interval of a column."""
        return interval(self.parts[name])


def interval(values: Sequence[float]) -> Interval:
    """Mean and 95% interval: Wilson's for right-or-wrong values, the normal one otherwise.

    Wilson, JASA 22 (1927): (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n).
    """
    n, mean = len(values), fmean(values)
    if all(value in (0.0, 1.0) for value in values):
        centre = mean + Z95**2 / (2 * n)
        half = Z95 * math.sqrt(mean * (1 - mean) / n + Z95**2 / (4 * n**2))
        scale = 1 + Z95**2 / n
        low, high = (centre - half) / scale, (centre + half) / scale
        return Interval(score=mean, low=min(mean, max(0.0, low)), high=max(mean, min(1.0, high)), n=n)  # rounding aside
    return _normal(values)


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Interval:
    """Mean of the per-example difference ours - theirs, with its 95% interval; 0 outside of it is a real difference."""
    return _normal([a - b for a, b in zip(ours, theirs, strict=True)])


def _normal(values: Sequence[float]) -> Interval:
    n, mean = len(values), fmean(values)
    half = Z95 * stdev(values) / math.sqrt(n) if n > 1 else 0.0  # one example says nothing of the spread
    return Interval(score=mean, low=mean - half, high=mean + half, n=n)
