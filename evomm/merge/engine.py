"""Turns a recipe and readers into tensors, chunk by chunk, in float32.

One function computes; `apply` streams what it gives to disk and `live` writes it into a resident model, so that both
routes give the same bytes.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from evomm.checkpoints.reader import TensorInfo, TensorReader
from evomm.errors import DamagedFile, MisfitError
from evomm.merge.methods import METHODS
from evomm.merge.recipe import DTYPE_NAMES, Recipe
from evomm.merge.whole import CHUNK, ChunkView, WholeTensor

Readers = Mapping[str, TensorReader]
_SHOWN = 8  # misfits listed before "and N more"


@dataclass(frozen=True)
class Job:
    """One tensor of the child: its name, what it will be, and the method's arguments for it."""

    name: str
    info: TensorInfo
    arguments: Mapping[str, float | bool | tuple[float, ...]]


def plan(recipe: Recipe, readers: Readers) -> tuple[Job, ...]:
    """The child's tensors in the carrier's order, from headers alone.

    Raises MisfitError that lists the tensors which the parents do not all have, or have in other shapes.
    """
    carrier = readers[recipe.carrier]
    refuse_misfits({label: readers[label].infos for label in recipe.parents}, recipe.carrier)
    first = next(iter(recipe.mixed))
    jobs = []
    for name, info in carrier.infos.items():
        wanted = DTYPE_NAMES[recipe.dtype] if recipe.dtype else readers[first].infos[name].dtype
        dtype = wanted if info.dtype.is_floating_point else info.dtype
        jobs.append(Job(name, TensorInfo(dtype, info.shape), recipe.arguments(name)))
    return tuple(jobs)


def refuse_misfits(infos: Mapping[str, Mapping[str, TensorInfo]], reference: str) -> None:
    """Raise MisfitError unless every parent has the reference's tensors, in its shapes."""
    expected = infos[reference]
    misfits = [message for label, found in infos.items() if label != reference for message in _misfits(label, found, expected)]
    if misfits:
        rest = f"\n  ... and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
        raise MisfitError(
            f"the parents do not fit '{reference}':\n  " + "\n  ".join(misfits[:_SHOWN]) + rest + "\n"
            "merge models of one architecture, size and vocabulary"
        )


def _misfits(label: str, found: Mapping[str, TensorInfo], expected: Mapping[str, TensorInfo]) -> Iterator[str]:
    for name, info in expected.items():
        if name not in found:
            yield f"{name}: not in '{label}'"
        elif found[name].shape != info.shape:
            yield f"{name}: expected shape {list(info.shape)}, '{label}' has {list(found[name].shape)}"
    for name in found:
        if name not in expected:
            yield f"{name}: only in '{label}'"


class Engine:
    """Computes merged tensors from readers.

    Keeps what it learns of the parents (thresholds, inner products, that they are finite) for the next recipe over the
    same parents, so a search pays for it once.

    Args:
        readers: by parent label, the base among them.
        chunk: elements computed at a time; changes speed, never the result.
    """

    def __init__(self, readers: Readers, chunk: int = CHUNK) -> None:
        self.readers = readers
        self._chunk = chunk
        self._wholes: dict[tuple[str, str | None, int, tuple[str, ...]], WholeTensor] = {}
        self._finite: set[tuple[str, str]] = set()

    def refuse_damaged(self, advance: Callable[[int], None] = lambda nbytes: None) -> None:
        """Read every tensor once; DamagedFile for the first that holds NaN or infinity. Later merges skip this look."""
        for label, reader in self.readers.items():
            for name, info in reader.infos.items():
                if info.dtype.is_floating_point:
                    self._flat(label, name)
                advance(info.nbytes)

    def merge(self, recipe: Recipe, job: Job, out: Tensor) -> None:
        """Fill ``out`` (the job's shape; any float dtype, to which the job's dtype is converted last)."""
        if not job.info.dtype.is_floating_point:
            out.copy_(self.readers[recipe.carrier].read(job.name))
            return
        flat = out.view(-1) if out.is_contiguous() else torch.empty(job.info.numel, dtype=job.info.dtype)
        for start, piece in self._pieces(recipe, job):
            flat[start : start + piece.numel()].copy_(piece.to(job.info.dtype))
        if not out.is_contiguous():
            out.copy_(flat.view(out.shape))

    def _pieces(self, recipe: Recipe, job: Job) -> Iterator[tuple[int, Tensor]]:
        """(start, float32 chunk) of the merged tensor."""
        method = METHODS[recipe.method]
        on_deltas = method.on == "deltas"
        flats = {label: self._flat(label, job.name) for label in recipe.parents}
        base = flats[recipe.base] if on_deltas and recipe.base is not None else None
        parents = [flats[label] for label in recipe.mixed]

        def load(parent: int, start: int, stop: int) -> Tensor:
            values = parents[parent][start:stop].float()
            return values if base is None else values - base[start:stop].float()  # θ_p, or δ_p = θ_p - θ_base

        whole = self._whole(recipe, job, parents[0].dtype, load)
        for start in range(0, job.info.numel, self._chunk):
            stop = min(start + self._chunk, job.info.numel)
            values = [load(p, start, stop) for p in range(len(parents))]
            merged = method.combine(values, ChunkView(whole, values, start), **job.arguments)
            yield start, merged if base is None else merged.add_(base[start:stop].float())

    def _whole(self, recipe: Recipe, job: Job, dtype: torch.dtype, load: object) -> WholeTensor:
        base = recipe.base if METHODS[recipe.method].on == "deltas" else None
        key = (job.name, base, recipe.seed, recipe.mixed)
        if key not in self._wholes:
            keys = [f"{recipe.seed}\n{job.name}\n{label}" for label in recipe.mixed]
            self._wholes[key] = WholeTensor(job.info.numel, load, dtype, keys)  # type: ignore[arg-type]
        return self._wholes[key]

    def _flat(self, label: str, name: str) -> Tensor:
        """A parent's tensor as one row; NaN and infinity are refused, once per tensor."""
        flat = self.readers[label].read(name).reshape(-1)
        if (label, name) not in self._finite:
            bad = sum(_count_bad(flat[start : start + self._chunk]) for start in range(0, flat.numel(), self._chunk))
            if bad:
                raise DamagedFile(
                    f"parent '{label}': tensor '{name}' holds {bad} value(s) that are NaN or infinite; "
                    "a merge would spread them, so take another copy of this parent"
                )
            self._finite.add((label, name))
        return flat


def _count_bad(chunk: Tensor) -> int:
    values = chunk.float()
    if math.isfinite(float(values.sum())):  # one pass; only a suspect chunk is looked at element by element
        return 0
    return int((~values.isfinite()).sum())
