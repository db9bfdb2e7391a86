"""Turns a recipe and readers into tensors, piece by piece, in float32, several tensors at a time.

One function computes; `apply` streams what it gives to disk and `live` writes it into a resident model, so that both
routes give the same bytes.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from ctypes import CDLL
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomm.errors import DamagedFile, MisfitError
from evomm.merge import elementwise
from evomm.merge.formula import Formula
from evomm.merge.method import Method
from evomm.merge.plan import Job, Readers
from evomm.merge.recipe import Recipe
from evomm.merge.table import METHODS
from evomm.merge.whole import PIECE, PieceView, WholeTensor, pieces

Pieces = Iterator[tuple[int, Tensor]]
_SMALL = 1 << 22  # elements: below, threads cost more than they bring


class Engine:
    """Computes merged tensors from readers.

    Keeps what it learns of the parents (cutoffs, inner products) for the next recipe over the same parents, so a search
    pays for it once; `forgetful` ones do not, for merges that see each tensor once.

    Args:
        readers: by parent label, the base among them.
        threads: tensors computed at a time, each by one thread; as many as there are cores when None.
        device: where the arithmetic is done.
        piece: elements computed at a time; changes speed, never the result.
    """

    def __init__(
        self,
        readers: Readers,
        *,
        threads: int | None = None,
        device: str = "cpu",
        piece: int = PIECE,
        forgetful: bool = False,
    ) -> None:
        self.readers = readers
        self._threads = threads or len(os.sched_getaffinity(0))
        self.device = torch.device(device)
        self._piece = piece
        self._forgetful = forgetful
        self._wholes: dict[object, WholeTensor] = {}

    def each(
        self,
        recipe: Recipe,
        jobs: Iterable[Job],
        take: Callable[[Job, Pieces], None],
        advance: Callable[[int], None] = lambda nbytes: None,
        room: Callable[[Job], Tensor | None] = lambda job: None,
    ) -> None:
        """Hand the pieces of every job, (first element, values in the job's dtype) in order, to ``take``, in some thread.

        ``advance`` is called in this thread, with the bytes of each tensor that is done. Large tensors go first, so that
        the threads end together. ``room`` may name memory for all elements of a job, (n,), of its dtype and on this device:
        pieces are then made in their place there, and are views of it.
        """
        ordered = sorted(jobs, key=lambda job: -job.info.numel)
        small = sum(job.info.numel for job in ordered) < _SMALL
        keep_freed_memory()
        with ThreadPoolExecutor(1 if small else self._threads, "merge", initializer=_one_torch_thread) as pool:
            futures: dict[Future[None], Job] = {}
            try:
                futures = {pool.submit(self._do, recipe, job, take, room): job for job in ordered}
                for future in as_completed(futures):
                    future.result()
                    advance(futures[future].info.nbytes)
            except BaseException:
                pool.shutdown(wait=True, cancel_futures=True)
                raise

    def refuse_damaged(self, advance: Callable[[int], None] = lambda nbytes: None) -> None:
        """Read every tensor once; DamagedFile for the first that holds NaN or infinity."""
        for label, reader in self.readers.items():
            for name, info in reader.infos.items():
                if info.dtype.is_floating_point:
                    self._refuse_bad(label, name)
                advance(info.nbytes)

    @torch.no_grad()
    def _do(self, recipe: Recipe, job: Job, take: Callable[[Job, Pieces], None], room: Callable[[Job], Tensor | None]) -> None:
        mixed = job.info.dtype.is_floating_point
        take(job, self._pieces(recipe, job, room(job)) if mixed else self._copied(recipe, job))

    def _copied(self, recipe: Recipe, job: Job) -> Pieces:
        """Integers are not mixed: they are the carrier's, or the first parent's where the carrier takes no part."""
        label = recipe.carrier if recipe.carrier in job.sources else job.labels[0]
        yield 0, self.readers[label].read(job.sources[label]).reshape(-1).to(job.info.dtype)

    def _pieces(self, recipe: Recipe, job: Job, room: Tensor | None) -> Pieces:
        """In the job's dtype; without room a piece is overwritten by the next."""
        if not job.info.numel:
            return
        method = METHODS[job.method]
        values = self._values(job)
        whole = self._whole(recipe, method, job)
        out = torch.empty(0, dtype=job.info.dtype, device=self.device)
        formula = _formula(method, job, whole)
        short = formula if values.halves == job.info.dtype else None
        size = job.info.numel if short and room is not None else self._piece  # nothing in between that should stay in the cache
        for start, stop in pieces(job.info.numel, None if short else whole.columns, size):
            if room is None and len(out) < stop - start:
                out = torch.empty(stop - start, dtype=out.dtype, device=out.device)
            rounded = out[: stop - start] if room is None else room[start:stop]
            if short:
                largest = short.of_halves(rounded, *values.stored(start, stop))
            else:
                mixed = whole.shaped(values.of_all(start, stop))
                merged = formula.of(mixed) if formula else _combined(method, job, mixed, PieceView(whole, mixed, start))
                largest = elementwise.round_off(rounded, merged.view(-1), values.base)
            if not math.isfinite(largest):
                self._explain(job)
            yield start, rounded

    def _values(self, job: Job) -> "_Values":
        return _Values(self.readers, job, self.device)

    def _whole(self, recipe: Recipe, method: Method, job: Job) -> WholeTensor:
        key = (job.name, job.base, recipe.seed, job.labels, tuple(job.sources.items()), method.rows)
        if key in self._wholes:
            return self._wholes[key]
        dtype = self.readers[job.labels[0]].infos[job.sources[job.labels[0]]].dtype
        streams = [f"{recipe.seed}\n{job.name}\n{label}" for label in job.labels]
        columns = (job.info.shape or (1,))[-1] if method.rows else None
        whole = WholeTensor(job.info.numel, lambda: self._values(job), dtype, streams, columns)
        if not self._forgetful:
            self._wholes[key] = whole
        return whole

    def _explain(self, job: Job) -> None:
        """A merged piece is not finite: say which parent's tensor is not, or that the child's dtype has no numbers so large."""
        for label, source in job.sources.items():
            self._refuse_bad(label, source)
        if job.info.dtype in elementwise.HALVES:
            kind = str(job.info.dtype).removeprefix("torch.")
            raise MisfitError(f"'{job.name}' has values too large for {kind}; merge with `dtype: float32`")
        raise MisfitError(f"'{job.name}' overflows: its parents are finite, but their mixture is not; use smaller coefficients")

    def _refuse_bad(self, label: str, name: str) -> None:
        reader = self.readers[label]
        flat, bad = reader.flat(name), 0
        for start, stop in pieces(reader.infos[name].numel, None, self._piece):
            values = flat[start:stop].float()
            if not math.isfinite(float(values.sum())):  # one pass; only a suspect piece is looked at element by element
                bad += int((~values.isfinite()).sum())
        if bad:
            raise DamagedFile(
                f"parent '{label}': tensor '{name}' holds {bad} value(s) that are NaN or infinite; "
                "a merge would spread them, so take another copy of this parent"
            )


class _Values:
    """What a method sees of one tensor: float32 pieces of the parents θ_p, or of the task vectors δ_p = θ_p - θ_base.

    Pieces are in buffers of their own, which stay in the cache and which the next call overwrites: memory that is new for each
    piece is slower than the arithmetic on it.
    """

    def __init__(self, readers: Readers, job: Job, device: torch.device) -> None:
        self._parents = [readers[label].flat(job.sources[label]) for label in job.labels]
        self._anchor = None if job.base is None else readers[job.base].flat(job.sources[job.base])
        self._dtype = readers[job.labels[0]].infos[job.sources[job.labels[0]]].dtype
        self._buffers = [torch.empty(0, dtype=torch.float32, device=device) for _ in range(len(self._parents) + 1)]
        self.base: Tensor | None = None  # of the last piece, when there is one
        every = [*self._parents, *([] if self._anchor is None else [self._anchor])]
        dtypes = {flat.dtype if isinstance(flat, Tensor) else None for flat in every}
        # The dtype of parents and base on a CPU, when it is one of 16 bits: compiled loops then take them as they are stored.
        self.halves = self._dtype if device.type == "cpu" and dtypes == {self._dtype} <= elementwise.HALVES else None

    def stored(self, start: int, stop: int) -> tuple[list[Tensor], Tensor | None]:
        """The parents' elements, and the base's when there is one, as they are stored."""
        base = None if self._anchor is None else self._anchor[start:stop]
        return [parent[start:stop] for parent in self._parents], base

    def of_all(self, start: int, stop: int) -> list[Tensor]:
        """One piece per parent."""
        self._read_base(start, stop)
        return [self._read(p, start, stop) for p in range(len(self._parents))]

    def of_one(self, parent: int, start: int, stop: int) -> Tensor:
        """One parent's piece."""
        self._read_base(start, stop)
        return self._read(parent, start, stop)

    def tally(self, counts: NDArray[np.uint32], parent: int, start: int, stop: int) -> None:
        """Count the magnitudes of one parent's elements, rounded to its 16-bit dtype."""
        if self.halves:
            values, base = self.stored(start, stop)
            elementwise.tally(counts, values[parent], base)
        else:
            elementwise.tally(counts, self.of_one(parent, start, stop).to(self._dtype).cpu())

    def gram(self, products: NDArray[np.float64], start: int, stop: int) -> None:
        """Add inner products of the parents' elements to the lower triangle of (P, P)."""
        if self.halves:
            elementwise.gram_halves(products, *self.stored(start, stop))
            return
        values = self.of_all(start, stop)
        for p, a in enumerate(values):
            for q, b in enumerate(values[: p + 1]):
                products[p, q] += float(torch.dot(a, b))

    def _read_base(self, start: int, stop: int) -> None:
        """As it is stored where that is what the arithmetic reads fastest, as float32 elsewhere."""
        if self._anchor is not None:
            piece = self._anchor[start:stop]
            self.base = piece if self.halves else self._buffer(-1, stop - start).copy_(piece)

    def _read(self, parent: int, start: int, stop: int) -> Tensor:
        out, piece = self._buffer(parent, stop - start), self._parents[parent][start:stop]
        return out.copy_(piece) if self.base is None else elementwise.difference(out, piece, self.base)

    def _buffer(self, number: int, count: int) -> Tensor:
        if len(self._buffers[number]) < count:
            self._buffers[number] = torch.empty(count, dtype=torch.float32, device=self._buffers[number].device)
        return self._buffers[number][:count]


def _formula(method: Method, job: Job, whole: WholeTensor) -> Formula | None:
    """What the method does to every element, when numbers say it all."""
    if not method.formula(job.arguments):
        return None
    unseen = [torch.empty(0)] * len(job.labels)
    found = method.combine(unseen, PieceView(whole, unseen, 0), **job.arguments)
    assert isinstance(found, Formula), job.method
    return found


def _combined(method: Method, job: Job, values: list[Tensor], view: PieceView) -> Tensor:
    """The method's result for a piece, when it is to see the values."""
    found = method.combine(values, view, **job.arguments)
    assert isinstance(found, Tensor), job.method
    return found


@cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed pieces for the next ones: giving each back to the system cost more than the arithmetic.

    Where there is no glibc, nothing is done.
    """
    with suppress(OSError, AttributeError):
        libc = CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD


def _one_torch_thread() -> None:
    """Each tensor has its thread; torch's own would wait for one another, and sum in another order."""
    torch.set_num_threads(1)
