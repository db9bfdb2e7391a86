"""Stream a recipe's child to disk: pieces in memory, never a whole tensor."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evomm.checkpoints.layout import Layout
from evomm.checkpoints.writer import SHARD_BYTES, CheckpointWriter
from evomm.merge.engine import Engine, Pieces
from evomm.merge.plan import Job, Layers, Readers, plan
from evomm.merge.recipe import Recipe


@dataclass(frozen=True)
class Written:
    """What `apply` wrote: number of tensors and their bytes."""

    tensors: int
    bytes: int


def apply(
    recipe: Recipe,
    readers: Readers,
    out: Path,
    *,
    layers: Layers | None = None,
    engine: Engine | None = None,
    finish: Callable[[CheckpointWriter], None] = lambda writer: None,
    advance: Callable[[int], None] = lambda nbytes: None,
    shard_bytes: int = SHARD_BYTES,
    layout: Layout | None = None,
) -> Written:
    """Merge to disk; the whole checkpoint appears at the end, or nothing does. The recipe lies beside it, or in its header.

    Args:
        readers: by parent label.
        layers: for recipes with slices (see `plan`).
        engine: over the same readers; by default one that forgets each tensor when it is written.
        finish: called with the writer after the last tensor, to add config and tokenizer files.
        advance: called with the bytes of each tensor written.
        layout: what the files are; by default those of a Hugging Face folder.
    """
    jobs = plan(recipe, readers, layers)
    engine = engine or Engine(readers, forgetful=True)
    notes = {"evomm_recipe.yaml": recipe.to_yaml()}
    with CheckpointWriter(out, {job.name: job.info for job in jobs}, shard_bytes, layout, notes) as writer:

        def take(job: Job, pieces: Pieces) -> None:
            for start, piece in pieces:
                writer.write_piece(job.name, start, piece)

        engine.each(recipe, jobs, take, advance)
        finish(writer)
    return Written(len(jobs), sum(job.info.nbytes for job in jobs))
