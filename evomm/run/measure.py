"""One model, one task, one split: what `evomm eval` does."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomm.adapters.table import detect
from evomm.checkpoints.locate import locate
from evomm.errors import UsageError, nearest
from evomm.fitness.examples import SPLITS, Example
from evomm.fitness.score import Score
from evomm.fitness.table import load_task
from evomm.fitness.task import Task
from evomm.merge.recipe import DTYPE_NAMES, Recipe, Source
from evomm.run.evaluate import device


@dataclass(frozen=True)
class Measured:
    """The task's examples, the model's answers to them, and their score."""

    task: Task
    examples: Sequence[Example]
    answers: Sequence[Any]
    score: Score


def measure(
    model: str,
    task_name: str,
    split: str,
    *,
    limit: int | None = None,
    batch: int = 64,
    device_name: str = "auto",
    compute: str = "float32",
) -> Measured:
    """Load a model, let it answer, judge the answers.

    Raises UsageError for an unknown split or dtype, and what locating, loading and tasks can raise.
    """
    if split not in SPLITS:
        raise UsageError(f"unknown split '{split}'{nearest(split, SPLITS)}")
    if compute not in DTYPE_NAMES:
        raise UsageError(f"unknown dtype '{compute}'{nearest(compute, DTYPE_NAMES)}")
    task = load_task(task_name)
    examples = task.examples(next(s for s in SPLITS if s == split), limit)
    folder = locate(model, Path.cwd())
    adapter = detect(folder)
    alone = Recipe(method="linear", parents={"model": Source(model=model)})
    loaded = adapter.load(alone, {"model": adapter.open(folder)}, device(device_name), DTYPE_NAMES[compute])
    options = task.options(batch)
    answers = adapter.generate(loaded, task.prompts(examples), options)
    return Measured(task, examples, answers, task.score(examples, answers))
