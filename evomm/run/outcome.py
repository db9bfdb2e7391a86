"""What came out of a run: who won, and by how much, read from the store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from evomm.errors import UsageError
from evomm.fitness.score import Interval, Score, paired
from evomm.merge.recipe import Recipe
from evomm.run.config import EvolveConfig
from evomm.run.setup import Setup
from evomm.run.store import Final, Store


@dataclass(frozen=True)
class Outcome:
    """A finished run.

    answers: to examples, that the searches paid for. test: role -> score on the test split; roles are ``child``, the baselines'
    names, ``uniform``, and the parents' labels.
    subjects: role -> what it is in the store. recipe: the child's.
    block_weights: label -> the child's weights as the string that users of block weights paste, where there is one.
    """

    folder: Path
    seconds: float
    evaluations: int
    answers: int
    test: Mapping[str, Score]
    subjects: Mapping[str, str]
    recipe: Recipe
    block_weights: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, store: Store, setup: Setup, seconds: float) -> Self:
        """Read a finished run; UsageError when it has not been tested yet."""
        finals = store.finals("test")
        subjects = roles(store, setup.config)
        if any(subject not in finals for subject in subjects.values()):
            raise UsageError(f"{store.folder}: the run is not finished; `evomm resume {store.folder}` goes on with it")
        searches = [setup.config.search.method, *setup.config.baselines]
        trials = [trial for name in searches for trial in store.trials(name)]
        recipe = Recipe.from_yaml(finals[subjects["child"]].recipe)
        return cls(
            folder=store.folder,
            seconds=seconds,
            evaluations=len(trials),
            answers=sum(len(trial.score.values) for trial in trials if trial.score and trial.seconds > 0),
            test={role: finals[subject].score for role, subject in subjects.items()},
            subjects=subjects,
            recipe=recipe,
            block_weights=setup.adapter.block_weights(recipe, setup.models),
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
        }


def winner(validated: Sequence[Final]) -> Final:
    """The best on validation; the earlier of equals."""
    return max(validated, key=lambda final: final.score.mean)


def roles(store: Store, config: EvolveConfig) -> dict[str, str]:
    """Role -> its subject in the store; UsageError before all searches are validated."""
    validated = store.finals("validation")
    searches = {"child": config.search.method, **{name: name for name in config.baselines}}
    found = {}
    for role, search in searches.items():
        few = [final for subject, final in validated.items() if subject.startswith(f"{search}/")]
        if not few:
            raise UsageError(f"{store.folder}: the run is not finished; `evomm resume {store.folder}` goes on with it")
        found[role] = winner(few).subject
    found["uniform"] = "uniform"
    return {**found, **{label: f"parent/{label}" for label in config.models}}
