"""The floor of a turn-around: reading every tensor of some models once, and writing those of one, all of them in memory."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from ctypes import memmove

import numpy as np
import torch
from numba import njit
from numpy.typing import NDArray
from torch import Tensor

Words = NDArray[np.uint64]
_BLOCK = 1 << 15  # words: what is copied and read before going on, small enough for the cache


@njit(nogil=True)
def _mixed(out: Words, a: Words, b: Words, c: Words) -> None:
    for i in range(out.size):
        out[i] = a[i] ^ b[i] ^ c[i]


@njit(nogil=True)
def _added(out: NDArray[np.uint16], a: NDArray[np.uint16], b: NDArray[np.uint16], c: NDArray[np.uint16]) -> None:
    for i in range(out.size):
        out[i] = a[i] + b[i] + c[i]


@njit(nogil=True)
def _read(a: Words, b: Words) -> np.uint64:
    total = np.uint64(0)
    for i in range(a.size):
        total ^= a[i] ^ b[i]
    return total


def _copied(out: Words, a: Words, b: Words, c: Words) -> None:
    """One is copied by the C library, which need not read what it overwrites; the others are only read."""
    for start in range(0, out.size, _BLOCK):
        part = slice(start, min(start + _BLOCK, out.size))
        memmove(out[part].ctypes.data, c[part].ctypes.data, out[part].nbytes)
        _read(a[part], b[part])


def _halves(out: Words, a: Words, b: Words, c: Words) -> None:
    _added(out.view(np.uint16), a.view(np.uint16), b.view(np.uint16), c.view(np.uint16))


FORMS: Mapping[str, Callable[..., None]] = {
    "the sum of three 16-bit words": _halves,
    "three 64-bit words mixed": _mixed,
    "one copied, two read": _copied,
}


class MemoryFloor:
    """Three models of the same 16-bit tensors, and where to write one; each form is a way to do no more than that."""

    def __init__(self, models: Sequence[Mapping[str, Tensor]], out: Mapping[str, Tensor], threads: int) -> None:
        ordered = sorted(out, key=lambda name: -out[name].numel())
        self._jobs = [tuple(_words(held[name]) for held in (out, *models)) for name in ordered]
        self._threads = threads
        for form in FORMS.values():
            form(*self._jobs[-1])  # is compiled now

    def measure(self, form: str) -> tuple[float, float]:
        """Wall and CPU seconds of one pass."""
        run = FORMS[form]
        wall, cpu = time.perf_counter(), time.process_time()
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(lambda job: run(*job), self._jobs):
                pass
        return time.perf_counter() - wall, time.process_time() - cpu


def _words(tensor: Tensor) -> Words:
    words: Words = tensor.view(-1).view(torch.uint16).numpy().view(np.uint64)
    return words
