"""What tests of merging share: recipes over parents in memory, and their children."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomm.checkpoints.reader import MemoryReader
from evomm.merge.engine import Engine, Pieces
from evomm.merge.plan import Job, Readers, plan
from evomm.merge.table import METHODS, parameters
from evomm.merge.recipe import Block, DtypeName, Recipe, Source, Value
from evomm.merge.whole import PIECE

LABELS = ("base", "a", "b")


def recipe(
    method: str,
    labels: tuple[str, ...] = LABELS,
    *,
    dtype: DtypeName | None = None,
    seed: int = 0,
    blocks: tuple[Block, ...] = (),
    **values: Value,
) -> Recipe:
    """A recipe over labels; the label "base" is a parent only for methods that need one."""
    on_deltas = METHODS[method].needs_base
    parents = [label for label in labels if on_deltas or label != "base"]
    return Recipe(
        method=method,
        parents={label: Source(model=label) for label in parents},
        base="base" if on_deltas else None,
        parameters=values,
        blocks=blocks,
        dtype=dtype,
        seed=seed,
    )


def readers(tensors: Mapping[str, Tensor | Mapping[str, Tensor]]) -> Readers:
    """Label -> tensor (then called "w") or tensors, as parents."""
    return {label: MemoryReader({"w": t} if isinstance(t, Tensor) else t) for label, t in tensors.items()}


def merged(what: Recipe, parents: Readers, piece: int = PIECE, threads: int = 1) -> dict[str, Tensor]:
    """The child's tensors."""
    jobs = plan(what, parents)
    child = {job.name: torch.empty(job.info.shape, dtype=job.info.dtype) for job in jobs}

    def take(job: Job, pieces: Pieces) -> None:
        for start, values in pieces:
            child[job.name].view(-1)[start : start + values.numel()] = values

    Engine(parents, piece=piece, threads=threads).each(what, jobs, take)
    return child


def merge_one(what: Recipe, tensors: Mapping[str, Tensor], piece: int = PIECE) -> Tensor:
    """The child of parents with one tensor each."""
    return merged(what, readers({label: tensors[label] for label in what.parents}), piece)["w"]


def random_parents(
    *shape: int, dtype: torch.dtype = torch.float32, labels: tuple[str, ...] = LABELS, seed: int = 0
) -> dict[str, Tensor]:
    """Unrelated normal tensors."""
    generator = torch.Generator().manual_seed(seed)
    return {label: torch.randn(shape, generator=generator).to(dtype) for label in labels}


def telling_values(method: str) -> dict[str, Any]:
    """Values that use every part of a method: uneven weights, densities below 1, a t off the middle."""
    pick = {"weight": {"a": 0.7, "b": 0.45}, "density": {"a": 0.3, "b": 0.55}, "t": 0.3}
    return {name: pick[name] for name in parameters(method) if name in pick}


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit; 0 and -0 are the same weight."""
    return a.dtype == b.dtype and torch.equal(a, b)


def close(child: Tensor, expected: Tensor | NDArray[np.float64]) -> None:
    """Equal to the rounding of float32 sums. (torch.testing would do, but takes seconds to import.)"""
    np.testing.assert_allclose(child.double().numpy(), np.asarray(expected, dtype=np.float64), rtol=1e-5, atol=1e-5)
