"""Write a recipe's child into a model that is in memory already, in place: no disk, no second copy of the model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from evomm.errors import MisfitError
from evomm.merge.engine import Engine, Pieces
from evomm.merge.plan import Job, plan
from evomm.merge.recipe import Recipe


class Live:
    """A resident model's tensors, rewritten by recipe after recipe.

    The values are those of the checkpoint that `apply` would write: rounded to the recipe's dtype first, then
    converted to the resident one. Tensors that a recipe leaves as the one before made them are not made again.

    Args:
        engine: computes from the parents, and remembers what it learns of them.
        targets: checkpoint name -> the resident tensor (or a view of one) that holds it.
    """

    def __init__(self, engine: Engine, targets: Mapping[str, Tensor]) -> None:
        self._engine = engine
        self._targets = targets
        self._held: dict[str, tuple[Job, int, str]] = {}  # tensor -> all that determines what is in it

    def write(self, recipe: Recipe) -> None:
        """Make the resident model the recipe's child."""
        jobs = plan(recipe, self._engine.readers)
        for job in jobs:
            if job.name not in self._targets:
                raise MisfitError(f"'{job.name}' is in the parents' files, but the loaded model has no such tensor")
            shape = tuple(self._targets[job.name].shape)
            if shape != job.info.shape:
                told = f"has shape {list(job.info.shape)} in the parents' files, but {list(shape)} in the loaded model"
                raise MisfitError(f"'{job.name}' {told}; load the model with the carrier's config")
        made_of = {job.name: (job, recipe.seed, recipe.carrier) for job in jobs}
        changed = [job for job in jobs if self._held.get(job.name) != made_of[job.name]]
        for job in changed:
            self._held.pop(job.name, None)  # until it is whole
        self._engine.each(recipe, changed, self._fill, room=self._room)
        self._held |= made_of

    def _room(self, job: Job) -> Tensor | None:
        """The resident tensor itself, where it can take values as they come."""
        target = self._targets[job.name]
        fits = target.is_contiguous() and target.dtype == job.info.dtype and target.device == self._engine.device
        return target.detach().view(-1) if fits else None

    @torch.no_grad()
    def _fill(self, job: Job, pieces: Pieces) -> None:
        target = self._targets[job.name]
        flat = target.view(-1) if target.is_contiguous() else torch.empty(job.info.numel, dtype=job.info.dtype)
        for start, piece in pieces:
            place = flat[start : start + piece.numel()]
            if place.data_ptr() != piece.data_ptr():  # else it was made there
                place.copy_(piece)
        if not target.is_contiguous():
            target.copy_(flat.view(target.shape))
