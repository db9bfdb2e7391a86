"""From a recipe, evomm's or mergekit's, to a checkpoint on disk, whatever kind of model it is."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from evomm.adapters.base import Adapter, Model
from evomm.adapters.table import detect
from evomm.checkpoints.locate import locate, reference
from evomm.checkpoints.writer import SHARD_BYTES, refuse_taken
from evomm.merge.apply import Written
from evomm.merge.engine import Engine
from evomm.merge.mergekit.document import Document
from evomm.merge.mergekit.read import is_mergekit, read_documents
from evomm.merge.mergekit.resolve import resolve
from evomm.merge.mergekit.stages import stages
from evomm.merge.recipe import Recipe, Source
from evomm.plain import load_yaml_all, read_text
from evomm.run.parents import open_parent, refuse_other

MERGEKIT_FILE = "mergekit_config.yml"  # mergekit's own name for it
CARD = "README.md"
Carder = Callable[[str, Recipe, Adapter, Mapping[str, str]], str]  # (child's name, recipe, adapter, texts beside it) -> its card


class Watch(Protocol):
    """Who wants to know how a merge goes on."""

    def start(self, what: str, nbytes: int) -> None:
        """A merge of so many bytes begins."""

    def advance(self, nbytes: int) -> None:
        """So many more are written."""

    def note(self, text: str) -> None:
        """Something odd but allowed."""


class Silent:
    """A `Watch` that does nothing."""

    def start(self, what: str, nbytes: int) -> None:
        """Nothing."""

    def advance(self, nbytes: int) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@dataclass(frozen=True)
class Made(Written):
    """What was written, and label -> its weights as the string that users of block weights paste, where there is one."""

    block_weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Workshop:
    """How merges are made: what is fixed while recipes change.

    Attributes:
        beside: the folder that relative paths of the recipe start from.
        known: models by a name of their own, such as the stages of a mergekit file.
        threads, device: see `Engine`.
        card: writes what a folder's README.md says; none is written without it.
    """

    beside: Path | None = None
    known: Mapping[str, Path] = field(default_factory=dict)
    threads: int | None = None
    device: str = "cpu"
    shard_bytes: int = SHARD_BYTES
    watch: Watch = field(default_factory=Silent)
    card: Carder | None = None

    def make(self, recipe: Recipe, out: Path) -> Made:
        """Stream the recipe's child to a new folder, or to a single file where ``out`` ends in .safetensors.

        Raises what reading, fitting and writing can raise; nothing is left behind then.
        """
        adapter, models = self.open(recipe.parents)
        return self._write(recipe, adapter, models, out)

    def make_document(self, document: Document, out: Path, text: str) -> Made:
        """The child of one mergekit document; ``text`` is the file that it comes from, and is kept beside the child."""
        sources = document.sources()
        adapter, models = self.open(sources)
        resolved = resolve(document, {label: model.infos for label, model in models.items()}, adapter.layers(models))
        for note in resolved.notes:
            self.watch.note(note)
        recipe = resolved.recipe.model_copy(update={"chat_template": document.chat_template})
        return self._write(recipe, adapter, models, out, {MERGEKIT_FILE: text})

    def open(self, sources: Mapping[str, Source]) -> tuple[Adapter, dict[str, Model]]:
        """The parents, with their LoRAs on top, and the adapter of their kind."""
        adapter = detect(*(self._locate(source.model) for source in sources.values()))
        models: dict[str, Model] = {}
        for label, source in sources.items():
            parent = open_parent(adapter, source, self._locate)
            refuse_other(label, parent)
            if parent.note:
                self.watch.note(parent.note)
            models[label] = parent.model
        return adapter, models

    def _found(self, source: Source) -> Source:
        """As the child's recipe names it: folders by their whole path, so that the recipe works from wherever it lies."""
        names = {"model": source.model, **({"lora": source.lora} if source.lora else {})}
        update = {key: reference(name, self._locate(name)) for key, name in names.items() if name not in self.known}
        return source.model_copy(update=update)

    def _placed(self, source: Source) -> Source:
        """With a model by a name of its own as the path that it has."""
        return source.model_copy(update={"model": str(self.known.get(source.model, source.model))})

    def _locate(self, model: str) -> Path:
        return self.known[model] if model in self.known else locate(model, self.beside)

    def _write(
        self, recipe: Recipe, adapter: Adapter, models: Mapping[str, Model], out: Path, texts: Mapping[str, str] | None = None
    ) -> Made:
        recipe = recipe.model_copy(update={"parents": {label: self._found(s) for label, s in recipe.parents.items()}})
        aligned, alignment = adapter.aligned(recipe, models)
        recipe = adapter.unfold(recipe, aligned)
        lent = {name: label for name, label in adapter.lent(recipe, aligned).items() if name not in recipe.components}
        for name, label in lent.items():
            self.watch.note(f"not every parent has a {name}, so it is taken from '{label}'")
        recipe = recipe.model_copy(update={"components": {**lent, **recipe.components}})
        adapter.refuse_unknown(recipe.components, aligned)
        odd = adapter.check(aligned, recipe.carrier, stacked=bool(recipe.slices), whole=recipe.components)
        for warning in (*odd, *(alignment.warnings if alignment else ())):
            self.watch.note(warning)
        self.watch.start(out.name, sum(info.nbytes for info in aligned[recipe.carrier].infos.values()))
        engine = Engine(aligned, threads=self.threads, device=self.device, forgetful=True)
        texts = texts or {}
        if self.card is not None and out.suffix != ".safetensors":
            parents = {label: self._placed(source) for label, source in recipe.parents.items()}
            texts = {**texts, CARD: self.card(out.name, recipe.model_copy(update={"parents": parents}), adapter, texts)}
        written = adapter.save(
            recipe,
            aligned,
            out,
            engine=engine,
            alignment=alignment,
            texts=texts,
            advance=self.watch.advance,
            shard_bytes=self.shard_bytes,
        )
        return Made(written.tensors, written.bytes, adapter.block_weights(recipe, aligned))


def make_file(path: Path, out: Path, workshop: Workshop) -> Made:
    """Make what a file describes: one recipe of evomm's, or one or several documents of mergekit's.

    The stages of several documents are written beside ``out`` and removed at the end.
    """
    text = read_text(path)
    documents = load_yaml_all(text, str(path))
    if not is_mergekit(documents[0]):
        return workshop.make(Recipe.from_yaml(text, str(path)), out)
    *before, last = stages(read_documents(text, str(path)))
    refuse_taken(out)
    folder = out.parent / f".{out.name}.stages"
    known: dict[str, Path] = {}
    try:
        for document in before:
            assert document.name is not None  # only the last may have none
            replace(workshop, known=known).make_document(document, folder / document.name, text)
            known[document.name] = folder / document.name
        return replace(workshop, known=known).make_document(last, out, text)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
