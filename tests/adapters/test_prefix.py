"""What all prompts begin with is read once, and nobody sees it in the answers."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
)

from evomm.adapters import llm_model, llm_path
from evomm.adapters.base import LoadedModel
from evomm.adapters.generation import TextGeneration
from evomm.adapters.prefix import read_prefix, shared_length
from evomm.genome.dataflow import Step
from evomm.resources import resource

WORKED = "".join(f"Q: Ken has {i} apples and buys {i + 1} apples. How many?\nA: " for i in range(6))
PROMPTS = [f"{WORKED}Q: {a}-{b}=?\nA: " for a, b in ((15, 8), (9, 2), (40, 13), (7, 7), (33, 4), (5, 3), (90, 20))]
OPTIONS = TextGeneration(max_new_tokens=16, batch=3)


def load(path: bool) -> LoadedModel:
    """The shipped math parent, whole or as a path that visits a layer twice."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    folder = resource("model_zoo", "tiny", "llm", "math")
    if not path:
        return llm_model.load(folder, "cpu", torch.float32)
    model = llm_path.load("math", {"math": folder}, "cpu", torch.float32)
    layers = (0, 1, 2, 2, 3, 4, 5)
    llm_path.route(model, [Step("math", layer) for layer in layers], {"num_hidden_layers": len(layers)})
    return model


def tokens_read(model: LoadedModel, act: Callable[[], Sequence[str]]) -> tuple[Sequence[str], int]:
    """What ``act`` gives, and how many tokens the model was fed for it."""
    count = [0]

    def seen(module: Any, arguments: tuple[Any, ...], output: Any) -> None:
        count[0] += arguments[0].numel()

    with model.parts[0].get_input_embeddings().register_forward_hook(seen):
        return act(), count[0]


@pytest.mark.parametrize("path", [False, True], ids=["whole", "path"])
def test_answers_are_the_same_and_fewer_tokens_are_read(path: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load(path)
    answers, few = tokens_read(model, lambda: llm_model.generate(model, PROMPTS, OPTIONS))
    monkeypatch.setattr("evomm.adapters.llm_model.read_prefix", lambda *arguments: None)
    expected, many = tokens_read(model, lambda: llm_model.generate(model, PROMPTS, OPTIONS))
    assert answers == expected
    assert len(set(answers)) > 1
    shared = shared_length(model.parts[1](PROMPTS)["input_ids"])
    assert shared > 80
    assert few == many - (len(PROMPTS) - 1) * shared, "once instead of once per prompt"


SIZES = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
LONG = [[*range(20), 1], [*range(20), 2]]


def test_what_all_prompts_begin_with_is_cached() -> None:
    found = read_prefix(LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=16)).eval(), LONG)
    assert found is not None
    assert found.ids.tolist() == list(range(20))
    assert found.cache.get_seq_length() == 20


@pytest.mark.parametrize(
    "made",
    [
        lambda: MistralForCausalLM(MistralConfig(**SIZES, intermediate_size=16, num_key_value_heads=2, sliding_window=8)),
        lambda: MptForCausalLM(MptConfig(vocab_size=64, d_model=16, n_layers=2, n_heads=2)),
        lambda: FalconForCausalLM(FalconConfig(**SIZES, alibi=True)),
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2)),
        lambda: MambaForCausalLM(MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=2, state_size=4)),
    ],
    ids=["window", "mpt", "alibi", "absolute", "state"],
)
def test_models_that_would_answer_otherwise_read_every_prompt_whole(made: Callable[[], Any]) -> None:
    assert read_prefix(made().eval(), LONG) is None


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=8), min_size=1, max_size=6))
def test_all_prompts_begin_with_what_is_shared(prompts: list[list[int]]) -> None:
    length = shared_length(prompts)
    assert all(prompt[:length] == prompts[0][:length] and len(prompt) > length for prompt in prompts)
    longer = {tuple(prompt[: length + 1]) for prompt in prompts}
    assert len(longer) > 1 or any(len(prompt) == length + 1 for prompt in prompts), "and it could not be longer"
