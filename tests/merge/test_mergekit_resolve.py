"""From mergekit's documents to recipes: values written out by hand, and what is planned from them."""

import pytest
import torch
from torch import float16, float32

from evomm.errors import MisfitError, UsageError
from evomm.merge.mergekit.blocks import Arguments, pack
from evomm.merge.mergekit.resolve import resolve
from evomm.merge.recipe import Recipe, Slice
from evomm.merge.vocabulary import Token, Vocabulary
from tests.merge.mergekit_kit import AFTER, BEFORE, KINDS, jobs, layer_of, llama, numbers, read, resolved, world

SLERP = """
merge_method: slerp
base_model: org/b
models: [{model: org/a}, {model: org/b}]
parameters:
  t:
    - {filter: self_attn, value: [0, 1, 0.4]}
    - {filter: mlp, value: [1, "0.05"]}
    - {value: 0.5}
dtype: bfloat16
"""
STACK = """
merge_method: passthrough
slices:
  - sources: [{model: a, layer_range: [0, 3]}]
  - sources: [{model: b, layer_range: [1, 3], parameters: {scale: [{filter: q_proj, value: 0.5}, {value: 1}]}}]
  - sources: [{model: a, layer_range: [2, 4]}]
"""
TWO = """
merge_method: linear
parameters: {weight: 1}
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [2, 4]}]
  - sources:
      - {model: c, layer_range: [1, 3], parameters: {weight: [2, 3]}}
      - {model: a, layer_range: [2, 4]}
"""


def test_gradients_and_filters_of_a_slerp() -> None:
    recipe = resolved(SLERP).recipe
    assert recipe.base == recipe.carrier == "b"
    assert recipe.mixed == ("b", "a"), "t counts from the base to the other model"
    assert recipe.dtype == "bfloat16"
    assert recipe.slices == () and recipe.vocabulary is None
    attention, mlp = [0, 2 / 3, 0.8, 0.4], [1, 2.05 / 3, 1.1 / 3, 0.05]
    for layer in range(4):
        for kind in KINDS:
            wanted = attention[layer] if "attn" in kind else mlp[layer] if "mlp" in kind else 0.5
            assert recipe.arguments(f"model.layers.{layer}.{kind}.weight")["t"] == pytest.approx(wanted)
    assert [recipe.arguments(name)["t"] for name in (*BEFORE, *AFTER)] == [0.5] * 3


def test_blocks_are_few_and_their_patterns_short() -> None:
    recipe = resolved(SLERP).recipe
    assert recipe.parameters == {"t": 0.5}
    assert {block.name: block.tensors for block in recipe.blocks} == {
        **{f"model.layers.{n}.mlp": (f"model.layers.{n}.mlp.*",) for n in range(4)},
        **{f"model.layers.{n}.self_attn": (f"model.layers.{n}.self_attn.*",) for n in range(4)},
    }
    whole = resolved(SLERP.replace('[1, "0.05"]', "0.25").replace("[0, 1, 0.4]", "0.75")).recipe
    assert whole.parameters == {"t": 0.25}, "what most tensors have"
    assert {block.tensors: block.parameters for block in whole.blocks} == {
        ("model.layers.*.self_attn.*",): {"t": 0.75},
        ("model.layers.*.input_layernorm.weight", "lm_head.weight", "model.norm.weight", "model.embed_tokens.weight"): {"t": 0.5},
    }
    layers = resolved("merge_method: linear\nparameters: {weight: [1, 2]}\nmodels: [{model: a}]").recipe
    assert [block.tensors for block in layers.blocks] == [(f"model.layers.{n}.*",) for n in (1, 2, 3)]


def test_what_is_common_to_all_is_no_block() -> None:
    recipe = resolved("merge_method: ties\nbase_model: b\nparameters: {weight: 0.3, lambda: 1.5}\nmodels: [{model: a}]").recipe
    assert recipe.parameters == {"weight": {"a": 0.3}, "lambda": 1.5}
    assert recipe.blocks == ()


