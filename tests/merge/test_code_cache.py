"""Compiled code is kept for the next process; a disk that does not take it or gives it back damaged fails no merge."""

import importlib.util
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from numba.core.caching import CacheImpl
from numba.core.dispatcher import Dispatcher

from evomm.merge import kernels

MODULE = """
from numba import njit
from evomm.merge.code_cache import keep_code

@njit
def double(x):
    return x + x

keep_code(double)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a module, of which nothing is compiled."""
    (tmp_path / "doubles.py").write_text(MODULE)
    return tmp_path


def double(home: Path) -> Any:
    """The module's function, as a new process has it."""
    spec = importlib.util.spec_from_file_location("doubles", home / "doubles.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.double


def found(function: Any) -> bool:
    """Whether its code came from the disk."""
    assert function(21) == 42
    return bool(function.stats.cache_hits)


def kept(home: Path) -> list[str]:
    return sorted(file.suffix for file in home.glob("__pycache__/doubles.double*"))


@contextmanager
def full_disk() -> Iterator[None]:
    """Files can be made, but hold nothing."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_code_is_compiled_once(home: Path) -> None:
    assert not found(double(home))
    assert kept(home) == [".nbc", ".nbi"]
    assert found(double(home))


def test_a_full_disk_fails_nothing(home: Path) -> None:
    with full_disk():
        assert not found(double(home))
    assert kept(home) == []
    assert not found(double(home))
    assert found(double(home))


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_code_that_was_cut_short_is_compiled_again(home: Path, kind: str, share: float) -> None:
    double(home)(21)
    (file,) = home.glob(f"__pycache__/*.{kind}")
    file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
    with full_disk():
        assert not found(double(home))
    assert not found(double(home))
    assert found(double(home))


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_code_that_cannot_be_opened_is_compiled_again(home: Path, kind: str) -> None:
    double(home)(21)
    (file,) = home.glob(f"__pycache__/*.{kind}")
    file.unlink()
    file.mkdir()
    assert not found(double(home))


def test_without_a_folder_to_write_to_nothing_is_kept(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    assert not found(double(home))
    assert kept(home) == []


def test_all_kernels_are_kept() -> None:
    compiled = [loop for loop in vars(kernels).values() if isinstance(loop, Dispatcher)]
    assert kernels.elect in compiled
    assert all(loop.stats.cache_path for loop in compiled)
