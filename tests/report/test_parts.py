"""What stands in a report's tables and charts."""

from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch

from evomm.genome.dataflow import Step
from evomm.merge.recipe import Block, Recipe, Slice, Source
from evomm.report.apart import apart
from evomm.report.charts import Curve, curves
from evomm.report.coefficients import coefficients, path, runs
from evomm.report.story import Story
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve
from tests import worlds

PARENTS = {label: Source(model=f"org/{label}") for label in ("base", "a", "b")}


def test_coefficients_by_block() -> None:
    blocks = (
        Block(name="one", tensors=("x",), parameters={"weight": {"a": 0.5, "b": 1.5}, "density": 0.25}),
        Block(name="two", tensors=("y",), parameters={"weight": {"a": 0.75}}),
    )
    found = coefficients(Recipe(method="dare_ties", base="base", parents=PARENTS, blocks=blocks))
    assert found.columns == (("weight", "a"), ("weight", "b"), ("density", None))
    assert found.rows == {"one": (0.5, 1.5, 0.25), "two": (0.75, None, None)}
    assert found.span(1) == (0.0, 1.5)
    whole = coefficients(
        Recipe(method="slerp", base="base", parents={k: PARENTS[k] for k in ("base", "a")}, parameters={"t": 0.5})
    )
    assert whole.rows == {"all": (0.5,)}


def test_a_path_in_short() -> None:
    slices = tuple(
        Slice(layers={label: (layer, layer + 1)}) for label, layer in (("a", 0), ("b", 1), ("b", 2), ("b", 2), ("a", 3))
    )
    recipe = Recipe(method="passthrough", parents={k: PARENTS[k] for k in ("a", "b")}, slices=slices)
    assert path(recipe)[1] == Step("b", 1)
    assert runs(path(recipe)) == [("a", 0, 0), ("b", 1, 2), ("b", 2, 2), ("a", 3, 3)]
    assert path(Recipe(method="linear", parents=PARENTS)) == ()


@pytest.fixture(scope="module")
def apart_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose parents are 1 and 3 times as far from the base as the base is long."""
    folder = tmp_path_factory.mktemp("apart")
    config = worlds.make_fake(folder / "world")
    ones = torch.ones(worlds.QUESTIONS)
    for label, factor in (("base", 1.0), ("low", 2.0), ("high", 4.0)):
        worlds.fake_model(config.parent / label, factor * ones)
    evolve(EvolveConfig.load(config, ["search.evaluations=6", "baseline=null"]), folder / "run", config.parent)
    return folder / "run"


def test_shares_are_weight_times_distance(apart_run: Path) -> None:
    story = Story.read(apart_run)
    assert story.recipe is not None
    weighted = {
        "blocks": [
            block.model_copy(update={"parameters": {"weight": {"low": 0.5, "high": 0.5}}}) for block in story.recipe.blocks
        ]
    }
    found = apart(story, story.recipe.model_copy(update=weighted), None)
    assert found.labels == ("low", "high")
    assert [one.block for one in found.blocks] == [block.name for block in story.recipe.blocks]
    for one in found.blocks:
        assert one.distances == pytest.approx((1.0, 3.0))
        assert one.shares == pytest.approx((0.25, 0.75))
    assert found.total == pytest.approx((0.25, 0.75))


def test_weights_are_read_when_they_may_be(apart_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    story = Story.read(apart_run)
    assert story.recipe is not None
    assert "--no-weights" in apart(story, story.recipe, wanted=False).why
    monkeypatch.setattr("evomm.report.apart.FREELY", 100)
    assert "`evomm report --weights` reads them" in apart(story, story.recipe, wanted=None).why
    assert apart(story, story.recipe, wanted=True).why == ""


class Texts(HTMLParser):
    """The texts of a chart."""

    def __init__(self, svg: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(svg)

    def handle_data(self, data: str) -> None:
        """Keep it."""
        self.found.append(data)


def test_names_in_charts_are_text() -> None:
    """Formulas, markup and letters that matplotlib's own fonts lack; in the page's fonts and colours."""
    name = "$x^2$ 日本語 <script>"
    svg = str(
        curves([Curve(name, [[0.1, 0.5], [0.3, float("-inf")]], spread=True), Curve("b", [[0.2]], beside=True)], about='"a"')
    )
    assert Texts(svg).found.count(f"{name}, best so far") == 2, "wide and narrow"
    assert "<script" not in svg
    assert "font-size:" in svg and "DejaVu" not in svg
    assert "var(--series-1)" in svg and "#0" not in svg
    assert "http" not in svg and "xmlns" not in svg
    assert 'aria-label="&quot;a&quot;"' in svg


def test_searches_that_only_failed_are_drawn_as_nothing() -> None:
    svg = str(curves([Curve("a", [[float("-inf")] * 3], spread=True)], about="a"))
    assert "best so far" not in svg
