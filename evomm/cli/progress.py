"""Progress: bars on a terminal, a line now and then in a pipe."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from evomm.cli.show import err, note

_PLAIN_SECONDS = 10.0  # in a pipe, at most one progress line in this time


def bar() -> Progress:
    """A progress bar on stderr."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
        console=err.real,
    )


def working(what: str) -> AbstractContextManager[object]:
    """A spinner for work whose end cannot be told; nothing in a pipe."""
    return err.real.status(what) if err.real.is_terminal else nullcontext()


@contextmanager
def bytes_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar that is advanced by bytes; nothing in a pipe."""
    if not err.real.is_terminal:
        yield lambda nbytes: None
        return
    with Progress(TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(), console=err.real) as progress:
        task = progress.add_task(title, total=total)
        yield lambda nbytes: progress.advance(task, nbytes)


class MergeWatch:
    """Shows merges, one bar each, advanced by bytes; in a pipe, only what is odd."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=err.real) if err.real.is_terminal else None
        self._task: TaskID | None = None

    def __enter__(self) -> "MergeWatch":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        if self._progress:
            self._progress.stop()

    def start(self, what: str, nbytes: int) -> None:
        """A merge of so many bytes begins."""
        if self._progress:
            self._task = self._progress.add_task(what, total=nbytes)

    def advance(self, nbytes: int) -> None:
        """So many more are written."""
        if self._progress and self._task is not None:
            self._progress.advance(self._task, nbytes)

    def note(self, text: str) -> None:
        """Something odd but allowed."""
        err.print(f"[yellow]warning:[/] {escape(text)}")


class RunWatch:
    """Shows a run going on: bars on a terminal, a line now and then in a pipe."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._progress = bar() if err.real.is_terminal else None
        self._task: TaskID | None = None
        self._name, self._total, self._done, self._best = "", 0, 0, float("-inf")
        self._said = 0.0

    def __enter__(self) -> "RunWatch":
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        if self._progress:
            self._progress.stop()
        if kind is KeyboardInterrupt:
            note(f"interrupted; what was evaluated is saved: `evomm resume {self._run}` goes on")

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
