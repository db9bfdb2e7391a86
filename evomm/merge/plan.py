"""From a recipe and headers to the child's tensors: what each is called, where it comes from, and its coefficients."""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from evomm.checkpoints.reader import TensorInfo, TensorReader
from evomm.errors import MisfitError, UsageError
from evomm.merge.recipe import DTYPE_NAMES, Recipe
from evomm.merge.table import METHODS

Readers = Mapping[str, TensorReader]
Layers = Mapping[str, Mapping[str, int | None]]
_SHOWN = 8  # misfits listed before "and N more"
# Tensors outside of the layers that come before them, as families name them; norms and heads (embed_out is one) come after.
_BEFORE = re.compile(r"emb(?!ed_out)|(^|\.)w[tp]e(\.|$)|relative_pe")


@dataclass(frozen=True)
class Job:
    """One tensor of the child.

    Attributes:
        name: in the child.
        info: what it will be.
        labels: the parents whose values the method gets, in order.
        base: the label that task vectors start from, for methods on task vectors.
        sources: label -> the tensor's name in that parent (the base's too).
        method: by name, and its arguments.
    """

    name: str
    info: TensorInfo
    labels: tuple[str, ...]
    base: str | None
    sources: Mapping[str, str]
    method: str
    arguments: Mapping[str, float | bool | tuple[float, ...]]


def plan(recipe: Recipe, readers: Readers, layers: Layers | None = None) -> tuple[Job, ...]:
    """The child's tensors, from headers alone: in the carrier's order, or with slices, those outside of layers first.

    Args:
        layers: label -> tensor name -> number of its layer; needed for recipes with slices.

    Raises MisfitError that lists the tensors which the parents do not all have, or have in other shapes; UsageError for
    slices that ask for layers which are not there, or a block that names too many or too few parents.
    """
    if not recipe.slices and all(block.parents is None for block in recipe.blocks):
        refuse_misfits({label: readers[label].infos for label in recipe.parents}, recipe.carrier, recipe.components)
    jobs = tuple(_jobs(recipe, readers, layers))
    _refuse_job_misfits(jobs, readers)
    return jobs


def _jobs(recipe: Recipe, readers: Readers, layers: Layers | None) -> Iterator[Job]:
    if not recipe.slices:
        for name in readers[recipe.carrier].infos:
            if component(name) not in recipe.components:
                yield _job(recipe, readers, name, dict.fromkeys(recipe.parents, name), recipe.mixed)
        for whole, label in recipe.components.items():
            yield from (_taken(recipe, readers, name, label) for name in readers[label].infos if component(name) == whole)
        return
    if recipe.components:
        raise UsageError("a recipe has either slices or components that are taken whole, not both")
    if layers is None:
        raise UsageError("a recipe with slices needs a model whose layers are known; this one has none")
    carried = layers[recipe.carrier]
    for name, layer in carried.items():
        if layer is None:  # embeddings are mixed as the first slice, norm and head as the last
            labels = tuple(recipe.slices[0 if _BEFORE.search(name) else -1].layers)
            yield _job(recipe, readers, name, dict.fromkeys(recipe.parents, name), labels)
    number = 0
    for part in recipe.slices:
        for offset in range(part.length):
            yield from _layer_jobs(recipe, readers, layers, {label: at[0] + offset for label, at in part.layers.items()}, number)
            number += 1


def _layer_jobs(recipe: Recipe, readers: Readers, layers: Layers, from_: Mapping[str, int], number: int) -> Iterator[Job]:
    """The tensors of the child's layer ``number``, mixed from the parents' layers ``from_``."""
    names: dict[str, dict[str, str]] = {}
    for label, layer in from_.items():
        mine = [name for name, at in layers[label].items() if at == layer]
        if not mine:
            count = 1 + max((at for at in layers[label].values() if at is not None), default=-1)
            raise UsageError(f"slices ask for layer {layer} of '{label}', which has layers 0 to {count - 1}")
        for name in mine:
            names.setdefault(renumber(name, layer, number), {})[label] = name
    for name, sources in names.items():
        lost = [label for label in from_ if label not in sources]
        if lost:
            raise MisfitError(f"{name}: not in layer {from_[lost[0]]} of '{lost[0]}'; mix layers of one kind")
        yield _job(recipe, readers, name, sources, tuple(from_))


