"""Stream a recipe's child to disk: one tensor in memory at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from evomm.checkpoints.writer import SHARD_BYTES, CheckpointWriter
from evomm.merge.engine import Engine, Readers, plan
from evomm.merge.recipe import Recipe
from evomm.merge.whole import CHUNK


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
    finish: Callable[[CheckpointWriter], None] = lambda writer: None,
    advance: Callable[[int], None] = lambda nbytes: None,
    chunk: int = CHUNK,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Merge to a folder; the whole checkpoint appears at the end, or nothing does.

    Args:
        readers: by parent label.
        finish: called with the writer after the last tensor, to add config and tokenizer files.
        advance: called with the bytes of each tensor written.
    """
    jobs = plan(recipe, readers)
    # Tensors are merged one by one and forgotten: the engine's memory is for searches, here it would only grow.
    with CheckpointWriter(out, {job.name: job.info for job in jobs}, shard_bytes) as writer:
        for job in jobs:
            tensor = torch.empty(job.info.shape, dtype=job.info.dtype)
            Engine(readers, chunk).merge(recipe, job, tensor)
            writer.write(job.name, tensor)
            advance(job.info.nbytes)
        writer.text("evomm_recipe.yaml", recipe.to_yaml())
        finish(writer)
    return Written(len(jobs), sum(job.info.nbytes for job in jobs))
