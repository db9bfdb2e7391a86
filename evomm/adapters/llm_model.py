"""Language models brought to life: loading, generating, and where each checkpoint tensor lives in memory.

Kept apart from `llm`, because importing transformers takes seconds that a merge need not pay.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from evomm.adapters.base import LoadedModel
from evomm.adapters.generation import TextGeneration
from evomm.checkpoints.reader import Checkpoint, TensorInfo
from evomm.errors import DamagedFile, MisfitError, UnsafeFile


def load(folder: Path, device: str, dtype: torch.dtype) -> LoadedModel:
    """The model in evaluation mode and its tokenizer, padded on the left.

    Raises DamagedFile when config.json names no known decoder or contradicts the tensors, UnsafeFile when the model needs
    code from its own folder.
    """
    checkpoint = Checkpoint(folder)
    config = _config(checkpoint)
    refuse_contradiction(folder, checkpoint.infos, config)
    transformers_logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, local_files_only=True, trust_remote_code=False, use_safetensors=True
    )
    model = model.to(device).eval().requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return LoadedModel(targets(model), (model, tokenizer))


@torch.inference_mode()
def generate(model: LoadedModel, prompts: Sequence[str], options: TextGeneration) -> Sequence[str]:
    """Greedy answers without the prompt; batches hold prompts of like length, the longest first."""
    network, tokenizer = model.parts
    lengths = [len(ids) for ids in tokenizer(list(prompts))["input_ids"]]
    order = sorted(range(len(prompts)), key=lambda i: (-lengths[i], i))
    answers = [""] * len(prompts)
    for start in range(0, len(order), options.batch):
        chosen = order[start : start + options.batch]
        batch = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True).to(network.device)
        batch.pop("token_type_ids", None)
        out = network.generate(
            **batch,
            max_new_tokens=options.max_new_tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=tokenizer.pad_token_id,
        )
        texts = tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, text in zip(chosen, texts, strict=True):
            answers[i] = text
    return answers


class _Window(Tensor):
    """A tensor that stays a view: transformers' conversion asks for contiguous copies, evomm needs the original bytes."""

    def contiguous(self, *args: Any, **kwargs: Any) -> "_Window":
        """Itself."""
        return self


def targets(model: Any) -> dict[str, Tensor]:
    """Checkpoint name -> view of the resident tensor, so that writing into it changes the model.

    Raises MisfitError for a model whose checkpoint tensors are no plain views of what is in memory.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    views = revert_weight_conversion(model, {name: tensor.as_subclass(_Window) for name, tensor in state.items()})
    storages = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    plain = {name: view.as_subclass(Tensor) for name, view in views.items()}
    for name, view in plain.items():
        if view.numel() and view.untyped_storage().data_ptr() not in storages:
            raise MisfitError(f"'{name}' is stored in another arrangement than in memory; this model can't be evolved live")
    prefix = f"{model.base_model_prefix}."
    short = {name.removeprefix(prefix): view for name, view in plain.items() if name.startswith(prefix)}
    return {**short, **plain}  # some hub checkpoints (GPT-2) leave the prefix out


def _config(checkpoint: Checkpoint) -> Any:
    raw = checkpoint.config
    if not raw:
        raise DamagedFile(f"{checkpoint.folder}: no config.json; copy it along with the weights")
    if raw.get("auto_map") and not _known(raw.get("model_type")):
        raise UnsafeFile(
            f"{checkpoint.folder}: model type '{raw.get('model_type')}' needs code from its own folder, "
            "which evomm does not run; use a model that transformers knows"
        )
    try:
        return AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, OSError) as error:
        first = str(error).splitlines()[0]
        raise DamagedFile(f"{checkpoint.folder}: config.json is of no model that transformers knows ({first})") from error


def _known(model_type: object) -> bool:
    return model_type in CONFIG_MAPPING


def _skeleton(config: Any) -> Any:
    """The model without memory for its weights; names, shapes and ties can be read off it."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _tied(skeleton: Any, config: Any) -> Mapping[str, str]:
    """Tied name -> the name it repeats, when the config ties them."""
    keys = getattr(skeleton, "_tied_weights_keys", None)
    return dict(keys) if isinstance(keys, Mapping) and config.get_text_config().tie_word_embeddings else {}


def refuse_contradiction(folder: Path, infos: Mapping[str, TensorInfo], config: Any) -> None:
    """Compare the files with what the config's class expects; tensors that it does not know of are left alone."""
    skeleton = _skeleton(config)
    tied = _tied(skeleton, config)
    optional = {*tied, *(name for name, _ in skeleton.named_buffers())}  # repeated, or computed by the class itself
    state = revert_weight_conversion(skeleton, dict(skeleton.state_dict()))
    prefix = f"{skeleton.base_model_prefix}."
    for name, tensor in state.items():
        found = infos.get(name, infos.get(name.removeprefix(prefix)))
        if found is not None and tuple(tensor.shape) != found.shape:
            raise DamagedFile(
                f"{folder}: config.json asks for '{name}' of shape {list(tensor.shape)}, the file has "
                f"{list(found.shape)}; the config is of another model"
            )
    known = {name.removeprefix(prefix) for name in state}
    here = {name.removeprefix(prefix) for name in infos}
    if not known & here:
        raise DamagedFile(f"{folder}: none of the tensors that config.json's model needs are in the files")
    lost = sorted(known - here - {name.removeprefix(prefix) for name in optional})
    if lost and here <= known:  # names of an older layout are transformers' to convert, and not lost
        raise DamagedFile(
            f"{folder}: config.json's model needs {len(lost)} tensor(s) that no file holds, the first is '{lost[0]}'; "
            "copy the model again"
        )
