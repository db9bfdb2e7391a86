"""Vision-language models of the shape vision tower + projector + decoder, whose decoders are mixed.

A plain language model is a parent like any other: it has the decoder alone, and what sees is lent to it. So the published
merge of LLaVA with a Japanese language model over their common ancestor (arXiv 2403.13187) is one recipe:

    base: mistralai/Mistral-7B-v0.1
    parents: {vlm: llava-hf/llava-v1.6-mistral-7b-hf, ja: augmxnt/shisa-gamma-7b-v1}

Vision tower and projector are taken whole from one parent unless a config says otherwise, and so are config, processor and
tokenizer. Where that parent has tokens of its own (an image token, rows of padding), the others get its rows for them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from evomm.adapters.base import Adapter, LoadedModel, Model, View
from evomm.adapters.decoder import (
    MUST_AGREE,
    Decoder,
    architectures,
    differences,
    odd_settings,
    refuse_contradiction,
    repeated_heads,
    sketch,
)
from evomm.adapters.generation import Generation, TextGeneration, expect
from evomm.adapters.llava_names import DECODER, shared_names
from evomm.adapters.vocabulary import Alignment
from evomm.checkpoints.digest import file_digest
from evomm.checkpoints.layout import Files, Layout, Stored
from evomm.checkpoints.lora import LoraReader, read_adapter
from evomm.checkpoints.reader import Checkpoint, Flat, TensorInfo, read_json
from evomm.errors import DamagedFile, MisfitError, MissingFile, UnsafeFile
from evomm.genome.blocks import Place
from evomm.merge.plan import component, refuse_misfits
from evomm.merge.recipe import Recipe
from evomm.merge.vocabulary import Vocabulary

_TEXT = ("text_config", "llm_config", "language_config")  # where configs keep the decoder's
_TOKENIZER = "tokenizer.json"
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")
_SHARED_TOKENS = 0.5  # of a language model's tokens that the other tokenizer must know, for rows to be put in order by token


class SeeingModel:
    """A vision-language model's folder, read under shared names.

    names: shared name -> name in the files.
    """

    def __init__(self, stored: Checkpoint) -> None:
        self.stored = stored
        self.folder = stored.folder
        self.files = stored.files
        self.configs = stored.configs
        self.config = stored.config
        self.names = {shared: name for name, shared in shared_names(stored.infos).items()}
        self.infos: dict[str, TensorInfo] = {shared: stored.infos[name] for shared, name in self.names.items()}

    def flat(self, name: str) -> Flat:
        """The tensor's elements in a row, memory-mapped."""
        return self.stored.flat(self.names[name])

    def read(self, name: str) -> Tensor:
        """The tensor, memory-mapped."""
        return self.stored.read(self.names[name])


