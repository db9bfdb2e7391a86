"""The loop of one search: ask, decode, evaluate, store, tell; at its end, its finalists.

What the store holds is replayed from it, and the searcher must ask again what it asked before.
"""

import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np

from evomm.errors import DamagedFile, EvaluationError, UsageError
from evomm.genome.space import Vector
from evomm.merge.recipe import Recipe
from evomm.run.evaluate import Evaluator
from evomm.run.goals import OWN
from evomm.run.looks import PICTURES, aims
from evomm.run.race import promises, race
from evomm.run.setup import Setup
from evomm.run.store import Store, Trial
from evomm.run.watch import Watch
from evomm.search.base import Problem, Result, Searcher
from evomm.search.front import front, spread
from evomm.search.table import SEARCHERS

VERSIONS = ("evomm", "torch", "transformers", "diffusers", "cma", "numpy")


class Loop:
    """The searches of a run, one after the other; vectors that mean the same recipe are scored once for all of them."""

    def __init__(self, store: Store, setup: Setup, evaluator: Evaluator, watch: Watch) -> None:
        self._store = store
        self._setup = setup
        self._evaluator = evaluator
        self._watch = watch
        self._aims = aims(store, setup.config, "search")
        self._answered: dict[str, Trial] = {}  # recipe -> the trial that scored it, of all searches so far

    def search(self, name: str) -> dict[str, Recipe]:
        """Whole generations within the budget; returns the finalists, best first, by subject."""
        searcher = make_searcher(self._setup, name)
        known = {trial.number: trial for trial in self._store.trials(name)}
        generations = self._setup.config.search.evaluations // searcher.population
        self._watch.stage(f"search ({name})", generations * searcher.population)
        trials, highest = list[Trial](), float("-inf")
        for _ in range(generations):
            vectors = searcher.ask()
            raced = self._raced(searcher, name, vectors, trials, known)
            for i, vector in enumerate(vectors):
                trial = self._trial(name, len(trials), vector, known, raced[i] if raced else None, highest)
                trials.append(trial)
                highest = max(highest, fitness := trial.fitness)
                self._watch.step(trial.id if trial.failure is None else f"{trial.id} failed: {trial.failure}", fitness)
            latest = trials[-len(vectors) :]
            if len(trials) == len(latest) and all(trial.failure for trial in latest):
                raise EvaluationError(f"every candidate of the first generation failed; the first: {latest[0].failure}")
            searcher.tell(vectors, [self._result(trial) for trial in latest])
        return self._finalists(searcher, name, trials)

    def _raced(
        self, searcher: Searcher, name: str, vectors: Sequence[Vector], trials: Sequence[Trial], known: Mapping[int, Trial]
    ) -> list[Trial]:
        """A generation's trials, where generations race and not all of them are known; none otherwise."""
        racing, first, examples = self._setup.config.racing, len(trials), len(self._evaluator.examples("search"))
        if racing is None or all(first + i in known for i in range(len(vectors))):
            return []
        lengths = [
            max((len(trial.score.values) for trial in trials[start : start + searcher.population] if trial.score), default=0)
            for start in range(0, first, searcher.population)
        ]
        return race(self._setup, self._evaluator, racing, name, first, vectors, racing.limit(lengths, examples))

    def _trial(
        self, name: str, number: int, vector: Vector, known: Mapping[int, Trial], raced: Trial | None, highest: float
    ) -> Trial:
        """One trial, from the store or else evaluated and stored."""
        meant = self._setup.codec.decode(vector).model_dump_json()
        trial = known.get(number)
        if trial is not None and trial.vector != tuple(vector):
            raise DamagedFile(
                f"{self._store.folder}: trial {trial.id} was asked with another vector than now, so the run cannot go on "
                f"exactly; {_changed(self._store)}"
            )
        if trial is None:
            trial = raced or self._again(name, number, vector, meant) or self._evaluated(name, number, vector, highest)
            self._store.append(trial)
        if trial.level is None:
            self._answered.setdefault(meant, trial)
        return trial

    def _again(self, name: str, number: int, vector: Vector, meant: str) -> Trial | None:
        """The trial of a recipe that was scored before."""
        changes = {"search": name, "number": number, "vector": tuple(map(float, vector)), "seconds": 0.0}
        return self._answered[meant].model_copy(update=changes) if meant in self._answered else None

    def _evaluated(self, name: str, number: int, vector: Vector, highest: float) -> Trial:
        """One candidate; one that crashes or gives NaN is a trial with a reason, never a silent retry."""
        started = time.monotonic()
        recipe, scores, failure = self._setup.codec.decode(vector), {}, None
        answers: Sequence[Any] = ()
        try:
            for task in self._setup.tasks:
                scores[task], said = self._evaluator.score(recipe, "search", name=task)
                answers = said if task == OWN else answers
        except EvaluationError as error:
            scores, failure = {}, str(error)
        trial = Trial(
            search=name,
            number=number,
            vector=tuple(map(float, vector)),
            score=scores.pop(OWN, None),
            failure=failure,
            seconds=time.monotonic() - started,
            more=scores,
        )
        if trial.fitness > highest:  # what an improvement looks like is kept, before the trial that says it is one
            self._setup.task.keep(answers, self._store.folder / PICTURES, trial.id, self._evaluator.examples("search"))
        return trial

    def _result(self, trial: Trial) -> Result:
        if trial.level is not None:
            return Result((trial.level,))
        return self._aims.result(trial.scores, trial.score.values if trial.score else ())

    def _finalists(self, searcher: Searcher, name: str, trials: Sequence[Trial]) -> dict[str, Recipe]:
        """The different recipes of a search that promise most, best first, and its favourites, by subject."""
        decode = self._setup.codec.decode
        favourites = {f"{name}/favourite-{i}": decode(v) for i, v in enumerate(searcher.favourites())}
        scored = [trial for trial in trials if trial.score]
        first = {decode(np.array(trial.vector)).model_dump_json(): trial for trial in reversed(scored)}
        different = sorted(first.values(), key=lambda trial: trial.number)
        count = max(1, self._setup.config.finalists - len(favourites))
        if len(self._aims.goals) > 1:
            chosen = self._spread(different, count)
        else:
            chosen = self._most_promising(different, scored, searcher.population)[:count]
        return {**{trial.id: decode(np.array(trial.vector)) for trial in chosen}, **favourites}

    def _spread(self, trials: Sequence[Trial], count: int) -> list[Trial]:
        """Of the front among those who meet the constraints best, the few that stand for all."""
        results = [self._result(trial) for trial in trials]
        least = min(result.violation for result in results)
        kept = [(trial, result) for trial, result in zip(trials, results, strict=True) if result.violation == least]
        members = [kept[i] for i in front([result.goals for _, result in kept])]
        return [members[i][0] for i in spread([result.goals for _, result in members], count)]

    def _most_promising(self, trials: Sequence[Trial], scored: Sequence[Trial], population: int) -> list[Trial]:
        promised = {trial.number: trial.fitness for trial in scored}
        if self._setup.config.racing is not None:
            promised = promises(scored, population, self._setup.config.seed, len(self._evaluator.examples("search")))
        return sorted(trials, key=lambda t: (self._result(t).violation, -promised[t.number], t.number))


def make_searcher(setup: Setup, name: str) -> Searcher:
    """The searcher of a run by name; UsageError when the budget is below one generation."""
    space, config = setup.codec.space, setup.config
    problem = Problem(space.start, space.ties, space.blocks, space.choices, len(config.goals))
    searcher = SEARCHERS[name](problem, config.search, config.seed)
    if searcher.population > config.search.evaluations:
        raise UsageError(f"search.evaluations is {config.search.evaluations}, below one population of {searcher.population}")
    return searcher


def _changed(store: Store) -> str:
    """Which libraries differ from those the run began with."""
    was = {name: store.fact(f"version/{name}") for name in VERSIONS}
    other = [f"{name} {old} (now {version(name)})" for name, old in was.items() if old != version(name)]
    return f"it was made with {', '.join(other)}: install these" if other else "its store was changed by hand"
