"""The loop: ask, decode, evaluate, store, tell; then validation of the best few, and one look at the test split.

Everything is a function of the config and of what the store holds already, so `resume` is the same walk as `evolve`:
steps that are in the store are replayed from it, and the searcher must ask again what it asked before.
"""

import platform
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from evomm.errors import DamagedFile, EvaluationError, UsageError
from evomm.fitness.examples import Split
from evomm.genome.space import Vector
from evomm.merge.recipe import Recipe
from evomm.run.config import EvolveConfig
from evomm.run.evaluate import Evaluator
from evomm.run.outcome import Outcome, winner
from evomm.run.race import race
from evomm.run.setup import Setup, prepare
from evomm.run.store import Final, Store, Trial
from evomm.search.base import Problem, Searcher
from evomm.search.table import SEARCHERS

PICTURES = "pictures"  # of a run's folder, for tasks whose answers are files
_VERSIONS = ("evomm", "torch", "transformers", "diffusers", "cma", "numpy")


class Watch(Protocol):
    """Who wants to see a run go on."""

    def stage(self, name: str, total: int) -> None:
        """A stage of so many steps begins."""

    def step(self, text: str, fitness: float | None = None) -> None:
        """One step is done: what, and the score it got."""

    def warn(self, text: str) -> None:
        """Something odd."""


class Silent:
    """Watches nothing."""

    def stage(self, name: str, total: int) -> None:
        """Ignored."""

    def step(self, text: str, fitness: float | None = None) -> None:
        """Ignored."""

    def warn(self, text: str) -> None:
        """Ignored."""


def evolve(config: EvolveConfig, folder: Path, beside: Path, watch: Watch | None = None) -> Outcome:
    """Run a config into a new folder.

    Args:
        beside: the folder that relative paths of the config start from.

    Raises EvommError; whatever was evaluated by then is in the folder, and `resume` goes on from it.
    """
    started, watch = time.monotonic(), watch or Silent()
    watch.stage("check parents", len(config.models))
    setup = prepare(config, beside, advance=watch.step)
    facts = {
        "config": config.to_json(),
        "beside": str(beside.resolve()),
        **{f"digest/{label}": source.digest or "" for label, source in setup.codec.template.parents.items()},
        "task/digest": setup.task.digest,
        **{f"version/{name}": version(name) for name in _VERSIONS},
        "version/python": platform.python_version(),
    }
    evaluator = Evaluator(setup)
    watch.stage("check values", sum(len(model.infos) for model in setup.models.values()))
    evaluator.engine.refuse_damaged(lambda nbytes: watch.step(""))
    with Store.create(folder, facts) as store:
        return _go_on(store, setup, evaluator, watch, started)


def resume(folder: Path, watch: Watch | None = None) -> Outcome:
    """Go on with a run where it stopped; of a finished run, its outcome."""
    started, watch = time.monotonic(), watch or Silent()
    with Store.open(folder, writing=True) as store:
        setup = restore(store, watch)
        if store.fact("task/digest") != setup.task.digest:
            raise DamagedFile(
                f"task '{setup.config.task}' has changed since the run began (its file, its data or its scorer), so new scores "
                "could not be compared with the stored ones; bring the old files back, or start a new run"
            )
        return _go_on(store, setup, Evaluator(setup), watch, started)


def restore(store: Store, watch: Watch | None = None) -> Setup:
    """The setup of a stored run; its parents must be what they were."""
    watch = watch or Silent()
    config = EvolveConfig.from_json(store.fact("config"))
    watch.stage("check parents", len(config.models))
    digests = {label: store.fact(f"digest/{label}") for label in config.models}
    return prepare(config, Path(store.fact("beside")), digests, watch.step)


def _go_on(store: Store, setup: Setup, evaluator: Evaluator, watch: Watch, started: float) -> Outcome:
    for warning in setup.warnings:
        watch.warn(warning)
    config = setup.config
    names = [config.search.method, *config.baselines]
    finalists: dict[str, dict[str, Recipe]] = {}
    answered: dict[str, Trial] = {}
    for name in names:
        searcher = _searcher(setup, name)
        finalists[name] = _search(store, setup, searcher, name, evaluator, watch, answered)
    everyone = {subject: recipe for few in finalists.values() for subject, recipe in few.items()}
    _look(store, setup, evaluator, "validation", everyone, watch)
    _look(store, setup, evaluator, "test", _subjects(store, setup, finalists), watch)
    outcome = Outcome.of(store, setup, seconds=time.monotonic() - started)
    (store.folder / "recipe.yaml").write_text(outcome.recipe.to_yaml(), encoding="utf-8")
    return outcome


def _searcher(setup: Setup, name: str) -> Searcher:
    problem = Problem(setup.codec.space.start, setup.codec.space.ties)
    searcher = SEARCHERS[name](problem, setup.config.search, setup.config.seed)
    if searcher.population > setup.config.search.evaluations:
        raise UsageError(
            f"search.evaluations is {setup.config.search.evaluations}, below one population of {searcher.population}"
        )
    return searcher


