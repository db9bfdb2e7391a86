"""Where compiled code is kept: beside the module that it is compiled from, as Python keeps byte code.

numba writes what it has compiled as soon as it has, and fails the call when the disk is full, read-only or gone. Keeping code
only saves time, so here such failures are harmless: what cannot be kept is compiled again by the next process.
"""

from contextlib import suppress
from pickle import UnpicklingError
from typing import Any

_FAILURES = (OSError, EOFError, UnpicklingError)  # the last two: a file that was cut short, as by a loss of power


def keep_code(dispatcher: Any) -> None:
    """Have what a function under `numba.njit` compiles kept on disk, where there is a folder to write to."""
    if not hasattr(dispatcher, "enable_caching"):
        return  # a plain function: NUMBA_DISABLE_JIT is set
    with suppress(RuntimeError):  # neither the module's folder nor the user's cache can be written
        dispatcher.enable_caching()
        dispatcher._cache = _Forgiving(dispatcher._cache)


class _Forgiving:
    """numba's cache of one function; code that cannot be read is taken for absent, code that cannot be written is left out."""

    def __init__(self, cache: Any) -> None:
        self._cache = cache

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return self._cache.load_overload(sig, target_context)
        except _FAILURES:
            with suppress(*_FAILURES):
                self._cache.flush()  # else a damaged index would stay, and nothing be kept any more
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        with suppress(*_FAILURES):
            self._cache.save_overload(sig, data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)
