"""The contract of every adapter.

adapter = ADAPTERS["llm"]()
models = {label: adapter.open(folder) for label, folder in parents.items()}
warnings = adapter.check(models, reference="base")      # MisfitError when they don't fit
places = adapter.blocks(models["base"])                 # headers only
model = adapter.load(folders["base"], "cpu", torch.float32)
Live(Engine(models), model.targets).write(recipe)
answers = adapter.generate(model, prompts, TextGeneration(max_new_tokens=32))
adapter.save(recipe, models, out)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from evomm.adapters.child import chat_template, write_files
from evomm.adapters.generation import Generation
from evomm.adapters.vocabulary import AlignedReader, Alignment, align
from evomm.checkpoints.reader import Checkpoint, TensorReader
from evomm.checkpoints.writer import SHARD_BYTES, CheckpointWriter
from evomm.errors import UsageError
from evomm.genome.blocks import Place
from evomm.merge.apply import Written, apply
from evomm.merge.engine import Engine
from evomm.merge.recipe import Recipe


class Model(TensorReader, Protocol):
    """A parent as adapters see it: tensors, and the folder that config and tokenizer are in."""

    @property
    def folder(self) -> Path:
        """Where its files are."""
        ...

    @property
    def config(self) -> Mapping[str, Any]:
        """Its ``config.json``."""
        ...


class View:
    """A model whose tensors are read in another way: with a LoRA on top, or with rows in another order."""

    def __init__(self, model: Model, reader: TensorReader) -> None:
        self.folder = model.folder
        self.config = model.config
        self.infos = reader.infos
        self.flat = reader.flat
        self.read = reader.read


@dataclass(frozen=True)
class LoadedModel:
    """A model in memory.

    targets: checkpoint name -> the resident tensor (or view) that holds it. parts: what the adapter needs to run it.
    """

    targets: Mapping[str, Tensor]
    parts: Any


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
    def blocks(self, model: Model) -> Mapping[str, Place]:
        """Where each tensor stands: its layer and component."""

    def vocabulary(self, model: Model) -> Mapping[str, int]:
        """Tensor name -> dimension that counts tokens, for kinds of models that have tokens."""
        return {}

    @abstractmethod
    def check(self, models: Mapping[str, Model], reference: str, stacked: bool = False) -> Sequence[str]:
        """Raise MisfitError unless the parents can be merged, tensor by tensor; returns what is odd but allowed.

        stacked: layers are taken from here and there, so that the number of layers may differ.
        """

    @abstractmethod
    def load(self, folder: Path, device: str, dtype: torch.dtype) -> LoadedModel:
        """Bring a checkpoint to life."""

    @abstractmethod
    def generate(self, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[Any]:
        """One answer per prompt, in the order of the prompts: texts, or RGB pictures (PIL)."""

    def layers(self, models: Mapping[str, Model]) -> dict[str, dict[str, int | None]]:
        """Label -> tensor name -> number of its layer."""
        return {label: {n: place.layer for n, place in self.blocks(model).items()} for label, model in models.items()}

    def aligned(self, recipe: Recipe, models: Mapping[str, Model]) -> tuple[Mapping[str, Model], Alignment | None]:
        """The parents with the rows of their embeddings in the order of the recipe's vocabulary."""
        if recipe.vocabulary is None:
            return models, None
        names = {label: self.vocabulary(model) for label, model in models.items()}
        without = [label for label, found in names.items() if not found]
        if without:
            raise UsageError(f"'{without[0]}' has no tensors with a row for each token, so its vocabulary can't be aligned")
        sizes = {label: models[label].infos[next(iter(found))].shape[0] for label, found in names.items()}
        folders = {label: model.folder for label, model in models.items()}
        alignment = align(recipe.vocabulary, folders, sizes, recipe.base)
        views = {
            label: model
            if alignment.identity(label)
            else View(model, AlignedReader(label, models, alignment, recipe.vocabulary, names[label]))
            for label, model in models.items()
        }
        return views, alignment

    def save(
        self,
        recipe: Recipe,
        models: Mapping[str, Model],
        out: Path,
        *,
        engine: Engine | None = None,
        alignment: Alignment | None = None,
        texts: Mapping[str, str] = {},
        advance: Callable[[int], None] = lambda nbytes: None,
        shard_bytes: int = SHARD_BYTES,
    ) -> Written:
        """Stream the recipe's child to a folder that loads like its parents; ``texts`` are files to put beside it."""
        parents = {label: (model.folder, model.config) for label, model in models.items()}
        template = chat_template(recipe.chat_template, [folder for folder, _ in parents.values()])

        def finish(writer: CheckpointWriter) -> None:
            write_files(writer, recipe, parents, alignment, template)
            for name, text in texts.items():
                writer.text(name, text)

        layers = self.layers(models) if recipe.slices else None
        return apply(recipe, models, out, layers=layers, engine=engine, finish=finish, advance=advance, shard_bytes=shard_bytes)
