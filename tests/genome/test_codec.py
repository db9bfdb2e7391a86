"""Vectors to recipes: nothing is lost, and a gene reaches the tensors it is named for."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.genome.codec import Codec
from evomm.genome.space import GeneRule, make_space
from evomm.merge.recipe import Block, Recipe, Value
from evomm.merge.table import METHODS, parameters
from tests.merge import kit

BLOCKS = (
    Block(name="layers.0-3", tensors=("model.layers.[0-3].*",)),
    Block(name="layers.7", tensors=("model.layers.7.*",)),
    Block(name="rest", tensors=("*",)),
)


def set_by_numbers(method: str) -> bool:
    """Whether anything of the method can be a gene."""
    return any(spec.kind in {"per parent", "number"} for spec in parameters(method).values())


def codec(method: str, rules: list[GeneRule] | None = None, fixed: dict[str, Any] | None = None) -> Codec:
    """A codec for parents ja and math; by default every number of the method is a gene."""
    template = kit.recipe(method, ("base", "ja", "math"), **(fixed or {}))
    every = [
        GeneRule(parameter=spec.name, low=max(spec.range.low, -2.0), high=min(spec.range.high, 2.0), start=0.5)
        for spec in parameters(method).values()
        if spec.kind in {"per parent", "number"}
    ]
    return Codec(make_space(BLOCKS, template.mixed, method, rules or every), template, BLOCKS)


@pytest.mark.parametrize("method", [method for method in METHODS if set_by_numbers(method)])
@given(data=st.data())
def test_every_gene_is_in_the_recipe(method: str, data: st.DataObject) -> None:
    coder = codec(method)
    size = len(coder.space.genes)
    vector = np.array(data.draw(st.lists(st.floats(0, 1), min_size=size, max_size=size)))
    recipe = coder.decode(vector)
    blocks = {block.name: block.parameters for block in recipe.blocks}
    for gene, x in zip(coder.space.genes, vector, strict=True):
        value = blocks[gene.block][gene.parameter]
        found = value if gene.parent is None else value[gene.parent]  # type: ignore[index]
        assert found == gene.low + x * (gene.high - gene.low), gene.name
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe, "what is searched can be written down, and is valid"


WITH_METHOD = [
    GeneRule(parameter="weight", low=0, high=2, start=1),
    GeneRule(parameter="density", low=0, high=1, start=0.5),
    GeneRule.model_validate({"parameter": "method", "choices": ("task_arithmetic", "ties", "dare_ties")}),
]


@given(st.lists(st.floats(0, 1), min_size=15, max_size=15))
def test_a_block_has_the_method_that_its_gene_chooses(cube: list[float]) -> None:
    """Thirds of the gene's range are the three methods; what a method has no use for is not in its block."""
    coder, vector = codec("task_arithmetic", WITH_METHOD), np.array(cube)
    recipe = coder.decode(vector)
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    names = [gene.name for gene in coder.space.genes]
    for block in recipe.blocks:
        x = vector[names.index(f"{block.name}/method")] * 3
        assert block.method == ("task_arithmetic" if x < 1 else "ties" if x < 2 else "dare_ties")
        assert ("density" in block.parameters) == (block.method != "task_arithmetic")


def test_searchers_are_told_which_genes_choose_and_which_belong_together() -> None:
    space = codec("task_arithmetic", WITH_METHOD).space
    assert {gene.name for gene, count in zip(space.genes, space.choices, strict=True) if count == 3} == {
        "layers.0-3/method",
        "layers.7/method",
        "rest/method",
    }
    assert [space.genes[i].block for i in range(15)] == [("layers.0-3", "layers.7", "rest")[b] for b in space.blocks]


def test_a_gene_reaches_its_block_and_its_parent_only() -> None:
    coder = codec("task_arithmetic")
    names = [gene.name for gene in coder.space.genes]
    start = coder.space.start
    moved = start.copy()
    moved[names.index("layers.7/math/weight")] = 1.0
    before, after = coder.decode(start), coder.decode(moved)
    assert before.arguments("model.layers.7.x")["weight"] == (0.5, 0.5)
    assert after.arguments("model.layers.7.x")["weight"] == (0.5, 2.0)
    for tensor in ("model.layers.2.x", "lm_head"):
        assert after.arguments(tensor) == before.arguments(tensor)


def test_what_has_no_gene_keeps_the_fixed_value() -> None:
    only = [GeneRule(parameter="weight", low=0, high=2, start=1, parents=("math",), blocks=("layers.7",))]
    for fixed, ja in ((0.25, 0.25), ({"ja": 0.75, "math": 0.1}, 0.75), (None, 1.0)):
        values: dict[str, Value] = {"density": 0.5}
        if fixed is not None:
            values["weight"] = fixed
        recipe = codec("ties", only, values).decode(np.array([0.9]))
        assert recipe.arguments("model.layers.7.x")["weight"] == (ja, 1.8)
        assert recipe.arguments("model.layers.7.x")["density"] == (0.5, 0.5)
        assert recipe.arguments("lm_head") == codec("ties", only, values).template.arguments("lm_head")


def test_the_template_is_left_alone() -> None:
    coder = codec("linear", fixed={"weight": {"ja": 1.0, "math": 1.0}})
    before = coder.template.to_yaml()
    coder.decode(coder.space.start)
    assert coder.template.to_yaml() == before
