"""The recipe of a run's child or of any of its candidates, and the form that it is written in."""

from pathlib import Path

import numpy as np

from evomm.errors import DamagedFile, UsageError, nearest
from evomm.merge.recipe import Recipe
from evomm.run.engine import restore
from evomm.run.outcome import Outcome
from evomm.run.store import Store

FORMATS = ("hf", "single-file")
_SINGLE = ".safetensors"


def target(out: Path, form: str | None) -> Path:
    """Where a checkpoint of a form goes: a single file ends in .safetensors, a folder does not; ``out`` decides without one.

    >>> target(Path("anime"), "single-file")
    PosixPath('anime.safetensors')
    """
    if form is not None and form not in FORMATS:
        raise UsageError(f"unknown format '{form}'{nearest(form, FORMATS)}")
    single = out.suffix == _SINGLE
    if form == "hf" and single:
        raise UsageError(f"{out}: --format hf makes a folder, and this is the name of a file; leave the {_SINGLE} out")
    return out.with_name(f"{out.name}{_SINGLE}") if form == "single-file" and not single else out


def candidate_recipe(folder: Path, candidate: str) -> Recipe:
    """Recipe of ``child``, ``uniform``, ``random``, a parent's label, a trial such as ``cma/17``, or another point of a front.

    Raises UsageError for a candidate that the run does not have, or ``child`` of a run that is not finished; DamagedFile for
    a store that says what no search asked.
    """
    with Store.open(folder) as store:
        setup = restore(store)
        search, slash, number = candidate.partition("/")
        if slash and number.isdigit():
            trial = next((t for t in store.trials(search) if t.number == int(number)), None)
            if trial is None:
                raise UsageError(f"{folder}: no trial '{candidate}'; name one such as {setup.config.search.method}/0")
            genes = len(setup.codec.space.genes)
            if len(trial.vector) != genes or not all(0 <= x <= 1 for x in trial.vector):
                raise DamagedFile(
                    f"{folder}: the vector of trial '{candidate}' is none of this run's {genes} genes in 0 to 1; "
                    "restore the store from a copy"
                )
            return setup.codec.decode(np.array(trial.vector))
        validated = store.finals("validation")
        if candidate in validated:
            return Recipe.from_yaml(validated[candidate].recipe)
        outcome = Outcome.of(store, setup, seconds=0.0)
        if candidate not in outcome.subjects:
            known = ", ".join([*outcome.subjects, f"{setup.config.search.method}/NUMBER"])
            raise UsageError(f"{folder}: no candidate '{candidate}'; there are: {known}")
        return Recipe.from_yaml(store.finals("test")[outcome.subjects[candidate]].recipe)
