"""What pages of benchmarks share: the machine, versions, cells and tables."""

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version

from benchmarks.measure import Costs
from benchmarks.peer import Peer

GIB = 1 << 30


@dataclass(frozen=True)
class Measured:
    """One job, measured, by name. evomm and peer: their costs, or why there are none; sync: seconds of the floor's fsync."""

    name: str
    floor: Costs
    sync: float
    evomm: Costs | str
    peer: Costs | str


def cells(costs: Costs | str) -> list[str]:
    """CPU-s, wall, GiB of one tool."""
    if isinstance(costs, str):
        return [costs, "", ""]
    return [costs.spread(lambda c: c.cpu), costs.spread(lambda c: c.wall), f"{costs.anonymous / GIB:.2f}"]


def verdict(value: float, goal: float | None, met: Callable[[float, float], bool]) -> str:
    """Such as ``3.1x (goal 2.5: met)``."""
    if goal is None:
        return f"{value:.2f}x"
    return f"{value:.2f}x (goal {goal:g}: {'met' if met(value, goal) else 'MISSED'})"


def row(measured: Measured, cpu_goal: float | None, wall_goal: float | None, bound: int) -> list[str]:
    """One line of the table.

    Args:
        cpu_goal: the peer's CPU seconds over evomm's, at least.
        wall_goal: evomm's wall time over the floor's, at most.
        bound: bytes that evomm may take.
    """
    ours, theirs, floor = measured.evomm, measured.peer, measured.floor
    ratio = over = bare = memory = ""
    if isinstance(ours, Costs):
        if isinstance(theirs, Costs):
            ratio = verdict(theirs.cpu / ours.cpu, cpu_goal, lambda value, goal: value >= goal)
        over = verdict(ours.wall / floor.wall, wall_goal, lambda value, goal: value <= goal)
        bare = f"{ours.wall / (floor.wall - measured.sync):.2f}x"
        memory = "kept" if ours.anonymous <= bound else "MISSED"
    floors = [floor.spread(lambda c: c.cpu), f"{floor.spread(lambda c: c.wall)} (fsync {measured.sync:.2f})"]
    return [measured.name, *cells(ours), *cells(theirs), *floors, ratio, over, bare, memory]


def head(peer: str) -> list[str]:
    """Of the columns that `row` gives."""
    return [
        "method",
        "evomm CPU-s",
        "evomm wall s",
        "evomm GiB",
        f"{peer} CPU-s",
        f"{peer} wall s",
        f"{peer} GiB",
        "floor CPU-s",
        "floor wall s",
        f"CPU, {peer} / evomm",
        "wall, evomm / floor",
        "... / floor without its fsync",
        "memory bound",
    ]


def named(head: Sequence[str], row: Sequence[str]) -> str:
    """A line of a table on its own."""
    cells = (f"{name} {cell}" for name, cell in zip(head[1:], row[1:], strict=True) if cell)
    return "; ".join([row[0], *cells])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """As Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])


def made_by(command: str, load: float) -> str:
    """How a page came about: the command, the day, the machine and how busy it was."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    return (
        f"Made by `{command}` on {datetime.now(UTC).date()}. Machine: {os.cpu_count()} cores ({platform.machine()}), "
        f"{memory:.0f} GiB of memory, load average {load:.1f} at the start;\na shared machine, so trust ratios and minima."
    )


def versions(peer: Peer | None, same: Sequence[str]) -> str:
    """Of Python, the tools, and the libraries that both have."""
    ours = {"python": platform.python_version(), **{name: version(name) for name in ("evomm", *same)}}
    lines = ["evomm's environment: " + ", ".join(f"{name} {number}" for name, number in ours.items()) + "."]
    if peer is not None:
        found = peer.versions()
        lines.append(f"{peer.package}'s: " + ", ".join(f"{name} {number}" for name, number in found.items()) + ".")
    return "\n".join(lines)


def warmth(found: Iterable[Costs | str]) -> str:
    """How warm the file cache was: what the counted runs had to fetch from the disk."""
    most = max((costs.disk for costs in found if isinstance(costs, Costs)), default=0)
    return "No counted run read from the disk." if most < 1 << 24 else f"The worst run read {most / GIB:.1f} GiB from the disk."


def start_up(costs: Costs | str) -> str:
    """What importing costs, in words."""
    if isinstance(costs, str):
        return costs
    return f"{costs.spread(lambda c: c.cpu)} CPU-s, {costs.spread(lambda c: c.wall)} s wall, {costs.anonymous / GIB:.2f} GiB"
