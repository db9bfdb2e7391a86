"""What README and the pages of docs/ tell people to type works, in the order it is told."""

import re
from pathlib import Path
from shutil import copytree
from unittest.mock import patch

import pytest

from tests.cli.conftest import Evomm
from tests.cli.pages_kit import DOCS, PAGES, ROOT, fences, walk

FIRST = DOCS / "first-run.md"  # later pages go on with what it leaves: runs/first and models/first
TOLD = [page for page in PAGES if fences(page) and page != FIRST]


def called(page: Path) -> str:
    """A page's name in messages."""
    return str(page.relative_to(ROOT))


@pytest.fixture(scope="session")
def cabinet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where what the first run left is kept for the other pages."""
    return tmp_path_factory.mktemp("pages")


@pytest.fixture
def first(cabinet: Path, evomm: Evomm) -> Path:
    """A folder in which somebody did what the first page says."""
    folder = cabinet / "first"
    if not folder.exists():
        folder.mkdir()
        walk(FIRST, folder, evomm)
    return folder


def same_model(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights, bit for bit."""
    return (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_the_first_run(first: Path) -> None:
    assert same_model(first / "models/first", first / "models/again")


@pytest.mark.parametrize("page", TOLD, ids=called)
def test_what_a_page_says_can_be_done(page: Path, first: Path, tmp_path: Path, evomm: Evomm) -> None:
    for kept in ("runs/first", "models/first"):
        copytree(first / kept, tmp_path / kept)
    with patch.dict("evomm.merge.table.METHODS"):  # a page adds one of its own
        walk(page, tmp_path, evomm)
    if page.name == "README.md":
        assert same_model(tmp_path / "models/mine", tmp_path / "models/again")


@pytest.mark.parametrize("page", PAGES, ids=called)
def test_every_file_that_is_linked_is_there(page: Path) -> None:
    for link in re.findall(r"\]\((?!\w+:)([^)#\s]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), link
