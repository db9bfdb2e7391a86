"""Stable Diffusion XL and its kin: diffusers pipelines and single-file checkpoints whose UNets are mixed.

The UNet is mixed; text encoders, VAE, tokenizers and scheduler are taken from one parent unless a config says otherwise. All
parents have diffusers' names (`checkpoints.names`), so that folders and single files, whole models and UNets alone, are
parents of one merge.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import torch

from evomm.adapters.base import Adapter, LoadedModel, Model, View
from evomm.adapters.generation import Generation, ImageGeneration, expect
from evomm.adapters.sdxl_blocks import UNET, places, unfold, weight_strings
from evomm.adapters.sdxl_files import beside, folders, layout
from evomm.adapters.sdxl_fit import odd_tokenizers, refuse_other_kinds, refuse_other_predictions
from evomm.adapters.vocabulary import Alignment
from evomm.checkpoints.locate import is_hub_id
from evomm.checkpoints.lora_image import image_lora, image_lora_base
from evomm.checkpoints.pipeline import Pipeline, is_pipeline
from evomm.checkpoints.reader import PICKLES, TensorInfo, read_json
from evomm.checkpoints.single_file import SingleFile
from evomm.checkpoints.writer import SHARD_BYTES, CheckpointWriter
from evomm.errors import MisfitError
from evomm.genome.blocks import Place
from evomm.merge.apply import Written, apply
from evomm.merge.engine import Engine
from evomm.merge.plan import component, refuse_misfits
from evomm.merge.recipe import Recipe

_SLOT_1_PROJECTION = "text_encoder.text_projection.weight"


class SDXLAdapter(Adapter):
    """UNet pipelines of diffusers with CLIP text encoders: SDXL, and Stable Diffusion 1 and 2."""

    name = "sdxl"
    library = "diffusers"

    @classmethod
    def recognises(cls, path: Path) -> bool:
        """A pipeline's folder, or any single file."""
        return (path.is_file() and path.suffix in {".safetensors", *PICKLES}) or is_pipeline(path)

    def open(self, path: Path) -> Model:
        """The tensors of a folder or file under diffusers' names.

        A projection behind the first text encoder is left out: the pipeline takes the pooled vector from the first encoder
        that gives one, and in SDXL that must be the second.
        """
        model: Model = Pipeline(path) if path.is_dir() else SingleFile(path)
        return Without(model, {_SLOT_1_PROJECTION}) if _is_double(model) else model

    def lora(self, model: Model, path: Path, scale: float = 1.0) -> Model:
        """The model with a LoRA of diffusers', kohya's or peft's naming on top."""
        return View(model, image_lora(model, path, scale, _config(model, "unet")))

    def lora_base(self, path: Path) -> str | None:
        """The hub id of the model that a LoRA says it was trained on; file names, which kohya records, say little."""
        said = image_lora_base(path)
        return said if said is not None and is_hub_id(said) else None

    def components(self, model: Model) -> Collection[str]:
        """Those with tensors, and scheduler and tokenizers."""
        return dict.fromkeys([*super().components(model), *folders(model)])

    def whole(self, models: Mapping[str, Model], carrier: str) -> Mapping[str, str]:
        """All but the UNet are the carrier's, or the first parent's that has them."""
        return {name: label for name, label in _first_owners(models, carrier).items() if name != "unet"}

    def lent(self, recipe: Recipe, models: Mapping[str, Model]) -> Mapping[str, str]:
        """What a UNet alone does not have is the carrier's, or the first parent's that has it."""
        owners = _first_owners(models, recipe.carrier)
        held = [set(super(SDXLAdapter, self).components(model)) for model in models.values()]
        return {name: label for name, label in owners.items() if name != "unet" and not all(name in have for have in held)}

    def blocks(self, model: Model) -> Mapping[str, Place]:
        """BASE, IN00-IN08, M00, OUT00-OUT08 with attn and conv; other components stand for themselves."""
        return places(list(model.infos))

    def sketch(self, layers: int | None) -> Mapping[str, Place] | None:
        """The blocks of SDXL."""
        names = ["BASE", *(f"IN{i:02d}" for i in range(9)), "M00", *(f"OUT{i:02d}" for i in range(9))]
        return {f"{UNET}{name}.{kind}": Place(i, kind, name) for i, name in enumerate(names) for kind in ("attn", "conv")}

    def check(
        self, models: Mapping[str, Model], reference: str, *, stacked: bool = False, whole: Mapping[str, str] = {}
    ) -> Sequence[str]:
        """One kind of UNet that predicts one thing, and the same tensors in what is mixed."""
        if stacked:
            raise MisfitError("slices restack the layers of a decoder; a UNet has none that could be taken from here and there")
        if "unet" not in whole:
            refuse_other_kinds(models, reference)
            refuse_other_predictions(models, reference)
        refuse_misfits({label: model.infos for label, model in models.items()}, reference, whole)
        return list(odd_tokenizers(models, reference, whole))

    def load(self, recipe: Recipe, models: Mapping[str, Model], device: str, dtype: torch.dtype) -> LoadedModel:
        """A pipeline of diffusers."""
        from evomm.adapters import sdxl_model

        return sdxl_model.load(recipe, models, device, dtype)

    def generate(self, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[object]:
        """RGB pictures (PIL), each from noise of its own that depends on the seed and the prompt's place alone."""
        from evomm.adapters import sdxl_model

        return sdxl_model.generate(model, prompts, expect(options, ImageGeneration))

    def unfold(self, recipe: Recipe, models: Mapping[str, Model]) -> Recipe:
        """The recipe with its block-weight strings as blocks."""
        return unfold(recipe, list(models[recipe.carrier].infos))

    def block_weights(self, recipe: Recipe, models: Mapping[str, Model]) -> Mapping[str, str]:
        """Label -> the recipe's weights as a string of numbers, where it can be said in one."""
        return weight_strings(recipe, list(models[recipe.carrier].infos))

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
        """Stream the child to a diffusers folder, or to one file of the original layout when ``out`` ends in .safetensors."""

        around = beside(recipe, models) if out.suffix != ".safetensors" else None  # what is missing is told before the work

        def finish(writer: CheckpointWriter) -> None:
            if around is not None:
                around.write(writer)
                for name, text in texts.items():
                    writer.text(name, text)

        return apply(
            recipe,
            models,
            out,
            layout=layout(recipe, models, out),
            engine=engine,
            finish=finish,
            advance=advance,
            shard_bytes=shard_bytes,
        )


class Without(View):
    """A model, some of whose tensors are left out."""

    def __init__(self, model: Model, names: Collection[str]) -> None:
        super().__init__(model, model)
        self.infos: Mapping[str, TensorInfo] = {name: info for name, info in model.infos.items() if name not in names}


def _first_owners(models: Mapping[str, Model], carrier: str) -> dict[str, str]:
    """Component with tensors -> the carrier, or the first parent that has it."""
    found: dict[str, str] = {}
    for label in (carrier, *models):
        for name in models[label].infos:
            found.setdefault(component(name), label)
    return found


def _config(model: Model, name: str) -> Mapping[str, object] | None:
    """A component's config.json, where the model is a folder."""
    path = folders(model).get(name)
    return read_json(path / "config.json") if path is not None and (path / "config.json").exists() else None


def _is_double(model: Model) -> bool:
    return _SLOT_1_PROJECTION in model.infos and any(name.startswith("text_encoder_2.") for name in model.infos)
