"""What tests of merging share: recipes over parents in memory, and their children."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomm.checkpoints.reader import MemoryReader
from evomm.merge import elementwise
from evomm.merge.engine import Engine, Pieces
from evomm.merge.plan import Job, Readers, plan
from evomm.merge.recipe import Block, DtypeName, Recipe, Source, Value
from evomm.merge.table import METHODS, parameters
from evomm.merge.whole import PIECE

LABELS = ("base", "a", "b")


class Kind(NamedTuple):
    """A method, and whether it is given a base that it could do without."""

    method: str
    based: bool = False

    def __str__(self) -> str:
        return f"{self.method}-base" if self.based else self.method


KINDS = [Kind(name) for name in METHODS] + [Kind(name, based=True) for name, method in METHODS.items() if method.on == "either"]


def recipe(
    method: str,
    labels: Sequence[str] = LABELS,
    *,
    based: bool = False,
    dtype: DtypeName | None = None,
    seed: int = 0,
    blocks: tuple[Block, ...] = (),
    **values: Value,
) -> Recipe:
    """A recipe over as many of the labels as the method takes; "base" is among them where it needs one, or when ``based``."""
    base = "base" if METHODS[method].needs_base or based else None
    return Recipe(
        method=method,
        parents={label: Source(model=label) for label in parents_of(method, labels, based)},
        base=base,
        parameters=values,
        blocks=blocks,
        dtype=dtype,
        seed=seed,
    )


def parents_of(method: str, labels: Sequence[str] = LABELS, based: bool = False) -> tuple[str, ...]:
    """The labels that `recipe` makes parents."""
    entry = METHODS[method]
    base = ("base",) if entry.needs_base or based else ()
    counted = 0 if entry.takes_deltas("base" if base else None) else len(base)
    others = [label for label in labels if label != "base"]
    return (*base, *others[: int(min(entry.parents[1] - counted, len(others)))])


def readers(tensors: Mapping[str, Tensor | Mapping[str, Tensor]]) -> Readers:
    """Label -> tensor (then called "w") or tensors, as parents."""
    return {label: MemoryReader({"w": t} if isinstance(t, Tensor) else t) for label, t in tensors.items()}


def merged(
    what: Recipe, parents: Readers, piece: int = PIECE, threads: int = 1, engine: Engine | None = None
) -> dict[str, Tensor]:
    """The child's tensors; with the engine, when one is given."""
    jobs = plan(what, parents)
    child = {job.name: torch.empty(job.info.shape, dtype=job.info.dtype) for job in jobs}

    def take(job: Job, pieces: Pieces) -> None:
        for start, values in pieces:
            child[job.name].view(-1)[start : start + values.numel()] = values

    engine = engine or Engine(parents, piece=piece, threads=threads)
    engine.each(what, jobs, take)
    return child


def merge_one(what: Recipe, tensors: Mapping[str, Tensor], piece: int = PIECE) -> Tensor:
    """The child of parents with one tensor each."""
    return merged(what, readers({label: tensors[label] for label in what.parents}), piece)["w"]


@contextmanager
def in_torch() -> Iterator[None]:
    """As on another device: the formulas in torch instead of the compiled loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(elementwise, "_float32_on_cpu", lambda tensor: False)
        patch.setattr(elementwise, "_halves_on_cpu", lambda *tensors: False)
        yield


def random_parents(
    *shape: int, dtype: torch.dtype = torch.float32, labels: Sequence[str] = LABELS, seed: int = 0
) -> dict[str, Tensor]:
    """Unrelated normal tensors."""
    generator = torch.Generator().manual_seed(seed)
    return {label: torch.randn(shape, generator=generator).to(dtype) for label in labels}


def related_parents(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> dict[str, Tensor]:
    """A base, a and b near to one another, c apart, all of other lengths: no two of them stand to each other alike."""
    base, a, b, c = random_parents(*shape, labels=("base", "a", "b", "c"), seed=seed).values()
    found = {"base": 0.2 * base, "a": a, "b": 0.6 * (a + 0.7 * b), "c": 1.4 * (c - 0.2 * a)}
    return {label: tensor.to(dtype) for label, tensor in found.items()}


# Values that use every part of a method: uneven weights, densities below 1, a t off the middle, all that counts counted.
_PER_PARENT = {
    "weight": {"a": 0.7, "b": 0.45, "c": 1.1},
    "density": {"a": 0.3, "b": 0.55, "c": 0.8},
    "gamma": {"a": 0.05, "b": 0.1, "c": 0.15},
    "epsilon": {"a": 0.1, "b": 0.2, "c": 0.15},
    "scale": {"a": 1.3, "b": 0.9, "c": 0.7},
}
_NUMBERS = {
    "t": 0.3,
    "alpha": 0.3,
    "lambda": 0.8,
    "epsilon": 0.3,
    "r": 0.6,
    "select_topk": 0.4,
    "max_iter": 1,
    "tol": 1e-4,
    "eps": 0.1,
}


def telling_values(method: str, labels: Sequence[str] = LABELS, based: bool = False) -> dict[str, Any]:
    """One for every number and count of the method; switches stay as they are."""
    mixed = [label for label in parents_of(method, labels, based) if label != "base"]
    found: dict[str, Any] = {}
    for name, spec in parameters(method).items():
        if spec.kind == "per parent":
            found[name] = {label: _PER_PARENT[name][label] for label in mixed}
        elif spec.kind != "switch":
            found[name] = _NUMBERS[name]
    return found


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit; 0 and -0 are the same weight."""
    return a.dtype == b.dtype and torch.equal(a, b)


def close(child: Tensor, expected: Tensor | NDArray[np.float64], atol: float = 1e-5) -> None:
    """Equal to the rounding of float32 sums. (torch.testing would do, but takes seconds to import.)"""
    np.testing.assert_allclose(child.double().numpy(), np.asarray(expected, dtype=np.float64), rtol=1e-5, atol=atol)
