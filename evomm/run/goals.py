"""What a run wants: goals to raise, and constraints to keep.

task: tiny-math-ja                                             # the first goal: the mean score of this task
objectives: [{task: tiny-math-en}]                             # further goals, which make a front of the search
constraints: [{task: tiny-math-en, parent: math, slack: 0.02}] # not below that parent's score less 2 points
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Self

from pydantic import Field, model_validator

from evomm.errors import UsageError, nearest
from evomm.fitness.score import Interval, Score
from evomm.plain import Plain
from evomm.search.base import Result

OWN = ""  # the run's own task, where scores are kept by task
Scores = Mapping[str, Score]


class Goal(Plain):
    """The mean of a task's score, or of one of its columns (`part`); of the run's own task when none is named."""

    task: str = OWN
    part: str | None = None

    @property
    def name(self) -> str:
        """Such as ``tiny-math-en``, ``tiny-math-en.number`` or ``score``."""
        return ".".join(word for word in (self.task, self.part) if word) or "score"

    def value(self, scores: Scores) -> float:
        """Of a candidate; UsageError for a column that its score does not have."""
        return fmean(self._values(scores))

    def interval(self, scores: Scores) -> Interval:
        """Mean and 95% interval."""
        score = scores[self.task]
        return score.interval if self.part is None else score.part(self.part)

    def _values(self, scores: Scores) -> Sequence[float]:
        score = scores[self.task]
        if self.part is None:
            return score.values
        if self.part not in score.parts:
            raise UsageError(f"'{self.name}': its scores have no part '{self.part}'{nearest(self.part, score.parts)}")
        return score.parts[self.part]


class Constraint(Goal):
    """A goal that must not fall below a floor: a number, or what a parent scores, less some slack."""

    at_least: float | None = None
    parent: str | None = None
    slack: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _one_floor(self) -> Self:
        if (self.at_least is None) == (self.parent is None):
            raise ValueError("a constraint needs a floor: `at_least: NUMBER`, or `parent: LABEL` (and `slack: NUMBER`)")
        if self.slack and self.parent is None:
            raise ValueError("slack is what a child may fall below a parent; with `at_least` it says nothing")
        return self


@dataclass(frozen=True)
class Aims:
    """Goals and constraints of a run, read off scores.

    floors: for each constraint, what must be reached on the split that is looked at.
    """

    goals: Sequence[Goal]
    constraints: Sequence[Constraint]
    floors: Sequence[float]

    def result(self, scores: Scores | None, values: tuple[float, ...] = ()) -> Result:
        """What a searcher is told of a candidate; scores are None where it failed."""
        if scores is None:
            return Result((float("-inf"),) * len(self.goals))
        return Result(tuple(goal.value(scores) for goal in self.goals), self.violation(scores), values)

    def violation(self, scores: Scores) -> float:
        """By how much a candidate misses its constraints, in all."""
        return sum(max(0.0, floor - one.value(scores)) for one, floor in zip(self.constraints, self.floors, strict=True))


def floors(constraints: Sequence[Constraint], parents: Mapping[str, Scores]) -> list[float]:
    """What each constraint asks for, given the parents' scores (label -> task -> score) on the split that is looked at."""
    return [one.at_least if one.at_least is not None else one.value(parents[str(one.parent)]) - one.slack for one in constraints]
