"""Recipes: they round-trip to the last bit, and mistakes in them are told by name."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.errors import UsageError
from evomm.merge.table import METHODS, parameters
from evomm.merge.recipe import Block, Recipe, Source
from tests.merge.kit import recipe

TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
# What YAML could take for something else.
LABELS = TEXT | st.sampled_from(
    ["1e3", "1e5abc", "yes", "null", "~", "3", "0x1f", "日本", "a: b", "2024-01-01", "=", "<<", "1:30"]
)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    """Any valid recipe."""
    method = draw(st.sampled_from(list(METHODS)))
    count = 2 if METHODS[method].parents == (2, 2) else draw(st.integers(1, 3))
    labels = draw(st.lists(LABELS, min_size=count + 1, max_size=count + 1, unique=True))
    base, mixed = labels[0], labels[1:]
    on_deltas = METHODS[method].on == "deltas"

    def values() -> dict[str, bool | float | dict[str, float]]:
        found: dict[str, bool | float | dict[str, float]] = {}
        for name, spec in parameters(method).items():
            number = st.floats(spec.range.low, spec.range.high) if spec.range.low >= 0 else NUMBERS
            if draw(st.booleans()):
                if spec.kind == "switch":
                    found[name] = draw(st.booleans())
                elif spec.kind == "per parent" and draw(st.booleans()):
                    found[name] = {label: draw(number) for label in mixed}
                else:
                    found[name] = draw(number)
        return found

    blocks = tuple(Block(name=name, tensors=(f"{name}.*",), parameters=values()) for name in draw(st.lists(LABELS, max_size=2)))
    return Recipe(
        method=method,
        parents={
            label: Source(model=draw(LABELS), digest=draw(st.none() | LABELS)) for label in (labels if on_deltas else mixed)
        },
        base=base if on_deltas else None,
        parameters=values(),
        blocks=blocks,
        dtype=draw(st.sampled_from([None, "float16", "bfloat16", "float32"])),
        seed=draw(st.integers(0, 2**63)),
        tokenizer=draw(st.none() | st.sampled_from(mixed)),
    )


@given(recipes())
def test_yaml_and_json_give_the_same_recipe_back(what: Recipe) -> None:
    assert Recipe.from_yaml(what.to_yaml()) == what
    assert Recipe.model_validate_json(what.model_dump_json()) == what
    assert list(Recipe.from_yaml(what.to_yaml()).parents) == list(what.parents), "the order of parents means something"


@given(NUMBERS)
def test_a_weight_keeps_every_bit(weight: float) -> None:
    read = Recipe.from_yaml(recipe("linear", weight={"a": weight}).to_yaml()).parameters["weight"]
    assert isinstance(read, dict)
    assert struct.pack("d", read["a"]) == struct.pack("d", weight)


LINEAR = "method: linear\nparents: {ja: {model: x}, math: {model: y}}\n"
TIES = "method: ties\nbase: b\nparents: {b: {model: x}, ja: {model: y}}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LINEAR + "parameters: {wieght: 1}", "linear has no parameter 'wieght'; did you mean 'weight'"),
        (LINEAR + "parameters: {weight: {jaa: 1}}", "'weight' is given for 'jaa', which is no parent; did you mean 'ja'"),
        (LINEAR + "parameters: {normalize: 0.5}", "'normalize' of linear takes true or false"),
        (LINEAR + "parameters: {weight: true}", "'weight' of linear takes a number"),
        (LINEAR + "parameters: {weight: .nan}", "finite"),
        (LINEAR + "parameters: {weight: {ja: .inf}}", "finite"),
        (LINEAR + "blocks: [{name: x, tensors: ['*'], parameters: {densty: 1}}]", "linear has no parameter 'densty'"),
        (LINEAR + "blocks: [{name: x, tensor: ['*']}]", "unknown key 'blocks.0.tensor'; did you mean 'tensors'"),
        (LINEAR + "base: ja1", "base 'ja1' is no parent; did you mean 'ja'"),
        (LINEAR + "tokenizer: maths", "tokenizer 'maths' is no parent; did you mean 'math'"),
        (LINEAR + "dtype: float8", "dtype: .*'float16', 'bfloat16' or 'float32'"),
        (TIES + "parameters: {density: 1.5}", "'density' is 1.5, expected 0 to 1"),
        (TIES + "parameters: {density: {ja: -0.1}}", "'density' is -0.1, expected 0 to 1"),
        (TIES + "parameters: {density: {b: 0.1}}", "given for 'b', which is no parent"),
        (TIES.replace("base: b\n", ""), r"ties works on task vectors \(parent - base\): name the base"),
        (LINEAR.replace("linear", "lineer"), "unknown method 'lineer'; did you mean 'linear'"),
        (LINEAR.replace("linear", "slerp") + "parameters: {t: {ja: 1}}", "'t' of slerp is one value for all parents"),
        ("method: slerp\nparents: {ja: {model: x}}", r"slerp mixes 2 parent\(s\), got 1: ja"),
        ("method: ties\nbase: b\nparents: {b: {model: x}}", r"ties mixes at least 1 parent\(s\), got 0"),
        ("method: linear\nparents: {}", "linear mixes at least 1"),
        ("method: linear", "key 'parents' is missing"),
    ],
)
def test_mistakes_are_told_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        Recipe.from_yaml(text, "mine.yaml")
    assert str(caught.value).startswith("mine.yaml: ")


def test_blocks_override_and_the_first_that_matches_counts() -> None:
    what = recipe(
        "linear",
        weight={"a": 1.0, "b": 2.0},
        blocks=(
            Block(name="first", tensors=("layers.0.*",), parameters={"weight": {"a": 0.1, "b": 0.2}}),
            Block(name="second", tensors=("layers.*", "head"), parameters={"weight": 5.0}),
        ),
    )
    assert what.arguments("layers.0.mlp.w")["weight"] == (0.1, 0.2)
    assert what.arguments("layers.1.mlp.w")["weight"] == (5.0, 5.0)
    assert what.arguments("head")["weight"] == (5.0, 5.0)
    assert what.arguments("header")["weight"] == (1.0, 2.0)
    assert all(what.arguments(name)["normalize"] is True for name in ("head", "header"))


def test_who_is_mixed_and_who_carries_the_tokenizer() -> None:
    assert recipe("ties").mixed == ("a", "b")
    assert recipe("ties").carrier == "base"
    assert recipe("linear").carrier == "a"
    assert recipe("linear").model_copy(update={"tokenizer": "b"}).carrier == "b"
