"""What a process takes: wall time, CPU time, peak anonymous memory, bytes read from disk."""

import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SAMPLE_SECONDS = 0.01


@dataclass(frozen=True)
class Cost:
    """What one process took.

    Attributes:
        wall: seconds from start to end.
        cpu: user + system seconds of that very process.
        anonymous: peak of RssAnon in bytes, sampled; mapped files are page cache and not counted.
        disk: bytes that had to come from the disk; 0 when the cache was warm.
    """

    wall: float
    cpu: float
    anonymous: int
    disk: int


@dataclass(frozen=True)
class Finished:
    """A process that ended: its cost, its exit code, and what it said."""

    cost: Cost
    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Costs:
    """The same process, several times: the minimum of times, the maximum of memory."""

    runs: tuple[Cost, ...]

    @property
    def wall(self) -> float:
        """The shortest wall time."""
        return min(cost.wall for cost in self.runs)

    @property
    def cpu(self) -> float:
        """The least CPU time."""
        return min(cost.cpu for cost in self.runs)

    @property
    def anonymous(self) -> int:
        """The largest peak of memory."""
        return max(cost.anonymous for cost in self.runs)

    @property
    def disk(self) -> int:
        """The most bytes that came from the disk in one run."""
        return max(cost.disk for cost in self.runs)

    def spread(self, pick: Callable[[Cost], float]) -> str:
        """Least and largest of the runs, such as ``4.12-4.60``; one number when they are one."""
        values = [pick(cost) for cost in self.runs]
        return f"{min(values):.2f}" if len(values) == 1 else f"{min(values):.2f}-{max(values):.2f}"


def child_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of measured processes: byte code may be cached, and nothing asks the network."""
    kept = {name: value for name, value in os.environ.items() if name not in {"PYTHONDONTWRITEBYTECODE", "PYTHONPATH"}}
    return {**kept, "HF_HUB_OFFLINE": "1", **(extra or {})}


def measure(command: Sequence[str], logs: Path) -> Finished:
    """Run a command to its end.

    Args:
        logs: a folder for what it says, which goes to files so that nobody has to read while it runs.
    """
    said, complained = logs / "stdout.txt", logs / "stderr.txt"
    peak = [0]
    with said.open("wb") as out, complained.open("wb") as err:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=child_environment())
        watcher = threading.Thread(target=_watch, args=(process.pid, peak))
        watcher.start()
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)  # waited for above, so Popen need not
    watcher.join()
    cost = Cost(wall, usage.ru_utime + usage.ru_stime, peak[0], usage.ru_inblock * 512)
    return Finished(cost, process.returncode, said.read_text(errors="replace"), complained.read_text(errors="replace"))


def settled(command: Sequence[str], logs: Path) -> Finished:
    """`measure`, once everything that was written before is on the disk."""
    os.sync()
    return measure(command, logs)


def _watch(pid: int, peak: list[int]) -> None:
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            lines = status.read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return
        anonymous = [int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")]
        if not anonymous:  # a zombie: finished
            return
        peak[0] = max(peak[0], anonymous[0])
        time.sleep(SAMPLE_SECONDS)
