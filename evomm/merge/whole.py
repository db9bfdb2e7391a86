"""What methods ask about a whole tensor while the engine feeds them pieces: sums, cutoffs, random masks.

Nothing here depends on the engine's pieces or on the number of threads: sums run over pieces of a fixed size in a fixed
order, cutoffs come from exact counts, random numbers from the element's position.
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evomm.merge import elementwise, kernels
from evomm.merge.method import Score, T

PIECE = 1 << 18  # elements: 1 MiB of float32; smaller ones cost threads more waiting for one another than the cache gives
_LANES = 64  # elements; pieces that start and end at a multiple of the vector lanes round alike however they are cut
_PER_WORD = 4  # draws of 16 bits in a random word of 64
_KEPT = 64  # facts remembered per tensor: a search asks for new ones with every genome
_SAMPLES = 4  # pieces that `ranked_share` looks at


class Values(Protocol):
    """Float32 elements of what the method sees (weights or task vectors); a tensor holds until the next call."""

    def of_all(self, start: int, stop: int) -> list[Tensor]:
        """Elements of every parent, (stop - start,) each."""
        ...

    def of_one(self, parent: int, start: int, stop: int) -> Tensor:
        """Elements of one parent."""
        ...

    def tally(self, counts: NDArray[np.uint32], parent: int, start: int, stop: int) -> None:
        """Count the magnitudes of one parent's elements, rounded to the parents' 16-bit dtype, as `elementwise.tally`."""
        ...

    def gram(self, products: NDArray[np.float64], start: int, stop: int) -> None:
        """Add inner products of the parents' elements to the lower triangle of (P, P)."""
        ...