class LlavaAdapter(Adapter):
    """Models of AutoModelForImageTextToText, and language models that give them another decoder."""

    name = "llava"
    takes = frozenset({"llm"})

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether config.json names a model that sees and writes."""
        config = read_json(path / "config.json") if (path / "config.json").exists() else {}
        return _sees(config)

    def open(self, path: Path) -> Model:
        """The tensors under shared names, of a model that sees or of a language model.

        Raises DamagedFile when config.json is absent or contradicts the decoder's tensors.
        """
        checkpoint = Checkpoint(path)
        if not checkpoint.config:
            raise DamagedFile(f"{path}: no config.json; copy it along with the weights")
        _refuse_original(checkpoint)
        model: Checkpoint | SeeingModel = SeeingModel(checkpoint) if _sees(checkpoint.config) else checkpoint
        for name in repeated_heads(decoder(model)):
            del model.infos[name]
        refuse_contradiction(decoder(model))
        return model

    def lora(self, model: Model, path: Path, scale: float = 1.0) -> Model:
        """The model with a LoRA on top, trained on a language model or, in any layout, on a model that sees."""
        if not isinstance(model, SeeingModel):
            return super().lora(model, path, scale)
        own = read_adapter(path)
        named = replace(own, names={shared: name for name, shared in shared_names(own.parts).items()})
        return View(model, LoraReader(model, named, scale))

    def whole(self, models: Mapping[str, Model], carrier: str) -> Mapping[str, str]:
        """What sees is one parent's: the first's that has it."""
        return _eyes(models)

    def lent(self, recipe: Recipe, models: Mapping[str, Model]) -> Mapping[str, str]:
        """What sees, to language models."""
        return _eyes(models)

    def blocks(self, model: Model) -> Mapping[str, Place]:
        """Layers and components of the decoder; what sees stands for itself."""
        places = decoder(model).places
        return {name: places.get(name) or Place(None, component(name), component(name)) for name in model.infos}

    def sketch(self, layers: int | None) -> Mapping[str, Place] | None:
        """A decoder of so many layers."""
        return sketch(layers)

    def vocabulary(self, model: Model) -> Mapping[str, int]:
        """Embeddings and head have a row for each token; a head's bias an element."""
        return decoder(model).vocabulary

    def check(
        self, models: Mapping[str, Model], reference: str, *, stacked: bool = False, whole: Mapping[str, str] = {}
    ) -> Sequence[str]:
        """Decoders of one kind, depth and width; whatever else is mixed must fit too."""
        decoders = {label: decoder(model) for label, model in models.items()}
        expected = decoders[reference]
        others = {label: other for label, other in decoders.items() if label != reference}
        odd = []
        for label, other in others.items():
            if not stacked:
                _refuse_other_size(label, other, reference, expected)
            for key, ours, theirs in differences(expected.config, other.config, MUST_AGREE):
                told = f"'{label}' does not fit '{reference}': {key} of its decoder is {theirs!r}, expected {ours!r}"
                if key != "model_type":
                    raise MisfitError(f"{told}; merge decoders of one architecture")
                odd.append(f"{told}; the tensors fit, so they are mixed")  # qwen2_vl_text and qwen2 are one decoder
        if not stacked:
            refuse_misfits({label: model.infos for label, model in models.items()}, reference, {**_eyes(models), **whole})
        return [*odd, *odd_settings(expected, others, reference)]

    def aligned(self, recipe: Recipe, models: Mapping[str, Model]) -> tuple[Mapping[str, Model], Alignment | None]:
        """The parents with the rows of their embeddings in the order of the recipe's vocabulary.

        Where the recipe names none, it is that of the parent that sees, once a parent has other tokens: tokens that a language
        model does not have (the image token, rows of padding) are as the parent that sees has them.

        Raises MisfitError when the vocabularies have little in common, and for two that see and have different ones.
        """
        if recipe.vocabulary is not None:
            return super().aligned(recipe, models)
        owner = seer(recipe, models)
        if owner is None:
            return models, None
        own = decoder(models[owner])
        if all(_same_tokens(decoder(model), own) for model in models.values()):
            return models, None
        for label, model in models.items():
            _refuse_other_size(label, decoder(model), owner, own)  # which explains more than the rows that do not fit
            if _sees(model.config) and not _same_tokens(decoder(model), own):
                raise MisfitError(
                    f"'{label}' and '{owner}' both see, and have different tokens, so neither can be asked in the other's words; "
                    "say in a recipe's `vocabulary` which the child has, and merge them with `evomm merge` first"
                )
        implied = recipe.model_copy(update={"vocabulary": Vocabulary(source=owner, pad_to_multiple_of=own.rows)})
        try:
            views, alignment = super().aligned(implied, models)
        except MissingFile as error:
            raise MissingFile(
                f"the parents have different numbers of tokens, and their rows are put in order by token: {error}"
            ) from error
        if alignment is not None:
            _refuse_strangers(alignment, owner)
        return {**views, owner: models[owner]}, None

    def load(self, recipe: Recipe, models: Mapping[str, Model], device: str, dtype: torch.dtype) -> LoadedModel:
        """The model in evaluation mode and its processor, built by the files of the parent that sees."""
        from evomm.adapters import llava_model

        if seer(recipe, models) is None:
            raise MisfitError(
                f"none of {', '.join(models)} sees: an adapter 'llava' needs a vision-language model among the parents; "
                "language models alone are merged by adapter 'llm'"
            )
        return llava_model.load(models[self.builder(recipe, models)].folder, device, dtype)

    def generate(self, model: LoadedModel, prompts: Sequence[Any], options: Generation) -> Sequence[str]:
        """Answers without the prompt, to texts and to texts with a picture (`generation.Shown`)."""
        from evomm.adapters import llava_model

        return llava_model.generate(model, prompts, expect(options, TextGeneration))

    def builder(self, recipe: Recipe, models: Mapping[str, Model]) -> str:
        """The parent that sees, as the recipe says where it does; the carrier, in a merge of language models alone."""
        owner = seer(recipe, models)
        if owner is None:
            return recipe.carrier
        _refuse_incomplete(models[owner].folder)
        return owner

    def layout(self, recipe: Recipe, models: Mapping[str, Model]) -> Layout | None:
        """Under the names that the files of the parent that sees have."""
        owner = seer(recipe, models)
        if owner is None:
            return None
        names = seeing(models[owner]).names

        def divide(infos: Mapping[str, TensorInfo]) -> Files:
            return {"model": {names.get(name, name): Stored(info, (name,)) for name, info in infos.items()}}

        return Layout(divide)