def _job(recipe: Recipe, readers: Readers, name: str, sources: Mapping[str, str], labels: tuple[str, ...]) -> Job:
    block = recipe.block_of(name)
    if block is not None and block.parents is not None:
        labels = block.parents
    base = block.base if block is not None and block.base is not None else recipe.base
    values = recipe.values(labels, base)
    chosen = recipe.method_of(block)
    method = METHODS[chosen]
    anchor = base if method.takes_deltas(base) else None
    if base not in sources and (method.needs_base or anchor):
        raise UsageError(f"'{name}': {chosen} needs the base '{base}' in every slice")
    lost = next((label for label in values if label not in sources), None)
    if lost is not None:
        raise UsageError(f"'{name}': block '{block and block.name}' mixes '{lost}', which is not in this slice")
    try:
        recipe.refuse_count(values, f"'{name}'", chosen)
    except ValueError as error:
        raise UsageError(str(error)) from error
    used = {label: sources[label] for label in (*values, *([anchor] if anchor else []))}
    first = readers[values[0]].infos.get(sources[values[0]])
    if first is None:
        raise MisfitError(f"'{name}' is not in '{values[0]}'; merge models of one architecture, size and vocabulary")
    wanted = DTYPE_NAMES[recipe.dtype] if recipe.dtype else first.dtype
    dtype = wanted if first.dtype.is_floating_point else first.dtype
    return Job(name, TensorInfo(dtype, first.shape), values, anchor, used, chosen, recipe.arguments(name, values))


def _taken(recipe: Recipe, readers: Readers, name: str, label: str) -> Job:
    """A tensor of a component that is one parent's."""
    info = readers[label].infos[name]
    dtype = DTYPE_NAMES[recipe.dtype] if recipe.dtype and info.dtype.is_floating_point else info.dtype
    alone = Recipe(method="linear", parents={label: recipe.parents[label]})
    return Job(name, TensorInfo(dtype, info.shape), (label,), None, {label: name}, "linear", alone.arguments(name))


def component(name: str) -> str:
    """The part of a model that a tensor belongs to: ``vae.decoder.conv_in.weight`` -> ``vae``."""
    return name.partition(".")[0]


def renumber(name: str, old: int, new: int) -> str:
    """The tensor's name in another layer: ``model.layers.3.mlp.up_proj.weight`` -> ``model.layers.7.mlp.up_proj.weight``."""
    return re.sub(rf"(^|\.){old}\.", rf"\g<1>{new}.", name, count=1)


def refuse_misfits(infos: Mapping[str, Mapping[str, TensorInfo]], reference: str, whole: Collection[str] = frozenset()) -> None:
    """Raise MisfitError unless every parent has the reference's tensors, in its shapes, but for components taken whole."""
    mixed = {
        label: {name: info for name, info in found.items() if component(name) not in whole} for label, found in infos.items()
    }
    expected, infos = mixed[reference], mixed
    misfits = [message for label, found in infos.items() if label != reference for message in _misfits(label, found, expected)]
    _refuse(misfits, reference)


def _refuse_job_misfits(jobs: tuple[Job, ...], readers: Readers) -> None:
    misfits = []
    for job in jobs:
        for label, source in job.sources.items():
            found = readers[label].infos.get(source)
            if found is None:
                misfits.append(f"{source}: not in '{label}'")
            elif found.shape != job.info.shape:
                misfits.append(f"{source}: expected shape {list(job.info.shape)}, '{label}' has {list(found.shape)}")
    _refuse(misfits, jobs[0].labels[0] if jobs else "")


def _refuse(misfits: list[str], reference: str) -> None:
    if misfits:
        rest = f"\n  ... and {len(misfits) - _SHOWN} more" if len(misfits) > _SHOWN else ""
        raise MisfitError(
            f"the parents do not fit '{reference}':\n  " + "\n  ".join(misfits[:_SHOWN]) + rest + "\n"
            "merge models of one architecture, size and vocabulary"
        )


def _misfits(label: str, found: Mapping[str, TensorInfo], expected: Mapping[str, TensorInfo]) -> Iterator[str]:
    for name, info in expected.items():
        if name not in found:
            yield f"{name}: not in '{label}'"
        elif found[name].shape != info.shape:
            yield f"{name}: expected shape {list(info.shape)}, '{label}' has {list(found[name].shape)}"
    for name in found:
        if name not in expected:
            yield f"{name}: only in '{label}'"
