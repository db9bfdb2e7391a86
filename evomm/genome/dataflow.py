"""The data-flow space: paths of layers through several parents, whose weights stay as they are (arXiv 2403.13187, section 3.2).

    flow: {kind: slots, repeats: 3, scales: pair}      # as published: an indicator for each slot, a scale for each pair of layers
    flow: {kind: segments, segments: 4}                # few genes: each segment has a parent, a first layer and a length

A path is a list of steps: a layer of a parent, and the scale of what goes into it. The carrier's first and last layers are pinned
at its ends, and the carrier lends embeddings, norm and head. It starts as the carrier itself.

A path needs no code of its own to run. With c_k = s_1 ··· s_k, what layer k writes to the residual stream is divided by c_k, and
the stream is h_k / c_k instead of h_k; norms before attention, MLP and head do not see the difference (up to their epsilon). So a
recipe is a stack of slices, one layer each, in which output projections are scaled by 1 / c_k.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

from pydantic import Field, model_validator

from evomm.errors import UsageError
from evomm.genome.space import Gene, Space, Vector
from evomm.merge.plan import renumber
from evomm.merge.recipe import Block, Recipe, Slice
from evomm.plain import Plain

METHOD = "passthrough"
_BLOCK = "path."
_SURE = 2 / 3  # of an indicator in -1..1 at the start: two standard deviations of the default spread from changing its mind


class Flow(Plain):
    """How paths are searched.

    kind: see the top of this file. repeats: how often all layers of all parents are offered, of slots. segments: how many, of
    segments. scales: a gene for each slot or segment ("step"), for each pair of a layer and the one before it ("pair"), or
    "none". low, high: of scales; they start at 1.
    """

    kind: Literal["slots", "segments"] = "slots"
    repeats: int = Field(default=3, ge=1, le=1000)
    segments: int = Field(default=4, ge=1, le=1000)
    scales: Literal["pair", "step", "none"] = "step"
    low: float = Field(default=0.5, gt=0, le=1)
    high: float = Field(default=1.5, ge=1)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        for key, kind in (("repeats", "slots"), ("segments", "segments")):
            changed = getattr(self, key) != type(self).model_fields[key].default  # a stored config says every key
            if changed and self.kind != kind:
                raise ValueError(f"'{key}' is of kind {kind}, and this flow is of kind {self.kind}")
        return self


@dataclass(frozen=True)
class Step:
    """A layer of a parent, and the scale of what goes into it."""

    label: str
    layer: int
    scale: float = 1.0


@dataclass(frozen=True)
class FlowCodec:
    """Decodes vectors into recipes of paths.

    template: a recipe of `METHOD`; its carrier is where paths begin and end. depths: layers of each parent, the carrier first.
    outputs: label -> layer -> names of the tensors that write to the residual stream.
    """

    flow: Flow
    template: Recipe
    depths: Mapping[str, int]
    outputs: Mapping[str, Mapping[int, Collection[str]]]

    @property
    def space(self) -> Space:
        """The genes, in order."""
        return Space(tuple(self._genes()))

    def decode(self, vector: Vector) -> Recipe:
        """(D,) in the unit cube -> the recipe of the path that it means."""
        return self.recipe(self.steps(vector))

    def steps(self, vector: Vector) -> tuple[Step, ...]:
        """(D,) in the unit cube -> the path."""
        values = self.space.values(vector)
        inner = self._slots(values) if self.flow.kind == "slots" else self._segments(values)
        carrier, last = self.template.carrier, self.depths[self.template.carrier] - 1
        path = [(carrier, 0, ""), *inner, (carrier, last, "end")]
        return tuple(
            Step(label, layer, self._scale(values, path[place - 1] if place else None, (label, layer, slot)))
            for place, (label, layer, slot) in enumerate(path)
        )

    def recipe(self, steps: Sequence[Step]) -> Recipe:
        """The recipe of a path: its layers one by one, with the scales folded into what they write."""
        blocks, product = [], 1.0
        for place, step in enumerate(steps):
            product *= step.scale  # c_k
            if product != 1.0:
                names = tuple(renumber(name, step.layer, place) for name in self.outputs[step.label][step.layer])
                blocks.append(Block(name=f"{_BLOCK}{place}", tensors=names, parameters={"scale": {step.label: 1 / product}}))
        slices = tuple(Slice(layers={step.label: (step.layer, step.layer + 1)}) for step in steps)
        return self.template.model_copy(update={"slices": slices, "blocks": tuple(blocks)})

    def _genes(self) -> Iterator[Gene]:
        if self.flow.kind == "slots":
            for slot, (label, layer) in self._offered():
                here = label == self.template.carrier and slot < self.depths[label] and 0 < layer < self.depths[label] - 1
                yield Gene(f"slot.{slot}", f"{label}.{layer}", "on", -1.0, 1.0, _SURE if here else -_SURE)
                if self.flow.scales == "step":
                    yield self._scale_gene(f"slot.{slot}", f"{label}.{layer}")
        else:
            deepest = max(self.depths.values())
            for segment in range(self.flow.segments):
                whole = self.depths[self.template.carrier] - 2 if segment == 0 else 0
                yield Gene(f"segment.{segment}", None, "parent", 0.0, float(len(self.depths)), 0.5)
                yield Gene(f"segment.{segment}", None, "first", 0.0, float(deepest), 1.5)
                yield Gene(f"segment.{segment}", None, "length", 0.0, float(deepest + 1), whole + 0.5)
                if self.flow.scales == "step":
                    yield self._scale_gene(f"segment.{segment}", None)
        if self.flow.scales == "step":
            yield self._scale_gene("end", None)
        elif self.flow.scales == "pair":
            places = [f"{label}.{layer}" for label, depth in self.depths.items() for layer in range(depth)]
            yield from (self._scale_gene(f"after.{before}", after) for before in places for after in places)

    def _scale_gene(self, block: str, parent: str | None) -> Gene:
        return Gene(block, parent, "scale", self.flow.low, self.flow.high, 1.0)

    def _offered(self) -> list[tuple[int, tuple[str, int]]]:
        """Slot -> (label, layer): all layers of all parents in order, so many times."""
        once = [(label, layer) for label, depth in self.depths.items() for layer in range(depth)]
        return list(enumerate(once * self.flow.repeats))

    def _slots(self, values: Mapping[str, float]) -> list[tuple[str, int, str]]:
        return [
            (label, layer, f"slot.{slot}")
            for slot, (label, layer) in self._offered()
            if values[f"slot.{slot}/{label}.{layer}/on"] > 0
        ]

    def _segments(self, values: Mapping[str, float]) -> list[tuple[str, int, str]]:
        labels, found = list(self.depths), []
        for segment in range(self.flow.segments):
            name = f"segment.{segment}"
            label = labels[min(int(values[f"{name}/parent"]), len(labels) - 1)]
            first, length = int(values[f"{name}/first"]), int(values[f"{name}/length"])
            stop = min(first + length, self.depths[label])
            found += [(label, layer, name) for layer in range(first, stop)]
        return found

    def _scale(self, values: Mapping[str, float], before: tuple[str, int, str] | None, step: tuple[str, int, str]) -> float:
        """Of what goes into a step; the first one gets the embeddings as they are."""
        label, layer, slot = step
        if before is None or self.flow.scales == "none":
            return 1.0
        if self.flow.scales == "pair":
            return values[f"after.{before[0]}.{before[1]}/{label}.{layer}/scale"]
        if slot.startswith("segment") and before[2] == slot:
            return 1.0  # inside of a segment layers follow each other as in their parent
        return values[f"{slot}/scale" if slot == "end" or slot.startswith("segment") else f"{slot}/{label}.{layer}/scale"]


def steps_of(recipe: Recipe) -> tuple[Step, ...]:
    """The path that a recipe of `FlowCodec` describes, scales included.

    Raises UsageError for slices that mix several parents, or a method other than `METHOD`.
    """
    scales = {block.name: block.parameters.get("scale") for block in recipe.blocks}
    steps, product = [], 1.0
    for place, (label, layer) in enumerate(_layers(recipe)):
        found = scales.get(f"{_BLOCK}{place}")
        here = 1 / float(found[label]) if isinstance(found, Mapping) else 1.0  # c_k
        steps.append(Step(label, layer, here / product))
        product = here
    return tuple(steps)


def _layers(recipe: Recipe) -> Iterator[tuple[str, int]]:
    for part in recipe.slices:
        if recipe.method != METHOD or len(part.layers) != 1:
            raise UsageError(f"a path has layers of one parent each, by {METHOD}; this recipe mixes ({recipe.method})")
        (label, (first, stop)), *_ = part.layers.items()
        yield from ((label, layer) for layer in range(first, stop))
