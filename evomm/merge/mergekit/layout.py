"""From a document and headers to the child's tensors: which layers of which models each comes from, and where it stands."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from evomm.errors import MisfitError, UsageError
from evomm.merge.mergekit.document import Document
from evomm.merge.mergekit.parts import LayerInput
from evomm.merge.mergekit.references import Reference
from evomm.merge.mergekit.settings import Settings
from evomm.merge.plan import renumber
from evomm.merge.table import METHODS

Layers = Mapping[str, Mapping[str, int | None]]
# Tensors outside of the layers that come before them, as families name them; norms and heads (embed_out is one) come after.
_BEFORE = re.compile(r"emb(?!ed_out)|(^|\.)w[tp]e(\.|$)|relative_pe")


@dataclass(frozen=True)
class Part:
    """Models that are mixed with each other, layer by layer.

    Attributes:
        where: what errors call it.
        starts: label -> its first layer here, in the order of the document.
        length: number of layers.
        base: label of the base; None when the method has none, or ignores it.
        own: label -> parameters of that model.
        shared: parameters of the slice, the module and the document; the first that says something counts.
    """

    where: str
    starts: Mapping[str, int]
    length: int
    base: str | None
    own: Mapping[str, Settings]
    shared: tuple[Settings, ...]

    @property
    def labels(self) -> tuple[str, ...]:
        """The models, in the order of the document."""
        return tuple(self.starts)


@dataclass(frozen=True)
class Place:
    """One tensor of the child.

    Attributes:
        name: in the child.
        part: whose parameters it follows.
        inputs: label -> its name in that model, for the models that it is mixed from.
        t: where its layer stands in its part, from 0 to 1; 0 outside of the layers.
        layer: its number in the child; None outside of the layers.
    """

    name: str
    part: Part
    inputs: Mapping[str, str]
    t: float
    layer: int | None


def takers(method: str, place: Place) -> tuple[str, ...]:
    """The labels whose values the method gets for a tensor, the base first where it is one of them."""
    base = place.part.base
    others = tuple(label for label in place.inputs if label != base)
    return others if base is None or METHODS[method].takes_deltas(base) else (base, *others)


def parts(document: Document, labels: Mapping[Reference, str], layers: Layers) -> tuple[Part, ...]:
    """The slices, or one part that has all layers. Raises when a model does not have the layers."""
    counts = {label: _count(found.values()) for label, found in layers.items()}
    shared = (document.module.parameters, document.parameters) if document.modules else (document.parameters,)
    found = []
    for group in document.groups():
        ranges = {
            labels[i.model]: i.layer_range if isinstance(i, LayerInput) else (0, counts[labels[i.model]]) for i in group.inputs
        }
        for label, (first, stop) in ranges.items():
            if stop > counts[label]:
                raise UsageError(
                    f"{group.where}: layer_range is [{first}, {stop}], but '{label}' has {counts[label]} layers; "
                    f"expected at most [{first}, {counts[label]}]"
                )
        lengths = {label: stop - first for label, (first, stop) in ranges.items()}
        if len(set(lengths.values())) > 1:
            told = ", ".join(f"'{label}' has {length}" for label, length in lengths.items())
            raise MisfitError(f"the models have different numbers of layers: {told}; say which are mixed, with slices")
        found.append(
            Part(
                where=group.where,
                starts={label: first for label, (first, _) in ranges.items()},
                length=next(iter(lengths.values())),
                base=labels[group.base] if group.base else None,
                own={labels[input_.model]: input_.parameters for input_ in group.inputs},
                shared=(group.parameters, *shared),
            )
        )
    return tuple(found)


def places(found: tuple[Part, ...], names: Iterable[str], carrier: str, layers: Layers) -> Iterator[Place]:
    """The child's tensors: those outside of the layers as the carrier has them, then layer by layer.

    Tensors before the layers follow the first part and are mixed from its models, those behind them the last. When the last
    has more models, only so many as the first has are mixed there: that is what mergekit does.
    """
    first, last = found[0], found[-1]
    for name in names:
        if layers[carrier].get(name) is None:
            part = first if _BEFORE.search(name) else last
            mixed = part.labels[: len(first.labels)]
            if part.base is not None and part.base not in mixed:
                raise UsageError(
                    f"{part.where}: as in mergekit, {name} is mixed from its first {len(mixed)} models alone, because "
                    f"{first.where} has so many; write the base '{part.base}' among them"
                )
            yield Place(name, part, dict.fromkeys(mixed, name), 0.0, None)
    inside = {label: _by_layer(layers[label]) for part in found for label in part.labels}
    number = 0
    for part in found:
        for offset in range(part.length):
            at = {label: start + offset for label, start in part.starts.items()}
            t = offset / (part.length - 1) if part.length > 1 else 1.0
            for name in dict.fromkeys(renumber(n, layer, number) for label, layer in at.items() for n in inside[label][layer]):
                yield Place(name, part, {label: renumber(name, number, layer) for label, layer in at.items()}, t, number)
            number += 1


def is_identity(found: tuple[Part, ...], labels: Iterable[str], layers: Layers) -> bool:
    """Whether every one of the models gives each of its layers, in order, all the way."""
    ends = dict.fromkeys(labels, 0)
    for part in found:
        if part.starts != ends:  # as mappings: the order does not matter
            return False
        ends = {label: end + part.length for label, end in ends.items()}
    return all(end == _count(layers[label].values()) for label, end in ends.items())


def _count(numbers: Iterable[int | None]) -> int:
    return 1 + max((number for number in numbers if number is not None), default=-1)


def _by_layer(names: Mapping[str, int | None]) -> list[list[str]]:
    found: list[list[str]] = [[] for _ in range(_count(names.values()))]
    for name, layer in names.items():
        if layer is not None:
            found[layer].append(name)
    return found