def pieces(numel: int, columns: int | None, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of consecutive pieces of about ``size`` elements; of whole rows when ``columns`` is given.

    All but the last have a multiple of 64 elements.
    """
    step = max(1, size // _LANES) * _LANES
    if columns is not None:
        rows = _LANES // math.gcd(max(columns, 1), _LANES)
        step = max(columns, 1) * max(rows, size // max(columns, 1) // rows * rows)
    return ((start, min(start + step, numel)) for start in range(0, numel, step))


class WholeTensor:
    """Facts about one tensor of P parents, computed when first asked for and kept.

    Args:
        numel: elements in the tensor.
        values: makes a way to read the elements; called anew for each pass, since passes nest.
        dtype: the parents' storage dtype; magnitudes are ranked after rounding to it (see `cutoff`).
        keys: per parent, the text that names its random stream.
        columns: elements of a row, for methods that work on rows.
    """

    def __init__(
        self, numel: int, values: Callable[[], Values], dtype: torch.dtype, keys: Sequence[str], columns: int | None = None
    ) -> None:
        self.numel = numel
        self.columns = columns
        self._values = values
        self._dtype = dtype if dtype in elementwise.HALVES else torch.float32
        self._seeds = [_seed(key) for key in keys]
        self._made: dict[Hashable, Any] = {}

    def shaped(self, values: list[Tensor]) -> list[Tensor]:
        """As they are, or as rows (r, C) for methods that work on rows."""
        return values if self.columns is None else [value.view(-1, self.columns) for value in values]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives; remembered, the few that were asked for last."""
        found: T = self._made.pop(key) if key in self._made else make()
        while len(self._made) >= _KEPT:
            del self._made[next(iter(self._made))]
        self._made[key] = found
        return found

    def total(self, key: Hashable, of: Score) -> Tensor:
        """Σ over pieces of ``of(values, view)``, float64."""
        return self.once((key, "total"), lambda: self._total(of))

    def _total(self, of: Score) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        source = self._values()
        for start, stop in self._pieces():
            values = self.shaped(source.of_all(start, stop))
            total = total + of(values, PieceView(self, values, start)).double().cpu()
        return total

    def gram(self) -> Tensor:
        """Float64 (P, P): inner products of the parents."""
        return self.once("gram", self._gram)

    def _gram(self) -> Tensor:
        lower = np.zeros((len(self._seeds), len(self._seeds)))
        source = self._values()
        for start, stop in self._pieces():
            source.gram(lower, start, stop)
        return torch.from_numpy(lower + np.tril(lower, -1).T)

    def cutoff(self, parent: int, count: int, some: bool = True) -> float:
        """The ``count`` elements of largest magnitude are those above this; equal ones go together (see `Whole.cutoff`).

        Magnitudes of 16-bit floats order like 15-bit integers, so one counting pass serves every count. Task vectors of
        such parents are ranked after rounding to the parents' dtype; float32 ones need a second look at one bucket.
        """
        if count <= 0:
            return math.inf
        if count >= self.numel:
            return -1.0
        return self.once(("cutoff", parent, count, some), lambda: self._cutoff(parent, count, some))

    def _cutoff(self, parent: int, count: int, some: bool) -> float:
        high, above, equal = _nth(*self._histogram(parent, None), count)
        if self._dtype.itemsize == 4:
            low, inside, equal = _nth(*self._histogram(parent, high), count - above)
            bits, above = (high << 16) | low, above + inside
        else:
            bits = high
        together = (some and above == 0) or above + equal - count <= count - above
        return self._below(bits if together else bits + 1)

    def nth_of(self, key: Hashable, score: Score, count: int) -> float:
        """The ``count``-th largest score, exactly, from two counting passes."""
        return math.inf if count <= 0 else self.once((key, "nth", count), lambda: self._nth_of(key, score, count))

    def _nth_of(self, key: Hashable, score: Score, count: int) -> float:
        upper = self._total(lambda values, view: _bincount(_ordered(score(values, view)) >> 16, 1 << 16))
        high, above, _ = _nth(*_occupied(upper), count)
        lower = self._total(lambda values, view: _lower(_ordered(score(values, view)), high))
        low, _, _ = _nth(*_occupied(lower), count - above)
        bits = ((high << 16) | low) - (1 << 31)
        bits = bits if bits >= 0 else bits ^ 0x7FFFFFFF
        return float(torch.tensor(bits, dtype=torch.int64).to(torch.int32).view(torch.float32))

    def draws(self, parent: int, start: int, stop: int) -> NDArray[np.uint16]:
        """Uniform in [0, 2^16) for elements start..stop: a function of the parent's key and the position alone."""
        word = start // _PER_WORD
        words = np.empty(-(-stop // _PER_WORD) - word, "<u8")
        kernels.random_words(words, np.uint64(self._seeds[parent]), word)
        return words.view("<u2")[start - word * _PER_WORD :][: stop - start]

    def ranked_share(self, parent: int) -> float:
        """Σ rank |x| / Σ |x| over a few pieces, evenly spread."""
        return self.once(("ranked share", parent), lambda: self._ranked_share(parent))

    def _ranked_share(self, parent: int) -> float:
        spans = list(self._pieces())
        chosen = sorted({round(i * (len(spans) - 1) / (_SAMPLES - 1)) for i in range(_SAMPLES)})
        weighted = plain = 0.0
        source = self._values()
        for start, stop in (spans[i] for i in chosen):
            (values,) = self.shaped([source.of_one(parent, start, stop)])
            rows = np.sort(values.abs().cpu().numpy(), axis=-1)
            sums = rows.sum(0, dtype=np.float64)
            weighted += float(sums @ _ramp(rows.shape[-1]))
            plain += float(sums.sum())
        return weighted / plain if plain > 0 else 0.5

    def _pieces(self) -> Iterator[tuple[int, int]]:
        return pieces(self.numel, self.columns, PIECE)

    def _histogram(self, parent: int, bucket: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Occupied magnitudes (the upper 15 bits, or the lower 16 of one bucket), largest first, and how many reach them."""
        return self.once(("histogram", parent, bucket), lambda: self._counted(parent, bucket))

    def _counted(self, parent: int, bucket: int | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        source = self._values()
        if self._dtype.itemsize == 2:
            tables = np.zeros((4, 1 << 15), np.uint32)
            for start, stop in self._pieces():
                source.tally(tables, parent, start, stop)
            return _occupied(torch.from_numpy(tables.sum(0, dtype=np.int64)))
        counts = torch.zeros(1 << 16, dtype=torch.int64)
        for start, stop in self._pieces():
            bits = source.of_one(parent, start, stop).view(torch.int32) & 0x7FFFFFFF
            counts += (_bincount(bits >> 16, 1 << 16) if bucket is None else _lower(bits, bucket)).cpu()
        return _occupied(counts)

    def _below(self, bits: int) -> float:
        """Float32 values with |x| above this are those whose magnitude, rounded to the parents' dtype, is at least ``bits``.

        Rounding is to nearest, ties to even: what reaches t from below lies beyond the midpoint of t and its predecessor,
        the midpoint itself included when t's last bit is 0.
        """
        if bits == 0:
            return -1.0
        here, below = self._float(bits), self._float(bits - 1)
        if self._dtype == torch.float32:
            return below
        if math.isinf(here):  # what rounds there lies beyond half a step from the largest number
            here = below + (below - self._float(bits - 2))
        middle = (here + below) / 2  # exact in float32
        return float(np.nextafter(np.float32(middle), np.float32(0))) if bits % 2 == 0 else middle

    def _float(self, bits: int) -> float:
        """The number that has these bits. After the last NaN comes -0, in a damaged parent: NaN is above every cutoff."""
        kind = torch.uint16 if self._dtype.itemsize == 2 else torch.uint32
        return float(torch.tensor(bits, dtype=kind).view(self._dtype))


class PieceView:
    """`method.Whole` for one piece of a tensor."""

    def __init__(self, whole: WholeTensor, values: Sequence[Tensor], start: int) -> None:
        self._whole = whole
        self._values = values
        self._start = start

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        return self._whole.numel

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What ``make`` gives, made once for the whole tensor."""
        return self._whole.once(key, make)

    def total(self, key: Hashable, of: Score) -> Tensor:
        """Σ over the whole tensor."""
        return self._whole.total(key, of)

    def gram(self) -> Tensor:
        """Float64 (P, P): inner products of the whole tensors."""
        return self._whole.gram()

    def cutoff(self, parent: int, count: int, some: bool = True) -> float:
        """The ``count`` elements of largest magnitude lie above this."""
        return self._whole.cutoff(parent, count, some)

    def nth_of(self, key: Hashable, score: Score, count: int) -> float:
        """The ``count``-th largest score."""
        return self._whole.nth_of(key, score, count)

    def ranked_share(self, parent: int) -> float:
        """Σ rank |x| / Σ |x|."""
        return self._whole.ranked_share(parent)

    def lottery(self, parent: int, density: float) -> Tensor:
        """The parent's values, some set to 0 by lot."""
        values = self._values[parent]
        return values if density >= 1 else elementwise.keep(values, self._draws(parent), density)

    def ranked_lottery(self, parent: int, low: float, high: float) -> Tensor:
        """The parent's values, some set to 0 by lot, the smaller of a row more often."""
        return elementwise.keep_ranked(self._values[parent], self._draws(parent), low, high)

    def _draws(self, parent: int) -> NDArray[np.uint16]:
        return self._whole.draws(parent, self._start, self._start + self._values[parent].numel())


def _seed(key: str) -> int:
    """64 bits of the SHA-256 of a text."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def _ramp(count: int) -> NDArray[np.float64]:
    """(count,) ranks from 0 to 1; one element alone is in the middle."""
    return np.linspace(0.0, 1.0, count) if count > 1 else np.array([0.5])


def _ordered(score: Tensor) -> Tensor:
    """Float32 scores as integers from 0 to 2^32 that order alike, int64."""
    bits = score.float().view(torch.int32).to(torch.int64).view(-1)
    return torch.where(bits >= 0, bits, bits ^ 0x7FFFFFFF) + (1 << 31)


def _bincount(bits: Tensor, size: int) -> Tensor:
    return torch.bincount(bits.view(-1), minlength=size)


def _lower(bits: Tensor, bucket: int) -> Tensor:
    """Histogram of the lower 16 bits of the elements whose upper bits are the bucket's."""
    flat = bits.view(-1)
    return _bincount(flat[flat >> 16 == bucket] & 0xFFFF, 1 << 16)


def _occupied(counts: Tensor) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Numbers that occur, largest first, and for each how many elements reach it."""
    histogram = counts.numpy()[::-1]
    found = np.flatnonzero(histogram)
    return len(histogram) - 1 - found, np.cumsum(histogram[found]).astype(np.int64)


def _nth(bits: NDArray[np.int64], reach: NDArray[np.int64], count: int) -> tuple[int, int, int]:
    """The ``count``-th largest number, how many are above it, and how many equal it."""
    at = int(np.searchsorted(reach, count))
    above = int(reach[at - 1]) if at else 0
    return int(bits[at]), above, int(reach[at]) - above
