"""Scores recipes on one resident model: live merge, generate, judge."""

from collections.abc import Sequence
from typing import Any

import torch

from evomm.adapters.base import LoadedModel
from evomm.errors import EvaluationError
from evomm.fitness.examples import Example, Split
from evomm.fitness.score import Score
from evomm.fitness.task import Task
from evomm.merge.engine import Engine
from evomm.merge.live import Live
from evomm.merge.recipe import DTYPE_NAMES, Recipe
from evomm.run.goals import OWN
from evomm.run.setup import Setup


class Evaluator:
    """One model in memory that becomes candidate after candidate.

    The model is loaded when the first recipe comes: a run that only replays its store loads nothing. A recipe that is built
    by other files (a parent with a tokenizer of its own) is loaded anew, so that parents are asked in their own way.
    """

    def __init__(self, setup: Setup) -> None:
        self.engine = Engine(setup.models, threads=setup.config.threads)
        self._setup = setup
        self._built_by: object = None
        self._compared: set[tuple[str, Split]] = set()  # tasks, and splits for which they know the parents' answers
        self._loaded: tuple[LoadedModel, Live] | None = None

    def score(
        self, recipe: Recipe, split: Split, chosen: Sequence[int] | None = None, name: str = OWN
    ) -> tuple[Score, Sequence[Any]]:
        """Scores per example, and the answers.

        Args:
            chosen: places of the examples that count, all when absent.
            name: of the task, as in `EvolveConfig.tasks`.

        Raises EvaluationError when the candidate cannot be scored (out of memory, NaN); other errors are the run's.
        """
        setup, task = self._setup, self._setup.tasks[name]
        everything = self.examples(split, name)
        examples = everything if chosen is None else [everything[place] for place in chosen]
        if task.wants_parents and (name, split) not in self._compared:
            self._compared.add((name, split))
            parents = [setup.parent(label) for label in setup.config.parents]
            task.reference(everything, {recipe.carrier: self._ask(recipe, everything, task) for recipe in parents})
        try:
            answers = self._ask(recipe, examples, task)
            return task.score(examples, answers), answers
        except (RuntimeError, ValueError, ArithmeticError) as error:
            raise EvaluationError(f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}") from error

    def _ask(self, recipe: Recipe, examples: Sequence[Example], task: Task) -> Sequence[Any]:
        setup = self._setup
        model, live = self._load(recipe)
        if recipe.slices:
            setup.adapter.route(model, recipe, setup.models)
        else:
            live.write(recipe)
        return setup.adapter.generate(model, task.prompts(examples), task.options(setup.config.batch, recipe.generation))

    def examples(self, split: Split, name: str = OWN) -> Sequence[Example]:
        """What a task asks, within the config's limits."""
        return self._setup.tasks[name].examples(split, getattr(self._setup.config.limits, split))

    def _load(self, recipe: Recipe) -> tuple[LoadedModel, Live]:
        config, setup = self._setup.config, self._setup
        built_by = (recipe.carrier, recipe.components, bool(recipe.slices))
        if self._loaded is None or self._built_by != built_by:
            if config.threads is not None:
                torch.set_num_threads(config.threads)  # of this process; also part of what makes scores repeat to the bit
            self._loaded = None  # one model at a time
            model = setup.adapter.load(recipe, setup.models, device(config.device), DTYPE_NAMES[config.compute])
            self._loaded, self._built_by = (model, Live(self.engine, model.targets)), built_by
        return self._loaded


def device(name: str) -> str:
    """What ``auto`` means here: the GPU when there is one."""
    if name != "auto":
        return name
    return "cuda" if torch.cuda.is_available() else "cpu"
