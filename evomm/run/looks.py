"""Looks at a split: recipes scored on it once, each look kept in the store; and what the run's aims say of them."""

from collections.abc import Collection, Mapping, Sequence

from evomm.fitness.examples import Split
from evomm.merge.recipe import Recipe
from evomm.run.config import EvolveConfig
from evomm.run.evaluate import Evaluator
from evomm.run.goals import OWN, Aims, Scores, floors
from evomm.run.setup import Setup
from evomm.run.store import Final, Store
from evomm.run.watch import Watch
from evomm.search.front import compromise

PICTURES = "pictures"  # of a run's folder, for tasks whose answers are files


def look(
    store: Store,
    setup: Setup,
    evaluator: Evaluator,
    split: Split,
    subjects: Mapping[str, Recipe],
    watch: Watch,
    tasks: Collection[str] | None = None,
) -> None:
    """Score subjects on a split, in all tasks when none are named, each once; the store keeps every look."""
    watch.stage(split, len(subjects))
    seen = {(subject, task) for task in setup.tasks for subject in store.finals(split, task)}
    for subject, recipe in subjects.items():
        for name in setup.tasks if tasks is None else tasks:
            if (subject, name) in seen:
                continue
            score, answers = evaluator.score(recipe, split, name=name)
            place = f"{split}/{subject}" if name == OWN else f"{split}/{list(setup.tasks).index(name)}/{subject}"
            kept = setup.tasks[name].keep(answers, store.folder / PICTURES, place, evaluator.examples(split, name))
            store.add_final(Final(subject=subject, split=split, task=name, recipe=recipe.to_yaml(), score=score, answers=kept))
        watch.step(subject)


def look_at_bounds(store: Store, setup: Setup, evaluator: Evaluator, split: Split, watch: Watch) -> None:
    """Score the parents that constraints name, in the tasks that these are about."""
    for one in setup.config.constraints:
        if one.parent is not None:
            look(store, setup, evaluator, split, {f"parent/{one.parent}": setup.parent(one.parent)}, watch, (one.task,))


def scores_of(store: Store, config: EvolveConfig, split: Split, subjects: Collection[str]) -> dict[str, Scores]:
    """Subject -> its scores by task, as far as they were looked at."""
    found = {task: store.finals(split, task) for task in config.tasks}
    return {subject: {task: finals[subject].score for task, finals in found.items() if subject in finals} for subject in subjects}


def aims(store: Store, config: EvolveConfig, split: Split) -> Aims:
    """The run's goals and constraints on a split, whose parents `look_at_bounds` has scored."""
    labels = {one.parent for one in config.constraints if one.parent is not None}
    scores = scores_of(store, config, split, [f"parent/{label}" for label in labels])
    return Aims(config.goals, config.constraints, floors(config.constraints, {f: scores[f"parent/{f}"] for f in labels}))


def winner(store: Store, config: EvolveConfig, subjects: Sequence[str]) -> str:
    """Of subjects that were validated: the best, or the compromise of several goals, among those who meet the constraints.

    Where none does, the one that misses them least.
    """
    wanted, scores = aims(store, config, "validation"), scores_of(store, config, "validation", subjects)
    missed = {subject: wanted.violation(scores[subject]) for subject in subjects}
    least = [subject for subject in subjects if missed[subject] == min(missed.values())]
    return least[compromise([wanted.result(scores[subject]).goals for subject in least])]
