"""The run's memory: one SQLite file, one writer, everything needed to resume and to report.

Tables: ``run`` (key, value: config, digests, versions), ``trials`` (every evaluated candidate of every search) and ``finals``
(validation and test scores, and what parents that constraints name scored in the search split). A row is committed as soon as it
is known, so a killed run loses at most the evaluation it was in. Floats are kept as JSON text, which Python reads back bit for
bit.
"""

import fcntl
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

from pydantic import Field

from evomm.errors import DamagedFile, MissingFile, UnsafeFile, UsageError, WriteFailed
from evomm.fitness.score import Score
from evomm.plain import Plain, cut
from evomm.run.goals import OWN

_FRESH = "run.sqlite.new"
_SCHEMA = """
CREATE TABLE run (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE trials (
    search TEXT NOT NULL, number INTEGER NOT NULL, vector TEXT NOT NULL, score TEXT, failure TEXT, seconds REAL NOT NULL,
    level REAL, more TEXT NOT NULL, PRIMARY KEY (search, number)
) STRICT;
CREATE TABLE finals (
    subject TEXT NOT NULL, split TEXT NOT NULL, task TEXT NOT NULL, recipe TEXT NOT NULL, score TEXT NOT NULL,
    answers TEXT NOT NULL, PRIMARY KEY (subject, split, task)
) STRICT;
"""


class Trial(Plain):
    """One evaluated candidate.

    search: which search asked for it. number: its place in that search. vector: (D,) in the unit cube. score: absent
    when the evaluation failed, and then failure says why; in a race, of the examples that it answered. level: in a race, what
    its score would be beside the others of its generation (see `racing.levelled`). more: its scores in the tasks of further
    objectives and of constraints, by task.
    """

    search: str
    number: int
    vector: tuple[float, ...]
    score: Score | None
    failure: str | None
    seconds: float
    level: float | None = None
    more: Mapping[str, Score] = Field(default_factory=dict)

    @property
    def scores(self) -> Mapping[str, Score] | None:
        """By task, the run's own under `OWN`; None for a failure."""
        return None if self.score is None else {OWN: self.score, **self.more}

    @property
    def id(self) -> str:
        """Such as ``cma/17``."""
        return f"{self.search}/{self.number}"

    @property
    def fitness(self) -> float:
        """The mean score, or the level of a race; minus infinity for a failure."""
        if self.score is None:
            return float("-inf")
        return self.score.mean if self.level is None else self.level


class Final(Plain):
    """A look at the validation or test split (or, of parents that constraints name, at the search split).

    task: which task was asked, as in `EvolveConfig.tasks`. subject: a trial's id, ``parent/LABEL``, ``uniform`` or
    ``SEARCH/favourite-N``. recipe: YAML that re-makes the model.
    """

    subject: str
    split: str
    task: str = OWN
    recipe: str
    score: Score
    answers: tuple[str, ...]


