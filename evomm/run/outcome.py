"""What came out of a run: who won, and by how much, read from the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from evomm.errors import UsageError
from evomm.fitness.score import Interval, Score, paired
from evomm.merge.recipe import Recipe
from evomm.run.config import EvolveConfig
from evomm.run.goals import Constraint
from evomm.run.looks import aims, scores_of
from evomm.run.setup import Setup
from evomm.run.store import Store
from evomm.search.front import front


@dataclass(frozen=True)
class Kept:
    """A constraint, what it asked for, and what the child has, on the test split."""

    constraint: Constraint
    floor: float
    child: Interval

    @property
    def met(self) -> bool:
        """By the mean, whatever its interval."""
        return self.child.score >= self.floor


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    answers: to examples, that the searches paid for. test: role -> score on the test split; roles are ``child``, the baselines'
    names, ``uniform``, and the parents' labels. subjects: role -> what it is in the store. recipe: the child's. block_weights:
    label -> the child's weights as the string that users of block weights paste, where there is one. objectives: of a run with
    several goals, name -> role -> the goal on the test split. front: of such a run, candidate -> goal -> its value on the
    validation split, for those that no other one beats in every goal. constraints: what was asked of the child.
    """

    folder: Path
    seconds: float
    evaluations: int
    answers: int
    test: Mapping[str, Score]
    subjects: Mapping[str, str]
    recipe: Recipe
    block_weights: Mapping[str, str] = field(default_factory=dict)
    objectives: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    front: Mapping[str, Mapping[str, Interval]] = field(default_factory=dict)
    constraints: Sequence[Kept] = ()

    @classmethod
    def of(cls, store: Store, setup: Setup, seconds: float) -> Self:
        """Read a finished run; UsageError when it has not been tested yet."""
        finals = store.finals("test")
        subjects = roles(store, setup.config)
        test = scores_of(store, setup.config, "test", list(subjects.values()))
        if any(len(scores) < len(setup.tasks) for scores in test.values()):
            raise _unfinished(store)
        searches = [setup.config.search.method, *setup.config.baselines]
        trials = [trial for name in searches for trial in store.trials(name)]
        paid = [score for t in trials if t.seconds > 0 for score in (t.scores or {}).values()]
        recipe = Recipe.from_yaml(finals[subjects["child"]].recipe)
        return cls(
            folder=store.folder,
            seconds=seconds,
            evaluations=len(trials),
            answers=sum(len(score.values) for score in paid),
            test={role: finals[subject].score for role, subject in subjects.items()},
            subjects=subjects,
            recipe=recipe,
            block_weights=setup.adapter.block_weights(recipe, setup.models),
            objectives=objectives(store, setup.config, subjects),
            front=front_of(store, setup.config),
            constraints=constraints(store, setup.config, subjects["child"]),
        )

    def against(self, role: str) -> Interval:
        """The child's lead over another role: paired difference per example, with its 95% interval."""
        return paired(self.test["child"].values, self.test[role].values)

    def as_json(self) -> dict[str, Any]:
        """What ``evolve --json`` prints."""
        return {
            "run": str(self.folder),
            "seconds": round(self.seconds, 3),
            "evaluations": self.evaluations,
            "answers": self.answers,
            "test": {role: score.interval.model_dump() for role, score in self.test.items()},
            "parts": {role: {name: score.part(name).model_dump() for name in score.parts} for role, score in self.test.items()},
            "leads": {role: self.against(role).model_dump() for role in self.test if role != "child"},
            "child": self.subjects["child"],
            "objectives": {name: _dumped(roles) for name, roles in self.objectives.items()},
            "front": {candidate: _dumped(goals) for candidate, goals in self.front.items()},
            "constraints": [
                {"name": kept.constraint.name, "floor": kept.floor, "child": kept.child.model_dump(), "met": kept.met}
                for kept in self.constraints
            ],
        }


def _dumped(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: interval.model_dump() for name, interval in intervals.items()}


def objectives(store: Store, config: EvolveConfig, subjects: Mapping[str, str]) -> dict[str, dict[str, Interval]]:
    """Further goal -> role -> its value on the test split; subjects: role -> who was tested."""
    test = scores_of(store, config, "test", list(subjects.values()))
    return {goal.name: {role: goal.interval(test[s]) for role, s in subjects.items()} for goal in config.objectives}


def front_of(store: Store, config: EvolveConfig) -> dict[str, dict[str, Interval]]:
    """Of the search's finalists that meet the constraints best, those that no other one beats, on the validation split.

    Candidate -> goal -> value, the best of the first goal first; nothing where there is one goal.
    """
    if not config.objectives:
        return {}
    wanted, goals = aims(store, config, "validation"), config.goals
    scores = scores_of(store, config, "validation", _validated(store, config.search.method))
    least = min(map(wanted.violation, scores.values()))
    kept = [subject for subject, found in scores.items() if wanted.violation(found) == least]
    members = [kept[i] for i in front([wanted.result(scores[subject]).goals for subject in kept])]
    members.sort(key=lambda subject: -goals[0].value(scores[subject]))
    return {subject: {goal.name: goal.interval(scores[subject]) for goal in goals} for subject in members}


def constraints(store: Store, config: EvolveConfig, child: str) -> list[Kept]:
    """What was asked of the child, and what it has, on the test split."""
    if not config.constraints:
        return []
    wanted, scores = aims(store, config, "test"), scores_of(store, config, "test", [child])[child]
    return [Kept(one, floor, one.interval(scores)) for one, floor in zip(wanted.constraints, wanted.floors, strict=True)]


def _validated(store: Store, search: str) -> list[str]:
    few = [subject for subject in store.finals("validation") if subject.startswith(f"{search}/")]
    if not few:
        raise _unfinished(store)
    return few


def roles(store: Store, config: EvolveConfig) -> dict[str, str]:
    """Role -> its subject in the store; UsageError before each search has a winner, which is tested."""
    searches = {"child": config.search.method, **{name: name for name in config.baselines}}
    tested = store.finals("test")
    found = {}
    for role, search in searches.items():
        few = _validated(store, search)
        found[role] = next((subject for subject in tested if subject in few), "")
        if not found[role]:
            raise _unfinished(store)
    return {**found, "uniform": "uniform", **{label: f"parent/{label}" for label in config.models}}


def _unfinished(store: Store) -> UsageError:
    return UsageError(f"{store.folder}: the run is not finished; `evomm resume {store.folder}` goes on with it")
