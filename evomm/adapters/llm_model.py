"""Language models brought to life: loading, generating, and where each checkpoint tensor lives in memory."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomm.adapters import resident
from evomm.adapters.base import LoadedModel
from evomm.adapters.generation import Shown, TextGeneration
from evomm.adapters.prefix import read_prefix
from evomm.errors import DamagedFile, UsageError
from evomm.plain import cut


def load(folder: Path, device: str, dtype: torch.dtype) -> LoadedModel:
    """The model in evaluation mode and its tokenizer, padded on the left; raises what `resident.bring_up` does."""
    model = resident.bring_up(AutoModelForCausalLM, folder, device, dtype, _short)
    return LoadedModel(targets(model), (model, padded_left(resident.tokens(AutoTokenizer, folder))))


def padded_left(tokenizer: Any) -> Any:
    """The tokenizer, changed so that prompts of a batch end together."""
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def generate(model: LoadedModel, prompts: Sequence[str], options: TextGeneration) -> Sequence[str]:
    """Answers without the prompt; batches hold prompts of like length, the longest first; what all begin with is read once.

    Raises UsageError for prompts with pictures, and for `chat` with a model that has no chat template.
    """
    network, tokenizer, *_ = model.parts
    if any(isinstance(prompt, Shown) for prompt in prompts):
        raise UsageError("the task asks about pictures, and a language model sees none; pair it with models that see")
    if options.chat:
        prompts = [in_chat(tokenizer, prompt) for prompt in prompts]
    ids = tokenizer(list(prompts))["input_ids"] if prompts else []
    prefix = read_prefix(network, ids) if options.beams == 1 and ids else None
    start = len(prefix.ids) if prefix else 0
    answers = [""] * len(prompts)
    for chosen in batches([len(one) for one in ids], options.batch):
        inputs = tokenizer.pad({"input_ids": [ids[i][start:] for i in chosen]}, return_tensors="pt")
        inputs = prefix.before(inputs) if prefix else inputs
        for i, text in zip(chosen, answer(network, tokenizer, inputs, options), strict=True):
            answers[i] = text
    return answers


def in_chat(template: Any, said: Any) -> str:
    """What a user says, written down as the chat template of a tokenizer or processor has it."""
    try:
        return str(template.apply_chat_template([{"role": "user", "content": said}], add_generation_prompt=True, tokenize=False))
    except ValueError as error:
        raise UsageError("chat: this model has no chat template; write the whole prompt, without `chat`") from error
    except Exception as error:  # the template is a program of the model's, run in a sandbox; whatever it does wrong
        raise DamagedFile(
            f"chat: the model's own chat template fails ({type(error).__name__}: {cut(str(error))}); "
            "write the whole prompt, without `chat`, or give the child another `chat_template`"
        ) from error


def batches(lengths: Sequence[int], size: int) -> list[list[int]]:
    """Places of prompts of like length together, the longest first."""
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    return [order[start : start + size] for start in range(0, len(order), size)]


@torch.inference_mode()
def answer(network: Any, tokenizer: Any, inputs: Any, options: TextGeneration) -> list[str]:
    """What a model says to a batch of prompts that are padded on the left."""
    inputs = {name: value.to(network.device) if isinstance(value, torch.Tensor) else value for name, value in inputs.items()}
    inputs.pop("token_type_ids", None)
    out = network.generate(
        **inputs,
        max_new_tokens=options.max_new_tokens,
        do_sample=False,
        num_beams=options.beams,
        repetition_penalty=options.repetition_penalty,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=tokenizer.pad_token_id,
    )
    texts: list[str] = tokenizer.batch_decode(out[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    return texts


def targets(model: Any) -> dict[str, Tensor]:
    """Checkpoint name -> view of the resident tensor; some hub checkpoints (GPT-2) leave the prefix out."""
    plain = resident.targets(model)
    prefix = f"{model.base_model_prefix}."
    return {**{short: plain[name] for name, short in _short(plain, prefix).items()}, **plain}


def _short(names: Iterable[str], prefix: str) -> dict[str, str]:
    return {name: name.removeprefix(prefix) for name in names}
