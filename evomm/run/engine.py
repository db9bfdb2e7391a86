"""A run from config to outcome: the searches, validation of their best few, and one look at the test split.

Everything is a function of the config and of what the store holds already, so `resume` is the same walk as `evolve`: steps that
are in the store are replayed from it.
"""

import platform
import time
from importlib.metadata import version
from pathlib import Path

from evomm.errors import DamagedFile
from evomm.merge.recipe import Recipe
from evomm.run.config import EvolveConfig
from evomm.run.evaluate import Evaluator
from evomm.run.looks import look, look_at_bounds, winner
from evomm.run.loop import VERSIONS, Loop
from evomm.run.outcome import Outcome
from evomm.run.setup import Setup, prepare
from evomm.run.store import Store
from evomm.run.watch import Silent, Watch


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
        **{f"task/digest/{name}": task.digest for name, task in setup.tasks.items()},
        **{f"version/{name}": version(name) for name in VERSIONS},
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
        for name, task in setup.tasks.items():
            if store.fact(f"task/digest/{name}") != task.digest:
                raise DamagedFile(
                    f"task '{setup.config.tasks[name]}' has changed since the run began (its file, its data or its scorer), so "
                    "new scores could not be compared with the stored ones; bring the old files back, or start a new run"
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
    look_at_bounds(store, setup, evaluator, "search", watch)
    loop = Loop(store, setup, evaluator, watch)
    finalists = {name: loop.search(name) for name in (setup.config.search.method, *setup.config.baselines)}
    look_at_bounds(store, setup, evaluator, "validation", watch)
    look(store, setup, evaluator, "validation", {s: recipe for few in finalists.values() for s, recipe in few.items()}, watch)
    look(store, setup, evaluator, "test", _subjects(store, setup, finalists), watch)
    outcome = Outcome.of(store, setup, seconds=time.monotonic() - started)
    (store.folder / "recipe.yaml").write_text(outcome.recipe.to_yaml(), encoding="utf-8")
    return outcome


def _subjects(store: Store, setup: Setup, finalists: dict[str, dict[str, Recipe]]) -> dict[str, Recipe]:
    """Who is tested: each search's winner on validation, the parents, and the uniform merge."""
    subjects = {}
    for few in finalists.values():
        best = winner(store, setup.config, list(few))
        subjects[best] = few[best]
    for label in setup.config.models:
        subjects[f"parent/{label}"] = setup.parent(label)
    return {**subjects, "uniform": setup.uniform()}
