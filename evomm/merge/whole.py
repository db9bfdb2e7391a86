"""What methods ask about a whole tensor while the engine feeds them chunks: thresholds, random masks, inner products.

Nothing here depends on the chunk size or on the number of threads: thresholds come from exact counts, random numbers
from the element's position, and sums over blocks of a fixed size in a fixed order.
"""

import hashlib
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

CHUNK = 1 << 18  # elements: 1 MiB of float32, so that a few operands stay in the second-level cache
_BLOCK = 1 << 14  # torch sums fewer than 32,768 elements in one thread, hence always in the same order
_PER_STEP = 8  # one Philox counter step gives 4 × 64 bits = 8 draws of 32 bits


class WholeTensor:
    """Facts about one tensor of P parents, made when first asked for and kept.

    Args:
        numel: elements in the tensor.
        load: ``load(parent, start, stop)`` gives float32 elements of what the method sees (weights or task vectors).
        dtype: the parents' storage dtype; magnitudes are ranked after rounding to it (see `threshold`).
        keys: per parent, the text that names its random stream.
    """

    def __init__(self, numel: int, load: Callable[[int, int, int], Tensor], dtype: torch.dtype, keys: Sequence[str]) -> None:
        self.numel = numel
        self._load = load
        self._dtype = dtype if dtype in {torch.float16, torch.bfloat16} else torch.float32
        self._keys = keys
        self._counts: dict[int, Tensor] = {}
        self._thresholds: dict[tuple[int, int], float] = {}
        self._gram: Tensor | None = None

    def threshold(self, parent: int, keep: int) -> float:
        """The keep-th largest magnitude, exactly; infinite for keep = 0.

        Magnitudes of 16-bit floats order like 15-bit integers, so one counting pass serves every density. Task vectors
        of such parents are ranked after rounding to the parents' dtype; float32 ones need a second look at one bucket.
        """
        if keep <= 0:
            return float("inf")
        if (parent, keep) not in self._thresholds:
            if parent not in self._counts:
                self._counts[parent] = self._count(parent)
            at_least = self._counts[parent].flip(0).cumsum(0).flip(0)  # (32768,) elements in this bucket or above
            bucket = int(torch.searchsorted(-at_least, torch.tensor(-keep), right=True)) - 1  # last with >= keep
            above = int(at_least[bucket + 1]) if bucket < len(at_least) - 1 else 0
            self._thresholds[parent, keep] = self._in_bucket(parent, bucket, keep - above)
        return self._thresholds[parent, keep]

    def cutoff(self, parent: int, keep: int) -> float:
        """Float32 values with |x| above this are those that, rounded to the parents' dtype, reach the threshold.

        Rounding is to nearest, ties to even: what reaches t from below lies beyond the midpoint of t and its predecessor,
        the midpoint itself included when t's last bit is 0.
        """
        threshold = self.threshold(parent, keep)
        if threshold == 0 or math.isinf(threshold):
            return -1.0 if threshold == 0 else threshold
        here = torch.tensor(threshold, dtype=self._dtype)
        bits = here.view(torch.int16 if self._dtype.itemsize == 2 else torch.int32)
        below = float((bits - 1).view(self._dtype))
        if self._dtype == torch.float32:
            return below
        middle = (below + threshold) / 2  # exact in float32
        zero = torch.tensor(0.0)
        return float(torch.nextafter(torch.tensor(middle), zero)) if int(bits) % 2 == 0 else middle

    def gram(self) -> Tensor:
        """Float64 (P, P) inner products of the parents' whole tensors."""
        if self._gram is None:
            count = len(self._keys)
            self._gram = torch.zeros(count, count, dtype=torch.float64)
            for start in range(0, self.numel, _BLOCK):
                stop = min(start + _BLOCK, self.numel)
                rows = [self._load(p, start, stop).double() for p in range(count)]
                for i in range(count):
                    for j in range(i, count):
                        self._gram[i, j] += (rows[i] * rows[j]).sum()
            self._gram = torch.triu(self._gram) + torch.triu(self._gram, 1).T
        return self._gram

    def random(self, parent: int, start: int, stop: int) -> NDArray[np.uint32]:
        """Uniform in [0, 2^32) for elements start..stop: a function of the parent's key and the position alone."""
        digest = hashlib.sha256(self._keys[parent].encode()).digest()[:16]
        stream = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64))
        skipped = start // _PER_STEP
        stream.advance(skipped)
        first = start - skipped * _PER_STEP
        count = -(-(first + stop - start) // 2)  # 64-bit words that hold the draws
        draws = np.asarray(stream.random_raw(count)).astype("<u8", copy=False).view("<u4")
        return draws[first : first + stop - start]

    def _count(self, parent: int) -> Tensor:
        """Histogram (32768,) of the upper 15 bits of the magnitudes."""
        counts = torch.zeros(1 << 15, dtype=torch.int64)
        for start in range(0, self.numel, CHUNK):
            bits = self._bits(self._load(parent, start, min(start + CHUNK, self.numel)))
            counts += torch.bincount(bits >> self._low_bits, minlength=1 << 15)
        return counts

    def _in_bucket(self, parent: int, bucket: int, keep: int) -> float:
        """The keep-th largest magnitude of one histogram bucket (16-bit floats: the bucket is one magnitude)."""
        if not self._low_bits:
            return float(torch.tensor(bucket, dtype=torch.int16).view(self._dtype))
        found = []
        for start in range(0, self.numel, CHUNK):
            bits = self._bits(self._load(parent, start, min(start + CHUNK, self.numel)))
            found.append(bits[bits >> self._low_bits == bucket])
        bits = torch.cat(found)
        kth = torch.kthvalue(bits, bits.numel() - keep + 1).values
        return float(kth.to(torch.int32).view(torch.float32))

    def _bits(self, values: Tensor) -> Tensor:
        """Magnitudes as integers that order alike: 15 bits for 16-bit floats, 31 for float32."""
        ranked = values.to(self._dtype).abs()
        return ranked.view(torch.int16 if self._dtype.itemsize == 2 else torch.int32).to(torch.int64)

    @property
    def _low_bits(self) -> int:
        return 8 * self._dtype.itemsize - 16


class ChunkView:
    """`methods.Whole` for the elements start..stop of a tensor."""

    def __init__(self, whole: WholeTensor, values: Sequence[Tensor], start: int) -> None:
        self._whole = whole
        self._values = values
        self._start = start

    def cutoff(self, parent: int, density: float) -> float:
        """The int(density * n) elements of largest magnitude (and all that equal the last of them) lie above this."""
        if density >= 1:
            return -1.0
        return self._whole.cutoff(parent, int(density * self._whole.numel))

    def lottery(self, parent: int, density: float) -> Tensor:
        """A random mask of 0 and 1 at that density."""
        values = self._values[parent]
        if density >= 1:
            return torch.ones_like(values)
        draws = self._whole.random(parent, self._start, self._start + values.numel())
        return torch.from_numpy(draws < np.uint32(density * 2**32)).to(values.dtype)

    def gram(self) -> Tensor:
        """Inner products of the whole tensors."""
        return self._whole.gram()
