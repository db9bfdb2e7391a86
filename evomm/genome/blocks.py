"""From tensor names to blocks: the units that share coefficients.

An adapter says where each tensor stands (`Place`); a `Grouping` says what shares coefficients.

    by: all               one block
    by: layer, size: 4    layers.0-3, layers.4-7, ...
    by: component         attention, mlp, rest
    by: layer+component   layers.0.attention, layers.0.mlp, ...
    least: 0.02           blocks with less than 2% of the parameters share one block, called small
    patterns: {early: ["model.layers.[0-3].*"], late: ["*"]}      one's own; the first that matches counts

With ``apart`` embeddings and head are blocks of their own; otherwise they belong to the rest.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape
from typing import Literal, Self

from pydantic import Field, model_validator

from evomm.errors import UsageError
from evomm.merge.recipe import Block
from evomm.plain import Plain


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in its model.

    layer: its number, None outside of the layers. component: such as attention. name: what the field calls the layer, or the
    part outside of the layers, when it is not ``layers.N`` and ``rest``.
    """

    layer: int | None
    component: str
    name: str | None = None


class Grouping(Plain):
    """Which tensors share coefficients; see the top of this file."""

    by: Literal["all", "layer", "component", "layer+component"] = "all"
    size: int = Field(default=1, ge=1)
    apart: bool = False
    least: float = Field(default=0.0, ge=0.0, lt=1.0)
    patterns: Mapping[str, tuple[str, ...]] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        changed = (self.by, self.size, self.apart, self.least) != ("all", 1, False, 0.0)  # a stored config says every key
        if self.patterns is not None and changed:
            raise ValueError("give either patterns of your own, or by / size / apart / least, not both")
        if self.size != 1 and "layer" not in self.by:
            raise ValueError(f"size groups layers, so it needs by: layer or layer+component, not {self.by}")
        return self


def group(places: Mapping[str, Place], grouping: Grouping, sizes: Mapping[str, int] | None = None) -> tuple[Block, ...]:
    """The blocks of a model, each with glob patterns that match its tensors and no others; no tensor is left over.

    Args:
        sizes: number of elements of each tensor; needed where `Grouping.least` is not 0.

    Raises UsageError when patterns of one's own match nothing, or leave tensors out.
    """
    if grouping.patterns is not None:
        return _by_patterns(places, grouping.patterns)
    members: dict[str, list[str]] = {}
    names = _layer_names(places)
    for tensor, place in sorted(places.items(), key=lambda item: _order(item[1])):
        members.setdefault(_block_name(place, grouping, names), []).append(tensor)
    if grouping.least:
        if sizes is None:
            raise UsageError("grouping with `least` needs the model's headers, which are not here")
        members = _collected(members, grouping.least, sizes)
    return tuple(Block(name=name, tensors=globs(names, places)) for name, names in members.items())


def globs(members: Iterable[str], everything: Iterable[str]) -> tuple[str, ...]:
    """The fewest ``prefix.*`` patterns that match the members and nothing else; plain names where there is none."""
    inside, outside = set(members), set(everything) - set(members)
    if not outside:
        return ("*",)
    found: list[str] = []
    covered = ""  # names are sorted, so those under one prefix follow each other
    for name in sorted(inside):
        if covered and name.startswith(covered):
            continue
        parts = name.split(".")
        prefixes = (".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
        fitting = (p for p in prefixes if not any(other.startswith(p) for other in outside))
        covered = next(fitting, "")
        found.append(f"{escape(covered)}*" if covered else escape(name))
    return tuple(found)


def _layer_names(places: Mapping[str, Place]) -> dict[int, str]:
    return {place.layer: place.name for place in places.values() if place.layer is not None and place.name is not None}


def _collected(members: Mapping[str, list[str]], least: float, sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Blocks that hold less than a share of the parameters become one, at the end; a single one stays what it is."""
    held = {block: sum(sizes[name] for name in names) for block, names in members.items()}
    small = [block for block, count in held.items() if count < least * sum(held.values())]
    if len(small) < 2:
        return dict(members)
    together = [name for block in small for name in members[block]]
    return {**{block: names for block, names in members.items() if block not in small}, "small": together}


def _block_name(place: Place, grouping: Grouping, layer_names: Mapping[int, str]) -> str:
    outside = place.component in {"embeddings", "head"}
    if grouping.apart and outside:
        return place.component
    component = "rest" if outside else place.component
    if grouping.by == "all":
        return "all"
    if grouping.by == "component":
        return component
    if place.layer is None:
        return place.name or "rest"
    first = place.layer - place.layer % grouping.size
    last = first + grouping.size - 1
    if layer_names:
        ends = [layer_names[first], layer_names[min(last, max(layer_names))]]
        span = "-".join(dict.fromkeys(ends))
    else:
        span = f"layers.{first}" if grouping.size == 1 else f"layers.{first}-{last}"
    return span if grouping.by == "layer" else f"{span}.{component}"


def _order(place: Place) -> tuple[int, int]:
    """Embeddings first, then layers, then what follows them, the head last."""
    if place.layer is not None:
        return (1, place.layer)
    return ({"embeddings": 0, "head": 3}.get(place.component, 2), 0)


def _by_patterns(places: Mapping[str, Place], patterns: Mapping[str, tuple[str, ...]]) -> tuple[Block, ...]:
    blocks = tuple(Block(name=name, tensors=globs_) for name, globs_ in patterns.items())
    taken: dict[str, str | None] = {t: next((b.name for b in blocks if b.matches(t)), None) for t in places}
    empty = [b.name for b in blocks if b.name not in taken.values()]
    if empty:
        raise UsageError(f"block '{empty[0]}' matches no tensor ({', '.join(patterns[empty[0]])}); see `evomm inspect`")
    left = [tensor for tensor, block in taken.items() if block is None]
    if left:
        raise UsageError(f"{len(left)} tensor(s) are in no block, the first is '{left[0]}'; end with a block of [\"*\"]")
    return blocks
