"""Language models: any decoder that transformers' AutoModelForCausalLM knows.

Nothing here is a table of architectures: `decoder` tells layers and components from tensor names.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch

from evomm.adapters.base import Adapter, LoadedModel, Model
from evomm.adapters.child import child_config
from evomm.adapters.decoder import (
    COUNTS,
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
from evomm.checkpoints.reader import Checkpoint, read_json
from evomm.errors import DamagedFile, MisfitError
from evomm.genome.blocks import Place
from evomm.genome.dataflow import steps_of
from evomm.merge.plan import refuse_misfits
from evomm.merge.recipe import Recipe


class LLMAdapter(Adapter):
    """Decoders of AutoModelForCausalLM."""

    name = "llm"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """Whether config.json names a causal language model."""
        config = read_json(path / "config.json") if (path / "config.json").exists() else {}
        return any("CausalLM" in name or "LMHead" in name for name in architectures(config))

    def open(self, path: Path) -> Checkpoint:
        """The tensors; a stored copy of a tied head is left out, since the model has only the embeddings.

        Raises DamagedFile when config.json is absent or contradicts the tensors.
        """
        checkpoint = Checkpoint(path)
        if not checkpoint.config:
            raise DamagedFile(f"{path}: no config.json; copy it along with the weights")
        for name in repeated_heads(decoder(checkpoint)):
            del checkpoint.infos[name]
        refuse_contradiction(decoder(checkpoint))
        return checkpoint

    def blocks(self, model: Model) -> Mapping[str, Place]:
        """Layer number and component of each tensor, from its name."""
        return decoder(model).places

    def sketch(self, layers: int | None) -> Mapping[str, Place] | None:
        """A decoder of so many layers."""
        return sketch(layers)

    def vocabulary(self, model: Model) -> Mapping[str, int]:
        """Embeddings and head have a row for each token; a head's bias an element."""
        return decoder(model).vocabulary

    def check(
        self, models: Mapping[str, Model], reference: str, *, stacked: bool = False, whole: Mapping[str, str] = {}
    ) -> Sequence[str]:
        """Same kind of model, same tensors, same shapes; differing tokenizers and rotary settings are told."""
        expected = models[reference]
        others = {label: model for label, model in models.items() if label != reference}
        for label, other in others.items():
            for key, ours, theirs in differences(expected.config, other.config, MUST_AGREE):
                raise MisfitError(
                    f"'{label}' does not fit '{reference}': {key} is {theirs!r}, expected {ours!r}; "
                    "merge models of one architecture"
                )
        if not stacked:
            refuse_misfits({label: model.infos for label, model in models.items()}, reference, whole)
        return list(odd_settings(decoder(expected), {label: decoder(other) for label, other in others.items()}, reference))

    def load(self, recipe: Recipe, models: Mapping[str, Model], device: str, dtype: torch.dtype) -> LoadedModel:
        """The model in evaluation mode and its tokenizer, padded on the left."""
        from evomm.adapters import llm_model, llm_path

        if recipe.slices:
            return llm_path.load(recipe.carrier, {label: model.folder for label, model in models.items()}, device, dtype)
        return llm_model.load(models[recipe.carrier].folder, device, dtype)

    def outputs(self, model: Model) -> Mapping[int, Collection[str]]:
        """Attention's and the MLP's last matrices."""
        return decoder(model).outputs

    def route(self, model: LoadedModel, recipe: Recipe, models: Mapping[str, Model]) -> None:
        """The layers in the recipe's order, their inputs scaled."""
        from evomm.adapters import llm_path

        configs = {label: found.config for label, found in models.items()}
        child = child_config(recipe, configs, None, models[recipe.carrier].folder)
        listed = {key: value for key, value in child.items() if key in COUNTS or isinstance(value, list)}
        llm_path.route(model, steps_of(recipe), {key: listed[key] for key in listed if key in configs[recipe.carrier]})

    def generate(self, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
        """Greedy answers without the prompt; batches hold prompts of like length, the longest first."""
        from evomm.adapters import llm_model

        return llm_model.generate(model, prompts, expect(options, TextGeneration))


def decoder(model: Model) -> Decoder:
    """A language model is a decoder and nothing else."""
    return Decoder(model.folder, model.config, model.infos, model)
