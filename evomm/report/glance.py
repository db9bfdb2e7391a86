"""A run at a glance, for a terminal: how far its searches are, how good, and what comes next."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median

from evomm.report.story import Story
from evomm.report.words import searched_by

_BARS = "▁▂▃▄▅▆▇█"
_WIDE = 24  # bars of a sparkline


@dataclass(frozen=True)
class Line:
    """One search. best, middle: fitness so far, and the median of the last generation; None before there is one."""

    name: str
    done: int
    total: int
    best: float | None
    middle: float | None
    bars: str
    failed: int


def lines(story: Story) -> list[Line]:
    """Every search of the run, those that have not begun too."""
    return [_line(story, name) for name in story.searches]


def stage(story: Story) -> str:
    """What the run is at."""
    if story.finished:
        return "finished"
    waiting = next((line for line in lines(story) if line.done < line.total or not line.total), None)
    if waiting is not None:
        return f"search by {waiting.name}"
    if story.test:
        return f"test ({len(story.test)} looked at)"
    return f"validation ({len(story.validation)} looked at)"


def seconds_left(story: Story) -> float | None:
    """Of searching, at the pace so far; validation and test come on top. None before there is a pace."""
    timed = [trial.seconds for trial in story.trials if trial.seconds > 0]
    left = sum(line.total - line.done for line in lines(story))
    return left * sum(timed) / len(timed) if timed else None


def sparkline(values: Sequence[float]) -> str:
    """Bars as high as the values are between the least and the largest of them; the last ones where there are many.

    >>> sparkline([1, 2, 3, 9])
    '▁▁▂█'
    """
    shown = [value for value in values[-_WIDE:] if math.isfinite(value)]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(_BARS[int((value - low) / span * (len(_BARS) - 1))] for value in shown)


def _line(story: Story, name: str) -> Line:
    trials, budget = story.searches[name], story.config.search.evaluations
    size = story.config.search.size(len(trials[0].vector)) if trials else None
    generations = [[trial.fitness for trial in one if trial.score is not None] for one in story.generations(name)]
    reached = list(accumulate((max(one, default=-math.inf) for one in generations), max))
    finite = [value for value in reached if math.isfinite(value)]
    return Line(
        name=searched_by(name),
        done=len(trials),
        total=budget - budget % size if size else budget,  # whole generations
        best=finite[-1] if finite else None,
        middle=median(generations[-1]) if generations and generations[-1] else None,
        bars=sparkline(reached),
        failed=sum(trial.failure is not None for trial in trials),
    )
