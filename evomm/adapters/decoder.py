"""Decoders of text, whatever they stand in: layers and components from tensor names, and whether configs and tensors agree.

Nothing here is a table of architectures. What config.json says is compared with the tensors where the names are common ones;
in full it is compared when a model is loaded (`resident`).
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from evomm.checkpoints.digest import file_digest
from evomm.checkpoints.reader import TensorInfo, TensorReader
from evomm.errors import DamagedFile, MisfitError
from evomm.genome.blocks import Place

_NORM = re.compile(r"norm|(^|_)ln($|_|\d)", re.I)
_ATTENTION = re.compile(r"attn|attention", re.I)
_MLP = re.compile(r"mlp|ffn|feed_?forward|moe|expert|^fc\d|^w\d$|dense_h_to_4h|dense_4h_to_h", re.I)
_EMBEDDINGS = re.compile(r"embed|(^|\.)w[tp]e(\.|$)", re.I)
_TOKENS = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)(\.|$)")

# Config values that change what the same weights compute. The first group makes a merge meaningless, the second odd.
MUST_AGREE = (
    "model_type",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "tie_word_embeddings",
)
SHOULD_AGREE = ("rope_theta", "rope_parameters", "rms_norm_eps", "layer_norm_eps", "sliding_window", "eos_token_id")
COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")  # the number of layers, as families call it
WIDTHS = ("hidden_size", "n_embd", "d_model")
# Decoders whose layers add what their last matrices give, unchanged, to a stream that is only read through norms.
_PRE_NORM = frozenset({"llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen2_moe", "phi3", "gpt2"})
_OUTPUTS = re.compile(r"\.(o_proj|down_proj|c_proj|w2)\.(weight|bias)$")
_PLAIN_ATTENTION = {"llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "olmo2", "granite"}


@dataclass(frozen=True)
class Decoder:
    """A decoder, alone or inside of a larger model.

    folder: of the model, for messages and tokenizers. config: what config.json says of the decoder. infos: its tensors under
    a language model's names. reader: where they can be read.
    """

    folder: Path
    config: Mapping[str, Any]
    infos: Mapping[str, TensorInfo]
    reader: TensorReader

    @property
    def places(self) -> Mapping[str, Place]:
        """Layer number and component of each tensor, from its name."""
        prefix = _layer_prefix(self.infos)
        return {name: _place(name, prefix) for name in self.infos}

    @property
    def outputs(self) -> Mapping[int, Sequence[str]]:
        """Layer -> names of the tensors that write to the residual stream: those of attention's and the MLP's last matrices.

        Raises MisfitError for a kind of decoder in which dividing them is not known to divide what the layer adds.
        """
        kind = str(self.config.get("model_type"))
        if kind not in _PRE_NORM:
            raise MisfitError(
                f"{self.folder}: scales of a path are folded into what its layers add, which is not known to work for a "
                f"'{kind}' (a norm may follow the last matrix); it does for {', '.join(sorted(_PRE_NORM))}. "
                "Without scales (flow: {scales: none}) any decoder will do"
            )
        found: dict[int, list[str]] = {}
        for name, place in self.places.items():
            if place.layer is not None and _OUTPUTS.search(name):
                found.setdefault(place.layer, []).append(name)
        return found

    @property
    def depth(self) -> int:
        """The number of layers that the files hold."""
        return len({place.layer for place in self.places.values()} - {None})

    @property
    def width(self) -> int | None:
        """The width of its embeddings, where their name is a common one."""
        return next((info.shape[1] for info in self._embeddings), None)

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Tensor name -> dimension that counts tokens: embeddings and head have a row for each, a head's bias an element."""
        rows = {info.shape[0] for info in self._embeddings}
        places = self.places
        return {
            name: 0
            for name, info in self.infos.items()
            if places[name].component in {"embeddings", "head"} and info.shape and info.shape[0] in rows
        }

    @property
    def rows(self) -> int | None:
        """The rows of its embeddings."""
        return next((info.shape[0] for info in self._embeddings), None)

    @property
    def _embeddings(self) -> Iterator[TensorInfo]:
        return (info for name, info in self.infos.items() if _TOKENS.search(name) and len(info.shape) == 2)


