"""Results in words: the same numbers read alike in reports, cards and on the terminal."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from evomm.fitness.score import Interval, Score
from evomm.report.story import CHILD, UNIFORM, Story
from evomm.search.table import SEARCHERS

_SEARCHES = {
    "cma": "CMA-ES",
    "genetic": "a genetic algorithm",
    "grid": "a plain grid",
    "m2n2": "M2N2",
    "nsga2": "NSGA-II",
    "random": "random search",
}
_UNIT = {"%": "% (", "score × 100": " (score × 100; "}
_FEW = 30  # examples: below, intervals are rough


@dataclass(frozen=True)
class Verdict:
    """The run in a sentence or two, and how it went: whether the child is better than everyone else."""

    outcome: Literal["better", "open", "worse"]
    text: str


def percent(found: Interval) -> str:
    """Such as 62.0 (58.1 to 65.8)."""
    return f"{100 * found.score:.1f} ({_span(found)})"


def lead(found: Interval) -> str:
    """Such as +1.2 (-0.4 to +2.8)."""
    return f"{100 * found.score:+.1f} ({_span(found, '+')})"


def unit(score: Score) -> str:
    """Percent where answers are right or wrong, and a hundredth of a score otherwise."""
    return "%" if all(value in (0.0, 1.0) for value in score.values) else "score × 100"


def searched_by(search: str) -> str:
    """A search's name in prose."""
    return _SEARCHES.get(search, search)


def called(role: str) -> str:
    """A role in prose."""
    if role in (CHILD, "base"):
        return role
    if role == UNIFORM:
        return "uniform merge"
    return f"{searched_by(role)}, same budget" if role in SEARCHERS else f"parent {role}"


def verdict(story: Story) -> Verdict:
    """Whether the child is better than the best parent, the uniform merge and the baselines, as far as the test can tell."""
    scores = story.scores
    child = scores[CHILD]
    best = story.best_parent
    rivals = [best, UNIFORM, *story.config.baselines]
    leads = {role: story.against(role) for role in rivals}
    groups = {
        "is better than": [role for role in rivals if leads[role].low > 0],
        "cannot be told apart from": [role for role in rivals if leads[role].low <= 0 <= leads[role].high],
        "is worse than": [role for role in rivals if leads[role].high < 0],
    }
    said = [f"{verb} {_listed([_beside(role, leads[role], best) for role in group])}" for verb, group in groups.items() if group]
    outcome: Literal["better", "open", "worse"] = "open"
    if len(groups["is better than"]) == len(rivals):
        outcome = "better"
    elif groups["is worse than"]:
        outcome = "worse"
    text = (
        f"The child scores {100 * child.mean:.1f}{_UNIT[unit(child)]}95% interval {_span(child.interval)}) on "
        f"{child.interval.n:,} test examples that no search saw. It {'; it '.join(said)}."
    )
    if child.interval.n < _FEW:
        text += f" So few examples ({child.interval.n}) say little: the intervals are rough."
    return Verdict(outcome, text)


def _beside(role: str, found: Interval, best: str) -> str:
    named = {best: f"the best parent, {role}", UNIFORM: "the uniform merge"}
    who = named.get(role, f"{searched_by(role)} with the same budget")
    return f"{who} ({100 * found.score:+.1f} points, {_span(found, '+')})"


def _span(found: Interval, sign: str = "") -> str:
    return f"{100 * found.low:{sign}.1f} to {100 * found.high:{sign}.1f}"


def counted(number: int, one: str, more: str) -> str:
    """Such as 1 loss, 2 losses."""
    return f"{number:,} {one if number == 1 else more}"


def clock(seconds: float) -> str:
    """Such as 3 min 20 s.

    >>> clock(200)
    '3 min 20 s'
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"


def _listed(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
