"""What stands around an image model's weights: which parent builds each component, and the files of a child.

A component is built by the files of its owner: the parent that it is taken from, or the carrier of the merge. Tokenizers go
with their text encoders, unless the recipe says otherwise.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomm.adapters.base import Model, View
from evomm.checkpoints.layout import Layout, pipeline_layout
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

    Raises MissingFile when no parent is a whole pipeline folder.
    """
    labels = [recipe.carrier, *models]
    found = next((c for label in labels if (c := stored(models[label]).config) and folders(models[label])), None)
    if found is None:
        raise MissingFile(
            "no parent says how the pipeline is built: single files and UNets alone have no configs and tokenizers; "
            "make a diffusers folder of the same family one of the parents, or `evomm merge` to a single file instead"
        )
    return dict(found)


def config_folder(name: str, recipe: Recipe, models: Mapping[str, Model]) -> Path:
    """The folder with a component's config.

    Raises MissingFile when no parent has one.
    """
    label = owner(name, recipe, models)
    if label is None:
        raise MissingFile(f"no parent has files for '{name}'; make a diffusers folder that has them one of the parents")
    return folders(models[label])[name]


def scheduler_config(recipe: Recipe, models: Mapping[str, Model]) -> dict[str, Any]:
    """The scheduler as the child is meant to be asked: the owner's, changed by what the recipe says of steps."""
    config = read_json(config_folder("scheduler", recipe, models) / SCHEDULER_CONFIG)
    changes = {"_class_name": recipe.generation.get("scheduler"), "timestep_spacing": recipe.generation.get("spacing")}
    return {**config, **{key: value for key, value in changes.items() if value is not None}}


def layout(recipe: Recipe, models: Mapping[str, Model], out: Path) -> Layout:
    """How a child is stored: a pipeline folder, or a single file that carries its recipe."""
    if out.suffix != ".safetensors":
        return pipeline_layout()
    names = {component(name) for model in models.values() for name in model.infos}
    single = [s for m in models.values() if isinstance(s := stored(m), SingleFile)]
    markers = tuple(sorted({marker for file in single for marker in file.left_out if marker in {"v_pred", "ztsnr"}}))
    family = "xl_base" if "text_encoder_2" in names or any(file.family == "xl_base" for file in single) else "v1"
    return original_layout(family, markers=markers)


def write_files(writer: CheckpointWriter, recipe: Recipe, models: Mapping[str, Model]) -> None:
    """Configs, tokenizers and scheduler of a child that is a folder; a UNet alone has no more than its config."""
    whole = {name for model in models.values() for name in folders(model)}
    for name in sorted(whole):
        writer.carry(config_folder(name, recipe, models), into=name)
    try:
        content = index(recipe, models)
    except MissingFile:
        return  # a merge of UNets alone
    if "scheduler" in whole:
        writer.text(f"scheduler/{SCHEDULER_CONFIG}", _json(scheduler_config(recipe, models)))
        content["scheduler"] = ["diffusers", scheduler_config(recipe, models)["_class_name"]]
    for name, value in content.items():
        if isinstance(value, list) and len(value) == _IS_LIST and name not in whole:
            content[name] = [None, None]  # such as a safety checker that no parent has
    writer.text(MODEL_INDEX, _json(content))


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
