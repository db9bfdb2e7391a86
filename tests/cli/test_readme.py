"""README says what is there; `tests/cli/test_pages.py` does what it says."""

import re

from tests.cli.pages_kit import ROOT, fences


def test_the_tree_names_what_is_there() -> None:
    tree = next(fence.text for fence in fences(ROOT / "README.md") if fence.text.startswith("evomm/"))
    inside = [line.split()[0] for line in tree.splitlines() if re.match(r"  \w", line)]
    for name in inside:
        assert (ROOT / "evomm" / name).exists(), name
    packages = {f"{path.name}/" for path in (ROOT / "evomm").iterdir() if (path / "__init__.py").exists()}
    assert packages <= set(inside)
