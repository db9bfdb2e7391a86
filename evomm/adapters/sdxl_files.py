"""What stands around an image model's weights: which parent builds each component, and the files of a child.

A component is built by the files of its owner: the parent that it is taken from, or the carrier of the merge. Tokenizers go
with their text encoders, unless the recipe says otherwise. Single files have no configs and tokenizers; what no parent has is
that of their family's public model (`locate_configs`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomm.adapters.base import Model, View
from evomm.checkpoints.layout import Layout, pipeline_layout
from evomm.checkpoints.locate import locate_configs
from evomm.checkpoints.original import original_layout
from evomm.checkpoints.pipeline import Pipeline
from evomm.checkpoints.reader import read_json
from evomm.checkpoints.single_file import SingleFile
from evomm.checkpoints.writer import CheckpointWriter
from evomm.errors import MissingFile
from evomm.merge.plan import component
from evomm.merge.recipe import Recipe

MODEL_INDEX = "model_index.json"
SCHEDULER_CONFIG = "scheduler_config.json"
_WHOLE = {"unet", "vae", "text_encoder"}  # what a pipeline cannot be without
_WITHOUT_TENSORS = ("scheduler", "tokenizer")
_IS_LIST = 2  # [library, class] of a component in model_index.json


def stored(model: Model) -> Model:
    """The model without LoRAs and views on top."""
    return model.stored if isinstance(model, View) else model


def folders(model: Model) -> Mapping[str, Path]:
    """Component -> its folder, of a model that is a diffusers folder."""
    found = stored(model)
    return found.components if isinstance(found, Pipeline) else {}


def owner(name: str, recipe: Recipe, models: Mapping[str, Model]) -> str | None:
    """The parent whose files a component is built by; None when no parent has files for it."""
    encoder = name.replace("tokenizer", "text_encoder")
    wanted = [recipe.components.get(name), recipe.components.get(encoder), recipe.carrier, *models]
    return next((label for label in wanted if label is not None and name in folders(models[label])), None)


def index(recipe: Recipe, models: Mapping[str, Model]) -> dict[str, Any]:
    """The child's model_index.json: the carrier's, with the classes of whole components as their parents have them.

    Raises MissingFile when no parent is a whole pipeline folder or single file.
    """
    labels = [recipe.carrier, *models]
    found = next((c for label in labels if (c := stored(models[label]).config) and folders(models[label])), None)
    if found is None and _singles(models) and _held(models) >= _WHOLE:
        found = read_json(_public(models) / MODEL_INDEX)
    if found is None:
        raise MissingFile(
            "no parent says how the pipeline is built: UNets alone have no text encoders, VAE and tokenizers; "
            "make a whole model of the same family one of the parents"
        )
    return dict(found)


def config_folder(name: str, recipe: Recipe, models: Mapping[str, Model]) -> Path:
    """The folder with a component's config.

    Raises MissingFile when no parent has one, and their family's public model is not here.
    """
    label = owner(name, recipe, models)
    if label is not None:
        return folders(models[label])[name]
    if not _singles(models):
        raise MissingFile(f"no parent has files for '{name}'; make a diffusers folder that has them one of the parents")
    return _public(models) / name


def scheduler_config(recipe: Recipe, models: Mapping[str, Model]) -> dict[str, Any]:
    """The scheduler as the child is meant to be asked: the owner's, changed by what the recipe says of steps."""
    config = read_json(config_folder("scheduler", recipe, models) / SCHEDULER_CONFIG)
    if owner("scheduler", recipe, models) is None:  # of the family, which single files may say to differ from
        files = _singles(models)
        config["prediction_type"] = next((said for file in files if (said := file.prediction_type)), "epsilon")
        if any(file.zero_terminal_snr for file in files):
            config["rescale_betas_zero_snr"] = True
    changes = {"_class_name": recipe.generation.get("scheduler"), "timestep_spacing": recipe.generation.get("spacing")}
    return {**config, **{key: value for key, value in changes.items() if value is not None}}


def _singles(models: Mapping[str, Model]) -> list[SingleFile]:
    return [file for model in models.values() if isinstance(file := stored(model), SingleFile)]


def _held(models: Mapping[str, Model]) -> set[str]:
    """Components with tensors."""
    return {component(name) for model in models.values() for name in model.infos}


def _public(models: Mapping[str, Model]) -> Path:
    """Where the configs of single files are."""
    return locate_configs(_singles(models)[0].family)


def layout(recipe: Recipe, models: Mapping[str, Model], out: Path) -> Layout:
    """How a child is stored: a pipeline folder, or a single file that carries its recipe."""
    if out.suffix != ".safetensors":
        return pipeline_layout()
    single = _singles(models)
    markers = tuple(sorted({marker for file in single for marker in file.left_out if marker in {"v_pred", "ztsnr"}}))
    family = "xl_base" if "text_encoder_2" in _held(models) or any(file.family == "xl_base" for file in single) else "v1"
    return original_layout(family, markers=markers)


@dataclass(frozen=True)
class Beside:
    """What stands around the weights of a child that is a folder: component -> folder to copy from, and texts."""

    carried: Mapping[str, Path]
    texts: Mapping[str, str]

    def write(self, writer: CheckpointWriter) -> None:
        """Put it beside the weights."""
        for name, folder in self.carried.items():
            writer.carry(folder, into=name)
        for name, text in self.texts.items():
            writer.text(name, text)


def beside(recipe: Recipe, models: Mapping[str, Model]) -> Beside:
    """Configs, tokenizers and scheduler of a child that is a folder; a UNet alone has no more than its config.

    Raises MissingFile when single files are the only parents, and their family's public model is not here.
    """
    names = {name for model in models.values() for name in folders(model)}
    if any(stored(model).config for model in models.values()) or (_singles(models) and _held(models) >= _WHOLE):
        content = index(recipe, models)
        listed = {name for name, value in content.items() if isinstance(value, list) and len(value) == _IS_LIST and any(value)}
        names |= {name for name in listed if _singles(models) and (name in _held(models) or name.startswith(_WITHOUT_TENSORS))}
    else:  # a merge of UNets alone
        content, listed = {}, set()
        names |= _held(models) if _singles(models) else set()
    carried = {name: config_folder(name, recipe, models) for name in sorted(names)}
    texts = {}
    if content:
        if "scheduler" in names:
            scheduler = scheduler_config(recipe, models)
            texts[f"scheduler/{SCHEDULER_CONFIG}"] = _json(scheduler)
            content["scheduler"] = ["diffusers", scheduler["_class_name"]]
        content |= {name: [None, None] for name in listed - names}  # such as a safety checker that no parent has
        texts[MODEL_INDEX] = _json(content)
    return Beside(carried, texts)


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