def architectures(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The classes that a config.json names; none when it does not say so in a list."""
    named = config.get("architectures")
    return tuple(map(str, named)) if isinstance(named, list) else ()


def repeated_heads(decoder: Decoder) -> list[str]:
    """Stored heads that repeat the embeddings, since the model has only these; DamagedFile when the config ties what differs."""
    said = decoder.config.get("tie_word_embeddings")  # absent: as the family has it, so the tensors decide
    original = next((name for name in decoder.infos if _TOKENS.search(name)), None)
    found = []
    for alias in [name for name in decoder.infos if _HEAD.search(name) and name.endswith("weight")]:
        if original is None or said is False or decoder.infos[alias] != decoder.infos[original]:
            continue
        if torch.equal(decoder.reader.read(alias), decoder.reader.read(original)):
            found.append(alias)
        elif said:
            raise DamagedFile(
                f"{decoder.folder}: config.json ties '{alias}' to '{original}', but the files hold two different tensors; "
                "set tie_word_embeddings to false if they are meant to differ"
            )
    return found


def refuse_contradiction(decoder: Decoder) -> None:
    """Compare the config with the tensors, as far as common names go."""
    config, infos = decoder.config, decoder.infos
    found = {place.layer for place in decoder.places.values() if place.layer is not None}
    if found and max(found) >= len(infos):
        raise DamagedFile(f"{decoder.folder}: names tensors of layer {max(found)}, but has {len(infos)} tensors; copy it again")
    count = _first(config, COUNTS)
    if isinstance(count, int):
        lost = next((layer for layer in range(count) if layer not in found), None)
        if lost is not None:
            raise DamagedFile(
                f"{decoder.folder}: config.json's model has {count} layers, but no file holds layer {lost}; "
                "copy the model again, or take the config that belongs to it"
            )
        extra = config.get("num_nextn_predict_layers")  # stored behind the layers by some families
        allowed = range(count, count + 1 + (extra if isinstance(extra, int) else 0))
        _expect(decoder, "layers", len(found), allowed, "the files have")
    for name, info in infos.items():
        for row, key, wanted in _expected_shapes(name, info, config):
            if row < len(info.shape):
                _expect(decoder, key, info.shape[row], range(wanted, wanted + 1), f"'{name}' has shape {list(info.shape)}:")
    if config.get("tie_word_embeddings") is False and not any(_HEAD.search(name) for name in infos):
        raise DamagedFile(f"{decoder.folder}: config.json's model has a head of its own, but no file holds one; copy it again")


def sketch(layers: int | None) -> Mapping[str, Place] | None:
    """A decoder of so many layers, by the parts that groupings tell apart."""
    if layers is None:
        return None
    inner = {f"layers.{i}.{part}": Place(i, part) for i in range(layers) for part in ("attention", "mlp", "rest")}
    return {**inner, **{part: Place(None, part) for part in ("embeddings", "rest", "head")}}


def _expected_shapes(name: str, info: TensorInfo, config: Mapping[str, Any]) -> Iterator[tuple[int, str, int]]:
    """(dimension, config key, size) that a tensor of this name must have."""
    width, inner = _first(config, WIDTHS), config.get("intermediate_size")
    heads, groups = config.get("num_attention_heads"), config.get("num_key_value_heads") or config.get("num_attention_heads")
    if _TOKENS.search(name):
        if isinstance(config.get("vocab_size"), int):
            yield 0, "vocab_size", config["vocab_size"]
        if isinstance(width, int) and "word_embed_proj_dim" not in config and "embedding_size" not in config:
            yield 1, "hidden_size", width
    if name.endswith(".mlp.down_proj.weight") and isinstance(inner, int):
        yield 1, "intermediate_size", inner
    if str(config.get("model_type")) in _PLAIN_ATTENTION and isinstance(heads, int) and isinstance(width, int) and heads:
        size = config.get("head_dim") or width // heads
        if name.endswith(".self_attn.q_proj.weight") and isinstance(size, int):
            yield 0, "num_attention_heads × head_dim", heads * size
        if name.endswith(".self_attn.k_proj.weight") and isinstance(size, int) and isinstance(groups, int):
            yield 0, "num_key_value_heads × head_dim", groups * size


def _expect(decoder: Decoder, key: str, got: int, allowed: range, where: str) -> None:
    if got not in allowed:
        raise DamagedFile(
            f"{decoder.folder}: config.json says {key} = {allowed.start}, but {where} {got}; the config is of another model"
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


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any], keys: Iterable[str]) -> Iterator[tuple[str, Any, Any]]:
    """(key, ours, theirs) of keys that both configs have and that differ."""
    for key in keys:
        if key in ours and key in theirs and ours[key] != theirs[key]:
            yield key, ours[key], theirs[key]


def odd_settings(expected: Decoder, others: Mapping[str, Decoder], reference: str) -> Iterator[str]:
    """What differs and may: settings of which the child gets one, and tokenizers."""
    for label, other in others.items():
        for key, ours, theirs in differences(expected.config, other.config, SHOULD_AGREE):
            yield f"'{label}' has {key} {theirs!r}, '{reference}' has {ours!r}; the child gets one of them"
    own = expected.folder / "tokenizer.json"
    for label, other in others.items():
        their = other.folder / "tokenizer.json"
        if own.exists() and their.exists() and file_digest(own) != file_digest(their):
            yield f"'{label}' has another tokenizer.json than '{reference}'; ids that mean other tokens merge badly"
