"""Language models: any decoder that transformers' AutoModelForCausalLM knows.

Nothing here is a table of architectures. Layers and components are found from tensor names, what is tied or expected
from the class that the config names, and checkpoint names that transformers stores otherwise in memory (experts fused
into one tensor) through transformers' own conversion, run backwards on views.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from evomm.adapters.base import Adapter, Generation, LoadedModel
from evomm.checkpoints.digest import file_digest
from evomm.checkpoints.reader import Checkpoint, TensorInfo
from evomm.errors import DamagedFile, MisfitError, UnsafeFile
from evomm.genome.blocks import Place
from evomm.merge.engine import refuse_misfits

_NORM = re.compile(r"norm|(^|_)ln($|_|\d)", re.I)
_ATTENTION = re.compile(r"attn|attention", re.I)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe|expert|^fc\d|^w\d$|dense_h_to_4h|dense_4h_to_h", re.I)
_EMBEDDINGS = re.compile(r"embed|(^|\.)w[tp]e(\.|$)", re.I)
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)(\.|$)")

# Config values that change what the same weights compute. The first group makes a merge meaningless, the second odd.
_MUST_AGREE = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
)
_SHOULD_AGREE = ("rope_theta", "rope_parameters", "rms_norm_eps", "layer_norm_eps", "sliding_window", "eos_token_id")


class LLMAdapter(Adapter):
    """Decoders of AutoModelForCausalLM."""

    name = "llm"

    @classmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Whether the config names a causal language model."""
        return any("CausalLM" in name or "LMHead" in name for name in config.get("architectures") or ())

    def open(self, folder: Path) -> Checkpoint:
        """The tensors; a stored copy of a tied head is left out, since the model has only the embeddings.

        Raises DamagedFile when config.json is absent, names no known decoder, or contradicts the tensors.
        """
        checkpoint = Checkpoint(folder)
        config = _config(checkpoint)
        skeleton = _skeleton(config)
        tied = _tied(skeleton, config)
        for alias, original in tied.items():
            if alias in checkpoint.infos and original in checkpoint.infos:
                if not torch.equal(checkpoint.read(alias), checkpoint.read(original)):
                    raise DamagedFile(
                        f"{folder}: config.json ties '{alias}' to '{original}', but the files hold two different tensors; "
                        "set tie_word_embeddings to false if they are meant to differ"
                    )
                del checkpoint.infos[alias]
        _refuse_contradiction(folder, checkpoint.infos, skeleton, tied)
        return checkpoint

    def blocks(self, checkpoint: Checkpoint) -> Mapping[str, Place]:
        """Layer number and component of each tensor, from its name."""
        prefix = _layer_prefix(checkpoint.infos)
        return {name: _place(name, prefix) for name in checkpoint.infos}

    def check(self, checkpoints: Mapping[str, Checkpoint], reference: str) -> Sequence[str]:
        """Same kind of model, same tensors, same shapes; differing tokenizers and rotary settings are told."""
        expected = checkpoints[reference]
        others = {label: c for label, c in checkpoints.items() if label != reference}
        for label, other in others.items():
            for key, ours, theirs in _differences(expected.config, other.config, _MUST_AGREE):
                raise MisfitError(
                    f"'{label}' does not fit '{reference}': {key} is {theirs!r}, expected {ours!r}; "
                    "merge models of one architecture"
                )
        refuse_misfits({label: c.infos for label, c in checkpoints.items()}, reference)
        odd = [
            f"'{label}' has {key} {theirs!r}, '{reference}' has {ours!r}; the child gets one of them"
            for label, other in others.items()
            for key, ours, theirs in _differences(expected.config, other.config, _SHOULD_AGREE)
        ]
        return [*odd, *_tokenizer_differences(expected, others, reference)]

    def load(self, folder: Path, device: str, dtype: torch.dtype) -> LoadedModel:
        """The model in evaluation mode and its tokenizer, padded on the left."""
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
    def generate(self, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
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


def _refuse_contradiction(folder: Path, infos: Mapping[str, TensorInfo], skeleton: Any, tied: Mapping[str, str]) -> None:
    """Compare the files with what the config's class expects; tensors that it does not know of are left alone."""
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


def _layer_prefix(names: Iterable[str]) -> str:
    """What stands before the layer's number, such as ``model.layers.``: the numbered prefix with the most tensors."""
    counts = Counter(match.group(1) for name in names if (match := re.match(r"(.*?\.?)\d+\.", name)))
    return counts.most_common(1)[0][0] if counts else ""


def _place(name: str, prefix: str) -> Place:
    inside = re.match(re.escape(prefix) + r"(\d+)\.(.*)", name) if prefix else None
    if inside:
        return Place(int(inside.group(1)), _component(inside.group(2).split(".")))
    if _HEAD.search(name):
        return Place(None, "head")
    if _EMBEDDINGS.search(name) and not _NORM.search(name):
        return Place(None, "embeddings")
    return Place(None, "rest")


def _component(parts: Sequence[str]) -> str:
    """Of a name inside a layer, from its first telling part: self_attn.q_norm is attention, ln_attn is the rest."""
    for part in parts:
        if _NORM.search(part):
            return "rest"
        if _ATTENTION.search(part):
            return "attention"
        if _MLP.search(part):
            return "mlp"
    return "rest"


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str]) -> Iterator[tuple[str, Any, Any]]:
    """(key, ours, theirs) of keys that both configs have and that differ."""
    for key in keys:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            yield key, ours[key], theirs[key]


def _tokenizer_differences(expected: Checkpoint, others: Mapping[str, Checkpoint], reference: str) -> Iterator[str]:
    ours = expected.folder / "tokenizer.json"
    for label, other in others.items():
        theirs = other.folder / "tokenizer.json"
        if ours.exists() and theirs.exists() and file_digest(ours) != file_digest(theirs):
            yield f"'{label}' has another tokenizer.json than '{reference}'; ids that mean other tokens merge badly"
