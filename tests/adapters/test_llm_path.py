"""Paths through layers: the live one and the plain checkpoint are one model, in every family that allows it."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomm.adapters import llm_path
from evomm.adapters.generation import TextGeneration
from evomm.adapters.llm import LLMAdapter
from evomm.errors import MisfitError, UsageError
from evomm.genome.dataflow import METHOD, Flow, FlowCodec, Step
from evomm.merge.recipe import Recipe, Slice, Source
from evomm.resources import resource
from tests.adapters.test_llm import FAMILIES, parents

STEPS = [Step("a", 0), Step("b", 1, 0.6), Step("a", 1, 1.4), Step("b", 1, 0.9), Step("b", 0, 1.3), Step("a", 2, 0.7)]
FOLDS = ["llama, untied", "llama, tied", "mistral", "qwen2, biases", "phi3, fused projections", "gpt2, fused and transposed"]
FOLDS += ["mixtral, experts"]


def loud(family: str, folder: Path) -> dict[str, Path]:
    """Two parents with embeddings as large as trained ones: beside those of fresh models a norm's epsilon is not nothing."""
    made = parents(FAMILIES[family], folder)
    for label in ("a", "b"):
        model = AutoModelForCausalLM.from_pretrained(made[label])
        with torch.no_grad():
            model.get_input_embeddings().weight.mul_(100)
        model.save_pretrained(made[label])
    return {label: made[label] for label in ("a", "b")}


def path_codec(folders: dict[str, Path], adapter: LLMAdapter, models: dict[str, Any], scales: str = "step") -> FlowCodec:
    """The space of paths through two parents."""
    template = Recipe(
        method=METHOD,
        parents={label: Source(model=str(folder)) for label, folder in folders.items()},
        slices=(Slice(layers={"a": (0, 1)}),),
        dtype="float32",
    )
    outputs = {label: adapter.outputs(model) if scales != "none" else {} for label, model in models.items()}
    return FlowCodec(Flow.model_validate({"scales": scales}), template, dict.fromkeys(folders, 3), outputs)


@pytest.mark.parametrize("family", FOLDS)
def test_the_plain_checkpoint_is_the_path(family: str, tmp_path: Path) -> None:
    """Scales and repeats; logits of a whole prompt, and token by token with the cache."""
    folders = loud(family, tmp_path)
    adapter = LLMAdapter()
    models = {label: adapter.open(folder) for label, folder in folders.items()}
    recipe = path_codec(folders, adapter, models).recipe(STEPS)
    adapter.save(recipe, models, tmp_path / "child")
    plain, told = AutoModelForCausalLM.from_pretrained(tmp_path / "child", dtype=torch.float32, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    live = load(adapter, recipe, models)
    adapter.route(live, recipe, models)
    network = live.parts[0]
    tokens = torch.arange(3, 20)[None]
    with torch.inference_mode():
        expected = plain.eval()(tokens).logits
        torch.testing.assert_close(network(tokens).logits, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        cached = network(tokens[:, :9], use_cache=True)
        assert cached.past_key_values.get_seq_length() == 9
        rest = network(tokens[:, 9:], past_key_values=cached.past_key_values, use_cache=True).logits
        torch.testing.assert_close(rest, expected[:, 9:], rtol=1e-3, atol=1e-3 * expected.abs().max().item())
        unscaled = recipe.model_copy(update={"blocks": ()})
        adapter.route(live, unscaled, models)
        assert not torch.allclose(network(tokens).logits, expected, rtol=1e-3, atol=1e-3), "the scales count"


def load(adapter: LLMAdapter, recipe: Recipe, models: dict[str, Any]) -> Any:
    """The parents' layers, without a tokenizer: random models have none."""
    folders = {label: model.folder for label, model in models.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: SimpleNamespace(pad_token="", eos_token=""))
        return llm_path.load(recipe.carrier, folders, "cpu", torch.float32)


def test_layers_are_shared_not_copied(tmp_path: Path) -> None:
    made = parents(FAMILIES["llama, untied"], tmp_path)
    adapter = LLMAdapter()
    models = {label: adapter.open(made[label]) for label in ("a", "b")}
    recipe = path_codec({"a": made["a"], "b": made["b"]}, adapter, models).recipe(STEPS)
    live = load(adapter, recipe, models)
    adapter.route(live, recipe, models)
    first = live.parts[0].model.layers
    assert first[1].layer is first[3].layer
    held = {tensor.data_ptr() for tensor in live.parts[0].parameters()}
    adapter.route(live, recipe, models)
    assert {tensor.data_ptr() for tensor in live.parts[0].parameters()} == held
    assert live.parts[0].config.num_hidden_layers == len(STEPS)


@pytest.mark.parametrize("family", ["gemma2, four norms", "falcon, multi-query"])
def test_scales_are_refused_where_they_do_not_fold(family: str, tmp_path: Path) -> None:
    made = parents(FAMILIES[family], tmp_path)
    adapter = LLMAdapter()
    models = {label: adapter.open(made[label]) for label in ("a", "b")}
    with pytest.raises(MisfitError, match=r"not known to work for a '\w+'.*scales: none"):
        adapter.outputs(models["a"])
    recipe = path_codec({"a": made["a"], "b": made["b"]}, adapter, models, "none").recipe([Step(s.label, s.layer) for s in STEPS])
    adapter.save(recipe, models, tmp_path / "child")
    live = load(adapter, recipe, models)
    adapter.route(live, recipe, models)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "child", dtype=torch.float32).eval()
    tokens = torch.arange(3, 20)[None]
    torch.testing.assert_close(live.parts[0](tokens).logits, plain(tokens).logits, rtol=1e-4, atol=1e-5)


def test_the_start_answers_as_the_parent_does() -> None:
    adapter = LLMAdapter()
    folders = {label: resource("model_zoo", "tiny", "llm", name) for label, name in (("a", "math"), ("b", "ja"))}
    models = {label: adapter.open(folder) for label, folder in folders.items()}
    codec = path_codec(folders, adapter, models)
    codec = FlowCodec(codec.flow, codec.template, dict.fromkeys(folders, 6), codec.outputs)
    recipe = codec.decode(codec.space.start)
    live = adapter.load(recipe, models, "cpu", torch.float32)
    adapter.route(live, recipe, models)
    alone = adapter.load(Recipe(method="linear", parents={"a": Source(model="a")}), {"a": models["a"]}, "cpu", torch.float32)
    prompts = [f"Q: {a}-{b}=?\nA: " for a, b in ((15, 8), (9, 2), (40, 13))]
    options = TextGeneration(max_new_tokens=12)
    assert adapter.generate(live, prompts, options) == adapter.generate(alone, prompts, options)


def test_a_stack_that_mixes_is_not_scored_live(tmp_path: Path) -> None:
    made = parents(FAMILIES["llama, untied"], tmp_path)
    adapter = LLMAdapter()
    models = {label: adapter.open(made[label]) for label in ("a", "b")}
    recipe = path_codec({"a": made["a"], "b": made["b"]}, adapter, models).recipe(STEPS)
    live = load(adapter, recipe, models)
    mixed = Recipe(method="linear", parents=recipe.parents, slices=(Slice(layers={"a": (0, 3), "b": (0, 3)}),))
    with pytest.raises(UsageError, match="layers of one parent each"):
        adapter.route(live, mixed, models)
