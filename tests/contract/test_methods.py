"""What every merge method keeps, by property: iterates over METHODS, so a new one is tested the day it is added."""

import math
import re
from collections.abc import Callable
from contextlib import nullcontext
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from evomm.errors import DamagedFile
from evomm.merge import engine
from evomm.merge.method import keyword
from evomm.merge.recipe import Recipe
from evomm.merge.table import METHODS, parameters
from tests.merge.kit import (
    KINDS,
    LABELS,
    Kind,
    close,
    in_torch,
    merge_one,
    merged,
    random_parents,
    readers,
    recipe,
    related_parents,
    same,
    telling_values,
)

EVERY = pytest.mark.parametrize("kind", KINDS, ids=str)
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
FOUR = (*LABELS, "c")
SHAPES = [(33, 48), (5, 7, 3, 3), (1_003,)]  # rows of 48 and 3 elements, and one row of many
# Over all of these, each path through a method's code is taken.
SWITCHED: dict[str, list[dict[str, Any]]] = {
    "nuslerp": [{"nuslerp_flatten": False}, {"nuslerp_flatten": False, "nuslerp_row_wise": True}],
}


def telling(kind: Kind, labels: tuple[str, ...] = LABELS, **values: Any) -> Recipe:
    """A recipe that uses every part of the method."""
    return recipe(kind.method, labels, based=kind.based, **{**telling_values(kind.method, labels, kind.based), **values})


def variants(kind: Kind) -> list[Recipe]:
    """The recipe that uses every part of the method, and once more with each of its switches turned."""
    turned: list[dict[str, Any]] = [
        {spec.name: not spec.default} for spec in parameters(kind.method).values() if spec.kind == "switch"
    ]
    return [telling(kind, **switches) for switches in [{}, *SWITCHED.get(kind.method, turned)]]