def decoder(model: Model) -> Decoder:
    """The decoder of a model that sees, or a language model."""
    config = model.config
    infos: Mapping[str, TensorInfo] = model.infos
    if _sees(config):
        infos = {name: info for name, info in infos.items() if component(name) in DECODER}
        inner = next((config[key] for key in _TEXT if isinstance(config.get(key), Mapping)), None)
        if inner is not None:
            tied = config.get("tie_word_embeddings", inner.get("tie_word_embeddings"))
            config = {**inner, **({} if tied is None else {"tie_word_embeddings": tied})}
    return Decoder(model.folder, config, infos, model)


def seer(recipe: Recipe, models: Mapping[str, Model]) -> str | None:
    """The parent that sees, whose files the child is built by; None when none sees."""
    eyes = [label for name, label in recipe.components.items() if name not in DECODER]
    wanted = [recipe.tokenizer, *eyes, recipe.carrier, *models]
    return next((label for label in wanted if label is not None and _sees(models[label].config)), None)


def seeing(model: Model) -> SeeingModel:
    """The model that sees, without LoRAs and views on top."""
    found = model.stored if isinstance(model, View) else model
    if not isinstance(found, SeeingModel):
        raise MisfitError(f"{model.folder}: a language model, where one that sees is needed")
    return found


def _sees(config: Mapping[str, Any]) -> bool:
    named = any("ConditionalGeneration" in name or "ImageTextToText" in name for name in architectures(config))
    return named and isinstance(config.get("vision_config"), Mapping)


def _eyes(models: Mapping[str, Model]) -> dict[str, str]:
    """Component that sees -> the first parent that has it."""
    found: dict[str, str] = {}
    for label, model in models.items():
        for name in model.infos if _sees(model.config) else ():
            if component(name) not in DECODER:
                found.setdefault(component(name), label)
    return found


def _refuse_incomplete(folder: Path) -> None:
    """Raise MissingFile when the processor of a model that sees is not whole."""
    if not any((folder / name).exists() for name in _PROCESSORS):
        raise MissingFile(
            f"{folder}: no {' or '.join(_PROCESSORS)}, which says how pictures are prepared; copy it along with the weights"
        )
    if not (folder / "tokenizer_config.json").exists():
        raise MissingFile(f"{folder}: no tokenizer_config.json; copy the tokenizer's files along with the weights")


def _refuse_original(checkpoint: Checkpoint) -> None:
    """LLaVA's own repositories keep another layout, whose class needs code from the folder."""
    named = architectures(checkpoint.config)
    if any("Llava" in name and "CausalLM" in name for name in named) or "mm_vision_tower" in checkpoint.config:
        raise UnsafeFile(
            f"{checkpoint.folder}: in the layout of LLaVA's own code ({', '.join(named)}), which evomm does not run; take the "
            "same model in transformers' layout, such as llava-hf/llava-1.5-7b-hf or llava-hf/llava-v1.6-mistral-7b-hf"
        )


def _refuse_other_size(label: str, other: Decoder, reference: str, expected: Decoder) -> None:
    ours, theirs = (expected.depth, expected.width), (other.depth, other.width)
    if ours != theirs and None not in (*ours, *theirs):
        raise MisfitError(
            f"'{label}' does not fit '{reference}': its decoder has {theirs[0]} layers of width {theirs[1]}, expected {ours[0]} "
            f"of width {ours[1]}; merge decoders that come from one ancestor"
        )


def _same_tokens(one: Decoder, other: Decoder) -> bool:
    """Whether rows mean the same tokens, as far as can be told: a parent without a tokenizer is believed."""
    paths = [decoder.folder / _TOKENIZER for decoder in (one, other)]
    digests = {file_digest(path) for path in paths if path.exists()}
    return one.rows == other.rows and len(digests) <= 1


def _refuse_strangers(alignment: Alignment, owner: str) -> None:
    """Raise MisfitError for a parent whose tokens the parent that sees hardly knows."""
    known = alignment.own[owner].keys()
    for label, tokens in alignment.own.items():
        share = len(tokens.keys() & known) / max(1, len(tokens))
        if share < _SHARED_TOKENS:
            raise MisfitError(
                f"'{label}' has {len(tokens)} tokens, of which '{owner}' knows {share:.0%}: their vocabularies cannot be "
                "aligned; merge models whose tokenizers come from one ancestor, or say in the recipe's `vocabulary` what is meant"
            )
