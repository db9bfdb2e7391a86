"""The files beside a child's weights: config, tokenizer, chat template."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomm.adapters.chat import TEMPLATES
from evomm.adapters.vocabulary import VOCABULARY_FILES, Alignment, child_files, renumber
from evomm.checkpoints.reader import read_json
from evomm.checkpoints.writer import CheckpointWriter
from evomm.errors import UsageError, nearest
from evomm.merge.recipe import Recipe
from evomm.plain import read_text

_COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION_CONFIG = "generation_config.json"


def write_files(
    writer: CheckpointWriter,
    recipe: Recipe,
    parents: Mapping[str, tuple[Path, Mapping[str, Any]]],
    alignment: Alignment | None,
    template: str | None,
) -> None:
    """Config and tokenizer of the carrier, changed where the child differs: dtype, layers, vocabulary, chat template.

    Args:
        parents: label -> (folder, config.json).
        template: of chats, as Jinja.
    """
    folder, config = parents[recipe.carrier]
    writer.carry(folder, leave=VOCABULARY_FILES if alignment is not None else ())
    if not config:
        return
    if alignment is not None:
        for name, text in child_files(alignment, alignment.folders[alignment.carrier]).items():
            writer.text(name, text)
        if (folder / _GENERATION_CONFIG).exists():
            writer.text(_GENERATION_CONFIG, _json(renumber(read_json(folder / _GENERATION_CONFIG), alignment, folder)))
    writer.text(
        "config.json", _json(child_config(recipe, {label: found for label, (_, found) in parents.items()}, alignment, folder))
    )
    if template is not None:
        writer.text("chat_template.jinja", template)
        settings = writer.partial / _TOKENIZER_CONFIG
        if settings.exists():  # an older place of the template, which would be a second truth
            writer.text(_TOKENIZER_CONFIG, _json({key: v for key, v in read_json(settings).items() if key != "chat_template"}))


def child_config(
    recipe: Recipe, configs: Mapping[str, Mapping[str, Any]], alignment: Alignment | None, folder: Path
) -> dict[str, Any]:
    """The carrier's config.json with the child's dtype, number of layers, and token ids."""
    config = dict(configs[recipe.carrier])
    if recipe.dtype:
        config = {key: value for key, value in config.items() if key != "torch_dtype"} | {"dtype": recipe.dtype}
    if recipe.slices:
        config = _restacked(recipe, config, configs)
    return config if alignment is None else renumber(config, alignment, folder)


def _restacked(recipe: Recipe, config: dict[str, Any], configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Number of layers, and whatever the config lists layer by layer (such as which attention each has)."""
    key = next((key for key in _COUNTS if isinstance(config.get(key), int)), None)
    if key is None:
        raise UsageError(f"config.json of '{recipe.carrier}' does not say how many layers there are ({', '.join(_COUNTS)})")
    lists = [name for name, value in config.items() if isinstance(value, list) and len(value) == config[key] > 1]
    config = config | {name: [] for name in lists} | {key: sum(part.length for part in recipe.slices)}
    for part in recipe.slices:
        label, (first, stop) = next(iter(part.layers.items()))
        for name in lists:
            config[name] = config[name] + configs[label].get(name, configs[recipe.carrier][name])[first:stop]
    return config


def chat_template(wanted: str | None, folders: list[Path]) -> str | None:
    """Jinja text from a recipe's `chat_template`: a known name, "auto" for the one most parents have, or Jinja itself."""
    if wanted is None:
        return None
    if wanted == "auto":
        found = [text.strip() for folder in folders if (text := _template_of(folder))]
        return Counter(found).most_common(1)[0][0] if found else None
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    if "{" not in wanted:
        raise UsageError(
            f"chat_template '{wanted}' is neither Jinja text nor a known name{nearest(wanted, [*TEMPLATES, 'auto'])}"
        )
    return wanted


def _template_of(folder: Path) -> str | None:
    if (folder / "chat_template.jinja").exists():
        return read_text(folder / "chat_template.jinja")
    if not (folder / _TOKENIZER_CONFIG).exists():
        return None
    found = read_json(folder / _TOKENIZER_CONFIG).get("chat_template")
    if isinstance(found, list):  # several, by name
        named = (entry for entry in found if isinstance(entry, dict))
        found = next((entry.get("template") for entry in named if entry.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _json(content: Any) -> str:
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"
