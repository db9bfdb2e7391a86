"""The contract of every adapter.

adapter = ADAPTERS["llm"]()
models = {label: adapter.open(path) for label, path in parents.items()}
warnings = adapter.check(models, reference="base")      # MisfitError when they don't fit
places = adapter.blocks(models["base"])                 # headers only
model = adapter.load(recipe, models, "cpu", torch.float32)
Live(Engine(models), model.targets).write(recipe)
answers = adapter.generate(model, prompts, TextGeneration(max_new_tokens=32))
adapter.save(recipe, models, out)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from evomm.adapters.child import chat_template, write_files
from evomm.adapters.generation import Generation
from evomm.adapters.vocabulary import AlignedReader, Alignment, align
from evomm.checkpoints.layout import Layout
from evomm.checkpoints.lora import LoraReader, read_adapter, recorded_base
from evomm.checkpoints.reader import Checkpoint, FileReader, TensorReader
from evomm.checkpoints.writer import SHARD_BYTES, CheckpointWriter
from evomm.errors import UsageError, nearest
from evomm.genome.blocks import Place
from evomm.merge.apply import Written, apply
from evomm.merge.engine import Engine
from evomm.merge.plan import component
from evomm.merge.recipe import Recipe


class Model(FileReader, Protocol):
    """A parent as adapters see it: tensors, and the folder that config and tokenizer are in."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Its ``config.json``."""
        ...


class View:
    """A model whose tensors are read in another way: with a LoRA on top, or with rows in another order."""

    def __init__(self, model: Model, reader: TensorReader) -> None:
        self.stored: Model = model.stored if isinstance(model, View) else model  # without what is on top
        self.folder = model.folder
        self.files = model.files
        self.configs = model.configs
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
    takes: frozenset[str] = frozenset()
    """Adapters whose models can be parents too."""
    library: str = "transformers"
    """What loads a child, as the hub calls it."""

    @classmethod
    @abstractmethod
    def recognises(cls, path: Path) -> bool:
        """Whether a model's folder or file is of this kind."""

    def open(self, path: Path) -> Model:
        """A parent's tensors under the names that all parents share; headers only."""
        return Checkpoint(path)

    def lora(self, model: Model, path: Path, scale: float = 1.0) -> Model:
        """The model with a LoRA on top."""
        return View(model, LoraReader(model, read_adapter(path), scale))

    def lora_base(self, path: Path) -> str | None:
        """The model that a LoRA says it was trained on."""
        return recorded_base(path)

    def components(self, model: Model) -> Collection[str]:
        """What can be taken from one parent whole: the first words of tensor names, and parts without tensors."""
        return dict.fromkeys(component(name) for name in model.infos)

    def whole(self, models: Mapping[str, Model], carrier: str) -> Mapping[str, str]:
        """Component -> the parent that it is taken from, of those that this kind of model does not mix unless told to."""
        return {}

    def lent(self, recipe: Recipe, models: Mapping[str, Model]) -> Mapping[str, str]:
        """Component -> the parent that lends it, of those that not all parents of a merge have."""
        return {}

    @abstractmethod
    def blocks(self, model: Model) -> Mapping[str, Place]:
        """Where each tensor stands: its layer and component."""

    def sketch(self, layers: int | None) -> Mapping[str, Place] | None:
        """Where tensors would stand in a model that is not here, by its number of layers; None when that can't be told."""
        return None

    def vocabulary(self, model: Model) -> Mapping[str, int]:
        """Tensor name -> dimension that counts tokens, for kinds of models that have tokens."""
        return {}

    @abstractmethod
    def check(
        self, models: Mapping[str, Model], reference: str, *, stacked: bool = False, whole: Mapping[str, str] = {}
    ) -> Sequence[str]:
        """Raise MisfitError unless the parents can be merged, tensor by tensor; returns what is odd but allowed.

        stacked: layers are taken from here and there, so that the number of layers may differ. whole: components that are
        one parent's (component -> label), so that the others may have other ones, or none.
        """

    @abstractmethod
    def load(self, recipe: Recipe, models: Mapping[str, Model], device: str, dtype: torch.dtype) -> LoadedModel:
        """Bring to life what the recipe's child will be: built by the carrier's files, and by those of the parents that
        whole components come from. Its weights are any parent's, until `Live` writes the child's.
        """

    @abstractmethod
    def generate(self, model: LoadedModel, prompts: Sequence[Any], options: Generation) -> Sequence[Any]:
        """One answer per prompt, in the order of the prompts: texts, or RGB pictures (PIL); prompts may be `generation.Shown`."""

    def outputs(self, model: Model) -> Mapping[int, Collection[str]]:
        """Layer -> names of the tensors that write to the residual stream, for kinds of models with paths through layers.

        Raises UsageError for the others, MisfitError for a model whose scales cannot be folded into these.
        """
        raise UsageError(f"flow: paths lead through the layers of decoders; an adapter '{self.name}' knows none")

    def route(self, model: LoadedModel, recipe: Recipe, models: Mapping[str, Model]) -> None:
        """Make what `load` made of a recipe with slices run the path that this recipe describes."""
        raise UsageError(f"slices cannot be scored live by an adapter '{self.name}'; merge them to disk")

    def refuse_unknown(self, whole: Mapping[str, str], models: Mapping[str, Model]) -> None:
        """Raise UsageError unless every component that is taken whole is there."""
        for name, label in whole.items():
            known = self.components(models[label])
            if name not in known:
                raise UsageError(
                    f"component '{name}' is to be taken from '{label}', which has none{nearest(name, known)}; "
                    f"it has {', '.join(known)}"
                )

    def unfold(self, recipe: Recipe, models: Mapping[str, Model]) -> Recipe:
        """The recipe with its block-weight strings as blocks, for kinds of models whose users have such strings."""
        if recipe.block_weights:
            raise UsageError(f"block_weights are strings of image models; an adapter '{self.name}' has none, write blocks")
        return recipe

    def block_weights(self, recipe: Recipe, models: Mapping[str, Model]) -> Mapping[str, str]:
        """Label -> the recipe's weights of that parent as a block-weight string, where there is such a thing."""
        return {}

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

    def builder(self, recipe: Recipe, models: Mapping[str, Model]) -> str:
        """The parent whose config and tokenizer the child gets; raises when some of these files are missing."""
        return recipe.carrier

    def layout(self, recipe: Recipe, models: Mapping[str, Model]) -> Layout | None:
        """How the child's folder is laid out, where names in files are not those that parents share."""
        return None

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
        """Stream the recipe's child to a folder that loads like its parents; ``texts`` are files to put beside it.

        Kinds of models that people keep in single files write one where ``out`` ends in .safetensors; others refuse it.
        """
        if out.suffix == ".safetensors":
            raise UsageError(
                f"{out}: only image models are written as a single file; a model of an adapter '{self.name}' is a folder, "
                f"such as {out.with_suffix('')}"
            )
        parents = {label: (model.folder, model.config) for label, model in models.items()}
        template = chat_template(recipe.chat_template, [folder for folder, _ in parents.values()])
        around = recipe.model_copy(update={"tokenizer": self.builder(recipe, models)})

        def finish(writer: CheckpointWriter) -> None:
            write_files(writer, around, parents, alignment, template)
            for name, text in texts.items():
                writer.text(name, text)

        return apply(
            recipe,
            models,
            out,
            layers=self.layers(models) if recipe.slices else None,
            engine=engine,
            finish=finish,
            advance=advance,
            shard_bytes=shard_bytes,
            layout=self.layout(recipe, models),
        )
