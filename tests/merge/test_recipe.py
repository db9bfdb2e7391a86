"""Recipes: they round-trip to the last bit, and mistakes in them are told by name."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.errors import UsageError
from evomm.merge.recipe import Block, Recipe, Slice, Source, Value
from evomm.merge.table import METHODS, parameters
from evomm.plain import dump_yaml
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
    entry = METHODS[method]
    based = entry.needs_base or (entry.on == "either" and draw(st.booleans()))
    mixed = draw(st.integers(entry.parents[0], int(min(entry.parents[1], 3)))) + int(based and entry.on != "weights")
    labels = draw(st.lists(LABELS, min_size=mixed, max_size=mixed, unique=True))
    base = labels[0] if based else None
    weighed = labels[1:] if entry.takes_deltas(base) else labels

    def value(kind: str, low: float, high: float) -> Value:
        if kind == "switch":
            return draw(st.booleans())
        if kind == "count":
            return draw(st.integers(0, 2**31))
        number = NUMBERS.filter(lambda x: low <= x <= high) if low == -math.inf else st.floats(low, high, allow_infinity=False)
        if kind == "per parent" and draw(st.booleans()):
            return {label: draw(number) for label in weighed}
        return draw(number)

    def values() -> dict[str, Value]:
        specs = [spec for spec in parameters(method).values() if draw(st.booleans())]
        return {spec.name: value(spec.kind, spec.range.low, spec.range.high) for spec in specs}

    def block(name: str) -> Block:
        some = draw(st.none() | st.just(tuple(labels)))
        return Block(
            name=name, tensors=(f"{name}.*",), parameters=values(), parents=some, base=draw(st.sampled_from([None, base]))
        )

    def part() -> Slice:
        length = draw(st.integers(1, 9))
        return Slice(layers={label: (first, first + length) for label in labels if (first := draw(st.integers(0, 99))) >= 0})

    return Recipe(
        method=method,
        parents={
            label: Source(model=draw(LABELS), lora=draw(st.none() | LABELS), digest=draw(st.none() | LABELS)) for label in labels
        },
        base=base,
        parameters=values(),
        blocks=tuple(block(name) for name in draw(st.lists(LABELS, max_size=2))),
        dtype=draw(st.sampled_from([None, "float16", "bfloat16", "float32"])),
        seed=draw(st.integers(0, 2**63)),
        tokenizer=draw(st.none() | st.sampled_from(labels)),
        slices=tuple(part() for _ in range(draw(st.integers(0, 2)))),
        chat_template=draw(st.none() | TEXT),
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
        ("method: slerp\nparents: {ja: {model: x}}", r"slerp mixes 2 parent\(s\), the recipe has 1: ja"),
        ("method: ties\nbase: b\nparents: {b: {model: x}}", r"ties mixes at least 1 parent\(s\), the recipe has none"),
        ("method: linear\nparents: {}", "linear mixes at least 1"),
        (LINEAR.replace("linear", "passthrough"), r"passthrough mixes 1 parent\(s\), the recipe has 2: ja, math"),
        (LINEAR.replace("linear", "nearswap"), "nearswap mixes parents with their base: name the base"),
        (LINEAR.replace("linear", "add_difference") + "base: ja", r"add_difference mixes 3 parent\(s\), the recipe has 2"),
        (
            LINEAR.replace("linear", "karcher") + "parameters: {max_iter: 1.5}",
            "'max_iter' of karcher takes a whole number, got 1.5",
        ),
        (LINEAR.replace("linear", "karcher") + "parameters: {max_iter: true}", "'max_iter' of karcher takes a number"),
        (LINEAR.replace("linear", "karcher") + "parameters: {max_iter: -1}", r"'max_iter' is -1\.0, expected 0 to inf"),
        (
            LINEAR + "slices: [{layers: {ja: [0, 2], maths: [0, 2]}}]",
            "parent of a slice 'maths' is no parent; did you mean 'math'",
        ),
        (LINEAR + "slices: [{layers: {ja: [0, 2], math: [1, 2]}}]", "must give equally many layers, got {'ja': 2, 'math': 1}"),
        (LINEAR + "slices: [{layers: {ja: [2, 2]}}]", r"layers 2 to 2 of 'ja': expected \[first, last \+ 1\]"),
        (LINEAR + "slices: [{layers: {ja: [-1, 2]}}]", "layers -1 to 2 of 'ja': expected"),
        (LINEAR + "slices: [{layers: {}}]", "a slice needs at least one parent"),
        (
            LINEAR + "blocks: [{name: x, tensors: ['*'], parents: [jaa]}]",
            "parent of block 'x' 'jaa' is no parent; did you mean 'ja'",
        ),
        (TIES + "blocks: [{name: x, tensors: ['*'], base: bb}]", "base of block 'x' 'bb' is no parent; did you mean 'b'"),
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


def test_a_weight_of_the_base_counts_only_where_another_base_is_named() -> None:
    """A parent that is base in some blocks may have a weight in others; one that is base everywhere may not."""
    other = Block(name="other", tensors=("head",), parents=("base", "a"), base="b")
    what = recipe("ties", weight={"base": 0.3, "a": 0.6}, blocks=(other,))
    assert what.arguments("head", ("base", "a"))["weight"] == (0.3, 0.6)
    with pytest.raises(ValueError, match="'weight' is given for 'base', which is no parent"):
        recipe("ties", weight={"base": 0.3, "a": 0.6})


def test_who_is_mixed_and_who_carries_the_tokenizer() -> None:
    assert recipe("ties").mixed == ("a", "b")
    assert recipe("nearswap").mixed == ("base", "a"), "the base comes first for methods on weights"
    assert recipe("add_difference", ("a", "base", "b")).mixed == ("base", "a", "b")
    assert recipe("multislerp").mixed == recipe("multislerp", based=True).mixed == ("a", "b"), "task vectors when there is a base"
    assert recipe("ties").carrier == "base"
    assert recipe("linear").carrier == "a"
    assert recipe("linear").model_copy(update={"tokenizer": "b"}).carrier == "b"


@pytest.mark.parametrize(
    ("method", "block", "said"),
    [
        ("task_arithmetic", {"method": "tise"}, "unknown method 'tise'; did you mean 'ties'"),
        ("task_arithmetic", {"method": "linear"}, "got task_arithmetic on task vectors, linear on weights"),
        ("linear", {"method": "slerp"}, "slerp mixes 2 parent"),
        ("task_arithmetic", {"method": "ties", "parameters": {"epsilon": 0.1}}, "ties has no parameter 'epsilon'"),
        ("task_arithmetic", {"parameters": {"density": 0.5}}, "task_arithmetic has no parameter 'density'"),
    ],
)
def test_methods_of_blocks_that_do_not_fit_are_refused(method: str, block: dict[str, object], said: str) -> None:
    whole = recipe(method, ("base", "a", "b", "c")).model_dump(exclude_none=True)
    whole["blocks"] = [{"name": "first", "tensors": ["layers.0.*"], **block}]
    with pytest.raises(UsageError, match=said):
        Recipe.from_yaml(dump_yaml(whole))
