"""Tiny random models and adapters, made by transformers and peft themselves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

# What peft and transformers say of their own doings with the models below; nothing of evomm's.
QUIET = [
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers` to `True`:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False but the target module is `Conv1D`:UserWarning"),
]
TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6]])


def llama(tied: bool = False, bias: bool = False, seed: int = 0) -> Any:
    """Two layers of 32, with grouped queries, so that not every matrix is square."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        tie_word_embeddings=tied,
        attention_bias=bias,
    )
    return LlamaForCausalLM(config).eval()


def gpt2(seed: int = 0) -> Any:
    """Two layers of 32, whose matrices are stored transposed; the head is tied."""
    torch.manual_seed(seed)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, n_positions=16, bos_token_id=0, eos_token_id=0)
    return GPT2LMHeadModel(config).eval()


def with_lora(model: Any, seed: int = 1, **options: Any) -> PeftModel:
    """The model under a LoRA of which nothing is zero and nothing is as the base has it."""
    adapted = get_peft_model(model, LoraConfig(**options))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or "modules_to_save" in name or (options.get("bias") == "all" and name.endswith(".bias")):
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapted


def saved(model: Any, folder: Path) -> Path:
    """The folder that the model, or the adapter, was saved to."""
    model.save_pretrained(folder)
    return folder


def state(model: Any) -> Mapping[str, Tensor]:
    """Copies of a model's tensors."""
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def logits(model: Any) -> Tensor:
    """What the model says to a few tokens."""
    with torch.inference_mode():
        out: Tensor = model(TOKENS).logits
    return out
