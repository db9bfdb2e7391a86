"""Compares two merged checkpoints element by element, in units in the last place."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jinja2.exceptions import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor

FEW = 16  # units of float32's last place, of a tensor's largest value, that sums in another order may differ by
EPSILON = {torch.float32: 2.0**-23, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}


@dataclass(frozen=True)
class Child:
    """A merged folder: tensors, config, the tokenizer's tokens (id by token), and conversations as its template puts them."""

    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any]
    tokens: Mapping[str, int]
    conversations: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> "Child":
        """Everything that a comparison looks at."""
        tensors = {name: tensor for file in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(file).items()}
        tokenizer = folder / "tokenizer.json"
        tokens = Tokenizer.from_file(str(tokenizer)).get_vocab() if tokenizer.exists() else {}
        return cls(tensors, json.loads((folder / "config.json").read_text()), tokens, _conversations(folder))


@dataclass(frozen=True)
class Difference:
    """How far two children are apart.

    Attributes:
        elements: how many were compared.
        equal, within: how many are equal, and how many differ by at most one unit in the last place of their dtype.
        largest: largest difference, in units of float32's last place of the tensor's largest value.
        mean: mean difference over the mean magnitude.
        beyond: by tensor, the distance of the elements that differ by more than rounding explains, 0 at the others.
        remarks: what else differs: names, shapes, dtypes, config, tokens.
    """

    elements: int
    equal: int
    within: int
    largest: float
    mean: float
    beyond: Mapping[str, Tensor]
    remarks: tuple[str, ...]


def compare(ours: Child, theirs: Child) -> Difference:
    """Rows of tokens are compared token by token when the two tokenizers give the same tokens other ids."""
    remarks = _remarks(ours, theirs)
    elements = equal = within = 0
    largest = total = magnitude = 0.0
    beyond = {}
    order = _order(ours, theirs)
    for name in ours.tensors.keys() & theirs.tensors.keys():
        a, b = ours.tensors[name], theirs.tensors[name]
        if a.shape != b.shape:
            continue
        b = b.to(a.dtype)  # another dtype is a remark of its own
        if order is not None and a.dim() == 2 and a.shape[0] >= len(order) and _token_rows(name):
            b = torch.cat([b[order], b[len(order) :]])
        steps = (_ordinal(a) - _ordinal(b)).abs()
        gap = (a.double() - b.double()).abs()
        top = max(float(b.double().abs().max()), 1e-30)
        few = gap <= FEW * 2.0**-23 * top
        close = few if a.dtype == torch.float32 else few | (steps <= 1)
        elements += a.numel()
        equal += int((steps == 0).sum())
        within += int((steps <= 1).sum())
        largest = max(largest, float(gap.max()) / (2.0**-23 * top))
        total += float(gap.sum())
        magnitude += float(b.double().abs().sum())
        if not bool(close.all()):
            beyond[name] = gap.masked_fill(close, 0)
    return Difference(elements, equal, within, largest, total / max(magnitude, 1e-30), beyond, tuple(remarks))


def _remarks(ours: Child, theirs: Child) -> list[str]:
    found = []
    for name, here, there in (("only evomm", ours, theirs), ("only mergekit", theirs, ours)):
        extra = sorted(here.tensors.keys() - there.tensors.keys())
        if extra:
            found.append(f"{name} has {extra[0]}" + (f" and {len(extra) - 1} more" if len(extra) > 1 else ""))
    pairs = {name: (ours.tensors[name], theirs.tensors[name]) for name in sorted(ours.tensors.keys() & theirs.tensors.keys())}
    for name, (a, b) in pairs.items():
        if a.shape != b.shape:
            found.append(f"{name}: shape {list(a.shape)}, mergekit {list(b.shape)}")
    dtypes = Counter((str(a.dtype)[6:], str(b.dtype)[6:]) for a, b in pairs.values() if a.dtype != b.dtype)
    found += [f"{count} tensors are {mine}, mergekit's {other}" for (mine, other), count in dtypes.items()]
    for key in ("num_hidden_layers", "n_layer", "vocab_size", "dtype", "tie_word_embeddings"):
        if ours.config.get(key) != theirs.config.get(key):
            found.append(f"config {key}: {ours.config.get(key)}, mergekit {theirs.config.get(key)}")
    if ours.tokens.keys() != theirs.tokens.keys():
        found.append(f"{len(ours.tokens)} tokens, mergekit {len(theirs.tokens)}")
    if ours.conversations != theirs.conversations:
        mine, other = next(pair for pair in zip(ours.conversations, theirs.conversations, strict=True) if pair[0] != pair[1])
        first = next(
            (i for i, pair in enumerate(zip(mine, other, strict=False)) if pair[0] != pair[1]), min(len(mine), len(other))
        )
        same = max(0, first - 20)
        found.append(f"chat template gives {mine[same : same + 50]!r}, mergekit's {other[same : same + 50]!r}")
    return found[:3] + [f"{len(found) - 3} more"] * (len(found) > 3)


def _order(ours: Child, theirs: Child) -> Tensor | None:
    """For each of our ids the other's id of the same token; None when the tokenizers agree, or hold other tokens."""
    if ours.tokens == theirs.tokens or ours.tokens.keys() != theirs.tokens.keys():
        return None
    tokens = sorted(ours.tokens, key=lambda token: ours.tokens[token])
    return torch.tensor([theirs.tokens[token] for token in tokens])


def _token_rows(name: str) -> bool:
    return "embed_tokens" in name or "lm_head" in name or "wte" in name


def _conversations(folder: Path) -> tuple[str, ...]:
    """Conversations with and without a system message, and waiting for an answer, as transformers would render them."""
    file, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    content = json.loads(config.read_text()) if config.exists() else {}
    text = file.read_text() if file.exists() else str(content.get("chat_template") or "")
    template = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True).from_string(text)
    talk = [("user", "How many?"), ("assistant", "Three."), ("user", "Sure?")]
    tokens = {key: content.get(key, "") for key in ("bos_token", "eos_token")}
    out = []
    for said, waiting in ((talk, True), (talk[:2], False), ([("system", "Be brief."), *talk], True)):
        messages = [{"role": role, "content": words} for role, words in said]
        try:
            out.append(template.render(messages=messages, add_generation_prompt=waiting, **tokens))
        except TemplateError as error:
            out.append(f"refused: {error}")
    return tuple(out)


def _ordinal(tensor: Tensor) -> Tensor:
    """Integers that order like the floats, one apart for neighbours; both zeros are 0."""
    bits = tensor.view(torch.int32 if tensor.dtype == torch.float32 else torch.int16).to(torch.int64)
    top = 1 << (31 if tensor.dtype == torch.float32 else 15)
    return torch.where(bits >= 0, bits, -(bits + top))


def units(values: Tensor, at: Tensor, dtype: torch.dtype) -> Tensor:
    """Distances in units in the last place that numbers of a magnitude have in a dtype."""
    exponent = torch.floor(torch.log2(at.abs().clamp(min=1e-30)))
    return values / (torch.exp2(exponent) * EPSILON[dtype])