class Store:
    """The store of one run folder; opened for writing it is locked, so that a second driver is refused."""

    def __init__(self, folder: Path, writing: bool) -> None:
        self.folder = folder
        self._lock = _lock(folder) if writing else None
        try:
            mode = "rwc" if writing else "ro"
            self._db = sqlite3.connect(f"{(folder / 'run.sqlite').resolve().as_uri()}?mode={mode}", uri=True)
            if writing:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
        except (sqlite3.Error, UnicodeDecodeError) as error:
            raise DamagedFile(f"{folder / 'run.sqlite'}: cannot be opened as a run store ({error})") from error

    @classmethod
    def create(cls, folder: Path, facts: Mapping[str, str]) -> Self:
        """A new run folder.

        Raises WriteFailed when the folder holds something already, or cannot be made.
        """
        if folder.is_file() or (folder / "run.sqlite").exists():
            raise WriteFailed(f"{folder}: holds a run already; `evomm resume {folder}` goes on with it, or choose -o")
        left = {".lock", _FRESH, f"{_FRESH}-journal"}  # of a start that was killed
        if folder.is_dir() and {path.name for path in folder.iterdir()} - left:
            raise WriteFailed(f"{folder}: is not empty; choose another -o")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Built beside its final name: a kill in between leaves no store that looks like one.
            fresh = folder / _FRESH
            for name in left:
                (folder / name).unlink(missing_ok=True)
            db = sqlite3.connect(fresh)
            with db:
                db.executescript(_SCHEMA)
                db.executemany("INSERT INTO run VALUES (?, ?)", facts.items())
            db.close()
            fresh.rename(folder / "run.sqlite")
        except (OSError, sqlite3.Error) as error:
            with suppress(OSError):
                for name in left:
                    (folder / name).unlink(missing_ok=True)
                folder.rmdir()
            raise WriteFailed(f"{folder}: the run's store could not be made ({error}); make room or choose -o") from error
        return cls(folder, writing=True)

    @classmethod
    def open(cls, folder: Path, writing: bool = False) -> Self:
        """The store of an existing run."""
        if not (folder / "run.sqlite").exists():
            raise MissingFile(f"{folder}: no run here (no run.sqlite); `evomm evolve CONFIG -o {folder}` starts one")
        if link := next((path for path in folder.rglob("*") if path.is_symlink()), None):
            raise UnsafeFile(f"{link}: a link, through which a run would write elsewhere; put what it leads to in its place")
        store = cls(folder, writing)
        try:
            if odd := store._query("SELECT name FROM sqlite_master WHERE type IN ('view', 'trigger')"):
                raise DamagedFile(f"{folder / 'run.sqlite'}: holds '{cut(str(odd[0][0]))}', a program; restore it from a copy")
        except DamagedFile:
            store.close()
            raise
        return store

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._db.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def fact(self, key: str) -> str:
        """A value of the run table."""
        rows = self._query("SELECT value FROM run WHERE key = ?", (key,))
        if not rows:
            raise DamagedFile(f"{self.folder}: the store has no '{key}'; was it made by another version?")
        return str(rows[0][0])

    def facts(self) -> dict[str, str]:
        """The whole run table."""
        return {str(key): str(value) for key, value in self._query("SELECT key, value FROM run ORDER BY rowid")}

    def add_fact(self, key: str, value: str) -> None:
        """Remember a value that becomes known during the run; the first one stays."""
        self._commit("INSERT OR IGNORE INTO run VALUES (?, ?)", (key, value))

    def append(self, trial: Trial) -> None:
        """Commit one trial; its place must be free."""
        score = trial.score.model_dump_json() if trial.score else None
        vector = json.dumps(trial.vector)
        more = json.dumps({task: one.model_dump(mode="json") for task, one in trial.more.items()})
        row = (trial.search, trial.number, vector, score, trial.failure, trial.seconds, trial.level, more)
        self._commit("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)

    def trials(self, search: str) -> list[Trial]:
        """All trials of a search, in order."""
        rows = self._query(
            "SELECT search, number, vector, score, failure, seconds, level, more FROM trials WHERE search = ? ORDER BY number",
            (search,),
        )
        with self._believed():
            return [
                Trial(
                    search=row[0],
                    number=row[1],
                    vector=tuple(json.loads(row[2])),
                    score=Score.model_validate_json(row[3]) if row[3] else None,
                    failure=row[4],
                    seconds=row[5],
                    level=row[6],
                    more={task: Score.model_validate(one) for task, one in json.loads(row[7]).items()},
                )
                for row in rows
            ]

    def add_final(self, final: Final) -> None:
        """Commit a validation or test score; each subject is looked at once per split and task."""
        answers = json.dumps(final.answers, ensure_ascii=False)
        row = (final.subject, final.split, final.task, final.recipe, final.score.model_dump_json(), answers)
        self._commit("INSERT INTO finals VALUES (?, ?, ?, ?, ?, ?)", row)

    def finals(self, split: str, task: str = OWN) -> dict[str, Final]:
        """Subject -> its look at a split of a task, in the order they were taken."""
        rows = self._query(
            "SELECT subject, split, task, recipe, score, answers FROM finals WHERE split = ? AND task = ? ORDER BY rowid",
            (split, task),
        )
        with self._believed():
            return {
                row[0]: Final(
                    subject=row[0],
                    split=row[1],
                    task=row[2],
                    recipe=row[3],
                    score=Score.model_validate_json(row[4]),
                    answers=tuple(json.loads(row[5])),
                )
                for row in rows
            }

    @contextmanager
    def _believed(self) -> Iterator[None]:
        """Rows that another hand than this one wrote."""
        try:
            yield
        except (ValueError, TypeError, AttributeError, RecursionError) as error:  # pydantic's and JSON's are ValueErrors
            raise DamagedFile(
                f"{self.folder / 'run.sqlite'}: holds a row that evomm does not write ({cut(str(error))}); restore it from a copy"
            ) from error

    def _query(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(sql, values).fetchall()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # the latter: a damaged name in SQLite's own message
            raise DamagedFile(f"{self.folder / 'run.sqlite'}: damaged ({error}); restore it from a copy") from error

    def _commit(self, sql: str, values: Sequence[object]) -> None:
        try:
            with self._db:
                self._db.execute(sql, values)
        except sqlite3.OperationalError as error:  # a full disk, mostly; what was committed before stays
            raise WriteFailed(
                f"{self.folder}: the store could not be written ({error}); make room, then `evomm resume {self.folder}`"
            ) from error
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            raise DamagedFile(f"{self.folder / 'run.sqlite'}: damaged ({error}); restore it from a copy") from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; UsageError when another process does."""
    fd = _lock(folder)
    try:
        yield
    finally:
        os.close(fd)


def _lock(folder: Path) -> int:
    """An exclusive lock that the system releases when the process ends, however it ends."""
    try:
        fd = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        raise WriteFailed(f"{folder}: cannot be locked ({error}); a run writes into its folder") from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise UsageError(f"{folder}: another evomm is working on this run; wait for it, or stop it first") from None
    return fd
