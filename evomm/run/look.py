"""How models are built and how far apart they are, block by block: what `evomm inspect` shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from evomm.adapters.base import Model
from evomm.adapters.table import detect
from evomm.genome.blocks import Grouping, group
from evomm.merge.plan import component
from evomm.merge.recipe import Block, Recipe, Source
from evomm.merge.whole import PIECE


@dataclass(frozen=True)
class Row:
    """One block.

    distances: per further model, the norm of its difference to the first model over the first's norm. cosines: per pair
    of further models, the cosine of their differences to the first (near 1: they moved alike; 0: independently).
    """

    block: str
    tensors: int
    parameters: int
    nbytes: int
    distances: tuple[float, ...]
    cosines: tuple[float, ...]


def look(folders: Sequence[Path], grouping: Grouping) -> list[Row]:
    """Compare models with the first of them, in what all of them have: some may be a part of the others, as a UNet alone is.

    Raises MisfitError when they don't fit together.
    """
    adapter = detect(*folders)
    checkpoints: dict[str, Model] = {str(i): adapter.open(folder) for i, folder in enumerate(folders)}
    everyone = Recipe(
        method="linear", parents={label: Source(model=str(path)) for label, path in zip(checkpoints, folders, strict=True)}
    )
    checkpoints = dict(adapter.aligned(everyone, checkpoints)[0])
    lent = adapter.lent(everyone, checkpoints)
    if len(checkpoints) > 1:
        adapter.check(checkpoints, "0", whole=lent)
    sizes = {name: info.numel for name, info in checkpoints["0"].infos.items()}
    places = {name: place for name, place in adapter.blocks(checkpoints["0"]).items() if component(name) not in lent}
    return compare(list(checkpoints.values()), group(places, grouping, sizes))


def compare(models: Sequence[Model], blocks: Sequence[Block]) -> list[Row]:
    """How far models that fit together are from the first of them, block by block; reads all their weights."""
    return [_row(block, models) for block in blocks]


def _row(block: Block, models: Sequence[Model]) -> Row:
    names = [name for name in models[0].infos if block.matches(name) and all(name in model.infos for model in models)]
    others = range(1, len(models))
    gram = {(i, j): 0.0 for i in range(len(models)) for j in range(i, len(models))}
    for name in names if len(models) > 1 else []:
        if models[0].infos[name].dtype.is_floating_point:
            _add(gram, [model.read(name).reshape(-1) for model in models])
    return Row(
        block=block.name,
        tensors=len(names),
        parameters=sum(models[0].infos[name].numel for name in names),
        nbytes=sum(models[0].infos[name].nbytes for name in names),
        distances=tuple(_ratio(gram[i, i], gram[0, 0]) for i in others),
        cosines=tuple(_cosine(gram[i, j], gram[i, i], gram[j, j]) for i in others for j in others if i < j),
    )


def _add(gram: dict[tuple[int, int], float], flats: Sequence[Tensor]) -> None:
    """Add inner products: of the first model with itself, and of the others' differences to it."""
    for start in range(0, flats[0].numel(), PIECE):
        first, *rest = (flat[start : start + PIECE].float() for flat in flats)
        rows = [first, *(other - first for other in rest)]
        for i, j in gram:
            if i == j or i > 0:
                gram[i, j] += float((rows[i] * rows[j]).sum())


def _ratio(squared: float, reference: float) -> float:
    return math.sqrt(squared / reference) if reference > 0 else 0.0


def _cosine(inner: float, a: float, b: float) -> float:
    return inner / math.sqrt(a * b) if a > 0 and b > 0 else 0.0
