"""Shared fixtures; nothing here or below reaches the network."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import worlds

os.environ["HF_HUB_OFFLINE"] = "1"  # before huggingface_hub is imported, and for every process that tests start

settings.register_profile(
    "evomm",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("evomm")


@pytest.fixture
def fake_world(tmp_path: Path) -> Path:
    """The config of a small world of fake models; see `worlds.make_fake`."""
    return worlds.make_fake(tmp_path / "world")
