"""Random gradients and filters: the recipe gives every tensor what the rules, evaluated one by one, give it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.merge.mergekit.document import Document
from evomm.merge.mergekit.resolve import resolve
from evomm.merge.plan import plan
from evomm.merge.recipe import Recipe
from tests.merge.mergekit_kit import AFTER, layer_of, numbers, world

FILTERS = ["self_attn", "mlp", "q_proj", "layers.1", "layers.2.mlp", "norm", "embed", "lm_head", "weight", "*", "nothing", ""]
SHARES = st.sampled_from([0, 1, "1e-3", 0.25]) | st.floats(0, 1)
LABELS = ("base", "a", "b")
Told = Mapping[str, Any]


def settings(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Any form that a setting can have."""
    leaf = values | st.lists(values, min_size=1, max_size=5)
    case = st.fixed_dictionaries({"value": leaf}, optional={"filter": st.sampled_from(FILTERS)})
    return leaf | case | st.lists(case, max_size=4)


def parameters(own: bool) -> st.SearchStrategy[Told]:
    """Some parameters of ties."""
    each = {"weight": settings(SHARES), "density": settings(SHARES)}
    shared = {} if own else {"lambda": settings(SHARES), "normalize": settings(st.booleans())}
    return st.fixed_dictionaries({}, optional={**each, **shared})


@st.composite
def slices(draw: st.DrawFn) -> Told:
    """Layers of the base and one or two others, from anywhere."""
    length = draw(st.integers(1, 4))
    others = draw(st.permutations(LABELS[1:]))[: draw(st.integers(1, 2))]
    sources = []
    for label in draw(st.permutations(["base", *others])):
        first = draw(st.integers(0, 4 - length))
        sources.append({"model": label, "layer_range": [first, first + length], "parameters": draw(parameters(own=True))})
    return {"sources": sources, "parameters": draw(parameters(own=False))}


@st.composite
def documents(draw: st.DrawFn) -> Told:
    """Ties over whole models or slices; in all slices equally many models."""
    found = draw(st.lists(slices(), min_size=1, max_size=3).filter(lambda all_: len({len(s["sources"]) for s in all_}) == 1))
    parameters_ = {"weight": draw(SHARES | st.lists(SHARES, min_size=1)), **draw(parameters(own=False).filter(_weightless))}
    top = {"merge_method": "ties", "base_model": "base", "parameters": parameters_}
    if draw(st.booleans()):
        return {**top, "slices": found}
    if draw(st.booleans()):
        return {**top, "modules": {"default": {"slices": found, "parameters": draw(parameters(own=False))}}}
    return {**top, "models": [{"model": label, "parameters": draw(parameters(own=True))} for label in LABELS[1:]]}


def _weightless(told: Told) -> bool:
    return "weight" not in told


def cases_of(setting: Any) -> list[dict[str, Any]]:
    """A setting as a list of {filter, value}."""
    if isinstance(setting, dict):
        return [setting]
    if isinstance(setting, list) and all(isinstance(case, dict) for case in setting):
        return setting
    return [{"value": setting}]


def value_of(name: str, levels: Sequence[Told], tensor: str, t: float) -> Any:
    """The rules, straight: the first level that says something of this tensor; points are joined by straight lines."""
    for level in levels:
        for case in cases_of(level[name]) if name in level else []:
            wanted = case.get("filter", "*")
            if wanted == "*" or wanted in tensor:
                points = case["value"] if isinstance(case["value"], list) else [case["value"]]
                if name == "normalize":
                    return points[int(t * (len(points) - 1))]
                return np.interp(t * (len(points) - 1), range(len(points)), [float(point) for point in points])
    return {"density": 1.0, "lambda": 1.0, "normalize": True}[name]


def expected(document: Told) -> dict[str, tuple[dict[str, str], dict[str, Any]]]:
    """Tensor of the child -> (label -> its name there, the method's arguments)."""
    module = document.get("modules", {}).get("default", document)
    whole = [
        {
            "sources": [{**m, "layer_range": [0, 4]} for m in document.get("models", [])]
            + [{"model": "base", "layer_range": [0, 4]}]
        }
    ]
    parts = module.get("slices") or whole
    outer = [module.get("parameters", {}), document["parameters"]] if "modules" in document else [document["parameters"]]
    found = {}

    def add(name: str, part: Told, inputs: dict[str, str], t: float) -> None:
        shared = [part.get("parameters", {}), *outer]
        mixed = [s for s in part["sources"] if s["model"] != "base"]
        own = {
            key: [value_of(key, [s.get("parameters", {}), *shared], inputs[s["model"]], t) for s in mixed]
            for key in ("weight", "density")
        }
        found[name] = inputs, {**own, **{key: value_of(key, shared, name, t) for key in ("lambda", "normalize")}}

    start = 0
    for part in parts:
        first, stop = part["sources"][0]["layer_range"]
        for offset in range(stop - first):
            t = offset / (stop - first - 1) if stop - first > 1 else 1
            for kind in {n.split(".", 3)[3] for n in world_names() if layer_of(n) == 0}:
                inputs = {s["model"]: f"model.layers.{s['layer_range'][0] + offset}.{kind}" for s in part["sources"]}
                add(f"model.layers.{start + offset}.{kind}", part, inputs, t)
        start += stop - first
    for name in (n for n in world_names() if layer_of(n) is None):
        part = parts[-1 if name in AFTER else 0]
        add(name, part, {s["model"]: name for s in part["sources"]}, 0)
    return found


def world_names() -> list[str]:
    """Tensors of one model."""
    document = Document.model_validate({"merge_method": "passthrough", "models": [{"model": "a"}]})
    return list(world(document)["a"].infos)


@given(documents())
def test_every_tensor_gets_what_the_rules_say(told: Told) -> None:
    document = Document.model_validate(told)
    readers = world(document)
    recipe = resolve(document, {label: reader.infos for label, reader in readers.items()}, numbers(readers)).recipe
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe
    wanted = expected(told)
    for job in plan(recipe, readers, numbers(readers)):
        inputs, arguments = wanted.pop(job.name)
        assert job.sources == inputs
        assert job.base == "base"
        for name in ("weight", "density"):
            assert job.arguments[name] == pytest.approx(tuple(arguments[name]), abs=1e-12)
        assert job.arguments["lambda_"] == pytest.approx(arguments["lambda"], abs=1e-12)
        assert job.arguments["normalize"] is arguments["normalize"]
        assert recipe.arguments(job.name, job.labels) == job.arguments
    assert wanted == {}, "tensors that the child lacks"
