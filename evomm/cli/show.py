"""How things look: results on stdout, everything else on stderr; plain lines in a pipe."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

out = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
err = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty())

_PLAIN_SECONDS = 10.0  # in a pipe, at most one progress line in this time


def print_json(content: Any) -> None:
    """One JSON document on stdout."""
    sys.stdout.write(json.dumps(content, ensure_ascii=False) + "\n")


def error(text: str) -> None:
    """What went wrong."""
    err.print(f"[bold red]error:[/] {escape(text)}")


def note(text: str) -> None:
    """Something worth knowing that is no result."""
    err.print(escape(text), style="dim")


def size(nbytes: float) -> str:
    """Bytes as people read them."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if nbytes >= scale:
            return f"{nbytes / scale:.3g} {unit}"
    return f"{nbytes:.0f} B"


def percent(score: Mapping[str, float]) -> str:
    """An interval such as 62.0 (58.1-65.8)."""
    return f"{100 * score['score']:.1f} ({100 * score['low']:.1f}-{100 * score['high']:.1f})"


def bar() -> Progress:
    """A progress bar on stderr."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
        console=err,
    )


@contextmanager
def bytes_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar that is advanced by bytes; nothing in a pipe."""
    if not err.is_terminal:
        yield lambda nbytes: None
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=err) as progress:
        task = progress.add_task(title, total=total)
        yield lambda nbytes: progress.advance(task, nbytes)


class RunWatch:
    """Shows a run going on: bars on a terminal, a line now and then in a pipe."""

    def __init__(self) -> None:
        self._progress = bar() if err.is_terminal else None
        self._task: TaskID | None = None
        self._name, self._total, self._done, self._best = "", 0, 0, float("-inf")
        self._said = 0.0

    def __enter__(self) -> "RunWatch":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress:
            self._progress.stop()

    def stage(self, name: str, total: int) -> None:
        """A stage begins."""
        self._name, self._total, self._done, self._best = name, total, 0, float("-inf")
        if self._progress:
            self._task = self._progress.add_task(f"{name:16}", total=total, last="")

    def step(self, text: str, fitness: float | None = None) -> None:
        """One step is done."""
        self._done += 1
        if fitness is not None:
            self._best = max(self._best, fitness)
        last = f"best {self._best:.3f}" if self._best > float("-inf") else ""
        if self._progress and self._task is not None:
            self._progress.update(self._task, advance=1, last=last)
            if "failed" in text:
                self.warn(text)
            return
        now = time.monotonic()
        if now - self._said >= _PLAIN_SECONDS or self._done == self._total or "failed" in text:
            self._said = now
            err.print(escape(f"{self._name} {self._done}/{self._total} {text} {last}".rstrip()))

    def warn(self, text: str) -> None:
        """Something odd."""
        err.print(f"[yellow]warning:[/] {escape(text)}")
