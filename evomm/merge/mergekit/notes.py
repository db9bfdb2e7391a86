"""What a mergekit document's user should know: what has no effect, and where mergekit's result can differ in detail."""

from collections.abc import Iterable, Iterator, Mapping
from functools import reduce

import torch

from evomm.checkpoints.reader import TensorInfo
from evomm.merge.mergekit.document import Document
from evomm.merge.mergekit.layout import Part, Place
from evomm.merge.mergekit.rules import RULES, idle_settings
from evomm.merge.recipe import DtypeName
from evomm.merge.table import METHODS

Headers = Mapping[str, Mapping[str, TensorInfo]]
_NAMES: Mapping[torch.dtype, DtypeName] = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32"}


def notes(document: Document, parts: tuple[Part, ...], places: tuple[Place, ...]) -> Iterator[str]:
    """One sentence each, some more than once."""
    method, rules = document.merge_method, RULES[document.merge_method]
    for _, settings, _ in document.settings():
        for name in idle_settings(method, settings):
            yield f"'{name}' changes no result of {method} in mergekit, and none here"
    if rules.base == "ignored":
        yield from _ignored_base(document)
    for part in parts:
        if part.base is not None and METHODS[method].takes_deltas(part.base) and part.own[part.base]:
            yield f"parameters of the base '{part.base}' have no effect: {method} mixes how the others differ from it"
    if rules.random:
        yield f"{method} draws its masks from the recipe's seed; mergekit draws others in each run"
    behind = [place for place in places if place.layer is None and len(place.inputs) < len(place.part.labels)]
    if behind:
        mixed = ", ".join(f"'{label}'" for label in behind[0].inputs)
        yield (
            f"{behind[0].name} and what else comes behind the layers is mixed from {mixed} alone: as in mergekit, "
            "from so many models of the last slice as the first has"
        )
    numbered = [place.name for place in places if place.layer is None and any(map(str.isdigit, place.name.split(".")))]
    gradients = any(
        len(case.scalars) > 1 for _, found, _ in document.settings() for setting in found.values() for case in setting
    )
    if numbered and gradients:
        yield f"{numbered[0]} is outside of the layers that gradients run over; their first value counts there"


def promoted(places: tuple[Place, ...], headers: Headers) -> DtypeName | None:
    """The dtype that mergekit gives to every tensor of parents that have different ones; None when all have one anyway."""
    each = [set(_dtypes(place, headers)) for place in places]
    if all(len(dtypes) < 2 for dtypes in each):
        return None
    found = {_promotion(dtypes) for dtypes in each if dtypes}
    return _NAMES.get(found.pop()) if len(found) == 1 else None


def dtype_notes(document: Document, natural: DtypeName | None, places: tuple[Place, ...], headers: Headers) -> Iterator[str]:
    """What the child's dtype is where the document leaves it open, and where mergekit rounds on the way."""
    inner, outer = document.dtype, document.out_dtype
    if inner is not None and inner != "float32" and outer not in (None, inner):
        yield f"mergekit computes in {inner} before it stores {outer}; here sums are float32, so they differ by its rounding"
    if natural is not None:
        yield f"the parents have different dtypes, so the child is {natural}, as in mergekit; write `dtype` to choose"
    elif inner is None and outer is None:
        for place in places:
            dtypes = set(_dtypes(place, headers))
            if len(dtypes) > 1:
                wide = str(_promotion(dtypes)).removeprefix("torch.")
                yield f"{place.name}: mergekit would store {wide}, here it has the first parent's dtype; write `dtype` to choose"
                return


def _promotion(dtypes: Iterable[torch.dtype]) -> torch.dtype:
    return reduce(torch.promote_types, dtypes)


def _dtypes(place: Place, headers: Headers) -> Iterator[torch.dtype]:
    """Of each model that has the tensor, when it holds floating-point numbers."""
    infos = (headers[label].get(name) for label, name in place.inputs.items())
    return (info.dtype for info in infos if info is not None and info.dtype.is_floating_point)


def _ignored_base(document: Document) -> Iterator[str]:
    base, module, method = document.base_model, document.module, document.merge_method
    if base is not None and module.models and all(input_.model != base for input_ in module.models):
        yield f"the base '{base}' is not among the models; as in mergekit, {method} mixes it as one of them"
    if any(part.base_model is not None for part in module.slices or ()):
        yield f"base_model of a slice has no effect on {method}"