def test_precedence_and_names() -> None:
    """Own, slice's, module's, document's; own values by the name in that model, shared ones by the name in the child."""
    recipe = resolved("""
merge_method: ties
base_model: base
parameters: {weight: 4, density: 0.4, lambda: 4}
modules:
  default:
    parameters: {weight: [{filter: layers.3., value: 3}], lambda: [{filter: layers.0., value: 3}]}
    slices:
      - parameters: {weight: {filter: layers.1., value: 2}, density: {filter: embed, value: 0.2}}
        sources:
          - {model: a, layer_range: [2, 4], parameters: {weight: {filter: mlp, value: 1}}}
          - {model: b, layer_range: [0, 2], parameters: {density: []}}
          - {model: base, layer_range: [1, 3]}
""").recipe
    found = {n: recipe.arguments(f"{n}.weight", ("a", "b")) for n in (
        "model.embed_tokens", "model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "model.layers.1.self_attn.q_proj"
    )}  # fmt: skip
    assert [values["weight"] for values in found.values()] == [(4, 4), (1, 4), (1, 2), (3, 2)]
    assert [values["density"] for values in found.values()] == [(0.2, 0.2), (0.4, 0.4), (0.4, 0.4), (0.4, 0.4)]
    assert [values["lambda_"] for values in found.values()] == [4, 3, 4, 4]


@pytest.mark.parametrize("value", ["true", "'yes'", "1", "[false, true]", "{value: true}"])
def test_switches(value: str) -> None:
    recipe = resolved(f"merge_method: linear\nparameters: {{weight: 1, normalize: {value}}}\nmodels: [{{model: a}}]").recipe
    assert recipe.arguments("model.layers.3.mlp.up_proj.weight")["normalize"] is True
    assert recipe.arguments("model.layers.2.mlp.up_proj.weight")["normalize"] is (value != "[false, true]")


def test_a_slice_of_one_layer_is_at_the_end_of_gradients() -> None:
    text = "merge_method: linear\nslices: [{sources: [{model: a, layer_range: [1, 2], parameters: {weight: [1, 9]}}]}]"
    assert resolved(text).recipe.arguments("model.layers.0.mlp.up_proj.weight")["weight"] == (9,)
    assert resolved(text).recipe.arguments("model.norm.weight")["weight"] == (1,)


def test_a_stack_of_layers() -> None:
    recipe = resolved(STACK).recipe
    assert recipe.slices == (Slice(layers={"a": (0, 3)}), Slice(layers={"b": (1, 3)}), Slice(layers={"a": (2, 4)}))
    assert recipe.parameters == {"scale": {"a": 1, "b": 1}}
    assert [block.tensors for block in recipe.blocks] == [
        ("model.layers.3.self_attn.q_proj.weight", "model.layers.4.self_attn.q_proj.weight")
    ]
    found = jobs(STACK)
    assert len(found) == 3 + 7 * len(KINDS)
    from_ = [("a", 0), ("a", 1), ("a", 2), ("b", 1), ("b", 2), ("a", 2), ("a", 3)]
    for name, job in found.items():
        layer = layer_of(name)
        label, old = from_[layer] if layer is not None else ("a", None)
        assert job.sources == {label: name if layer is None else name.replace(f".{layer}.", f".{old}.")}
        assert job.arguments == {"scale": (0.5 if label == "b" and "q_proj" in name else 1.0,)}


def test_slices_with_models_of_their_own() -> None:
    found = jobs(TWO)
    inside = ".mlp.up_proj.weight"
    assert found[f"model.layers.1{inside}"].sources == {"a": f"model.layers.1{inside}", "b": f"model.layers.3{inside}"}
    assert found[f"model.layers.3{inside}"].sources == {"c": f"model.layers.2{inside}", "a": f"model.layers.3{inside}"}
    assert found[f"model.layers.2{inside}"].arguments["weight"] == (2, 1)
    assert found[f"model.layers.3{inside}"].arguments["weight"] == (3, 1)
    for name in BEFORE:
        assert found[name].labels == ("a", "b")
    for name in AFTER:
        assert (found[name].labels, found[name].arguments["weight"]) == (("c", "a"), (2, 1))


