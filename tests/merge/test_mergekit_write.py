"""Recipes in mergekit's words: what comes back from them gives every tensor the same coefficients."""

import pytest

from evomm.errors import UsageError
from evomm.genome.dataflow import Flow, FlowCodec, Step
from evomm.merge.mergekit.write import written
from evomm.merge.plan import plan
from evomm.merge.recipe import Block, Recipe, Slice, Source
from tests.merge.mergekit_kit import AFTER, BEFORE, KINDS, llama, numbers, resolved

PARENTS = {label: Source(model=f"org/{label}") for label in ("base", "a", "b")}
LAYERWISE = tuple(
    Block(name=f"layers.{i}", tensors=(f"model.layers.{i}.*",), parameters={"weight": {"a": 0.5 + i, "b": 1 / (3 + i)}})
    for i in range(4)
)
NAMES = [*BEFORE, *AFTER, *(f"model.layers.{i}.{kind}.weight" for i in range(4) for kind in KINDS)]


@pytest.mark.parametrize(
    ("method", "base", "parameters", "blocks"),
    [
        ("linear", None, {"normalize": False}, LAYERWISE),
        ("task_arithmetic", "base", {"weight": 0.3}, LAYERWISE),
        ("ties", "base", {"density": {"a": 0.5, "b": 0.9}, "normalize": True}, LAYERWISE),
        ("dare_ties", "base", {"density": 0.7}, (Block(name="all", tensors=("*",), parameters={"weight": {"a": 0.25}}),)),
        ("model_stock", "base", {}, ()),
    ],
)
def test_every_tensor_gets_the_same(
    method: str, base: str | None, parameters: dict[str, object], blocks: tuple[Block, ...]
) -> None:
    parents = PARENTS if base else {label: PARENTS[label] for label in ("a", "b")}
    content = {"method": method, "parents": parents, "base": base, "parameters": parameters, "blocks": blocks}
    recipe = Recipe.model_validate(content | {"dtype": "bfloat16"})
    back = resolved(written(recipe)).recipe
    assert (back.method, back.mixed, back.carrier, back.dtype) == (method, recipe.mixed, recipe.carrier, "bfloat16")
    for name in NAMES:
        assert back.arguments(name) == recipe.arguments(name), name


def test_a_number_between_two_by_layers() -> None:
    blocks = (Block(name="embeddings", tensors=("model.embed_tokens.*",), parameters={"t": 0.0}),)
    recipe = Recipe(
        method="slerp", base="base", parents={k: PARENTS[k] for k in ("base", "a")}, parameters={"t": 0.7}, blocks=blocks
    )
    back = resolved(written(recipe)).recipe
    assert back.mixed == ("base", "a")
    assert [back.arguments(name)["t"] for name in (*BEFORE, *AFTER)] == [0.0, 0.7, 0.7]


def test_a_path_with_scales() -> None:
    template = Recipe(method="passthrough", parents={k: PARENTS[k] for k in ("a", "b")}, slices=(Slice(layers={"a": (0, 1)}),))
    outputs = {label: {i: (f"model.layers.{i}.mlp.down_proj.weight",) for i in range(4)} for label in ("a", "b")}
    codec = FlowCodec(Flow(kind="segments"), template, {"a": 4, "b": 4}, outputs)
    steps = (Step("a", 0), Step("b", 2, 0.8), Step("b", 3), Step("b", 2, 1.25), Step("a", 3, 0.5))
    recipe = codec.recipe(steps)
    text = written(recipe)
    assert text.count("layer_range") == 4, "layers that follow each other are one slice"
    models = {"a": llama(), "b": llama()}
    ours, theirs = (plan(one, models, numbers(models)) for one in (recipe, resolved(text).recipe))
    assert [(job.name, job.sources, job.arguments) for job in theirs] == [(job.name, job.sources, job.arguments) for job in ours]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"method": "cosine_a"}, "the method cosine_a"),
        ({"components": {"lm_head": "a"}}, "taken whole from one parent"),
        ({"blocks": (Block(name="x", tensors=("*.mlp.*",)),)}, "patterns that are no prefixes"),
        ({"parents": {**PARENTS, "a": Source(model="m", lora="l", scale=0.5)}}, "the scale of a LoRA"),
        ({"tokenizer": "b"}, "a tokenizer that is not"),
    ],
)
def test_what_it_has_no_words_for(change: dict[str, object], said: str) -> None:
    recipe = Recipe(method="task_arithmetic", base="base", parents=PARENTS, blocks=LAYERWISE).model_copy(update=change)
    with pytest.raises(UsageError, match=said):
        written(recipe)
