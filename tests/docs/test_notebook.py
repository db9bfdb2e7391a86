"""The notebook runs from top to bottom, and is kept without outputs."""

import json
from typing import Any

import pytest

from tests.cli.pages_kit import DOCS

CELLS = [
    {**cell, "source": "".join(cell["source"])}
    for cell in json.loads((DOCS / "first-run.ipynb").read_text(encoding="utf-8"))["cells"]
]
CODE = [cell for cell in CELLS if cell["cell_type"] == "code"]


def test_it_runs_from_top_to_bottom(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(CODE):
        exec(compile(cell["source"], f"cell {number}", "exec"), names)
    drawing = names["Drawing"]([trial.score.mean for trial in names["trials"]])
    assert drawing._repr_svg_().count("<circle") == 20
    said = capsys.readouterr().out
    assert "child leads by" in said
    assert (names["folder"] / "model/model.safetensors").exists()


def test_outputs_are_stripped() -> None:
    assert [cell for cell in CODE if cell["outputs"] or cell["execution_count"] is not None] == []
