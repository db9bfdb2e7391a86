"""The recipe of a run's child or of any of its candidates."""

from pathlib import Path

import numpy as np

from evomm.errors import UsageError
from evomm.merge.recipe import Recipe
from evomm.run.engine import restore
from evomm.run.outcome import Outcome
from evomm.run.store import Store


def candidate_recipe(folder: Path, candidate: str) -> Recipe:
    """Recipe of ``child``, ``uniform``, ``random``, a parent's label, or a trial such as ``cma/17``.

    Raises UsageError for a candidate that the run does not have, or ``child`` of a run that is not finished.
    """
    with Store.open(folder) as store:
        setup = restore(store)
        search, slash, number = candidate.partition("/")
        if slash and number.isdigit():
            trial = next((t for t in store.trials(search) if t.number == int(number)), None)
            if trial is None:
                raise UsageError(f"{folder}: no trial '{candidate}'; name one such as {setup.config.search.method}/0")
            return setup.codec.decode(np.array(trial.vector))
        outcome = Outcome.of(store, setup, seconds=0.0)
        if candidate not in outcome.subjects:
            known = ", ".join([*outcome.subjects, f"{setup.config.search.method}/NUMBER"])
            raise UsageError(f"{folder}: no candidate '{candidate}'; there are: {known}")
        return Recipe.from_yaml(store.finals("test")[outcome.subjects[candidate]].recipe)
