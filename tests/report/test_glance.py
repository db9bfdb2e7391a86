"""A run seen from another terminal."""

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from evomm.cli.watch import watch
from evomm.report.glance import lines, seconds_left, sparkline, stage
from evomm.report.story import Story
from evomm.run.engine import resume
from tests.cli.conftest import Evomm
from tests.report.kit import KINDS


def test_an_unfinished_run(runs: dict[str, Path], evomm: Evomm) -> None:
    said = evomm("watch", runs["unfinished"], "--once")
    assert said.code == 0
    assert "run: search by CMA-ES" in said.out
    assert "8/12 (1 failed)" in said.out
    assert "0/12" in said.out
    assert "of searching left; last written" in said.out


def test_a_finished_run_ends_with_its_verdict(runs: dict[str, Path], evomm: Evomm) -> None:
    """In a pipe it prints once, whether asked to or not."""
    said = evomm("watch", runs["plain"])
    assert said.code == 0
    assert "run: finished" in said.out
    assert "The child scores" in said.out.replace("\n", " ")
    assert "12/12" in said.out


def test_a_run_of_stages_is_watched_at_its_latest(runs: dict[str, Path], evomm: Evomm) -> None:
    said = evomm("watch", runs["staged"], "--once")
    assert "run/second: finished" in said.out
    assert "stages: first → second" in said.out


def test_on_a_terminal_it_goes_on_until_the_run_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is gone on with while the watcher sleeps."""
    run, screen = KINDS["unfinished"](tmp_path), io.StringIO()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        resume(run)

    monkeypatch.setattr("evomm.cli.watch.out", SimpleNamespace(real=Console(file=screen, force_terminal=True, width=100)))
    monkeypatch.setattr("time.sleep", sleep)
    watch(run, once=False, every=7.0)
    assert slept.count(7.0) == 1
    assert "search by CMA-ES" in screen.getvalue()
    assert "The child scores" in screen.getvalue()


def test_no_run(evomm: Evomm, tmp_path: Path) -> None:
    said = evomm("watch", tmp_path, "--once")
    assert said.code == 4
    assert "no run here" in said.err


def test_what_comes_next(runs: dict[str, Path]) -> None:
    story = Story.read(runs["plain"])
    searched = replace(story, subjects={}, validation={}, test={})
    assert stage(searched) == "validation (0 looked at)"
    assert stage(replace(searched, test=story.test)) == f"test ({len(story.test)} looked at)"
    assert seconds_left(searched) == 0
    begun = replace(searched, searches={name: [] for name in story.searches})
    assert stage(begun) == "search by CMA-ES"
    assert seconds_left(begun) is None
    assert [(line.done, line.best, line.bars) for line in lines(begun)] == [(0, None, "")] * 2


def test_the_pace_tells_what_is_left(runs: dict[str, Path]) -> None:
    story = Story.read(runs["unfinished"])
    slow = {name: [trial.model_copy(update={"seconds": 10.0}) for trial in trials] for name, trials in story.searches.items()}
    assert seconds_left(replace(story, searches=slow)) == pytest.approx(10.0 * (4 + 12))


@pytest.mark.parametrize(
    ("values", "bars"), [([1, 2, 3, 9], "▁▁▂█"), ([], ""), ([float("-inf"), 0.5, 0.5], "▁▁"), ([0, 1] * 50, "▁█" * 12)]
)
def test_sparklines(values: list[float], bars: str) -> None:
    assert sparkline(values) == bars