def test_tensors_behind_the_layers_have_no_more_parents_than_those_before() -> None:
    text = TWO.replace(", {model: b, layer_range: [2, 4]}", "")
    found = jobs(text)
    assert [found[name].labels for name in AFTER] == [("c",), ("c",)]
    assert found["model.layers.3.mlp.up_proj.weight"].labels == ("c", "a")
    assert "lm_head.weight and what else comes behind the layers is mixed from 'c' alone" in resolved(text).notes[0]
    with pytest.raises(UsageError, match=r"slices\.1: .*its first 2 models alone.*write the base 'z' among them"):
        resolved("""
merge_method: ties
base_model: z
parameters: {weight: 1}
slices:
  - sources: [{model: z, layer_range: [0, 1]}, {model: a, layer_range: [0, 1]}]
  - sources: [{model: a, layer_range: [0, 1]}, {model: b, layer_range: [0, 1]}, {model: z, layer_range: [0, 1]}]
""")


def test_slices_that_say_what_there_is_anyway_are_left_out() -> None:
    text = """
merge_method: linear
parameters: {weight: [0, 1]}
slices:
  - sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]
  - sources: [{model: b, layer_range: [2, 4]}, {model: a, layer_range: [2, 4]}]
"""
    assert len(resolved(text).recipe.slices) == 2, "the order differs"
    straight = text.replace("{model: b, layer_range: [2, 4]}, {model: a,", "{model: a, layer_range: [2, 4]}, {model: b,")
    recipe = resolved(straight).recipe
    assert recipe.slices == ()
    assert [recipe.arguments(f"model.layers.{n}.mlp.up_proj.weight")["weight"] for n in range(4)] == [(0, 0), (1, 1)] * 2
    assert len(resolved(straight, a=llama(5), b=llama(5)).recipe.slices) == 2, "a fifth layer is left out"


def test_each_slice_may_have_a_base_of_its_own() -> None:
    text = """
merge_method: task_arithmetic
parameters: {weight: 1}
slices:
  - {base_model: a, sources: [{model: a, layer_range: [0, 2]}, {model: b, layer_range: [0, 2]}]}
  - {base_model: b, sources: [{model: a, layer_range: [2, 4]}, {model: b, layer_range: [2, 4]}]}
"""
    recipe = resolved(text).recipe
    assert (recipe.base, recipe.slices, recipe.carrier) == ("a", (), "a")
    found = jobs(text)
    for name, job in found.items():
        second = (layer_of(name) or 0) >= 2 or name in AFTER
        assert (job.base, job.labels) == (("b", ("a",)) if second else ("a", ("b",)))


def test_a_base_that_the_models_do_not_list_is_added() -> None:
    text = "merge_method: linear\nbase_model: z\nparameters: {weight: 1}\nmodels: [{model: a, parameters: {weight: 2}}]"
    found = resolved(text)
    assert found.recipe.mixed == ("z", "a")
    assert found.recipe.parameters == {"weight": {"z": 1, "a": 2}}
    assert found.notes == ("the base 'z' is not among the models; as in mergekit, linear mixes it as one of them",)
    assert jobs("merge_method: ties\nbase_model: z\nmodels: [{model: a, parameters: {weight: 2}}]")[AFTER[0]].base == "z"


def test_a_base_outside_of_the_slices_only_carries_config_and_tokenizer() -> None:
    recipe = resolved(STACK + "base_model: z\n").recipe
    assert (recipe.carrier, list(recipe.parents)) == ("z", ["z", "a", "b"])
    assert {label for job in jobs(STACK + "base_model: z\n").values() for label in job.labels} == {"a", "b"}


