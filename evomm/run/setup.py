"""Everything a run needs before its first candidate: parents located and checked, blocks, genes, task.

Reads headers only; no model is loaded here, so that `evomm plan` can share it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from evomm.adapters.base import Adapter
from evomm.adapters.table import ADAPTERS
from evomm.checkpoints.digest import checkpoint_digest
from evomm.checkpoints.locate import locate, reference
from evomm.checkpoints.reader import Checkpoint
from evomm.errors import DamagedFile
from evomm.fitness.table import load_task
from evomm.fitness.task import Task
from evomm.genome.blocks import group
from evomm.genome.codec import Codec
from evomm.genome.space import make_space
from evomm.merge.plan import plan
from evomm.merge.recipe import Recipe, Source
from evomm.run.config import EvolveConfig


@dataclass(frozen=True)
class Setup:
    """A run, ready to start. checkpoints and folders are by parent label; warnings are what is odd but allowed."""

    config: EvolveConfig
    adapter: Adapter
    folders: Mapping[str, Path]
    checkpoints: Mapping[str, Checkpoint]
    codec: Codec
    task: Task
    warnings: Sequence[str]

    def parent(self, label: str) -> Recipe:
        """The recipe whose child is this parent, in its own dtype."""
        return Recipe(method="linear", parents={label: self.codec.template.parents[label]})

    def uniform(self) -> Recipe:
        """The plain average of the parents, base not counted."""
        parents = {label: self.codec.template.parents[label] for label in self.config.parents}
        return Recipe(method="linear", parents=parents, dtype=self.config.dtype)


def prepare(
    config: EvolveConfig,
    beside: Path,
    digests: Mapping[str, str] | None = None,
    advance: Callable[[str], None] = lambda label: None,
) -> Setup:
    """Resolve and check everything.

    Args:
        beside: the folder that relative paths of the config start from.
        digests: label -> what the parents' digests must be, for a run that goes on.
        advance: called with each parent's label when its files have been read once.

    Raises MissingFile, DamagedFile, UnsafeFile, MisfitError or UsageError before any work is done.
    """
    task = load_task(config.task, beside)
    task.examples("search", config.limits.search)  # an empty or broken task is told now
    adapter = ADAPTERS[config.adapter]()
    folders = {label: locate(model, beside) for label, model in config.models.items()}
    checkpoints = {label: adapter.open(folder) for label, folder in folders.items()}
    template = config.template()
    warnings = adapter.check(checkpoints, template.carrier)
    found = {}
    for label, checkpoint in checkpoints.items():
        found[label] = checkpoint_digest(checkpoint)
        advance(label)
    for label, digest in (digests or {}).items():
        if found[label] != digest:
            raise DamagedFile(
                f"parent '{label}' ({folders[label]}) has changed since the run began; "
                "bring the old files back, or start a new run"
            )
    parents = {
        label: Source(model=reference(model, folders[label]), digest=found[label]) for label, model in config.models.items()
    }
    template = template.model_copy(update={"parents": parents})
    plan(template, checkpoints)
    blocks = group(adapter.blocks(checkpoints[template.carrier]), config.grouping)
    space = make_space(blocks, template.mixed, config.method, config.genes)
    return Setup(config, adapter, folders, checkpoints, Codec(space, template, blocks), task, warnings)
