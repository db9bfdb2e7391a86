"""What the terminal shows of files that others made."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.cli.conftest import Evomm


def test_a_message_shows_no_letters_that_steer_a_terminal(evomm: Evomm, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text('"\\e[2Jmethod\\e]0;owned\\a": linear\nmethod: linear\nparents: {}\n')
    said = evomm("merge", tmp_path / "recipe.yaml", "-o", tmp_path / "out")
    assert said.code == 2
    assert "\\x1b[2Jmethod" in said.err
    assert "\x1b" not in said.err and "\a" not in said.err


def test_a_message_quotes_no_more_than_can_be_read(evomm: Evomm, tmp_path: Path) -> None:
    save_file({"layers.0.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "evomm-fake"}')
    keys = "\n".join(f"{'k' * 900}{i}: 1" for i in range(50))
    (tmp_path / "recipe.yaml").write_text(f"method: linear\nparents: {{a: {{model: .}}}}\n{keys}\n")
    said = evomm("merge", tmp_path / "recipe.yaml", "-o", tmp_path / "out")
    assert (said.code, "and 45 more" in said.err.replace("\n", " ")) == (2, True)
    assert len(said.err) < 10_000
