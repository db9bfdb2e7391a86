"""From a recipe to a document that mergekit reads, where its words suffice; the reverse of `resolve`.

Blocks become filters: a pattern that is a prefix is a part of every name it is meant for. A path becomes slices.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from evomm.errors import UsageError
from evomm.merge.mergekit.rules import RULES
from evomm.merge.plan import renumber
from evomm.merge.recipe import Recipe, Source, Value
from evomm.merge.table import parameters
from evomm.plain import dump_yaml

_MAGIC = re.compile(r"[*?[]")
_LAYER = re.compile(r"\.(\d+)\.")
_Pieces = list[tuple[str, Mapping[str, Value]]]  # (a part of tensors' names, what holds for these), the first that matches counts


def as_written(source: Source) -> str:
    """A parent as the recipe names it."""
    return f"{source.model}+{source.lora}" if source.lora else source.model


def written(recipe: Recipe, named: Callable[[Source], str] = as_written) -> str:
    """The document as YAML.

    Args:
        named: how a parent is called in it.

    Raises UsageError, saying what mergekit has no words for.
    """
    _refuse(recipe)
    names = {label: named(source) for label, source in recipe.parents.items()}
    document: dict[str, Any] = {"merge_method": recipe.method}
    if recipe.base is not None and RULES[recipe.method].base != "ignored":
        document["base_model"] = names[recipe.base]
    if recipe.slices:
        document["slices"] = list(_slices(recipe, names))
    else:
        pieces = [(glob.removesuffix("*"), block.parameters) for block in recipe.blocks for glob in block.tensors]
        document["models"] = [{"model": names[label], **_own(recipe, label, pieces)} for label in recipe.mixed]
        shared = {name: _setting(recipe, name, None, pieces) for name in _given(recipe, per_parent=False)}
        document |= {"parameters": shared} if shared else {}
    document |= {"dtype": recipe.dtype} if recipe.dtype else {}
    document |= {"chat_template": recipe.chat_template} if recipe.chat_template else {}
    return dump_yaml(document)


def _refuse(recipe: Recipe) -> None:
    globs = [glob for block in recipe.blocks for glob in block.tensors]
    reasons = {
        f"the method {recipe.method}": recipe.method not in RULES,
        "components that are taken whole from one parent": bool(recipe.components),
        "strings of block weights": bool(recipe.block_weights),
        "a vocabulary aligned by rules": recipe.vocabulary is not None,
        "the scale of a LoRA": any(source.scale != 1.0 for source in recipe.parents.values()),
        "blocks with parents or a base of their own": any(b.parents is not None or b.base is not None for b in recipe.blocks),
        "patterns that are no prefixes": any(_MAGIC.search(glob.removesuffix("*")) for glob in globs),
        "slices with blocks that are no layer's": bool(recipe.slices) and not all(map(_LAYER.search, globs)),
        "a tokenizer that is not the base's or the first parent's": recipe.carrier not in {recipe.base, recipe.mixed[0]},
    }
    for reason, holds in reasons.items():
        if holds:
            raise UsageError(f"mergekit's YAML has no words for {reason}")


def _given(recipe: Recipe, per_parent: bool) -> Iterator[str]:
    """Parameters that the recipe speaks of, and the one that mergekit asks for."""
    rule = RULES[recipe.method].required
    spoken = {*recipe.parameters, *(name for block in recipe.blocks for name in block.parameters), *([rule] if rule else [])}
    specs = parameters(recipe.method)
    return (name for name, spec in specs.items() if name in spoken and (spec.kind == "per parent") == per_parent)


def _own(recipe: Recipe, label: str, pieces: _Pieces) -> dict[str, Any]:
    found = {name: _setting(recipe, name, label, pieces) for name in _given(recipe, per_parent=True)}
    return {"parameters": found} if found else {}


def _setting(recipe: Recipe, name: str, label: str | None, pieces: _Pieces) -> Any:
    """A value, or values by filter with what holds for the rest at the end."""
    default = parameters(recipe.method)[name].default
    rest = _value(recipe.parameters.get(name, default), label, default)
    cases: list[dict[str, Any]] = []
    for part, values in pieces:
        value = _value(values[name], label, default) if name in values else rest
        if not part:  # the pattern "*": nothing comes after it
            rest = value
            break
        cases.append({"filter": part, "value": value})
    return [*cases, {"value": rest}] if any(case["value"] != rest for case in cases) else rest


def _value(value: Value, label: str | None, default: float) -> bool | float:
    return value.get(label or "", default) if isinstance(value, Mapping) else value


def _slices(recipe: Recipe, names: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Slices that follow each other in all their parents are one; filters go by the parents' names of tensors."""
    merged: list[dict[str, tuple[int, int]]] = []
    for part in recipe.slices:
        last = merged[-1] if merged else {}
        if last.keys() == part.layers.keys() and all(last[label][1] == first for label, (first, _) in part.layers.items()):
            merged[-1] = {label: (last[label][0], stop) for label, (_, stop) in part.layers.items()}
        else:
            merged.append(dict(part.layers))
    place = 0
    for layers in merged:
        sources = []
        for label, (first, stop) in layers.items():
            pieces = [
                (renumber(glob, layer, layer - place + first), block.parameters)
                for block in recipe.blocks
                for glob in block.tensors
                if place <= (layer := int(_LAYER.search(glob)[1])) < place + stop - first  # type: ignore[index]
            ]
            sources.append({"model": names[label], "layer_range": [first, stop], **_own(recipe, label, pieces)})
        shared = {name: _value(recipe.parameters[name], None, 0.0) for name in _given(recipe, per_parent=False)}
        yield {"sources": sources, **({"parameters": shared} if shared else {})}
        place += stop - first