def test_the_carrier_is_the_base_or_the_first_model() -> None:
    assert resolved(SLERP).recipe.tokenizer == "b"
    assert resolved(TWO).recipe.tokenizer == "a"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("merge_method: linear\nmodels: [{model: a}]", "'a': linear needs 'weight', but nothing gives it for lm_head.weight"),
        (
            "merge_method: ties\nbase_model: b\nmodels: [{model: a, parameters: {weight: {filter: model, value: 1}}}]",
            "'a': ties needs 'weight', but nothing gives it for lm_head.weight",
        ),
        (SLERP.replace("- {value: 0.5}", ""), "slerp needs 't', but nothing gives it for lm_head.weight"),
        (
            "merge_method: karcher\nparameters: {max_iter: [1, 2]}\nmodels: [{model: a}]",
            "model.layers.1.*'max_iter' of karcher takes a whole number, got 1.3",
        ),
        (TWO.replace("[1, 3]", "[3, 5]"), r"slices.1: layer_range is \[3, 5\], but 'c' has 4 layers"),
    ],
)
def test_what_only_headers_can_tell(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        resolved(text)


def test_whole_models_need_equally_many_layers() -> None:
    with pytest.raises(MisfitError, match="different numbers of layers: 'b' has 3, 'a' has 4"):
        resolved(SLERP.replace("[{model: org/a}, {model: org/b}]", "[{model: org/b}, {model: org/a}]"), b=llama(3))


TOKENS = """
tokenizer:
  source: org/b
  pad_to_multiple_of: 64
  tokens:
    <a>: {source: {kind: zero}, force: true}
    <b>: {source: {kind: model_token, model: org/a, token: hi}}
    <c>: {source: {kind: model_token, model: org/a, token_id: 0}}
    <d>: {source: org/a}
"""


@pytest.mark.parametrize(
    ("text", "vocabulary"),
    [
        ("tokenizer_source: union", Vocabulary(source="union")),
        ("tokenizer_source: base", Vocabulary(source="b")),
        ("tokenizer_source: org/a", Vocabulary(source="a")),
        ("tokenizer: {}", Vocabulary(source="union")),
        ("tokenizer: {source: base}", Vocabulary(source="b")),
        (
            TOKENS,
            Vocabulary(
                source="b",
                pad_to_multiple_of=64,
                tokens={
                    "<a>": Token(zero=True, force=True),
                    "<b>": Token(model="a", token="hi"),
                    "<c>": Token(model="a", token_id=0),
                    "<d>": Token(model="a"),
                },
            ),
        ),
    ],
)
def test_vocabularies(text: str, vocabulary: Vocabulary) -> None:
    recipe = resolved(SLERP + text).recipe
    assert recipe.vocabulary == vocabulary
    assert recipe.carrier == "b"
    assert Recipe.from_yaml(recipe.to_yaml()) == recipe


def test_the_base_of_tokens_is_the_first_model_where_there_is_none() -> None:
    vocabulary = resolved(TWO + "tokenizer_source: base\n").recipe.vocabulary
    assert vocabulary == Vocabulary(source="a")


def test_a_model_that_gives_nothing_but_tokens_is_not_mixed() -> None:
    text = SLERP + "tokenizer_source: org/d\n"
    recipe = resolved(text).recipe
    assert recipe.vocabulary == Vocabulary(source="d")
    assert list(recipe.parents) == ["b", "a", "d"]
    assert {job.labels for job in jobs(text).values()} == {("b", "a")}


DARE = "merge_method: dare_ties\nbase_model: z\nparameters: {weight: 1, int8_mask: true}\nmodels: [{model: a}, {model: z}]\n"


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        (
            DARE,
            ["'int8_mask' changes no result of dare_ties", "dare_ties draws its masks from the recipe's seed"],
        ),
        (
            DARE.replace("dare_ties", "task_arithmetic").replace("1,", "1, density: 0.5,"),
            ["'density' changes no result of task_arithmetic", "'int8_mask' changes no result"],
        ),
        (
            DARE.replace("dare_", "").replace(", int8_mask: true", "").replace("model: z}", "model: z, parameters: {weight: 1}}"),
            ["parameters of the base 'z' have no effect"],
        ),
        (TWO.replace("- sources: [", "- base_model: a\n    sources: ["), ["base_model of a slice has no effect on linear"]),
        (TWO + "dtype: float16\nout_dtype: bfloat16\n", ["mergekit computes in float16 before it stores bfloat16"]),
        (TWO + "dtype: float32\nout_dtype: bfloat16\n", []),
        (TWO + "dtype: float16\n", []),
    ],
)
def test_notes(text: str, notes: list[str]) -> None:
    found = resolved(text).notes
    assert len(found) == len(notes), found
    assert all(told.startswith(note) for told, note in zip(found, notes, strict=True))


