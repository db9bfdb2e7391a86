"""What tests of mergekit's documents share: small models with the names that Llamas have, and what documents make of them."""

from collections.abc import Mapping

import torch

from evomm.checkpoints.reader import MemoryReader
from evomm.merge.mergekit.document import Document
from evomm.merge.mergekit.read import read_documents
from evomm.merge.mergekit.resolve import Resolved, resolve
from evomm.merge.plan import Job, plan

KINDS = ("input_layernorm", "mlp.down_proj", "mlp.up_proj", "self_attn.k_proj", "self_attn.q_proj")
BEFORE, AFTER = ("model.embed_tokens.weight",), ("lm_head.weight", "model.norm.weight")


def layer_of(name: str) -> int | None:
    """The number of a tensor's layer."""
    return int(name.split(".")[2]) if name.startswith("model.layers.") else None


def llama(layers: int = 4, dtype: torch.dtype = torch.float32) -> MemoryReader:
    """A model of that many layers; as in files, its tensors come in the order of the alphabet, the head first."""
    inside = [f"model.layers.{number}.{kind}.weight" for number in range(layers) for kind in KINDS]
    return MemoryReader({name: torch.zeros(2, 2, dtype=dtype) for name in sorted([*BEFORE, *AFTER, *inside])})


def read(text: str) -> Document:
    """The only document of a text."""
    (document,) = read_documents(text, "mine.yml")
    return document


def world(document: Document, **models: MemoryReader) -> dict[str, MemoryReader]:
    """Label -> model; four layers unless told."""
    return {label: models.get(label, llama()) for label in document.sources()}


def numbers(readers: Mapping[str, MemoryReader]) -> dict[str, dict[str, int | None]]:
    """Label -> tensor -> layer."""
    return {label: {name: layer_of(name) for name in reader.infos} for label, reader in readers.items()}


def resolved(text: str, **models: MemoryReader) -> Resolved:
    """The recipe of a document over small models."""
    document = read(text)
    readers = world(document, **models)
    return resolve(document, {label: reader.infos for label, reader in readers.items()}, numbers(readers))


def jobs(text: str, **models: MemoryReader) -> dict[str, Job]:
    """What is merged, by the name of the tensor in the child."""
    readers = world(read(text), **models)
    return {job.name: job for job in plan(resolved(text, **models).recipe, readers, numbers(readers))}
