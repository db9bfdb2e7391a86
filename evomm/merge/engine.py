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
        """In the job's dtype; a piece is overwritten by the next."""
        method = METHODS[recipe.method]
        values = self._values(job)
        whole = self._whole(recipe, method, job)
        out = torch.empty(0, dtype=job.info.dtype, device=self._device)
        for start, stop in pieces(job.info.numel, whole.columns, self._piece):
            mixed = whole.shaped(values.of_all(start, stop))
            merged = method.combine(mixed, PieceView(whole, mixed, start), **job.arguments).view(-1)
            if values.base is not None:
                merged = merged.add_(values.base)
            if not math.isfinite(float(merged.sum())) and not merged.isfinite().all():  # the sum of large ones is not
                self._explain(job)
            if job.info.dtype == torch.float16 and float(merged.abs().amax()) > _LARGEST_HALF:
                raise MisfitError(f"'{job.name}' has values too large for float16; merge with `dtype: bfloat16` or float32")
            out = out if len(out) >= len(merged) else torch.empty_like(merged, dtype=job.info.dtype)
            yield start, out[: len(merged)].copy_(merged)

    def _values(self, job: Job) -> "_Values":
        return _Values(self.readers, job, self._device)

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
    """What a method sees of one tensor: float32 pieces of the parents θ_p, or of the task vectors δ_p = θ_p - θ_base.

    Pieces are in buffers of their own, which stay in the cache and which the next call overwrites: memory that is new for each
    piece is slower than the arithmetic on it.
    """

    def __init__(self, readers: Readers, job: Job, device: torch.device) -> None:
        self._parents = [readers[label].flat(job.sources[label]) for label in job.labels]
        self._anchor = None if job.base is None else readers[job.base].flat(job.sources[job.base])
        self._buffers = [torch.empty(0, dtype=torch.float32, device=device) for _ in range(len(self._parents) + 1)]
        self.base: Tensor | None = None  # of the last piece, when there is one

    def of_all(self, start: int, stop: int) -> list[Tensor]:
        """One piece per parent."""
        self._read_base(start, stop)
        return [self._read(p, start, stop) for p in range(len(self._parents))]

    def of_one(self, parent: int, start: int, stop: int) -> Tensor:
        """One parent's piece."""
        self._read_base(start, stop)
        return self._read(parent, start, stop)

    def _read_base(self, start: int, stop: int) -> None:
        self.base = None if self._anchor is None else self._copy(-1, self._anchor, start, stop)

    def _read(self, parent: int, start: int, stop: int) -> Tensor:
        piece = self._copy(parent, self._parents[parent], start, stop)
        return piece if self.base is None else piece.sub_(self.base)

    def _copy(self, buffer: int, flat: Flat, start: int, stop: int) -> Tensor:
        if len(self._buffers[buffer]) < stop - start:
            self._buffers[buffer] = torch.empty(stop - start, dtype=torch.float32, device=self._buffers[buffer].device)
        return self._buffers[buffer][: stop - start].copy_(flat[start:stop])


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
