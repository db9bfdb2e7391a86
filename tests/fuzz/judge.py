"""Runs one input through a reader and says what came of it."""

import resource
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from types import FrameType

from evomm.errors import EvommError
from tests.fuzz.formats import Mutate

SECONDS = 5.0  # of processor time: longer is a hang
BYTES = 1 << 31  # of new address space: more is a bomb


class Contradiction(Exception):  # noqa: N818 - reads as what it says
    """An input that was read, and must not have been: what it says is not what was understood."""


class Hang(BaseException):
    """An input that takes longer than any honest one; no reader's `except Exception` may stop it."""


@dataclass(frozen=True)
class Reader:
    """One way into evomm.

    seeds: a few honest inputs. mutate: makes others of them. read: what evomm does with one, in a folder that it may write in;
    raises `Contradiction` where that is not what the input says. suffix: of corpus files.
    """

    seeds: Callable[[], list[bytes]]
    mutate: Mutate
    read: Callable[[bytes, Path], None]
    suffix: str

    def inputs(self, seed: int) -> Iterator[bytes]:
        """Inputs without end, the seeds first; a function of the seed. What was mutated is mutated on, at times."""
        rng, seeds = Random(seed), self.seeds()
        yield from seeds
        latest = rng.choice(seeds)
        while True:
            latest = self.mutate(rng, latest if rng.random() < 0.3 else rng.choice(seeds), seeds)
            latest = latest[: 1 << 16]
            yield latest


@dataclass(frozen=True)
class Finding:
    """What must not happen. key: tells one finding from another: the error, and the last line of evomm that it passed."""

    key: str
    told: str


def judge(reader: Reader, data: bytes, folder: Path, seconds: float = SECONDS) -> Finding | None:
    """None when the input was read or refused as it should be."""
    try:
        with _timed(seconds):
            reader.read(data, folder)
    except EvommError as error:
        return None if str(error).isprintable() or _printable(str(error)) else Finding("message", f"cannot be shown: {error!r}")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of a library in Rust is none of Exception's
        return Finding(_key(error), "".join(traceback.format_exception(error))[-3000:])
    return None


def limit_memory() -> None:
    """From now on this process gets only so much more address space; asking for more is a MemoryError."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + BYTES, used + BYTES))


def _printable(message: str) -> bool:
    """Whether a terminal can show it, and a reader survey it."""
    try:
        message.encode()
    except UnicodeEncodeError:
        return False
    return len(message) < 20_000


def _key(error: BaseException) -> str:
    if isinstance(error, Contradiction):
        return f"Contradiction {' '.join(str(error).split()[:3])}"
    frames = traceback.extract_tb(error.__traceback__)
    own = [f"{Path(frame.filename).stem}:{frame.name}" for frame in frames if "/evomm/" in frame.filename]
    return f"{type(error).__name__} in {own[-1] if own else 'the reader'}"


@contextmanager
def _timed(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise Hang(f"still busy after {seconds:g} seconds of processor time")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)  # others may want the processor too
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
