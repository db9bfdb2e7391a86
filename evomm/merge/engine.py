"""Turns a recipe and readers into tensors, piece by piece, in float32, several tensors at a time.

One function computes; `apply` streams what it gives to disk and `live` writes it into a resident model, so that both
routes give the same bytes.
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from ctypes import CDLL
from functools import cache

import torch
from torch import Tensor

from evomm.checkpoints.reader import Flat
from evomm.errors import DamagedFile, MisfitError
from evomm.merge.method import Method
from evomm.merge.plan import Job, Readers
from evomm.merge.recipe import Recipe
from evomm.merge.table import METHODS
from evomm.merge.whole import PIECE, PieceView, WholeTensor, pieces

Pieces = Iterator[tuple[int, Tensor]]
_LARGEST_HALF = 65504.0
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
        self._device = torch.device(device)
        self._piece = piece
        self._forgetful = forgetful
        self._wholes: dict[object, WholeTensor] = {}

    def each(
        self,
        recipe: Recipe,
        jobs: Iterable[Job],
        take: Callable[[Job, Pieces], None],
        advance: Callable[[int], None] = lambda nbytes: None,
    ) -> None:
        """Hand the pieces of every job, (first element, values in the job's dtype) in order, to ``take``, in some thread.

        ``advance`` is called in this thread, with the bytes of each tensor that is done. Large tensors go first, so that
        the threads end together.
        """
        ordered = sorted(jobs, key=lambda job: -job.info.numel)
        small = sum(job.info.numel for job in ordered) < _SMALL
        keep_freed_memory()
        with ThreadPoolExecutor(1 if small else self._threads, "merge", initializer=_one_torch_thread) as pool:
            futures: dict[Future[None], Job] = {}
            try:
                futures = {pool.submit(self._do, recipe, job, take): job for job in ordered}
                waiting = set(futures)
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for future in done:
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
    def _do(self, recipe: Recipe, job: Job, take: Callable[[Job, Pieces], None]) -> None:
        take(job, self._pieces(recipe, job) if job.info.dtype.is_floating_point else self._copied(recipe, job))

    def _copied(self, recipe: Recipe, job: Job) -> Pieces:
        """Integers are not mixed: they are the carrier's, or the first parent's where the carrier takes no part."""
        label = recipe.carrier if recipe.carrier in job.sources else job.labels[0]
        yield 0, self.readers[label].read(job.sources[label]).reshape(-1).to(job.info.dtype)

    def _pieces(self, recipe: Recipe, job: Job) -> Pieces:
        method = METHODS[recipe.method]
        values = _Values(self.readers, job, self._device)
        whole = self._whole(recipe, method, job, values)
        for start, stop in pieces(job.info.numel, whole.columns, self._piece):
            base, mixed = values.of_all(start, stop)
            if whole.columns is not None:
                mixed = [value.view(-1, whole.columns) for value in mixed]
            merged = method.combine(mixed, PieceView(whole, mixed, start), **job.arguments).view(-1)
            merged = merged if base is None else merged.add_(base)
            if not math.isfinite(float(merged.sum())) and not bool(merged.isfinite().all()):  # large ones overflow as a sum
                self._explain(job)
            if job.info.dtype == torch.float16 and float(merged.abs().amax()) > _LARGEST_HALF:
                raise MisfitError(f"'{job.name}' has values too large for float16; merge with `dtype: bfloat16` or float32")
            yield start, merged.to(job.info.dtype)

    def _whole(self, recipe: Recipe, method: Method, job: Job, values: "_Values") -> WholeTensor:
        key = (job.name, job.base, recipe.seed, job.labels, tuple(job.sources.items()), method.rows)
        if key in self._wholes:
            return self._wholes[key]
        dtype = self.readers[job.labels[0]].infos[job.sources[job.labels[0]]].dtype
        streams = [f"{recipe.seed}\n{job.name}\n{label}" for label in job.labels]
        columns = (job.info.shape or (1,))[-1] if method.rows else None
        whole = WholeTensor(job.info.numel, values.of_one, dtype, streams, columns)
        if not self._forgetful:
            self._wholes[key] = whole
        return whole

    def _explain(self, job: Job) -> None:
        """A merged piece is not finite: say which parent's tensor is not, or that the coefficients are too large."""
        for label, source in job.sources.items():
            self._refuse_bad(label, source)
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
    """What a method sees of one tensor: float32 pieces of the parents θ_p, or of the task vectors δ_p = θ_p - θ_base."""

    def __init__(self, readers: Readers, job: Job, device: torch.device) -> None:
        self._parents = [readers[label].flat(job.sources[label]) for label in job.labels]
        self._base = None if job.base is None else readers[job.base].flat(job.sources[job.base])
        self._device = device

    def of_all(self, start: int, stop: int) -> tuple[Tensor | None, list[Tensor]]:
        """The base's piece, if there is a base, and one piece per parent."""
        base = None if self._base is None else self._piece(self._base, start, stop)
        return base, [self._value(flat, base, start, stop) for flat in self._parents]

    def of_one(self, parent: int, start: int, stop: int) -> Tensor:
        """One parent's piece."""
        base = None if self._base is None else self._piece(self._base, start, stop)
        return self._value(self._parents[parent], base, start, stop)

    def _piece(self, flat: Flat, start: int, stop: int) -> Tensor:
        return flat[start:stop].to(self._device, torch.float32)

    def _value(self, flat: Flat, base: Tensor | None, start: int, stop: int) -> Tensor:
        stored = flat[start:stop]
        piece = stored.to(self._device, torch.float32)
        if base is None:
            return piece
        return piece - base if piece is stored else piece.sub_(base)  # what was converted is ours to write to


@cache
def keep_freed_memory() -> None:
    """Tell glibc to keep freed pieces for the next ones: giving each back to the system cost more than the arithmetic.

    (Merging 1.1 B parameters, 2.5 million page faults took 6 CPU seconds.) Where there is no glibc, nothing is done.
    """
    with suppress(OSError, AttributeError):
        libc = CDLL("libc.so.6")
        libc.mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD
        libc.mallopt(-1, 256 << 20)  # M_TRIM_THRESHOLD


def _one_torch_thread() -> None:
    """Each tensor has its thread; torch's own would wait for one another, and sum in another order."""
    torch.set_num_threads(1)