def test_gradients_do_not_reach_layers_of_other_towers() -> None:
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: [1, 2]}}]"
    document = read(text)
    readers = world(document)
    readers["a"].infos["vision.layers.0.weight"] = readers["a"].infos[AFTER[0]]
    found = resolve(document, {"a": readers["a"].infos}, numbers(readers))
    assert found.notes == (
        "vision.layers.0.weight is outside of the layers that gradients run over; their first value counts there",
    )
    assert found.recipe.arguments("vision.layers.0.weight")["weight"] == (1,)


def test_dtypes() -> None:
    assert resolved(SLERP.replace("dtype: bfloat16", "")).recipe.dtype is None
    assert resolved(SLERP + "out_dtype: float32\n").recipe.dtype == "float32"
    text = SLERP.replace("dtype: bfloat16", "")
    found = resolved(text, a=llama(dtype=float16), b=llama(dtype=torch.bfloat16))
    assert found.recipe.dtype == "float32"
    assert found.notes == ("the parents have different dtypes, so the child is float32, as in mergekit; write `dtype` to choose",)


def test_tensors_of_different_dtypes_stay_so_and_that_is_told() -> None:
    text = STACK.replace("passthrough", "linear").replace("{scale: [{filter: q_proj, value: 0.5}, {value: 1}]}", "{}")
    found = resolved(text + "parameters: {weight: 1}\n", a=llama(dtype=float16), b=llama(dtype=float32))
    assert found.recipe.dtype is None and found.notes == (), "no tensor has parents of two dtypes"
    found = resolved(TWO, a=llama(dtype=float16), b=llama(dtype=float32), c=llama(dtype=float16))
    assert found.recipe.dtype is None
    assert "mergekit would store float32, here it has the first parent's dtype" in found.notes[0]


def test_models_without_layers() -> None:
    text = "merge_method: linear\nmodels: [{model: a, parameters: {weight: [1, 2]}}]\ntokenizer_source: b\n"
    recipe = resolved(text, a=llama(0), b=llama(0)).recipe
    assert recipe.slices == () and recipe.parameters == {"weight": {"a": 1}}
    assert [(block.tensors, block.parents) for block in recipe.blocks] == [(("*",), ("a",))]
    assert {job.labels for job in jobs(text, a=llama(0), b=llama(0)).values()} == {("a",)}


def test_patterns_never_catch_other_tensors() -> None:
    """Experts have numbers of their own, some names look like globs, and a star crosses dots."""
    names = [f"m.{n}.e.{k}.{w}" for n in range(3) for k in range(2) for w in ("up", "down", "x.up")] + ["m.0.e.[0].up", "m.*.e"]
    chosen = {name for name in names if name.endswith("up") and ".x." not in name}
    common, blocks = pack([Arguments(name, None, {"t": float(name in chosen)}) for name in names])
    recipe = Recipe.from_yaml("method: slerp\nparents: {a: {model: a}, b: {model: b}}")
    recipe = recipe.model_copy(update={"parameters": common, "blocks": blocks})
    assert {name for name in names if recipe.arguments(name)["t"]} == chosen
    assert len(blocks) == 1


def test_experts_share_a_pattern() -> None:
    names = [f"model.layers.{n}.mlp.experts.{k}.{w}" for n in range(3) for k in range(4) for w in ("w1", "w2")]
    _, blocks = pack([Arguments(n, layer_of(n), {"t": float("w1" in n)}) for n in [*names, "lm_head"]])
    assert [block.tensors for block in blocks] == [("model.layers.*.mlp.experts.*.w1",)]
