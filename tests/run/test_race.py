"""Raced generations: as good a child from fewer answers, the same after a kill; none where examples have no own score."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from evomm.adapters.fake import FakeAdapter
from evomm.errors import UsageError
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve, resume
from evomm.run.evaluate import Evaluator
from evomm.run.outcome import Outcome
from evomm.run.store import Store
from tests import worlds

RACING = "racing={block: 16, first: 0.5, most: 0.6}"


def run(folder: Path, out: Path, *overrides: str) -> Outcome:
    """Evolve the fake world with overrides."""
    world = folder / "config.yaml"
    return evolve(EvolveConfig.load(world, ["search.evaluations=120", "search.population=12", *overrides]), out, folder)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fake world with more examples than a block."""
    monkeypatch.setattr(worlds, "PER_SPLIT", 120)
    monkeypatch.setattr(worlds, "QUESTIONS", 360)
    return worlds.make_fake(tmp_path / "world").parent


def test_a_raced_search_finds_as_good_a_child_from_fewer_answers(world: Path, tmp_path: Path) -> None:
    whole, raced = run(world, tmp_path / "whole"), run(world, tmp_path / "raced", RACING)
    assert raced.evaluations == whole.evaluations
    assert raced.answers < 0.65 * whole.answers
    assert raced.test["child"].mean > whole.test["child"].mean - 0.05
    with Store.open(tmp_path / "raced") as store:
        trials = store.trials("cma")
        lengths = {len(trial.score.values) for trial in trials if trial.score}
        assert len(lengths) > 1, "some stop before others"
        assert all(trial.level is not None and trial.fitness == trial.level for trial in trials)


def test_a_raced_run_that_is_killed_ends_as_if_it_had_not_been(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of a race, and between the trials of one that are being stored."""
    expected = run(world, tmp_path / "whole", RACING)
    for times, owner, name in ((70, Evaluator, "score"), (31, Store, "append")):
        folder = tmp_path / f"killed-{times}"
        interrupt(monkeypatch, owner, name, times)
        with pytest.raises(KeyboardInterrupt):
            run(world, folder, RACING)
        monkeypatch.undo()
        found = resume(folder)
        assert (found.test, found.recipe, found.answers) == (expected.test, expected.recipe, expected.answers)
        shutil.rmtree(folder)


def interrupt(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, times: int) -> None:
    """Make a method fail as Ctrl-C does, once it was called so often."""
    original, left = getattr(owner, name), [times]

    def counted(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(*arguments, **named)

    monkeypatch.setattr(owner, name, counted)


def test_a_candidate_that_fails_in_a_race_is_told_and_ranks_last(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate, calls = FakeAdapter.generate, [0]

    def sometimes(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] == 5:
            raise ValueError("out of luck")
        return generate(*arguments)

    monkeypatch.setattr(FakeAdapter, "generate", sometimes)
    outcome = run(world, tmp_path / "run", RACING)
    with Store.open(tmp_path / "run") as store:
        failed = [trial for trial in store.trials("cma") if trial.failure]
    assert [trial.failure for trial in failed] == ["ValueError: out of luck"]
    assert failed[0].fitness == float("-inf")
    assert outcome.test["child"].mean > 0.5


def test_no_race_where_examples_have_no_score_of_their_own(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("evomm.fitness.text.MathTask.separable", property(lambda self: False))
    with pytest.raises(UsageError, match="leave out `racing`"):
        run(world, tmp_path / "run", RACING)