@EVERY
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@DTYPES
def test_the_size_of_pieces_changes_nothing(kind: Kind, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Also when it is no multiple of the vector lanes: `pieces` rounds it."""
    parents = random_parents(*shape, dtype=dtype)
    for what in variants(kind):
        child = merge_one(what, parents)
        assert all(same(merge_one(what, parents, piece=size), child) for size in (64, 128, 1_000))


@EVERY
@pytest.mark.parametrize("shape", [(300, 311), (93_300,)], ids=str)
def test_the_size_of_pieces_changes_nothing_in_tensors_larger_than_one(kind: Kind, shape: tuple[int, ...]) -> None:
    parents = related_parents(*shape)
    child = merge_one(telling(kind, FOUR), parents)
    assert all(same(merge_one(telling(kind, FOUR), parents, piece=size), child) for size in (4_096, 1 << 20))


@EVERY
def test_threads_change_nothing(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_SMALL", 0)  # else so few elements are left to one thread
    each = [random_parents(*shape, seed=seed) for seed, shape in enumerate([(99, 48), (40_003,), (5, 7, 3, 3), ()])]
    parents = readers({label: {f"w{i}": tensors[label] for i, tensors in enumerate(each)} for label in LABELS})
    one, three = (merged(telling(kind), parents, threads=threads) for threads in (1, 3))
    assert all(same(one[name], three[name]) for name in one)


@EVERY
def test_merging_twice_gives_the_same(kind: Kind) -> None:
    parents = random_parents(25, 40)
    child = merge_one(telling(kind), parents)
    torch.manual_seed(99)  # whatever others do with the global generator
    assert same(merge_one(telling(kind), parents), child)


@EVERY
@DTYPES
def test_parents_are_never_written_to(kind: Kind, dtype: torch.dtype) -> None:
    parents = random_parents(10, 50, dtype=dtype)
    before = {label: (tensor.clone(), tensor._version) for label, tensor in parents.items()}
    for what in [*variants(kind), recipe(kind.method, based=kind.based)]:
        merge_one(what, parents)
    for label, (tensor, version) in before.items():
        assert same(parents[label], tensor)
        assert parents[label]._version == version, "torch counts what is written in place, the same values too"


@EVERY
@pytest.mark.parametrize(
    ("dtype", "route"),
    [(torch.float16, nullcontext), (torch.bfloat16, nullcontext), (torch.float32, nullcontext), (torch.float32, in_torch)],
    ids=["float16", "bfloat16", "float32", "float32-in-torch"],
)
def test_what_is_not_finite_is_refused(kind: Kind, dtype: torch.dtype, route: Callable[[], Any]) -> None:
    """In any parent, the base too; also where a method would drop, outvote or average it away."""
    good, labels = random_parents(7, 13, dtype=dtype), list(telling(kind).parents)
    recipes = [*variants(kind), recipe(kind.method, based=kind.based), *extremes(kind), telling(kind, dtype="float32")]
    for what, (place, bad), damaged in product(recipes, not_finite(dtype), [*([label] for label in labels), labels]):
        parents = dict(good)
        for label in damaged:
            parents[label] = good[label].clone()
            parents[label].view(-1)[place] = bad
        with route(), pytest.raises(DamagedFile) as refused:
            merge_one(what, parents)
        said = rf"parent '({'|'.join(damaged)})': tensor 'w' holds 1 value\(s\) that are NaN or infinite"
        assert re.match(said, str(refused.value))


def not_finite(dtype: torch.dtype) -> list[tuple[int, Tensor]]:
    """Values, and where to put them: first, in the vector lanes; or last, in what 91 elements leave over."""
    every_bit = torch.tensor(-1, dtype=torch.int16 if dtype.itemsize == 2 else torch.int32).view(dtype)
    infinity, nan = torch.tensor([math.inf, math.nan], dtype=dtype)
    return [(0, nan), (-1, nan), (-1, every_bit), (0, -infinity), (-1, infinity)]


def extremes(kind: Kind) -> list[Recipe]:
    """Two recipes: all numbers are the smallest that are allowed, or as large as float32 knows none."""
    specs = [spec for spec in parameters(kind.method).values() if spec.kind in {"per parent", "number"}]
    low: dict[str, Any] = {spec.name: max(spec.range.low, 0.0) for spec in specs}
    high: dict[str, Any] = {spec.name: min(spec.range.high, 1e39) for spec in specs}
    return [recipe(kind.method, based=kind.based, **values) for values in (low, high)]


@EVERY
@pytest.mark.parametrize("labels", [LABELS, FOUR], ids=len)
@DTYPES
def test_parents_that_agree_in_all_are_given_back_bit_for_bit(kind: Kind, labels: tuple[str, ...], dtype: torch.dtype) -> None:
    """By default, when base and parents are one tensor: nothing was learned, so nothing may change."""
    tensor = random_parents(33, 30, dtype=dtype)["a"]
    child = merge_one(recipe(kind.method, labels, based=kind.based), dict.fromkeys(labels, tensor))
    if dtype == torch.float32 and METHODS[kind.method].on != "deltas" and labels == FOUR:
        close(child, tensor, atol=2**-22)  # three times a third of a number is not always that number
    else:
        assert same(child, tensor)


# What these do is no mean of the parents that they are given.
NO_MEAN = {
    "add_difference": "adds what B learned to A, also when A has learned it",
    "nearswap": "its parents are the base and another, which differ here",
    "arcee_fusion": "likewise",
}


@EVERY
def test_parents_that_agree_are_given_back_whatever_the_base(kind: Kind) -> None:
    """For a mean of parents (normalized weights, or a place between two), nothing dropped."""
    mean: dict[str, Any] = {"normalize": True, "weight": {"a": 0.7, "b": 0.45}, "t": 0.3, "alpha": 0.3}
    values = {name: mean[name] for name in parameters(kind.method) if name in mean}
    base, tensor, _ = random_parents(33, 30).values()
    child = merge_one(recipe(kind.method, based=kind.based, **values), {"base": base, "a": tensor, "b": tensor})
    if kind.method in NO_MEAN:
        assert not torch.allclose(child, tensor, atol=1e-3)
    else:
        close(child, tensor)


@EVERY
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (0, 3), (1, 1), (2, 3, 4), (5, 7, 3, 3)], ids=str)
def test_shapes_are_kept(kind: Kind, shape: tuple[int, ...]) -> None:
    for what in variants(kind):
        assert merge_one(what, random_parents(*shape)).shape == shape


@EVERY
@DTYPES
def test_the_child_has_the_recipes_dtype_or_else_that_of_the_parents(kind: Kind, dtype: torch.dtype) -> None:
    parents = random_parents(8, 8, dtype=dtype)
    child = merge_one(telling(kind), parents)
    assert child.dtype == dtype
    wide = merge_one(telling(kind, dtype="float32"), parents)
    assert wide.dtype == torch.float32
    assert same(wide.to(dtype), child), "a dtype is a rounding at the end, not another computation"


@EVERY
def test_elements_do_not_know_their_neighbours(kind: Kind) -> None:
    """Shuffling all parents alike shuffles the child, where nothing is drawn by position (density 1)."""
    order = torch.randperm(2_000, generator=torch.Generator().manual_seed(1))
    shuffles_alike(kind, random_parents(2_000), order)


@EVERY
def test_rows_do_not_know_their_neighbours(kind: Kind) -> None:
    """As elements do not; methods that work on rows know the others in a row, and no more."""
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    shuffles_alike(kind, random_parents(50, 40), order)


def shuffles_alike(kind: Kind, parents: dict[str, Tensor], order: Tensor) -> None:
    """Assert that shuffling parents and child along the first dimension comes to the same."""
    for what in variants(kind):
        whole = what.model_copy(update={"parameters": {k: v for k, v in what.parameters.items() if k != "density"}})
        child = merge_one(whole, parents)
        close(merge_one(whole, {label: t[order] for label, t in parents.items()}), child[order])


@EVERY
def test_defaults_are_what_a_recipe_without_values_means(kind: Kind) -> None:
    parents = random_parents(30, 10)
    explicit: dict[str, Any] = {spec.name: spec.default for spec in parameters(kind.method).values()}
    default = merge_one(recipe(kind.method, based=kind.based), parents)
    assert same(merge_one(recipe(kind.method, based=kind.based, **explicit), parents), default)


@EVERY
def test_every_parameter_matters(kind: Kind) -> None:
    """A value that changes nothing would be searched in vain."""
    parents = related_parents(50, 40)
    child = merge_one(telling(kind, FOUR), parents)
    for spec in parameters(kind.method).values():
        changed = telling(kind, FOUR, **with_another(spec.name, spec.kind, bool(spec.default), kind))
        if spec.name == "nuslerp_row_wise":
            child = merge_one(telling(kind, FOUR, nuslerp_flatten=False), parents)
            changed = telling(kind, FOUR, nuslerp_flatten=False, nuslerp_row_wise=True)
        assert not same(merge_one(changed, parents), child), spec.name


def with_another(name: str, what: str, default: bool, kind: Kind) -> dict[str, Any]:
    """Another value for one parameter than the telling one."""
    labels = [label for label in telling(kind, FOUR).mixed if label != "base"]
    number = dict(zip(labels, (0.4, 0.2, 0.5), strict=False))
    return {name: not default if what == "switch" else number if what == "per parent" else 5 if what == "count" else 0.35}


@EVERY
def test_each_parent_matters(kind: Kind) -> None:
    """The base too, where there is one."""
    parents = related_parents(50, 40)
    child = merge_one(telling(kind, FOUR), parents)
    for label in telling(kind, FOUR).parents:
        assert not same(merge_one(telling(kind, FOUR), {**parents, label: parents[label] + 0.5}), child), label


@pytest.mark.parametrize("method", METHODS)
def test_parameters_are_well_formed(method: str) -> None:
    for name, spec in parameters(method).items():
        assert name == spec.name
        assert isinstance(spec.default, bool) == (spec.kind == "switch")
        assert isinstance(spec.default, int) == (spec.kind in {"switch", "count"})
        assert spec.kind in {"per parent", "number", "count", "switch"}
        assert spec.range.low < spec.range.high
        assert spec.kind == "switch" or spec.range.low <= spec.default <= spec.range.high
        assert math.isfinite(spec.default)
        assert keyword(name).isidentifier()


@pytest.mark.parametrize("method", METHODS)
def test_a_method_takes_at_least_as_many_parents_as_its_formula_needs(method: str) -> None:
    low, high = METHODS[method].parents
    assert 1 <= low <= high
    assert len(recipe(method, FOUR).mixed) == min(high, 3)
    with pytest.raises(ValueError, match=f"{method} mixes .* parent"):
        recipe(method, ("base",))


@EVERY
def test_integers_come_from_the_carrier(kind: Kind) -> None:
    """Positions and masks stored as integers are no weights."""
    what = recipe(kind.method, based=kind.based)
    parents = readers({label: {"w": torch.ones(3), "ids": torch.arange(4) + i} for i, label in enumerate(what.parents)})
    assert merged(what, parents)["ids"].tolist() == [0, 1, 2, 3]
    last = list(what.parents)[-1]
    moved = merged(what.model_copy(update={"tokenizer": last}), parents)["ids"]
    assert moved.tolist() == [i + len(what.parents) - 1 for i in range(4)]
