"""Runs that reports are made of, and the command line."""

from pathlib import Path

import pytest

from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve
from tests import worlds
from tests.cli.conftest import evomm

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
