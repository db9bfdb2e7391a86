"""Batches: every combination is a run, what is done stays done, one that fails stops no other."""

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evomm.errors import DamagedFile, MissingFile, UsageError, WriteFailed
from evomm.run.batch import Jobs, Result, load_batch, run_batch
from evomm.run.store import Store
from tests import worlds
from tests.run.test_kill import _CONTEXT, die_after

SIX = """\
configs: [config.yaml]
set: {seed: [0, 1], search.method: [genetic, m2n2, grid]}
always: {search.evaluations: 24, "limits.test": 20}
"""


def never(path: Path) -> Path:
    """For configs that lie beside the jobs."""
    raise MissingFile(f"{path}: no such file")


@pytest.fixture
def six(tmp_path: Path) -> Path:
    """A file of six jobs."""
    path = worlds.make_fake(tmp_path / "world").parent / "six.yaml"
    path.write_text(SIX)
    return path


def summary(results: Sequence[Result]) -> list[Result]:
    """Without the clock's part."""
    return [result.model_copy(update={"seconds": 0.0}) for result in results]


def test_every_combination_is_a_run(six: Path, tmp_path: Path) -> None:
    jobs = load_batch(six, never)
    results = run_batch(jobs, tmp_path / "batch")
    assert [result.name for result in results] == [
        f"config,seed={seed},search.method={method}" for seed in (0, 1) for method in ("genetic", "m2n2", "grid")
    ]
    for result in results:
        assert result.child is not None
        assert result.child.n == 20
        with Store.open(tmp_path / "batch" / result.name) as store:
            config = json.loads(store.fact("config"))
        assert result.name == f"config,seed={config['seed']},search.method={config['search']['method']}"
        assert result.evaluations == 48, "with the baseline's"
    assert len({result.child.score for result in results if result.child}) > 1


def go_and_die(jobs: Jobs, folder: Path, trials: int) -> None:
    """Run a batch, and be killed on the way."""
    die_after(trials)
    run_batch(jobs, folder)


def test_a_batch_that_is_killed_twice_ends_as_one_that_was_not(six: Path, tmp_path: Path) -> None:
    jobs = load_batch(six, never)
    expected = run_batch(jobs, tmp_path / "whole")
    for trials in (70, 110):  # in the second job, then in the fourth
        victim = _CONTEXT.Process(target=go_and_die, args=(jobs, tmp_path / "killed", trials))
        victim.start()
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
    done = len(list((tmp_path / "killed").glob("*/done.json")))
    assert 0 < done < 6
    assert summary(run_batch(jobs, tmp_path / "killed")) == summary(expected)


def test_what_is_done_is_not_done_again(six: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = load_batch(six, never)
    expected = run_batch(jobs, tmp_path / "batch")

    def again(*arguments: Any) -> Any:
        raise AssertionError("nothing is left to do")

    monkeypatch.setattr("evomm.run.batch.evolve_stages", again)
    monkeypatch.setattr("evomm.run.batch.resume_stages", again)
    assert run_batch(jobs, tmp_path / "batch") == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("configs: []", "configs"),
        ("configs: [gone.yaml]", "gone.yaml: no such file"),
        ("configs: [config.yaml]\nsett: {}", "unknown key 'sett'; did you mean 'set'"),
        ("configs: [config.yaml]\nset: {seeed: [1]}", "unknown key 'seeed'; did you mean 'seed'"),
        ("configs: [config.yaml]\nset: {search.method: [cmaa]}", "unknown searcher 'cmaa'"),
        (f"configs: [config.yaml]\nset: {{seed: {list(range(200))}, batch: {list(range(1, 200))}}}", "39800 jobs, at most 10000"),
        ("configs: [config.yaml, config.yaml]", "two jobs are called 'config'"),
    ],
)
def test_mistakes_are_told_before_anything_runs(six: Path, text: str, said: str) -> None:
    six.write_text(text)
    with pytest.raises((UsageError, MissingFile), match=said):
        load_batch(six, never)


def test_a_folder_of_something_else_is_left_alone(six: Path, tmp_path: Path) -> None:
    jobs = load_batch(six, never)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    with pytest.raises(WriteFailed, match="is not empty"):
        run_batch(jobs, tmp_path / "mine")
    one = Jobs(jobs=jobs.jobs[:1])
    run_batch(one, tmp_path / "batch")
    with pytest.raises(UsageError, match="a batch of other jobs"):
        run_batch(jobs, tmp_path / "batch")
    (tmp_path / "batch" / jobs.jobs[0].name / "done.json").write_text("{")
    with pytest.raises(DamagedFile, match=r"done\.json"):
        run_batch(one, tmp_path / "batch")
