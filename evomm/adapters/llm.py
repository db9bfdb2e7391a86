"""Language models: any decoder that transformers' AutoModelForCausalLM knows.

Nothing here is a table of architectures. Layers and components are found from tensor names; what config.json says is
compared with the tensors where the names are common ones, and in full when the model is loaded (`llm_model`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from evomm.adapters.base import Adapter, LoadedModel, Model
from evomm.adapters.generation import Generation, TextGeneration, expect
from evomm.checkpoints.digest import file_digest
from evomm.checkpoints.reader import Checkpoint, TensorInfo, read_json
from evomm.errors import DamagedFile, MisfitError
from evomm.genome.blocks import Place
from evomm.merge.plan import refuse_misfits
from evomm.merge.recipe import Recipe

_NORM = re.compile(r"norm|(^|_)ln($|_|\d)", re.I)
_ATTENTION = re.compile(r"attn|attention", re.I)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe|expert|^fc\d|^w\d$|dense_h_to_4h|dense_4h_to_h", re.I)
_EMBEDDINGS = re.compile(r"embed|(^|\.)w[tp]e(\.|$)", re.I)
_TOKENS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight$")
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
_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")  # the number of layers, as families call it
_WIDTHS = ("hidden_size", "n_embd", "d_model")
_PLAIN_ATTENTION = {"llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "granite"}


class LLMAdapter(Adapter):
    """Decoders of AutoModelForCausalLM."""

    name = "llm"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether config.json names a causal language model."""
        config = read_json(path / "config.json") if (path / "config.json").exists() else {}
        return any("CausalLM" in name or "LMHead" in name for name in config.get("architectures") or ())

    def open(self, path: Path) -> Checkpoint:
        """The tensors; a stored copy of a tied head is left out, since the model has only the embeddings.

        Raises DamagedFile when config.json is absent or contradicts the tensors.
        """
        checkpoint = Checkpoint(path)
        if not checkpoint.config:
            raise DamagedFile(f"{path}: no config.json; copy it along with the weights")
        _untie(checkpoint)
        _refuse_contradiction(checkpoint)
        return checkpoint

    def blocks(self, model: Model) -> Mapping[str, Place]:
        """Layer number and component of each tensor, from its name."""
        prefix = _layer_prefix(model.infos)
        return {name: _place(name, prefix) for name in model.infos}

    def sketch(self, layers: int | None) -> Mapping[str, Place] | None:
        """A decoder of so many layers."""
        if layers is None:
            return None
        inner = {f"layers.{i}.{part}": Place(i, part) for i in range(layers) for part in ("attention", "mlp", "rest")}
        return {**inner, **{part: Place(None, part) for part in ("embeddings", "rest", "head")}}

    def vocabulary(self, model: Model) -> Mapping[str, int]:
        """Embeddings and head have a row for each token; a head's bias an element."""
        rows = {info.shape[0] for name, info in model.infos.items() if _TOKENS.search(name)}
        places = self.blocks(model)
        return {
            name: 0
            for name, info in model.infos.items()
            if places[name].component in {"embeddings", "head"} and info.shape and info.shape[0] in rows
        }

    def check(
        self, models: Mapping[str, Model], reference: str, *, stacked: bool = False, whole: Mapping[str, str] = {}
    ) -> Sequence[str]:
        """Same kind of model, same tensors, same shapes; differing tokenizers and rotary settings are told."""
        expected = models[reference]
        others = {label: model for label, model in models.items() if label != reference}
        for label, other in others.items():
            for key, ours, theirs in _differences(expected.config, other.config, _MUST_AGREE):
                raise MisfitError(
                    f"'{label}' does not fit '{reference}': {key} is {theirs!r}, expected {ours!r}; "
                    "merge models of one architecture"
                )
        if not stacked:
            refuse_misfits({label: model.infos for label, model in models.items()}, reference, whole)
        odd = [
            f"'{label}' has {key} {theirs!r}, '{reference}' has {ours!r}; the child gets one of them"
            for label, other in others.items()
            for key, ours, theirs in _differences(expected.config, other.config, _SHOULD_AGREE)
        ]
        return [*odd, *_tokenizer_differences(expected, others, reference)]

    def load(self, recipe: Recipe, models: Mapping[str, Model], device: str, dtype: torch.dtype) -> LoadedModel:
        """The model in evaluation mode and its tokenizer, padded on the left."""
        from evomm.adapters import llm_model

        return llm_model.load(models[recipe.carrier].folder, device, dtype)

    def generate(self, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
        """Greedy answers without the prompt; batches hold prompts of like length, the longest first."""
        from evomm.adapters import llm_model

        return llm_model.generate(model, prompts, expect(options, TextGeneration))


def _untie(checkpoint: Checkpoint) -> None:
    """Leave out a stored head that repeats the embeddings."""
    said = checkpoint.config.get("tie_word_embeddings")  # absent: as the family has it, so the tensors decide
    original = next((name for name in checkpoint.infos if _TOKENS.search(name)), None)
    for alias in [name for name in checkpoint.infos if _HEAD.search(name) and name.endswith("weight")]:
        if original is None or said is False or checkpoint.infos[alias] != checkpoint.infos[original]:
            continue
        if torch.equal(checkpoint.read(alias), checkpoint.read(original)):
            del checkpoint.infos[alias]
        elif said:
            raise DamagedFile(
                f"{checkpoint.folder}: config.json ties '{alias}' to '{original}', but the files hold two different tensors; "
                "set tie_word_embeddings to false if they are meant to differ"
            )


def _refuse_contradiction(checkpoint: Checkpoint) -> None:
    """Compare config.json with the tensors, as far as common names go."""
    config, infos = checkpoint.config, checkpoint.infos
    prefix = _layer_prefix(infos)
    found = {place.layer for name in infos if (place := _place(name, prefix)).layer is not None}
    count = _first(config, _COUNTS)
    if isinstance(count, int):
        lost = sorted(set(range(count)) - found)
        if lost:
            raise DamagedFile(
                f"{checkpoint.folder}: config.json's model has {count} layers, but no file holds layer {lost[0]}; "
                "copy the model again, or take the config that belongs to it"
            )
        extra = int(config.get("num_nextn_predict_layers") or 0)  # stored behind the layers by some families
        _expect(checkpoint, "layers", len(found), range(count, count + extra + 1), "the files have")
    for name, info in infos.items():
        for row, key, wanted in _expected_shapes(name, info, config):
            if row < len(info.shape):
                _expect(checkpoint, key, info.shape[row], range(wanted, wanted + 1), f"'{name}' has shape {list(info.shape)}:")
    if config.get("tie_word_embeddings") is False and not any(_HEAD.search(name) for name in infos):
        raise DamagedFile(f"{checkpoint.folder}: config.json's model has a head of its own, but no file holds one; copy it again")


def _expected_shapes(name: str, info: TensorInfo, config: Mapping[str, Any]) -> Iterator[tuple[int, str, int]]:
    """(dimension, config key, size) that a tensor of this name must have."""
    width, inner = _first(config, _WIDTHS), config.get("intermediate_size")
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads")
    if _TOKENS.search(name):
        if isinstance(config.get("vocab_size"), int):
            yield 0, "vocab_size", config["vocab_size"]
        if isinstance(width, int) and "word_embed_proj_dim" not in config and "embedding_size" not in config:
            yield 1, "hidden_size", width
    if name.endswith(".mlp.down_proj.weight") and isinstance(inner, int):
        yield 1, "intermediate_size", inner
    if config.get("model_type") in _PLAIN_ATTENTION and isinstance(heads, int) and isinstance(width, int):
        size = config.get("head_dim") or width // heads
        if name.endswith(".self_attn.q_proj.weight"):
            yield 0, "num_attention_heads × head_dim", heads * size
        if name.endswith(".self_attn.k_proj.weight"):
            yield 0, "num_key_value_heads × head_dim", (groups or heads) * size


def _expect(checkpoint: Checkpoint, key: str, got: int, allowed: range, where: str) -> None:
    if got not in allowed:
        raise DamagedFile(
            f"{checkpoint.folder}: config.json says {key} = {allowed.start}, but {where} {got}; the config is of another model"
        )


def _first(config: Mapping[str, Any], keys: Iterable[str]) -> object:
    return next((config[key] for key in keys if config.get(key) is not None), None)


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


def _tokenizer_differences(expected: Model, others: Mapping[str, Model], reference: str) -> Iterator[str]:
    ours = expected.folder / "tokenizer.json"
    for label, other in others.items():
        theirs = other.folder / "tokenizer.json"
        if ours.exists() and theirs.exists() and file_digest(ours) != file_digest(theirs):
            yield f"'{label}' has another tokenizer.json than '{reference}'; ids that mean other tokens merge badly"
