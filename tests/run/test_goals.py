"""Several goals and constraints: a front in one run, any point of it a model, and floors that a child keeps."""

from pathlib import Path
from typing import Any

import pytest

from evomm.errors import UsageError
from evomm.fitness.score import Score
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve, restore, resume
from evomm.run.evaluate import Evaluator
from evomm.run.export import candidate_recipe
from evomm.run.goals import Aims, Constraint, Goal, floors
from evomm.run.outcome import Outcome
from evomm.run.store import Store
from tests import worlds

FRONT = ("objectives=[{task: modest.yaml}]", "search={method: nsga2, evaluations: 160, population: 16}", "finalists=8")
MODEST = "constraints=[{task: modest.yaml, at_least: 0.5}]"


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The config of a world whose two tasks cannot both be done well."""
    return worlds.make_torn(tmp_path / "world")


def run(world: Path, folder: Path, *overrides: str) -> Outcome:
    """Evolve with overrides."""
    return evolve(EvolveConfig.load(world, overrides), folder, world.parent)


def test_one_run_gives_a_front_and_every_point_of_it_can_be_had(world: Path, tmp_path: Path) -> None:
    outcome = run(world, tmp_path / "run", *FRONT)
    points = {name: (goals["score"].score, goals["modest.yaml"].score) for name, goals in outcome.front.items()}
    assert len(points) >= 3
    for mine in points.values():
        assert not any(theirs[0] >= mine[0] and theirs[1] >= mine[1] and theirs != mine for theirs in points.values())
    assert max(point[0] for point in points.values()) > 0.75
    assert max(point[1] for point in points.values()) > 0.75
    assert outcome.subjects["child"] in points, "the child is one of them"
    with Store.open(tmp_path / "run") as store:
        evaluator = Evaluator(restore(store))
    for name, point in points.items():
        recipe = candidate_recipe(tmp_path / "run", name)
        assert tuple(evaluator.score(recipe, "validation", name=task)[0].mean for task in ("", "modest.yaml")) == point


def test_the_child_of_a_front_is_no_extreme(world: Path, tmp_path: Path) -> None:
    """It is nearest to having the best of both, each goal in units of the front's span."""
    outcome = run(world, tmp_path / "run", *FRONT)
    points = {name: (goals["score"].score, goals["modest.yaml"].score) for name, goals in outcome.front.items()}
    best = [max(point[k] for point in points.values()) for k in (0, 1)]
    span = [best[k] - min(point[k] for point in points.values()) for k in (0, 1)]
    far = {name: sum(((best[k] - point[k]) / span[k]) ** 2 for k in (0, 1)) for name, point in points.items()}
    assert far[outcome.subjects["child"]] == min(far.values())
    assert set(outcome.as_json()["objectives"]["modest.yaml"]) == set(outcome.test)


def test_a_run_with_several_goals_goes_on_where_it_stopped(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = run(world, tmp_path / "whole", *FRONT)
    left, scored = [250], Evaluator.score

    def counted(self: Evaluator, *arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return scored(self, *arguments, **named)

    monkeypatch.setattr(Evaluator, "score", counted)
    with pytest.raises(KeyboardInterrupt):
        run(world, tmp_path / "run", *FRONT)
    monkeypatch.undo()
    found = resume(tmp_path / "run")
    assert (found.front, found.objectives, found.recipe) == (expected.front, expected.objectives, expected.recipe)


@pytest.mark.parametrize("method", ["cma", "genetic", "m2n2", "nsga2"])
def test_a_constraint_is_kept(world: Path, tmp_path: Path, method: str) -> None:
    """At the cost of the goal."""
    search = f"search={{method: {method}, evaluations: 160, population: 10, sigma: 0.2}}"
    free, bound = run(world, tmp_path / "free", search), run(world, tmp_path / "bound", search, MODEST)
    assert free.test["child"].mean > bound.test["child"].mean
    (kept,) = bound.constraints
    assert (kept.floor, kept.constraint.name) == (0.5, "modest.yaml")
    assert bound.as_json()["constraints"][0]["met"] == (kept.child.score >= 0.5)
    with Store.open(tmp_path / "bound") as store:
        validated = {subject: final.score.mean for subject, final in store.finals("validation", "modest.yaml").items()}
        finalists = [trial for trial in store.trials(method) if trial.id in validated]
        assert finalists
        assert all(trial.more["modest.yaml"].mean >= 0.5 for trial in finalists)
    missed = {subject: max(0.0, 0.5 - mean) for subject, mean in validated.items() if subject.startswith(method)}
    assert missed[bound.subjects["child"]] == min(missed.values()), "on other examples than those it was searched on"


def test_a_constraint_may_be_what_a_parent_scores(world: Path, tmp_path: Path) -> None:
    """On each split by what the parent scores there, less the slack."""
    outcome = run(world, tmp_path / "run", "constraints=[{task: modest.yaml, parent: high, slack: 0.05}]")
    (kept,) = outcome.constraints
    with Store.open(tmp_path / "run") as store:
        assert kept.floor == store.finals("test", "modest.yaml")["parent/high"].score.mean - 0.05
        assert list(store.finals("search", "modest.yaml")) == ["parent/high"]
        assert store.finals("search") == {}, "in no task but the constraint's"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["objectives=[{task: modest.yaml}]"], "'cma' looks at one goal, and this run has 2; choose one of: grid, nsga2, random"),
        ([*FRONT, "racing={}"], "races are for one goal"),
        (["constraints=[{task: modest.yaml}]"], "needs a floor"),
        (["constraints=[{task: modest.yaml, at_least: 0.5, slack: 0.1}]"], "it says nothing"),
        (["constraints=[{task: modest.yaml, parent: hihg}]"], "'hihg' is no parent; did you mean 'high'"),
        (["objectives=[{}]", "search.method=nsga2"], "is there already"),
        (["search.method=m2n2", "racing={}"], "looks at every example"),
        (["constraints=[{part: numbr, at_least: 0.5}]"], "no part 'numbr'; did you mean 'number'"),
    ],
)
def test_what_cannot_be_wanted_is_refused(world: Path, tmp_path: Path, overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        run(world, tmp_path / "run", *overrides)


def test_goals_and_floors_are_read_off_scores() -> None:
    """By hand: 0.5 of the task, 0.75 of its column, 0.25 of another task."""
    scores = {
        "": Score(values=(1, 0, 1, 0), parts={"number": (1, 1, 1, 0)}),
        "english": Score(values=(0, 0, 0, 1)),
    }
    assert [goal.value(scores) for goal in (Goal(), Goal(part="number"), Goal(task="english"))] == [0.5, 0.75, 0.25]
    assert [goal.name for goal in (Goal(), Goal(part="number"), Goal(task="english", part="x"))] == [
        "score",
        "number",
        "english.x",
    ]
    bounds = [Constraint(task="english", parent="math", slack=0.02), Constraint(part="number", at_least=0.8)]
    asked = floors(bounds, {"math": {"english": Score(values=(1, 1, 0, 0))}})
    assert asked == [0.48, 0.8]
    aims = Aims([Goal(), Goal(task="english")], bounds, asked)
    told = aims.result(scores)
    assert told.goals == (0.5, 0.25)
    assert told.violation == pytest.approx(0.23 + 0.05)
    assert aims.result(None).failed
