"""Runs that reports are made of, and the command line."""

from pathlib import Path

import pytest

from evomm.report.page import page
from evomm.report.story import Story
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve
from evomm.run.stages import begun
from tests import worlds
from tests.cli.conftest import evomm
from tests.report.kit import KINDS

__all__ = ["evomm"]


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of a small world, whose parents have cards; its config is in ``world`` beside it."""
    folder = tmp_path_factory.mktemp("small")
    config = worlds.make_fake(folder / "world")
    for name, licence in (("base", "mit"), ("low", "cc-by-nc-4.0"), ("high", "apache-2.0")):
        (config.parent / name / "README.md").write_text(f"---\nlicense: {licence}\nlanguage: ja\n---\n")
    evolve(EvolveConfig.load(config, ["search.evaluations=12"]), folder / "run", config.parent)
    return folder / "run"


@pytest.fixture(scope="session")
def runs(run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run of every kind, by name."""
    return {"plain": run} | {name: make(tmp_path_factory.mktemp(name)) for name, make in KINDS.items()}


@pytest.fixture(scope="session")
def pages(runs: dict[str, Path]) -> dict[str, str]:
    """The report of every run, and one of several."""
    stories = {name: Story.read(begun(folder)[-1]) for name, folder in runs.items()}
    return {name: page([story]) for name, story in stories.items()} | {"several": page(list(stories.values()))}
