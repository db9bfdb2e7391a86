"""Racing: which candidates of a generation are among its best, from as few examples as that takes.

All candidates of a generation answer the same examples in the same order, block by block; each generation has an order of its
own, so that the search as a whole sees them all. After each block every pair is compared on the examples that both have
answered; a candidate that enough others beat is out, one that beats enough others is in, and both stop. That is a race as
Heidrich-Meisner and Igel use it in CMA-ES (ICML 2009), with paired differences in place of their Hoeffding and Bernstein bounds:
candidates of one generation agree on most examples, so differences vary much less than scores.

    j beats i:  mean(d) - z sd(d) / sqrt(n) > 0,  d = scores of j - scores of i on the n examples that both answered,

with z the normal quantile of the confidence: a one-sided paired z-test. A race that is not decided ends at a limit, which grows
after such a race and shrinks after one that was decided before it, so that early generations cost little and late ones what they
need. Comparisons are many and not corrected for that: a wrong verdict costs one rank in one generation, and finalists are scored
anew.

    decide([[1, 1, 0, ...], [0, 0, 0, ...], ...], keep=2, z=Racing().z)      # ["in", "out", ...]
"""

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist, fmean, stdev
from typing import Literal

import numpy as np
from pydantic import Field

from evomm.plain import Plain

Verdict = Literal["in", "out", "open"]
_SETTLED = 1e-6  # of a score: abilities that move less are found
_ROUNDS = 1000  # of their fit, at most
_GROWTH = 1.5  # of the limit after a race that it ended; it shrinks as much after one that was decided before


class Racing(Plain):
    """How generations race.

    block: examples per look, 16 at least, since quantiles are normal. confidence: of each comparison. first: share of the
    examples that the first generation may look at; later ones have more or fewer, as races need them. most: the share that
    none goes beyond.
    """

    block: int = Field(default=16, ge=16)
    confidence: float = Field(default=0.9, gt=0.5, lt=1)
    first: float = Field(default=0.2, gt=0, le=1)
    most: float = Field(default=0.4, gt=0, le=1)

    @property
    def z(self) -> float:
        """The normal quantile of a comparison."""
        return NormalDist().inv_cdf(self.confidence)

    def limit(self, lengths: Sequence[int], examples: int) -> int:
        """Examples that the next generation may look at.

        Args:
            lengths: of each generation so far, the most examples that one of its candidates answered.
            examples: how many there are.
        """
        limit = self._whole(self.first * examples, examples)
        for length in lengths:
            limit = self._whole(limit * _GROWTH if length >= limit else limit / _GROWTH, examples)
        return limit

    def _whole(self, wanted: float, examples: int) -> int:
        """In whole blocks, two at least, and no more than there may be."""
        most = math.ceil(self.most * examples / self.block)
        return min(examples, max(2, min(most, math.ceil(wanted / self.block))) * self.block)


def decide(values: Sequence[Sequence[float]], keep: int, z: float) -> list[Verdict]:
    """Whether each candidate is among the ``keep`` best.

    Args:
        values: per candidate its scores so far, all beginning with the same example.
        z: see the top of this file.
    """
    count = len(values)
    beats = [[i != j and _beats(values[i], values[j], z) for j in range(count)] for i in range(count)]
    return [
        "in" if sum(beats[i]) >= count - keep else "out" if sum(beats[j][i] for j in range(count)) >= keep else "open"
        for i in range(count)
    ]


def levelled(values: Sequence[Sequence[float]]) -> list[float]:
    """One number per candidate that can be compared: its lead over those who answered most, added to their mean.

    A candidate that stopped early may have seen easy examples only, so its mean alone says little: m = mean over its n examples
    of (its score - the mean score of the longest-running candidates) + the mean of these over all that they answered.
    """
    longest = max(map(len, values))
    runners = [row for row in values if len(row) == longest]
    reference = [fmean(column) for column in zip(*runners, strict=True)]
    level = fmean(reference)
    return [level + fmean(mine - ref for mine, ref in zip(row, reference, strict=False)) for row in values]


def abilities(answers: Sequence[Mapping[int, float]]) -> list[float]:
    """What each candidate would score on all examples, less one standard error, from different examples for each.

    Least squares of score(i, e) = ability(i) + ease(e), so that who got easy examples is not the better for it.

    Args:
        answers: per candidate, example -> score; none may be empty.
    """
    asked = sorted({example for row in answers for example in row})
    values = np.array([[row.get(example, np.nan) for example in asked] for row in answers])  # (candidates, examples)
    ability = np.nanmean(values, 1)
    for _ in range(_ROUNDS):
        ease = np.nanmean(values - ability[:, None], 0)
        ability, before = np.nanmean(values - ease, 1), ability
        if np.abs(ability - before).max() < _SETTLED:
            break
    errors = np.nanstd(values - ability[:, None] - ease, 1) / np.sqrt((~np.isnan(values)).sum(1))
    found: list[float] = (ability + ease.mean() - errors).tolist()
    return found


def _beats(ours: Sequence[float], theirs: Sequence[float], z: float) -> bool:
    differences = [a - b for a, b in zip(ours, theirs, strict=False)]  # as far as both got
    spread = stdev(differences) if len(differences) > 1 else math.inf
    return fmean(differences) - z * spread / math.sqrt(len(differences)) > 0
