"""The searched space: named, bounded genes, and the unit cube that searchers see of it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.errors import UsageError
from evomm.genome.space import GeneRule, make_space
from evomm.merge.recipe import Block
from evomm.plain import parse

BLOCKS = tuple(Block(name=name, tensors=(f"{name}.*",)) for name in ("layers.0", "layers.7", "rest"))
NUMBERS = st.floats(-1e6, 1e6)
BOUNDS = st.tuples(NUMBERS, NUMBERS).map(sorted).filter(lambda pair: pair[1] - pair[0] > 1e-6)


def rule(
    parameter: str = "weight", low: float = 0.0, high: float = 2.0, start: float = 0.5, **where: tuple[str, ...]
) -> GeneRule:
    """A rule for one parameter."""
    return GeneRule(parameter=parameter, low=low, high=high, start=start, **where)


def names(method: str, *rules: GeneRule) -> list[str]:
    """Names of the genes that rules make for parents ja and math."""
    return [gene.name for gene in make_space(BLOCKS, ("ja", "math"), method, rules).genes]


def test_genes_are_named_by_block_parent_and_parameter() -> None:
    assert names("linear", rule()) == [f"{b.name}/{p}/weight" for b in BLOCKS for p in ("ja", "math")]
    assert names("slerp", rule("t", high=1.0)) == ["layers.0/t", "layers.7/t", "rest/t"]
    assert names("linear", rule(parents=("math",), blocks=("layers.7",))) == ["layers.7/math/weight"]


def test_the_last_rule_that_names_a_gene_sets_its_bounds() -> None:
    space = make_space(BLOCKS, ("ja", "math"), "linear", [rule(), rule(low=-1.0, start=0.0, parents=("ja",), blocks=("rest",))])
    assert len(space.genes) == 6
    assert {gene.name: gene.low for gene in space.genes if gene.low != 0} == {"rest/ja/weight": -1.0}


def test_genes_that_mean_the_same_in_other_blocks_are_tied() -> None:
    assert make_space(BLOCKS, ("ja", "math"), "linear", [rule()]).ties == (0, 1, 0, 1, 0, 1)


@given(BOUNDS, st.floats(0, 1), st.lists(st.floats(0, 1), min_size=3, max_size=3))
def test_the_unit_cube_maps_to_the_bounds_and_back(bounds: list[float], start: float, cube: list[float]) -> None:
    low, high = bounds
    middle = min(max(low + start * (high - low), low), high)
    space = make_space(BLOCKS, ("ja",), "linear", [rule(low=low, high=high, start=middle)])
    values = space.values(np.array(cube))
    assert all(low <= value <= high for value in values.values())
    np.testing.assert_allclose(space.vector(values), cube, atol=1e-6)
    np.testing.assert_allclose(list(space.values(space.start).values()), middle, atol=1e-6)
    assert list(space.values(np.zeros(3)).values()) == [low] * 3
    assert list(space.values(np.ones(3)).values()) == pytest.approx([high] * 3)


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a vector of 6 genes, got shape \(5,\)"):
        make_space(BLOCKS, ("ja", "math"), "linear", [rule()]).values(np.zeros(5))


@pytest.mark.parametrize(
    ("method", "wrong", "said"),
    [
        ("linear", rule("wieght"), "linear has no such parameter; did you mean 'weight'"),
        ("linear", rule("normalize", high=1.0), "is a switch of linear"),
        ("karcher", rule("max_iter", high=9.0), "is a count of karcher"),
        ("ties", rule("density"), "bounds 0 to 2 leave what ties allows, 0 to 1"),
        ("slerp", rule("t", high=1.0, parents=("ja",)), "one value for all parents, so it takes no `parents`"),
        ("linear", rule(parents=("maths",)), "'maths' is no parent of it; did you mean 'math'"),
        ("linear", rule(blocks=("layer.7",)), "'layer.7' is no block; did you mean 'layers.7'"),
        ("linear", rule(parents=()), "no genes"),
        ("linear", rule(blocks=()), "no genes"),
    ],
)
def test_rules_for_what_is_not_there_are_refused(method: str, wrong: GeneRule, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_space(BLOCKS, ("ja", "math"), method, [wrong])


@pytest.mark.parametrize(
    ("bounds", "said"),
    [
        ({"low": 1, "high": 1, "start": 1}, r"low \(1\) must be below high \(1\)"),
        ({"low": 2, "high": 1, "start": 1}, r"low \(2\) must be below high \(1\)"),
        ({"low": 0, "high": 1, "start": 1.5}, r"start \(1\.5\) must lie in 0 to 1"),
        ({"low": 0, "high": float("inf"), "start": 1}, "finite"),
        ({"low": 0, "high": 1}, "key 'start' is missing"),
    ],
)
def test_bounds_that_hold_nothing_are_refused(bounds: dict[str, float], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(GeneRule, {"parameter": "weight", **bounds}, "genes")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"parameter": "method", "choices": ["ties", "tise"]}, "unknown method 'tise'; did you mean 'ties'"),
        ({"parameter": "method", "choices": ["ties"]}, "two or more"),
        ({"parameter": "method", "low": 0, "high": 1, "start": 0}, "`choices`"),
        ({"parameter": "weight", "choices": ["ties", "linear"]}, "belong to the parameter 'method'"),
        ({"parameter": "method", "choices": ["ties", "linear"], "parents": ["ja"]}, "no bounds or parents"),
    ],
)
def test_choices_that_cannot_be_made_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(GeneRule, wrong, "genes")


def test_a_choice_is_read_back_as_it_was_stored() -> None:
    rule = parse(GeneRule, {"parameter": "method", "choices": ["ties", "sce"]}, "genes")
    assert GeneRule.model_validate_json(rule.model_dump_json()) == rule


def test_a_gene_that_some_of_the_methods_have_is_allowed() -> None:
    chosen = parse(GeneRule, {"parameter": "method", "choices": ["task_arithmetic", "ties"]}, "genes")
    space = make_space(BLOCKS, ("ja", "math"), "task_arithmetic", [chosen, rule("density", high=1.0)])
    assert "layers.7/ja/density" in [gene.name for gene in space.genes]
    with pytest.raises(UsageError, match=r"task_arithmetic and ties has no such parameter; did you mean 'density'"):
        make_space(BLOCKS, ("ja", "math"), "task_arithmetic", [chosen, rule("densty", high=1.0)])
