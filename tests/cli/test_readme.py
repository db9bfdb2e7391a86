"""What README tells people to type works, in the order it is told."""

import re
import shlex
from pathlib import Path

import pytest

from evomm.resources import resource
from tests.cli.conftest import Evomm

README = Path(__file__).parents[2] / "README.md"
SMALL = ["limits.search=16", "limits.validation=16", "limits.test=16", "search.evaluations=10"]


def blocks(language: str) -> list[str]:
    """The fenced blocks of a language."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [text for marked, text in fenced if marked == language]


def commands() -> list[list[str]]:
    """Every evomm command, as arguments."""
    lines = [line.partition("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("evomm ")]


def test_commands_run(evomm: Evomm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(commands()) >= 6
    names = re.findall(r"A file\s+`([\w.-]+\.yaml)`", README.read_text(encoding="utf-8"))
    for name, text in zip(names, blocks("yaml"), strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    for command in commands():
        small = [part for key in SMALL for part in ("--set", key)] if command[0] == "evolve" else []
        limit = ["--limit", "16"] if command[0] == "eval" else []
        said = evomm(*command, *small, *limit)
        assert said.code == 0, (command, said.err)
    models = [(tmp_path / "models" / name / "model.safetensors").read_bytes() for name in ("mine", "again")]
    assert models[0] == models[1]


def test_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(resource("configs"))
    for block in blocks("python"):
        exec(compile(block, str(README), "exec"), {})


def test_every_file_that_is_linked_is_there() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    for link in links:
        assert (README.parent / link).exists(), link


def test_the_tree_names_what_is_there() -> None:
    tree = next(block for block in blocks("") if block.startswith("evomm/"))
    inside = [line.split()[0] for line in tree.splitlines() if re.match(r"  \w", line)]
    for name in inside:
        assert (README.parent / "evomm" / name).exists(), name
    packages = {f"{path.name}/" for path in (README.parent / "evomm").iterdir() if (path / "__init__.py").exists()}
    assert packages <= set(inside)
