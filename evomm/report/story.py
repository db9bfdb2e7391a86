"""What a run's store says, finished or not: the one thing that reports, cards and watchers read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evomm.errors import EvommError, UsageError
from evomm.fitness.examples import Example, Split
from evomm.fitness.score import Interval, Score, paired
from evomm.fitness.table import load_task
from evomm.fitness.task import Task
from evomm.merge.recipe import Recipe
from evomm.run.config import EvolveConfig
from evomm.run.goals import OWN
from evomm.run.looks import scores_of
from evomm.run.outcome import Kept, constraints, front_of, objectives, roles
from evomm.run.store import Final, Store, Trial

CHILD, UNIFORM = "child", "uniform"


@dataclass(frozen=True)
class Story:
    """One run.

    beside: the folder that relative paths of the config start from. facts: what the store knows besides: digests, versions.
    searches: name -> its trials so far, the search of the child first. validation, test: subject -> its look at that split.
    subjects: role -> subject, once all of them were tested; empty before. front, objectives, constraints: as in `Outcome`, of
    a finished run.
    """

    folder: Path
    config: EvolveConfig
    beside: Path
    facts: Mapping[str, str]
    searches: Mapping[str, Sequence[Trial]]
    validation: Mapping[str, Final]
    test: Mapping[str, Final]
    subjects: Mapping[str, str]
    front: Mapping[str, Mapping[str, Interval]]
    objectives: Mapping[str, Mapping[str, Interval]]
    constraints: Sequence[Kept]

    @classmethod
    def read(cls, folder: Path) -> "Story":
        """The story so far of one run's folder.

        Raises MissingFile when there is no run, DamagedFile or UsageError when its store cannot be read.
        """
        with Store.open(folder) as store:
            facts = store.facts()
            config = EvolveConfig.from_json(store.fact("config"))
            try:
                subjects = roles(store, config)
            except UsageError:  # not so far yet
                subjects = {}
            finished = bool(subjects) and all(len(s) == len(config.tasks) for s in _tested(store, config, subjects))
            return cls(
                folder=folder,
                config=config,
                beside=Path(store.fact("beside")),
                facts=facts,
                searches={name: store.trials(name) for name in (config.search.method, *config.baselines)},
                validation=store.finals("validation"),
                test=store.finals("test"),
                subjects=subjects if finished else {},
                front=front_of(store, config) if finished else {},
                objectives=objectives(store, config, subjects) if finished else {},
                constraints=constraints(store, config, subjects[CHILD]) if finished else [],
            )

    @property
    def name(self) -> str:
        """What the run is called: its folder, or RUN/STAGE."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if self.config.stage == folder.name else folder.name

    @property
    def written(self) -> float:
        """When something was last committed, in seconds since the epoch."""
        return max(path.stat().st_mtime for path in self.folder.glob("run.sqlite*"))

    @property
    def finished(self) -> bool:
        """Whether everyone was tested."""
        return bool(self.subjects)

    @property
    def scores(self) -> dict[str, Score]:
        """Role -> score on the test split; empty until the run is finished."""
        return {role: self.test[subject].score for role, subject in self.subjects.items()}

    @property
    def recipe(self) -> Recipe | None:
        """Of the child, once there is one."""
        return Recipe.from_yaml(self.test[self.subjects[CHILD]].recipe) if self.finished else None

    @property
    def rival(self) -> str:
        """Whom a child has to beat first: the best of the parents and the uniform merge on the test split."""
        scores = self.scores
        return max([UNIFORM, self.best_parent], key=lambda role: scores[role].mean)

    @property
    def best_parent(self) -> str:
        """Label of the parent, or the base, with the highest score on the test split."""
        scores = self.scores
        return max([*self.config.parents, *self.config.models], key=lambda label: scores[label].mean)

    def against(self, role: str) -> Interval:
        """The child's lead: paired difference per example, with its 95% interval."""
        return paired(self.scores[CHILD].values, self.scores[role].values)

    @property
    def trials(self) -> list[Trial]:
        """Of all searches."""
        return [trial for trials in self.searches.values() for trial in trials]

    @property
    def seconds(self) -> float:
        """Of all evaluations in searches; validation, test and loading are not in the store."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def answers(self) -> int:
        """To examples, that the searches paid for."""
        return sum(len(trial.score.values) for trial in self.trials if trial.score and trial.seconds > 0)

    def generations(self, search: str) -> list[list[Trial]]:
        """A search's trials as they were asked for together."""
        trials = self.searches[search]
        size = self.config.search.size(len(trials[0].vector)) if trials else 1
        return [list(trials[start : start + size]) for start in range(0, len(trials), size)]

    @property
    def task(self) -> Task | None:
        """What was asked; None when it is not here as it was."""
        return self._asked[0]

    @property
    def lost(self) -> str:
        """Why there is no task."""
        return self._asked[1]

    def examples(self, split: Split) -> Sequence[Example]:
        """What was asked of a split, in the order of scores and answers; nothing when there is no task."""
        return self.task.examples(split, getattr(self.config.limits, split)) if self.task else ()

    @cached_property
    def _asked(self) -> tuple[Task | None, str]:
        try:
            task = load_task(self.config.task, self.beside)
            if task.digest != self.facts.get(f"task/digest/{OWN}"):
                return None, f"task '{self.config.task}' has changed since the run"
            task.examples("test")  # all splits are read at once
        except EvommError as error:
            return None, str(error)
        return task, ""


def _tested(store: Store, config: EvolveConfig, subjects: Mapping[str, str]) -> list[Mapping[str, Score]]:
    """Of everyone, the scores on the test split by task."""
    return list(scores_of(store, config, "test", list(subjects.values())).values())
