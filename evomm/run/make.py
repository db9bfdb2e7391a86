"""From a recipe to a checkpoint on disk, whatever kind of model it is."""

from collections.abc import Callable
from pathlib import Path

from evomm.adapters.table import detect
from evomm.checkpoints.digest import checkpoint_digest
from evomm.checkpoints.locate import locate
from evomm.checkpoints.reader import Checkpoint
from evomm.checkpoints.writer import SHARD_BYTES
from evomm.errors import DamagedFile
from evomm.merge.apply import Written
from evomm.merge.recipe import Recipe


def make(
    recipe: Recipe,
    out: Path,
    *,
    beside: Path | None = None,
    advance: Callable[[int], None] = lambda nbytes: None,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Stream the recipe's child to a new folder.

    Args:
        beside: the folder that relative paths of the recipe start from.
        advance: called with the bytes of each tensor written.

    Raises what reading, fitting and writing can raise; nothing is left behind then.
    """
    folders = {label: locate(source.model, beside) for label, source in recipe.parents.items()}
    adapter = detect(folders[recipe.carrier])
    checkpoints = {label: adapter.open(folder) for label, folder in folders.items()}
    adapter.check(checkpoints, recipe.carrier)
    for label, source in recipe.parents.items():
        if source.digest is not None and checkpoint_digest(checkpoints[label]) != source.digest:
            raise DamagedFile(
                f"parent '{label}' ({folders[label]}) is not the one this recipe was made with: its digest differs; "
                "find the right files, or drop `digest` from the recipe to merge what is there"
            )
    return adapter.save(recipe, checkpoints, out, advance=advance, shard_bytes=shard_bytes)


def source_bytes(recipe: Recipe, beside: Path | None) -> int:
    """Bytes of the carrier's tensors: about what will be written."""
    return Checkpoint(locate(recipe.parents[recipe.carrier].model, beside)).nbytes