def _search(
    store: Store,
    setup: Setup,
    searcher: Searcher,
    name: str,
    evaluator: Evaluator,
    watch: Watch,
    answered: dict[str, Trial],
) -> dict[str, Recipe]:
    """Whole generations within the budget; returns the finalists, best first, by subject.

    answered: recipe -> the trial that scored it, of all searches so far; vectors that mean the same are not scored twice.
    """
    known = {trial.number: trial for trial in store.trials(name)}
    racing, lengths = setup.config.racing, list[int]()
    generations = setup.config.search.evaluations // searcher.population
    watch.stage(f"search ({name})", generations * searcher.population)
    trials: list[Trial] = []
    highest = float("-inf")
    for generation in range(generations):
        vectors = searcher.ask()
        first = generation * searcher.population
        raced: list[Trial] = []
        if racing is not None and any(first + i not in known for i in range(len(vectors))):
            limit = racing.limit(lengths, len(evaluator.examples("search")))
            raced = race(setup, evaluator, racing, name, first, vectors, limit)
        for i, vector in enumerate(vectors):
            number = first + i
            trial = known.get(number)
            meant = setup.codec.decode(vector).model_dump_json()
            if trial is None and raced:
                trial = raced[i]
                store.append(trial)
            elif trial is None and meant in answered:
                again = {"search": name, "number": number, "vector": tuple(map(float, vector)), "seconds": 0.0}
                trial = answered[meant].model_copy(update=again)
                store.append(trial)
            elif trial is None:
                trial, answers = _evaluate(setup, evaluator, name, number, vector)
                if trial.fitness > highest:  # what an improvement looks like is kept, before the trial that says it is one
                    setup.task.keep(answers, store.folder / PICTURES, trial.id, evaluator.examples("search"))
                store.append(trial)
            elif trial.vector != tuple(vector):
                raise DamagedFile(
                    f"{store.folder}: trial {trial.id} was asked with another vector than now, so the run cannot go on "
                    f"exactly; {_changed(store)}"
                )
            if trial.level is None:
                answered.setdefault(meant, trial)
            trials.append(trial)
            highest = max(highest, trial.fitness)
            watch.step(trial.id if trial.failure is None else f"{trial.id} failed: {trial.failure}", trial.fitness)
        latest = trials[-searcher.population :]
        lengths.append(max((len(trial.score.values) for trial in latest if trial.score), default=0))
        if generation == 0 and all(trial.failure for trial in latest):
            raise EvaluationError(f"every candidate of the first generation failed; the first: {latest[0].failure}")
        searcher.tell(vectors, [trial.fitness for trial in latest])
    return _finalists(setup, searcher, name, trials)


def _finalists(setup: Setup, searcher: Searcher, name: str, trials: Sequence[Trial]) -> dict[str, Recipe]:
    """The best different recipes of a search, best first, and its favourites, by subject."""
    favourites = {f"{name}/favourite-{i}": setup.codec.decode(v) for i, v in enumerate(searcher.favourites())}
    best = sorted((t for t in trials if t.score), key=lambda t: (-_promise(t), t.number))
    different: dict[str, tuple[str, Recipe]] = {}
    for trial in best:
        recipe = setup.codec.decode(np.array(trial.vector))
        different.setdefault(recipe.model_dump_json(), (trial.id, recipe))
    return {**dict([*different.values()][: max(1, setup.config.finalists - len(favourites))]), **favourites}


def _promise(trial: Trial) -> float:
    """What a finalist is chosen by: the fitness, less the uncertainty of one that few answers told in a race."""
    if trial.level is None or trial.score is None:
        return trial.fitness
    return trial.level - (trial.score.mean - trial.score.interval.low)


def _changed(store: Store) -> str:
    """Which libraries differ from those the run began with."""
    was = {name: store.fact(f"version/{name}") for name in _VERSIONS}
    other = [f"{name} {old} (now {version(name)})" for name, old in was.items() if old != version(name)]
    return f"it was made with {', '.join(other)}: install these" if other else "its store was changed by hand"


def _evaluate(setup: Setup, evaluator: Evaluator, name: str, number: int, vector: Vector) -> tuple[Trial, Sequence[Any]]:
    """One candidate and its answers; one that crashes or gives NaN is a trial with a reason, never a silent retry."""
    started = time.monotonic()
    score, failure = None, None
    answers: Sequence[Any] = ()
    try:
        score, answers = evaluator.score(setup.codec.decode(vector), "search")
    except EvaluationError as error:
        failure = str(error)
    seconds = time.monotonic() - started
    found = tuple(map(float, vector))
    return Trial(search=name, number=number, vector=found, score=score, failure=failure, seconds=seconds), answers


def _look(store: Store, setup: Setup, evaluator: Evaluator, split: Split, subjects: dict[str, Recipe], watch: Watch) -> None:
    """Score subjects on a split, each once; the store keeps every look."""
    watch.stage(split, len(subjects))
    seen = store.finals(split)
    for subject, recipe in subjects.items():
        if subject not in seen:
            score, answers = evaluator.score(recipe, split)
            kept = setup.task.keep(answers, store.folder / PICTURES, f"{split}/{subject}", evaluator.examples(split))
            store.add_final(Final(subject=subject, split=split, recipe=recipe.to_yaml(), score=score, answers=kept))
        watch.step(subject)


def _subjects(store: Store, setup: Setup, finalists: dict[str, dict[str, Recipe]]) -> dict[str, Recipe]:
    """Who is tested: each search's winner on validation, the parents, and the uniform merge."""
    validated = store.finals("validation")
    subjects = {}
    for few in finalists.values():
        best = winner([validated[subject] for subject in few])
        subjects[best.subject] = few[best.subject]
    for label in setup.config.models:
        subjects[f"parent/{label}"] = setup.parent(label)
    return {**subjects, "uniform": setup.uniform()}
