"""Paths: what vectors mean, published and structured; scales go into recipes and come out again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.errors import UsageError
from evomm.genome.dataflow import METHOD, Flow, FlowCodec, Step, steps_of
from evomm.merge.recipe import Recipe, Slice, Source

DEPTHS = {"a": 4, "b": 3}


def codec(**flow: object) -> FlowCodec:
    """Two parents, the first of which is the carrier."""
    template = Recipe(
        method=METHOD,
        parents={label: Source(model=label) for label in DEPTHS},
        slices=(Slice(layers={"a": (0, 1)}),),
    )
    outputs = {label: {at: (f"layers.{at}.o_proj.weight",) for at in range(depth)} for label, depth in DEPTHS.items()}
    return FlowCodec(Flow.model_validate(flow), template, DEPTHS, outputs)


FLOWS: list[dict[str, object]] = [
    {"kind": "slots", "repeats": 3, "scales": "pair"},
    {"kind": "slots", "repeats": 2, "scales": "step"},
    {"kind": "slots", "scales": "none"},
    {"kind": "segments", "segments": 3},
    {"kind": "segments", "segments": 2, "scales": "pair"},
]


@pytest.mark.parametrize("flow", FLOWS, ids=str)
def test_the_start_is_the_carrier(flow: dict[str, object]) -> None:
    made = codec(**flow)
    assert made.steps(made.space.start) == tuple(Step("a", layer) for layer in range(4))
    assert made.decode(made.space.start).blocks == ()


def test_the_published_space_has_a_slot_for_every_repetition_and_a_scale_for_every_pair() -> None:
    names = [gene.name for gene in codec(kind="slots", repeats=3, scales="pair").space.genes]
    assert len(names) == len(set(names)) == 3 * 7 + 7 * 7
    assert names[:8] == [
        *(f"slot.{i}/a.{i}/on" for i in range(4)),
        *(f"slot.{i}/b.{i - 4}/on" for i in range(4, 7)),
        "slot.7/a.0/on",
    ]
    assert "after.a.3/b.0/scale" in names


def test_slots_that_are_on_make_the_path_in_their_order() -> None:
    made = codec(kind="slots", repeats=2, scales="step")
    values = made.space.values(made.space.start)
    on = {"slot.1/a.1/on": 0.1, "slot.2/a.2/on": -0.1, "slot.5/b.1/on": 1.0, "slot.8/a.1/on": 0.2}
    scales = {"slot.5/b.1/scale": 1.25, "slot.8/a.1/scale": 0.8, "end/scale": 1.5}
    steps = made.steps(made.space.vector({**values, **on, **scales}))
    expected = [("a", 0, 1.0), ("a", 1, 1.0), ("b", 1, 1.25), ("a", 1, 0.8), ("a", 3, 1.5)]
    assert [(s.label, s.layer) for s in steps] == [(label, layer) for label, layer, _ in expected]
    assert [s.scale for s in steps] == pytest.approx([scale for _, _, scale in expected])


def test_segments_skip_and_repeat() -> None:
    made = codec(kind="segments", segments=2)
    values = made.space.values(made.space.start)
    changed = {
        "segment.0/length": 1.5,
        "segment.1/parent": 1.5,
        "segment.1/first": 1.5,
        "segment.1/length": 4.2,
        "segment.1/scale": 0.5,
    }
    steps = made.steps(made.space.vector({**values, **changed}))
    assert [(s.label, s.layer, s.scale) for s in steps] == [
        ("a", 0, 1.0),
        ("a", 1, 1.0),
        ("b", 1, 0.5),
        ("b", 2, 1.0),
        ("a", 3, 1.0),
    ]


def test_what_a_layer_adds_is_divided_by_all_scales_before_it() -> None:
    recipe = codec().recipe([Step("a", 0), Step("b", 2, 0.5), Step("b", 2, 2.0), Step("a", 3, 4.0)])
    assert [dict(part.layers) for part in recipe.slices] == [{"a": (0, 1)}, {"b": (2, 3)}, {"b": (2, 3)}, {"a": (3, 4)}]
    assert {block.tensors: block.parameters for block in recipe.blocks} == {
        ("layers.1.o_proj.weight",): {"scale": {"b": 2.0}},
        ("layers.3.o_proj.weight",): {"scale": {"a": 0.25}},
    }


@given(st.data())
def test_a_recipe_says_its_path(data: st.DataObject) -> None:
    made = codec(**data.draw(st.sampled_from(FLOWS)))
    count = len(made.space.genes)
    vector = np.array(data.draw(st.lists(st.floats(0, 1), min_size=count, max_size=count)))
    steps = made.steps(vector)
    assert (steps[0], steps[-1].label, steps[-1].layer) == (Step("a", 0), "a", 3)
    recipe = Recipe.from_yaml(made.decode(vector).to_yaml())
    found = steps_of(recipe)
    assert [(s.label, s.layer) for s in found] == [(s.label, s.layer) for s in steps]
    assert [s.scale for s in found] == pytest.approx([s.scale for s in steps])


def test_a_mixed_stack_is_no_path() -> None:
    parents = {label: Source(model=label) for label in DEPTHS}
    recipe = Recipe(method="linear", parents=parents, slices=(Slice(layers={"a": (0, 2), "b": (0, 2)}),))
    with pytest.raises(UsageError, match="layers of one parent each"):
        steps_of(recipe)


@pytest.mark.parametrize(
    ("flow", "told"),
    [
        ({"low": 1.0, "high": 1.0}, "must be below high"),
        ({"kind": "segments", "repeats": 2}, "'repeats' is of kind slots"),
        ({"kind": "slots", "segments": 2}, "'segments' is of kind segments"),
        ({"low": 0.0}, "greater than 0"),
    ],
)
def test_flows_that_make_no_sense(flow: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Flow.model_validate(flow)
