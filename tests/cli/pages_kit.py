"""Reading pages as people do: what they are told to type, in the order it is told."""

import re
import shlex
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
import yaml

from evomm.cli.app import app
from evomm.resources import resource
from tests.cli.conftest import Evomm

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
# Added to every search that a page tells of, so that it takes seconds.
SMALL = ["limits.search=16", "limits.validation=16", "limits.test=16", "search.evaluations=10", "search.population=5"]
_FENCE = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"A\s+file\s+`([\w./-]+)`")


@dataclass(frozen=True)
class Fence:
    """A fenced block. runs: unless it is marked ``no-run``. file: its name, where the text before it says "A file `x.yaml`"."""

    language: str
    text: str
    runs: bool
    file: str | None

    @property
    def commands(self) -> list[list[str]]:
        """Every evomm command, as arguments."""
        lines = [line.partition("#")[0].strip() for line in self.text.replace("\\\n", " ").splitlines()]
        return [shlex.split(line)[1:] for line in lines if line.startswith("evomm ")]


def fences(page: Path) -> list[Fence]:
    """The fenced blocks of a page."""
    text, found, end = page.read_text(encoding="utf-8"), [], 0
    for fence in _FENCE.finditer(text):
        language, *marks = fence[1].split() or [""]
        named = _FILE.findall(text[end : fence.start()])
        found.append(Fence(language, fence[2], "no-run" not in marks, named[-1] if named else None))
        end = fence.end()
    return found


def walk(page: Path, folder: Path, evomm: Evomm) -> None:
    """Do in a folder what a page says: write its files, run its commands and its Python, parse and plan what is marked no-run."""
    names: dict[str, Any] = {}
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(resource("configs"))
    with chdir(folder):
        for fence in fences(page):
            if fence.file is not None:
                Path(fence.file).parent.mkdir(parents=True, exist_ok=True)
                Path(fence.file).write_text(fence.text, encoding="utf-8")
            if fence.language == "yaml":
                list(yaml.safe_load_all(fence.text))
            for command in fence.commands if fence.language == "sh" else ():
                (_run if fence.runs else _plan)(command, evomm)
            if fence.language == "python":
                code = compile(fence.text, str(page), "exec")
                if fence.runs and fence.file is None:
                    exec(code, names)


def _run(command: Sequence[str], evomm: Evomm) -> None:
    small = [part for key in SMALL for part in ("--set", key)] if command[0] == "evolve" else []
    limit = ["--limit", "16"] if command[0] == "eval" else []
    said = evomm(*command, *small, *limit)
    assert said.code == 0, (command, said.err)


def _plan(command: Sequence[str], evomm: Evomm) -> None:
    """That the command exists with these options, and that the config or recipe it takes can be planned, where it is there."""
    found, rest = typer.main.get_command(app), list(command)
    while isinstance(found, typer.core.TyperGroup):
        found, rest = found.commands[rest[0]], rest[1:]
    found.make_context("evomm", rest)
    if command[0] in {"evolve", "merge", "plan"} and (Path(command[1]).exists() or not Path(command[1]).suffix):
        said = evomm("plan", command[1])
        assert said.code == 0, (command, said.err)
