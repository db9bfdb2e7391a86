"""evomm: evolutionary model merging for language, vision-language and image models.

The public names, listed once. They are imported when first used, so that ``import evomm`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomm.adapters.base import Adapter
    from evomm.adapters.generation import Generation, ImageGeneration, Shown, TextGeneration
    from evomm.adapters.table import ADAPTERS
    from evomm.checkpoints.pipeline import Pipeline
    from evomm.checkpoints.reader import Checkpoint, MemoryReader, TensorInfo
    from evomm.checkpoints.single_file import SingleFile
    from evomm.checkpoints.writer import CheckpointWriter
    from evomm.errors import EvommError
    from evomm.fitness.examples import Example
    from evomm.fitness.score import Interval, Score
    from evomm.fitness.table import TASKS, load_task
    from evomm.fitness.task import Task
    from evomm.genome.blocks import Grouping
    from evomm.genome.codec import Codec
    from evomm.genome.space import GeneRule, Space
    from evomm.merge.apply import apply
    from evomm.merge.live import Live
    from evomm.merge.recipe import Recipe
    from evomm.merge.table import METHODS
    from evomm.run.config import EvolveConfig
    from evomm.run.engine import evolve, resume
    from evomm.run.outcome import Outcome
    from evomm.run.store import Store, Trial
    from evomm.search.base import Searcher
    from evomm.search.table import SEARCHERS

_HOMES = {
    "ADAPTERS": "adapters.table",
    "Adapter": "adapters.base",
    "Checkpoint": "checkpoints.reader",
    "CheckpointWriter": "checkpoints.writer",
    "Codec": "genome.codec",
    "EvolveConfig": "run.config",
    "EvommError": "errors",
    "Example": "fitness.examples",
    "GeneRule": "genome.space",
    "Generation": "adapters.generation",
    "Grouping": "genome.blocks",
    "ImageGeneration": "adapters.generation",
    "Interval": "fitness.score",
    "Live": "merge.live",
    "METHODS": "merge.table",
    "MemoryReader": "checkpoints.reader",
    "Outcome": "run.outcome",
    "Pipeline": "checkpoints.pipeline",
    "Recipe": "merge.recipe",
    "SEARCHERS": "search.table",
    "Score": "fitness.score",
    "Searcher": "search.base",
    "Shown": "adapters.generation",
    "SingleFile": "checkpoints.single_file",
    "Space": "genome.space",
    "Store": "run.store",
    "TASKS": "fitness.table",
    "Task": "fitness.task",
    "TensorInfo": "checkpoints.reader",
    "TextGeneration": "adapters.generation",
    "Trial": "run.store",
    "apply": "merge.apply",
    "evolve": "run.engine",
    "load_task": "fitness.table",
    "resume": "run.engine",
}

__all__ = [
    "ADAPTERS",
    "METHODS",
    "SEARCHERS",
    "TASKS",
    "Adapter",
    "Checkpoint",
    "CheckpointWriter",
    "Codec",
    "EvolveConfig",
    "EvommError",
    "Example",
    "GeneRule",
    "Generation",
    "Grouping",
    "ImageGeneration",
    "Interval",
    "Live",
    "MemoryReader",
    "Outcome",
    "Pipeline",
    "Recipe",
    "Score",
    "Searcher",
    "Shown",
    "SingleFile",
    "Space",
    "Store",
    "Task",
    "TensorInfo",
    "TextGeneration",
    "Trial",
    "apply",
    "evolve",
    "load_task",
    "resume",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'evomm' has no attribute '{name}'")
    return getattr(import_module(f"evomm.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
