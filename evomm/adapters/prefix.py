"""The beginning that all prompts share, read once: in real tasks instructions and worked examples are most of each prompt.

Its keys and values are computed for one sequence and copied for every batch, so that a batch only reads what differs.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

_WORTH = 16  # tokens: reading fewer once more costs nothing


@dataclass(frozen=True)
class Prefix:
    """ids: (T,) tokens. cache: their keys and values in every layer, for one sequence."""

    ids: Tensor
    cache: DynamicCache

    def before(self, rest: Any) -> dict[str, Any]:
        """What `generate` takes for a batch: the prefix, then the prompts' other tokens, which are padded on the left."""
        count = len(rest["input_ids"])
        cache = copy.deepcopy(self.cache)  # which answers are added to
        cache.batch_repeat_interleave(count)
        ids = self.ids.expand(count, -1)
        return {
            "input_ids": torch.cat([ids, rest["input_ids"]], 1),
            "attention_mask": torch.cat([torch.ones_like(ids), rest["attention_mask"]], 1),
            "past_key_values": cache,
        }


@torch.inference_mode()
def read_prefix(network: Any, prompts: Sequence[list[int]]) -> Prefix | None:
    """The shared beginning of prompts (token ids), read by the network.

    None where it is short, and for models that would not answer as before: those that keep anything but the keys and values of
    all tokens (a window, a state), and those that count positions through the padding, which then is behind the prefix.
    """
    length = shared_length(prompts)
    if length < _WORTH or len(prompts) < 2 or not _rotary(network.config):
        return None
    ids = torch.tensor([prompts[0][:length]], device=network.device)
    cache = DynamicCache(config=network.config)
    if not all(type(layer) is DynamicLayer for layer in cache.layers):
        return None
    network.base_model(input_ids=ids, past_key_values=cache, use_cache=True)  # without the head: nobody asks what comes next
    return Prefix(ids[0].cpu(), cache)


def _rotary(config: Any) -> bool:
    """Whether positions are those of rotary embeddings, which are told to the model and not counted by it."""
    return bool(getattr(config, "rope_parameters", None)) and not getattr(config, "alibi", False)


def shared_length(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with; one of each is left over, to answer to.

    >>> shared_length([[1, 2, 3, 4], [1, 2, 3], [1, 2, 3, 9, 9]])
    2
    """
    first, last = min(prompts), max(prompts)  # in lexical order, what these two share all of them do
    differing = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return min(next(differing, len(first)), min(map(len, prompts)) - 1)
