"""Documents of mergekit: every form of them is read, and what is not supported is told by name."""

import pytest

from evomm.errors import UsageError
from evomm.merge.mergekit.read import is_mergekit, read_documents
from evomm.merge.mergekit.references import Reference, label_all, read_reference
from evomm.merge.mergekit.rules import RULES
from evomm.merge.mergekit.settings import Case, read_setting
from evomm.merge.recipe import Source
from evomm.merge.table import METHODS, parameters
from tests.merge.mergekit_kit import read

LINEAR = "merge_method: linear\nparameters: {weight: 1}\nmodels: [{model: a}, {model: b}]\n"
SLERP = "merge_method: slerp\nbase_model: a\nparameters: {t: 0.5}\nmodels: [{model: a}, {model: b}]\n"
TIES = "merge_method: ties\nbase_model: a\nparameters: {weight: 1}\nmodels: [{model: b}, {model: c}]\n"
SLICED = "merge_method: linear\nparameters: {weight: 1}\nslices: [{sources: [{model: a, layer_range: [0, 2]}]}]\n"


@pytest.mark.parametrize(
    ("value", "reference"),
    [
        ("./models/m7b", Reference(path="./models/m7b")),
        ("owner/name@main", Reference(path="owner/name", revision="main")),
        ("owner/name+owner/adapter", Reference(path="owner/name", lora="owner/adapter")),
        ("owner/name@v1+adapter@v2", Reference(path="owner/name", revision="v1", lora="adapter@v2")),
        ({"model": "owner/name@v1"}, Reference(path="owner/name", revision="v1")),
        ({"model": {"path": "./c++", "revision": "v1"}, "lora": {"path": "x"}}, Reference(path="./c++", revision="v1", lora="x")),
        ({"model": "x", "lora": None, "override_architecture": None}, Reference(path="x")),
    ],
)
def test_every_way_to_name_a_model(value: object, reference: Reference) -> None:
    assert read_reference(value) == reference


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("a+b+c", r"more than one \+"),
        ("a@b@c", "more than one @"),
        ("", "got nothing"),
        (3, "expected a path, hub id or .* got int"),
        ({"modle": "x"}, "unknown key 'modle'; did you mean 'model'"),
        ({"lora": "x"}, "key 'model' is missing"),
        ({"model": {"pth": "x"}}, "unknown key 'model.pth'; did you mean 'path'"),
        ({"model": {"revision": "x"}}, "model: expected a path or hub id, got nothing"),
        ({"model": {"path": "x", "revision": 1}}, "expected a revision as text, got int"),
        ({"model": "x", "lora": 3}, "lora: expected a path or hub id, got int"),
        ({"model": "x", "override_architecture": "LlamaForCausalLM"}, "override_architecture is not supported"),
    ],
)
def test_names_of_models_that_are_none(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_reference(value)


def test_labels_are_short_and_distinct() -> None:
    names = ["org/m7b", "./m7b/", "m7b@v1", "org/m7b", "base+org/m7b", "union", "..", "m7b-2"]
    assert list(label_all(map(read_reference, names)).values()) == [
        "m7b", "m7b-2", "m7b-3", "m7b-4", "union-2", "model", "m7b-2-2",
    ]  # fmt: skip


def test_sources_name_the_base_first_and_a_donor_of_tokens_last() -> None:
    document = read(TIES.replace("base_model: a", "base_model: x/c@v1") + "tokenizer_source: y/d\n")
    assert document.sources() == {
        "c": Source(model="x/c@v1"),
        "b": Source(model="b"),
        "c-2": Source(model="c"),
        "d": Source(model="y/d"),
    }
    assert read(LINEAR.replace("model: b", "model: b+c@v1")).sources()["c"] == Source(model="b", lora="c@v1")


@pytest.mark.parametrize(
    ("value", "cases"),
    [
        (1, (Case(value=1),)),
        (True, (Case(value=True),)),
        ("1e-3", (Case(value="1e-3"),)),
        ([0, 0.5, "1"], (Case(value=(0, 0.5, "1")),)),
        ([], (Case(value=()),)),
        ({"value": 1}, (Case(value=1),)),
        ({"filter": "mlp", "value": [0, 1]}, (Case(filter="mlp", value=(0, 1)),)),
        ([{"filter": "mlp", "value": 1}, {"value": 0}], (Case(filter="mlp", value=1), Case(value=0))),
    ],
)
def test_every_form_of_a_setting(value: object, cases: tuple[Case, ...]) -> None:
    assert read_setting(value) == cases
    assert read_setting(cases) == cases


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "expected a number, true or false"),
        ([1, {"value": 2}], "got both in one"),
        ([[1]], "got list"),
        ({"filter": "mlp"}, "key 'value' is missing"),
        ({"filtre": "mlp", "value": 1}, "unknown key 'filtre'; did you mean 'filter'"),
        ({"filter": 3, "value": 1}, "filter: expected a part of tensor names, got 3"),
        ({"value": {"value": 1}}, "got dict"),
        (float("nan"), "finite"),
    ],
)
def test_settings_that_are_none(value: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_setting(value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LINEAR + "dtyp: float16", "unknown key 'dtyp'; did you mean 'dtype'"),
        (LINEAR.replace("{model: a}", "{modle: a}"), "unknown key 'models.0.modle'; did you mean 'model'"),
        (LINEAR.replace("{model: a}", "{model: a, layer_range: [0, 1]}"), "unknown key 'models.0.layer_range'"),
        (LINEAR.replace("linear", "liner"), "unknown method 'liner'; did you mean 'linear'"),
        (LINEAR.replace("linear", "cosine_a"), "unknown method 'cosine_a'"),
        (LINEAR.replace("merge_method: linear\n", ""), "key 'merge_method' is missing"),
        (LINEAR.replace("models:", "mdels:"), "unknown key 'mdels'; did you mean 'models'"),
        ("merge_method: linear\nparameters: {weight: 1}", "exactly one of models, slices and modules, got none"),
        (SLICED + "models: [{model: a}]", "exactly one of models, slices and modules, got models and slices"),
        ("merge_method: linear\nmodules: {text_decoder: {models: [{model: a}]}}", "'text_decoder' is not supported, .*'default'"),
        ("merge_method: linear\nmodules: {default: {parameters: {}}}", "either models or slices, got neither"),
        (SLICED.replace("[0, 2]}]", "[0, 2]}], residual_weight: 0.1"), "residual_weight is not supported"),
        (SLICED.replace("[0, 2]", "[2, 2]"), r"layer_range is \[2, 2\]"),
        (SLICED.replace("[0, 2]", "[0, 2, 3]"), "layer_range"),
        (SLICED.replace("[0, 2]}]", "[0, 2]}, {model: b, layer_range: [0, 3]}]"), "equally many layers, got {'a': 2, 'b': 3}"),
        (SLICED.replace(", layer_range: [0, 2]", ""), "key 'slices.0.sources.0.layer_range' is missing"),
        (SLICED.replace("{model: a, layer_range: [0, 2]}", ""), "slices.0.sources"),
        (LINEAR + "base_model: {model: a, override_architecture: X}", "base_model: override_architecture is not supported"),
        (LINEAR + "dtype: float64", "'float64' is not supported, expected one of float16, bfloat16, float32"),
        (LINEAR + "out_dtype: int8", "out_dtype: 'int8' is not supported"),
        (LINEAR.replace("{weight: 1}", "{wieght: 1}"), "parameters: linear has no parameter 'wieght'; did you mean 'weight'"),
        (LINEAR.replace("{weight: 1}", "{weight: 1, density: 0.5}"), "linear has no parameter 'density'.*mergekit ignores it"),
        (
            LINEAR.replace("model: a", "model: a, parameters: {normalize: true}"),
            "'a': 'normalize' of linear is one value for all",
        ),
        (LINEAR.replace("weight: 1", "weight: heavy"), "'weight' of linear takes a number, got 'heavy'"),
        (LINEAR.replace("weight: 1", "normalize: 0.5"), "'normalize' of linear takes true or false, got 0.5"),
        (LINEAR.replace("weight: 1", "weight: .inf"), "finite"),
        (LINEAR.replace("weight: 1", "weight: 'inf'"), "'weight' of linear is inf"),
        (LINEAR.replace("model: b", "model: a"), "models: 'a' stands twice"),
        (SLICED.replace("[0, 2]}]", "[0, 2]}, {model: a, layer_range: [2, 4]}]"), "slices.0: 'a' stands twice"),
        (SLERP.replace("t: 0.5", "t: [0, 1.5]"), "'t' of slerp is 1.5, expected 0 to 1"),
        (SLERP.replace("base_model: a\n", ""), "slerp needs a base; name it"),
        (SLERP.replace("base_model: a", "base_model: c"), "slerp mixes 2 model.*got 3"),
        (TIES.replace("weight: 1", "weight: 1, density: -0.1"), "'density' of ties is -0.1, expected 0 to 1"),
        (TIES.replace("[{model: b}, {model: c}]", "[{model: a}]"), r"ties mixes at least 1 model\(s\) besides the base, got 0"),
        (SLICED.replace("linear", "ties") + "base_model: b", "slices.0: ties needs the base 'b' among the sources of each slice"),
        (SLICED.replace("linear", "multislerp") + "base_model: b", "needs the base 'b' among the sources"),
        ("merge_method: passthrough\nmodels: [{model: a}, {model: b}]", r"passthrough mixes 1 model\(s\), got 2"),
        ("merge_method: karcher\nparameters: {max_iter: 1.5}\nmodels: [{model: a}]", "takes a whole number, got 1.5"),
        (LINEAR + "tokenizer_source: base\ntokenizer: {source: base}", "say the same thing twice"),
        (LINEAR + "tokenizer: {sorce: base}", "unknown key 'tokenizer.sorce'; did you mean 'source'"),
        (LINEAR + "tokenizer: {pad_to_multiple_of: 0}", "tokenizer.pad_to_multiple_of"),
        (LINEAR + "tokenizer: {tokens: {x: {source: c}}}", "'x' comes from 'c', which is not mixed"),
        (LINEAR + "tokenizer: {tokens: {x: {force: true}}}", "key 'tokenizer.tokens.x.source' is missing"),
        (LINEAR + "tokenizer: {tokens: {x: {source: null}}}", "got nothing"),
        (LINEAR + "tokenizer: {tokens: {x: {source: {kind: zeros}}}}", "unknown kind 'zeros'; did you mean 'zero'"),
        (LINEAR + "tokenizer: {tokens: {x: {source: {kind: model_token, model: a}}}}", "either token or token_id"),
        (LINEAR + "tokenizer: {tokens: {x: {source: {kind: model_token, token: a}}}}", "key 'model' is missing"),
        (LINEAR + "tokenizer: {tokens: {x: {source: {kind: zero, model: a}}}}", "unknown key 'model'"),
        (LINEAR + "name: a+b", r"'a\+b' cannot name a merge"),
        (LINEAR + "name: ../a", "cannot name a merge"),
        (LINEAR + "name: /a", "cannot name a merge"),
        (LINEAR + "name: .", "cannot name a merge"),
        (LINEAR + "dtype: float16\ndtype: float16", "key 'dtype' stands twice"),
    ],
)
def test_mistakes_and_what_is_not_supported_are_told_by_name(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        read_documents(text, "mine.yml")
    assert str(caught.value).startswith("mine.yml: ")


def test_nothing_given_counts_as_not_given() -> None:
    empty = "parameters:\nslices:\nmodules: {}\ntokenizer:\nout_dtype:\nchat_template:\n"
    assert read(LINEAR.replace("parameters: {weight: 1}\n", "") + empty).parameters == {}


def test_what_is_kept_for_others() -> None:
    document = read(LINEAR + "chat_template: chatml\nname: first/merge\ndtype: torch.float16\n")
    assert (document.chat_template, document.name, document.dtype) == ("chatml", "first/merge", "float16")


def test_documents_are_told_from_recipes() -> None:
    assert is_mergekit({"merge_method": "ties"})
    assert not is_mergekit({"method": "ties"})


def test_the_rules_are_about_methods_and_parameters_that_exist() -> None:
    assert set(METHODS) - set(RULES) == {"weighted_sum", "add_difference", "cosine_a", "cosine_b"}
    for method, rules in RULES.items():
        assert rules.required is None or rules.required in parameters(method)
        assert not rules.idle & set(parameters(method))
        assert METHODS[method].needs_base <= (rules.base == "required")
        assert (METHODS[method].on == "either") == (rules.base == "optional")
