"""Search, validation and test beside each other: was the winner lucky, or fitted to what it was searched on?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evomm.fitness.score import Interval
from evomm.report.story import CHILD, Story


@dataclass(frozen=True)
class Finalist:
    """Who was re-scored; search is None for a favourite that was never asked, test for whoever was not the winner."""

    subject: str
    search: float | None
    validation: Interval
    test: Interval | None
    wins: bool


def finalists(story: Story) -> list[Finalist]:
    """Of the child's search, best on validation first."""
    name = story.config.search.method
    trials = {trial.id: trial for trial in story.searches[name]}
    child = story.subjects.get(CHILD)
    found = [
        Finalist(
            subject=subject,
            search=trials[subject].fitness if subject in trials else None,
            validation=final.score.interval,
            test=story.test[subject].score.interval if subject in story.test else None,
            wins=subject == child,
        )
        for subject, final in story.validation.items()
        if subject.startswith(f"{name}/")
    ]
    return sorted(found, key=lambda one: -one.validation.score)


def difference(ours: Interval, theirs: Interval) -> Interval:
    """ours - theirs on different examples, with the interval that follows from theirs both (Zou and Donner, Stat. Med. 27, 2008).

    low = d - √((a - a_low)² + (b_high - b)²), and high likewise.
    """
    d = ours.score - theirs.score
    low = d - math.hypot(ours.score - ours.low, theirs.high - theirs.score)
    high = d + math.hypot(ours.high - ours.score, theirs.score - theirs.low)
    return Interval(score=d, low=low, high=high, n=min(ours.n, theirs.n))


def in_words(found: Sequence[Finalist]) -> str:
    """Whether the winner fell from split to split by more than chance explains."""
    winner = next((one for one in found if one.wins), None)
    if winner is None or winner.test is None:
        return "The winner is not tested yet."
    fall = difference(winner.test, winner.validation)
    said = f"From validation to test the winner went from {100 * winner.validation.score:.1f} to {100 * winner.test.score:.1f}: "
    if fall.high < 0:
        said += "more than chance explains. It was fitted to the validation split, or the test split is harder."
    elif fall.low > 0:
        said += "the test split is easier for it."
    else:
        said += "a difference within what chance explains."
    if winner.search is not None:
        gap = 100 * (winner.search - winner.test.score)
        beside = "as on test" if abs(gap) < 0.05 else f"{abs(gap):.1f} {'more' if gap > 0 else 'less'} than on test"
        said += (
            f" In the search it had {100 * winner.search:.1f}, {beside}; the best of many is always a lucky one, which is why "
            "validation and test are other examples."
        )
    return said
