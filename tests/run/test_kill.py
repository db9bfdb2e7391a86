"""A run killed at any moment and resumed is the run that was never killed, bit for bit."""

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from evomm.errors import UsageError
from evomm.resources import resource
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve, resume
from evomm.run.store import Store, Trial
from evomm.search.table import SEARCHERS
from tests import worlds

KILLS = 20
SHORT = ("search.evaluations=30",)

# Processes start from one that has imported everything, so that a kill hits the run and not the interpreter's start.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["evomm.run.engine", "tests.run.test_kill"])


def go(config: Path, folder: Path, overrides: Sequence[str]) -> None:
    """What a user does: resume what is there, or start."""
    if (folder / "run.sqlite").exists():
        resume(folder)
    else:
        evolve(EvolveConfig.load(config, overrides), folder, config.parent)


def start(config: Path, folder: Path, overrides: Sequence[str] = SHORT) -> BaseProcess:
    """`go` in a process of its own."""
    process = _CONTEXT.Process(target=go, args=(config, folder, overrides))
    process.start()
    return process


def content(folder: Path) -> list[object]:
    """All that a run found out, without the clock's part in it."""
    with Store.open(folder) as store:
        trials = [trial.model_copy(update={"seconds": 0.0}) for name in SEARCHERS for trial in store.trials(name)]
        looks = [store.finals(split, task) for split in ("validation", "test") for task in ("", "modest.yaml")]
        return [*trials, *looks, (folder / "recipe.yaml").read_bytes()]


def undisturbed(config: Path, folder: Path, overrides: Sequence[str] = SHORT) -> tuple[list[object], float]:
    """What a run that nobody disturbs finds, and the seconds it takes once processes start from a warm one."""
    start(config, folder.with_name("warm-up"), overrides).join()
    began = time.monotonic()
    process = start(config, folder, overrides)
    process.join()
    seconds = time.monotonic() - began
    assert process.exitcode == 0
    return content(folder), seconds


def kill_and_resume(config: Path, root: Path, overrides: Sequence[str]) -> None:
    """Twenty runs, each killed at a random moment and resumed once."""
    expected, seconds = undisturbed(config, root / "undisturbed", overrides)
    moments = random.Random(0)
    interrupted = 0
    for number in range(KILLS):
        folder = root / f"killed-{number}"
        victim = start(config, folder, overrides)
        victim.join(moments.uniform(0.0, seconds))
        interrupted += victim.is_alive()
        victim.kill()
        victim.join()
        survivor = start(config, folder, overrides)
        survivor.join()
        assert survivor.exitcode == 0
        assert content(folder) == expected
    assert interrupted >= KILLS // 2  # or the test has not tested


def test_twenty_kills(tmp_path: Path) -> None:
    kill_and_resume(worlds.make_fake(tmp_path / "world"), tmp_path, SHORT)


def die_after(trials: int) -> None:
    """Have this process killed when so many trials are stored and the next one is about to be."""
    left, append = [trials], Store.append

    def last(self: Store, trial: Trial) -> None:
        left[0] -= 1
        if left[0] < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        append(self, trial)

    Store.append = last  # type: ignore[method-assign]  # in a process of its own, which does not survive it


def go_and_die(config: Path, folder: Path, overrides: Sequence[str], trials: int) -> None:
    """Evolve, and be killed on the way."""
    die_after(trials)
    evolve(EvolveConfig.load(config, overrides), folder, config.parent)


@pytest.mark.parametrize("method", [method for method in SEARCHERS if method != "random"])
def test_every_searcher_goes_on_as_if_it_had_not_been_killed(tmp_path: Path, method: str) -> None:
    """Within a generation, between two, and in the baseline, which is random search; with two goals where it can."""
    search = f"search={{method: {method}, evaluations: 40, population: 8}}"
    overrides = [search, *(["objectives=[{task: modest.yaml}]"] if SEARCHERS[method].many_goals else [])]
    config = worlds.make_torn(tmp_path / "world")
    evolve(EvolveConfig.load(config, overrides), tmp_path / "undisturbed", config.parent)
    expected = content(tmp_path / "undisturbed")
    for trials in (13, 24, 61):
        folder = tmp_path / f"killed-{trials}"
        victim = _CONTEXT.Process(target=go_and_die, args=(config, folder, overrides, trials))
        victim.start()
        victim.join()
        assert victim.exitcode == -signal.SIGKILL
        resume(folder)
        assert content(folder) == expected


@pytest.mark.slow
def test_twenty_kills_of_language_models(tmp_path: Path) -> None:
    """The same on the shipped models: real generation, real scores."""
    sizes = ["limits.search=32", "limits.validation=32", "limits.test=32", "search.evaluations=20"]
    kill_and_resume(resource("configs", "demo-llm.yaml"), tmp_path, sizes)


def test_killed_again_and_again(tmp_path: Path) -> None:
    """Each restart is killed too; the run still gets there, since what is committed stays."""
    config = worlds.make_fake(tmp_path / "world")
    expected, seconds = undisturbed(config, tmp_path / "undisturbed")
    folder = tmp_path / "killed"
    for restart in range(100):
        process = start(config, folder)
        process.join(seconds * (0.3 + 0.05 * restart))  # ever more patient, so that it ends on any machine
        if process.exitcode == 0:
            break
        process.kill()
        process.join()
    assert content(folder) == expected


def test_a_second_driver_is_refused(tmp_path: Path) -> None:
    config = worlds.make_fake(tmp_path / "world")
    evolve(EvolveConfig.load(config), tmp_path / "run", config.parent)
    with Store.open(tmp_path / "run", writing=True), pytest.raises(UsageError, match="another evomm is working"):
        resume(tmp_path / "run")
