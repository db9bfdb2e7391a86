"""The run's memory: what another hand wrote is refused, and a disk that fills up loses nothing."""

import resource
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from evomm.errors import DamagedFile, UnsafeFile
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve, resume
from evomm.run.export import candidate_recipe
from evomm.run.store import Store
from tests import worlds
from tests.run.test_kill import content

SHORT = ("search.evaluations=30",)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of a finished run."""
    folder = tmp_path_factory.mktemp("finished")
    config = worlds.make_fake(folder / "world")
    evolve(EvolveConfig.load(config, SHORT), folder / "run", config.parent)
    return folder / "run"


def changed(run: Path, folder: Path, *statements: str) -> Path:
    """A copy of a run whose store, without its strict types, was changed by hand."""
    folder.mkdir()
    with closing(sqlite3.connect(run / "run.sqlite")) as old, closing(sqlite3.connect(folder / "run.sqlite")) as new:
        old.backup(new)
        for name in ("run", "trials", "finals"):
            new.execute(f"CREATE TABLE loose AS SELECT * FROM {name}")
            new.execute(f"DROP TABLE {name}")
            new.execute(f"ALTER TABLE loose RENAME TO {name}")
        for statement in statements:
            new.execute(statement)
        new.commit()
    return folder


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE trials SET vector = '0.5'",
        "UPDATE trials SET vector = '[0.5'",
        "UPDATE trials SET vector = '[NaN, 0, 0, 0]'",
        "UPDATE trials SET vector = x'00ff'",
        "UPDATE trials SET score = '{\"values\": []}'",
        "UPDATE trials SET score = '" + "[" * 5000 + "'",
        "UPDATE trials SET number = 'first'",
        "UPDATE trials SET seconds = NULL",
        "UPDATE finals SET score = '{'",
        "UPDATE finals SET answers = '7'",
        "UPDATE finals SET answers = '[7]'",
        "ALTER TABLE trials DROP COLUMN score",
        "DROP TABLE finals",
    ],
)
def test_rows_that_evomm_does_not_write_are_refused(finished: Path, tmp_path: Path, statement: str) -> None:
    run = changed(finished, tmp_path / "run", statement)
    with Store.open(run) as store, pytest.raises(DamagedFile, match="restore it from a copy"):
        _ = store.trials("cma"), store.finals("test")


@pytest.mark.parametrize(
    "statements",
    [
        (
            "DROP TABLE trials",
            "CREATE VIEW trials AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT * FROM n",
        ),
        ("CREATE TRIGGER t AFTER INSERT ON trials BEGIN DELETE FROM finals; END",),
    ],
)
def test_a_store_that_holds_programs_is_not_asked(finished: Path, tmp_path: Path, statements: tuple[str, ...]) -> None:
    """Views and triggers are SQL that runs, without end if it likes, when tables are read and written."""
    with pytest.raises(DamagedFile, match="a program"):
        Store.open(changed(finished, tmp_path / "run", *statements))


@pytest.mark.parametrize("name", ["recipe.yaml", "pictures", ".lock", "run.sqlite-wal"])
def test_a_run_writes_through_no_link(finished: Path, tmp_path: Path, name: str) -> None:
    """A run folder from elsewhere may hold a recipe.yaml that is a link to a file of one's own."""
    own = tmp_path / "own"
    own.write_text("years of work")
    run = changed(finished, tmp_path / "run")
    (run / name).symlink_to(own)
    with pytest.raises(UnsafeFile, match="a link"):
        resume(run)
    assert own.read_text() == "years of work"


@pytest.mark.parametrize("vector", ["[0.5]", "[0.5, 0.5, 0.5, 1e300]", "[0.5, 0.5, 0.5, -1]"])
def test_a_vector_that_no_search_asked_is_not_exported(finished: Path, tmp_path: Path, vector: str) -> None:
    run = changed(finished, tmp_path / "run", f"UPDATE trials SET vector = '{vector}' WHERE number = 3")
    with pytest.raises(DamagedFile, match="'cma/3' is none of this run's 4 genes"):
        candidate_recipe(run, "cma/3")


@pytest.mark.parametrize(("at", "count"), [(0, 16), (4096, 4096), (100, 3)])
def test_a_file_with_overwritten_bytes_is_told(finished: Path, tmp_path: Path, at: int, count: int) -> None:
    run = changed(finished, tmp_path / "run")
    data = bytearray((run / "run.sqlite").read_bytes())
    data[at : at + count] = b"\xa5" * count
    (run / "run.sqlite").write_bytes(data)
    with pytest.raises(DamagedFile, match=r"run\.sqlite"), Store.open(run) as store:
        for search in ("cma", "random"):
            store.trials(search)
        store.finals("validation")
        store.fact("config")


def test_a_disk_that_fills_up_in_the_middle_loses_nothing(tmp_path: Path) -> None:
    """The system refuses files above a size, as a full disk would; with room again, the run ends as if nothing had been."""
    config = worlds.make_fake(tmp_path / "world")
    evolve(EvolveConfig.load(config, SHORT), tmp_path / "undisturbed", config.parent)
    limit = 120_000  # more than the new store, less than its log of changes grows to
    done = subprocess.run(
        [
            *(sys.executable, "-c", "from evomm.cli.app import main; main()", "evolve", str(config)),
            *("--set", SHORT[0], "-o", str(tmp_path / "run")),
        ],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert "the store could not be written" in done.stderr.replace("\n", " ") and "Traceback" not in done.stderr
    with Store.open(tmp_path / "run") as store:
        assert 0 < len(store.trials("cma")) < 30
    resume(tmp_path / "run")
    assert content(tmp_path / "run") == content(tmp_path / "undisturbed")
