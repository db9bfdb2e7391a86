"""Configs: what the store keeps is what was asked for, whichever way spaces are described."""

import json
from pathlib import Path
from typing import Any

import pytest

from evomm.errors import UsageError
from evomm.resources import resource
from evomm.run.config import EvolveConfig

BASE: dict[str, Any] = {"adapter": "llm", "task": "t", "method": "linear", "parents": {"a": "x", "b": "y"}}
GENES = [{"parameter": "weight", "low": 0.0, "high": 1.0, "start": 0.5}]


def shipped() -> list[EvolveConfig]:
    """Every stage of every config that ships."""
    return [config for path in sorted(resource("configs").glob("*.yaml")) for config in EvolveConfig.load_all(path)]


@pytest.mark.parametrize("config", shipped(), ids=lambda config: f"{config.stage or config.task}-{config.method}")
def test_a_shipped_config_comes_back_from_the_store(config: EvolveConfig) -> None:
    assert EvolveConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    "more",
    [
        {"genes": GENES, "grouping": {"patterns": {"all": ["*"]}}},
        {"genes": GENES, "grouping": {"by": "layer", "size": 2, "least": 0.1}},
        {"method": "passthrough", "flow": {"kind": "segments", "segments": 2}},
        {"method": "passthrough", "flow": {"kind": "slots", "repeats": 1, "scales": "pair"}},
    ],
    ids=str,
)
def test_every_kind_of_space_comes_back_from_the_store(more: dict[str, Any]) -> None:
    config = EvolveConfig.model_validate({**BASE, **more})
    assert EvolveConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({}, "either `genes`.*or a `flow`"),
        ({"genes": GENES, "flow": {}}, "either `genes`.*or a `flow`"),
        ({"flow": {}}, "method: passthrough"),
        ({"flow": {}, "method": "passthrough", "base": "z"}, "without base"),
        ({"flow": {"repeat": 2}, "method": "passthrough"}, "repeat"),
    ],
    ids=str,
)
def test_half_a_space_is_refused(more: dict[str, Any], told: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({**BASE, **more}))  # JSON is YAML
    with pytest.raises(UsageError, match=told):
        EvolveConfig.load(path)


@pytest.mark.parametrize(
    ("method", "choices", "told"),
    [
        ("linear", ["linear", "slerp"], r"slerp mixes 2 parent\(s\), the run has 3: a, b, c"),
        ("linear", ["linear", "task_arithmetic"], "linear on weights, task_arithmetic on task vectors"),
        ("slerp", ["slerp", "nearswap"], "nearswap needs the base"),
    ],
)
def test_a_method_that_cannot_mix_these_parents_is_no_choice(method: str, choices: list[str], told: str) -> None:
    """Told before a search, and not when the first candidate has it."""
    parents = {"a": "x", "b": "y"} | ({"c": "z"} if method == "linear" else {})
    genes = [{"parameter": "method", "choices": choices}]
    with pytest.raises(ValueError, match=told):
        EvolveConfig.model_validate({**BASE, "method": method, "parents": parents, "genes": genes})
