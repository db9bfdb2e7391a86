"""The public names: listed once, importable, documented, and free until used."""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import evomm

PACKAGE = Path(evomm.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def checked_imports() -> dict[str, str]:
    """Name -> module (without ``evomm.``) of the imports that type checkers see in evomm/__init__.py."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    return {
        alias.name: (node.module or "").removeprefix("evomm.")
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def public(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Public functions and classes, and the public methods of those classes."""
    for node in body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body, f"{node.name}.")


@pytest.mark.parametrize("name", evomm.__all__)
def test_every_public_name_imports(name: str) -> None:
    home = importlib.import_module(f"evomm.{evomm._HOMES[name]}")
    assert getattr(evomm, name) is getattr(home, name)


def test_the_lists_of_names_agree() -> None:
    assert sorted(evomm.__all__) == sorted(evomm._HOMES)
    assert checked_imports() == evomm._HOMES
    assert len(set(evomm.__all__)) == len(evomm.__all__)
    assert dir(evomm) == sorted(evomm.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="merge_everything"):
        _ = evomm.merge_everything


def test_importing_costs_nothing() -> None:
    """`evomm --help` answers at once: the heavy libraries wait until a verb needs them."""
    code = """if True:
        import sys, evomm, evomm.cli.app
        print([name for name in ("torch", "transformers", "diffusers", "cma", "numpy") if name in sys.modules])"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_modules_and_public_definitions_have_docstrings(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert ast.get_docstring(tree), "the file says nothing of itself"
    assert [name for name, node in public(tree.body) if not ast.get_docstring(node)] == []
