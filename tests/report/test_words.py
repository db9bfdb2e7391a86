"""Verdicts: who is said to be better than whom, from scores made up for it."""

from dataclasses import replace
from pathlib import Path

import pytest

from evomm.fitness.score import Interval, Score
from evomm.report.cost import Rates, cost
from evomm.report.story import Story
from evomm.report.words import clock, lead, percent, verdict


def told(run: Path, **right: int) -> tuple[str, str]:
    """Outcome and text, when roles have so many of 100 examples right, the first ones."""
    story = Story.read(run)
    finals = dict(story.test)
    for role, count in right.items():
        score = Score(values=tuple(float(i < count) for i in range(100)))
        finals[story.subjects[role]] = finals[story.subjects[role]].model_copy(update={"score": score})
    found = verdict(replace(story, test=finals))
    return found.outcome, found.text


def test_better_than_everyone(run: Path) -> None:
    outcome, text = told(run, child=90, uniform=50, random=60, base=0, low=40, high=45)
    assert outcome == "better"
    assert text.startswith("The child scores 90.0% (95% interval 82.6 to 94.5) on 100 test examples that no search saw.")
    assert "is better than the best parent, high (+45.0 points, " in text
    assert "random search with the same budget (+30.0 points, " in text
    assert "told apart" not in text and "worse" not in text


def test_as_good_as_a_baseline(run: Path) -> None:
    outcome, text = told(run, child=90, uniform=50, random=89, base=0, low=40, high=45)
    assert outcome == "open"
    assert "cannot be told apart from random search with the same budget (+1.0 points, " in text


def test_worse_than_a_parent(run: Path) -> None:
    outcome, text = told(run, child=60, uniform=50, random=50, base=0, low=90, high=45)
    assert outcome == "worse"
    assert "it is worse than the best parent, low (-30.0 points, " in text
    assert "is better than the uniform merge" in text


def test_a_parent_is_named_before_a_base_that_is_as_good(run: Path) -> None:
    assert "the best parent, low" in told(run, child=60, uniform=50, random=50, base=0, low=0, high=0)[1]


def test_few_examples_are_said_to_be_few(run: Path) -> None:
    story = Story.read(run)
    few = {
        subject: final.model_copy(update={"score": Score(values=final.score.values[:5])}) for subject, final in story.test.items()
    }
    assert "So few examples (5) say little" in verdict(replace(story, test=few)).text


def test_costs_add_up(run: Path) -> None:
    story = Story.read(run)
    slow = {name: [trial.model_copy(update={"seconds": 60.0}) for trial in trials] for name, trials in story.searches.items()}
    found = cost(replace(story, searches=slow), Rates(watts=500, price=3))
    assert found.seconds == 24 * 60
    assert found.searches["cma"] == (12, 12 * 30, 720.0)
    assert found.kwh == pytest.approx(0.2)
    assert found.money == pytest.approx(1.2)
    assert cost(story, Rates()).kwh is None


def test_forms() -> None:
    found = Interval(score=-0.012, low=-0.05, high=0.026, n=9)
    assert percent(found) == "-1.2 (-5.0 to 2.6)"
    assert lead(found) == "-1.2 (-5.0 to +2.6)"
    assert [clock(seconds) for seconds in (3.4, 200, 7260)] == ["3 s", "3 min 20 s", "2 h 1 min"]
