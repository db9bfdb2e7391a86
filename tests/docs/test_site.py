"""What the site makes by itself: tables, bars, and links that lead somewhere."""

import pytest

from docs.site.bars import DOCS, DRAWN, draw, picture, read
from docs.site.hooks import TABLE, target
from docs.site.tables import TABLES, methods, searchers
from evomm.merge.table import METHODS, parameters
from evomm.search.table import SEARCHERS


def row(table: str, name: str) -> str:
    """The row of a table that begins with a name."""
    return next(line for line in table.splitlines() if line.startswith(f"| `{name}` |"))


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_row_has_each_of_its_parameters(method: str) -> None:
    told = row(methods(), method)
    assert [name for name in parameters(method) if f"`{name}` (" not in told] == []


def test_rows_say_ranges_defaults_and_needs() -> None:
    assert "`density` (per parent, 0 to 1, default 1)" in row(methods(), "ties")
    assert "`normalize` (switch, default true)" in row(methods(), "ties")
    assert "| task vectors | yes | 1 or more |" in row(methods(), "ties")
    assert "| weights | no | 2 |" in row(methods(), "slerp")
    assert row(searchers(), "nsga2").endswith("| yes | yes |")
    assert row(searchers(), "m2n2").endswith("| no | no |")


def test_every_searcher_has_a_row_and_no_cell_breaks_its_row() -> None:
    for table in (methods(), searchers()):
        lines = table.splitlines()
        assert {line.replace("\\|", "").count("|") for line in lines} == {lines[0].count("|")}
    assert all(row(searchers(), name) for name in SEARCHERS)


def test_every_table_has_a_place_and_every_place_a_table() -> None:
    placed = [name for page in DOCS.rglob("*.md") for name in TABLE.findall(page.read_text(encoding="utf-8"))]
    assert sorted(placed) == sorted(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_says_something(name: str) -> None:
    assert len(TABLES[name]().splitlines()) >= 5


def test_links_that_leave_the_docs_lead_somewhere_on_the_site() -> None:
    assert target("guides/search.md", "../../README.md") == "readme.md"
    assert target("guides/search.md", "../results/racing.md") == "results/racing.md"
    assert target("guides/search.md", "../../configs/demo-llm.yaml") == "configs/demo-llm.yaml"
    assert target("readme.md", "evals") == "reference/files.md"
    assert target("readme.md", "docs/results/racing.md") == "results/racing.md"
    assert target("guides/search.md", "../../../elsewhere.md") is None
    assert target("index.md", "nowhere.md") is None


@pytest.mark.parametrize("name", DRAWN)
def test_bars_are_those_of_the_results(name: str) -> None:
    """After new results: `python -m docs.site.bars`."""
    assert (DOCS / "images" / f"{name}.svg").read_text(encoding="utf-8") == picture(name)


def test_bars_are_as_long_as_scores() -> None:
    rows = ["| | seed 0 |", "|---|---|", "| a & b | 50.0 (40.0-60.0) · 1.0 |", "| child's lead over a | +5.0 (+1.0 to +9.0) |"]
    (bar,) = read("\n".join(["# A", "", *rows, "", "| x | 9.0 (8.0-10.0) |", ""]))
    assert (bar.name, bar.score, bar.low, bar.high) == ("a & b", 50.0, 40.0, 60.0)
    drawn = draw("t", [bar])
    assert 'width="200.0"' in drawn
    assert "a &amp; b" in drawn
