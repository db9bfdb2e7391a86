"""From tensor names to blocks: the units that share coefficients.

An adapter says where each tensor stands (`Place`); a `Grouping` says what shares coefficients.

    by: all               one block
    by: layer, size: 4    layers.0-3, layers.4-7, ...
    by: component         attention, mlp, rest
    by: layer+component   layers.0.attention, layers.0.mlp, ...
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

Component = Literal["attention", "mlp", "rest", "embeddings", "head"]


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in its model: the layer's number (None outside of the layers) and the component."""

    layer: int | None
    component: str


class Grouping(Plain):
    """Which tensors share coefficients; see the top of this file."""

    by: Literal["all", "layer", "component", "layer+component"] = "all"
    size: int = Field(default=1, ge=1)
    apart: bool = False
    patterns: Mapping[str, tuple[str, ...]] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.patterns is not None and self.model_fields_set - {"patterns"}:
            raise ValueError("give either patterns of your own, or by / size / apart, not both")
        if self.size != 1 and "layer" not in self.by:
            raise ValueError(f"size groups layers, so it needs by: layer or layer+component, not {self.by}")
        return self


def group(places: Mapping[str, Place], grouping: Grouping) -> tuple[Block, ...]:
    """The blocks of a model, each with glob patterns that match its tensors and no others; no tensor is left over.

    Raises UsageError when patterns of one's own match nothing, or leave tensors out.
    """
    if grouping.patterns is not None:
        return _by_patterns(places, grouping.patterns)
    members: dict[str, list[str]] = {}
    for tensor, place in sorted(places.items(), key=lambda item: _order(item[1])):
        members.setdefault(_block_name(place, grouping), []).append(tensor)
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


def _block_name(place: Place, grouping: Grouping) -> str:
    if grouping.apart and place.component in {"embeddings", "head"}:
        return place.component
    component = place.component if place.component in {"attention", "mlp"} else "rest"
    if grouping.by == "all":
        return "all"
    if grouping.by == "component":
        return component
    if place.layer is None:
        return "rest"
    first = place.layer - place.layer % grouping.size
    span = f"layers.{first}" if grouping.size == 1 else f"layers.{first}-{first + grouping.size - 1}"
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
