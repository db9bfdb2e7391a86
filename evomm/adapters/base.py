"""The contract of every adapter.

adapter = ADAPTERS["llm"]()
readers = {label: adapter.open(folder) for label, folder in parents.items()}
warnings = adapter.check(readers, reference="base")     # MisfitError when they don't fit
places = adapter.blocks(readers["base"])                # headers only
model = adapter.load(folders["base"], "cpu", torch.float32)
Live(Engine(readers), model.targets).write(recipe)
answers = adapter.generate(model, prompts, Generation(max_new_tokens=32))
adapter.save(recipe, readers, out)
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from evomm.checkpoints.reader import Checkpoint
from evomm.checkpoints.writer import SHARD_BYTES, CheckpointWriter
from evomm.genome.blocks import Place
from evomm.merge.apply import Written, apply
from evomm.merge.recipe import Recipe
from evomm.plain import Plain


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    targets: checkpoint name -> the resident tensor (or view) that holds it. parts: what the adapter needs to run it.
    """

    targets: Mapping[str, Tensor]
    parts: Any


class Generation(Plain):
    """How answers are generated: greedily, prompts in batches sorted by length."""

    max_new_tokens: int = Field(default=256, ge=1)
    batch: int = Field(default=64, ge=1)


class Adapter(ABC):
    """One seam per modality."""

    name: str

    @classmethod
    @abstractmethod
    def recognises(cls, config: Mapping[str, Any]) -> bool:
        """Whether a folder with this config.json is of this kind."""

    def open(self, folder: Path) -> Checkpoint:
        """A parent's tensors under the names that all parents share; headers only."""
        return Checkpoint(folder)

    @abstractmethod
    def blocks(self, checkpoint: Checkpoint) -> Mapping[str, Place]:
        """Where each tensor stands: its layer and component."""

    @abstractmethod
    def check(self, checkpoints: Mapping[str, Checkpoint], reference: str) -> Sequence[str]:
        """Raise MisfitError unless the parents can be merged, tensor by tensor; returns what is odd but allowed."""

    @abstractmethod
    def load(self, folder: Path, device: str, dtype: torch.dtype) -> LoadedModel:
        """Bring a checkpoint to life."""

    @abstractmethod
    def generate(self, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
        """One answer per prompt, in the order of the prompts."""

    def save(
        self,
        recipe: Recipe,
        checkpoints: Mapping[str, Checkpoint],
        out: Path,
        *,
        advance: Callable[[int], None] = lambda nbytes: None,
        shard_bytes: int = SHARD_BYTES,
    ) -> Written:
        """Stream the recipe's child to a folder that loads like its parents."""
        carrier = checkpoints[recipe.carrier]

        def finish(writer: CheckpointWriter) -> None:
            writer.carry(carrier.folder)
            if carrier.config and recipe.dtype:
                config = {key: value for key, value in carrier.config.items() if key != "torch_dtype"}
                writer.text("config.json", json.dumps({**config, "dtype": recipe.dtype}, indent=2) + "\n")

        return apply(recipe, checkpoints, out, finish=finish, advance=advance, shard_bytes=shard_bytes)
