"""What every merge method keeps, by property: iterates over METHODS, so a new one is tested the day it is added."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from evomm.merge.table import METHODS, parameters
from evomm.merge.recipe import Recipe
from tests.merge.kit import close, merge_one, merged, random_parents, readers, recipe, same, telling_values

EVERY = pytest.mark.parametrize("method", METHODS)
DTYPES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
LARGE = 40_003  # odd, and larger than what torch sums in one thread


def telling(method: str) -> Recipe:
    """A recipe that uses every part of the method."""
    return recipe(method, **telling_values(method))


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Torch on so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_chunks_change_nothing(method: str, dtype: torch.dtype) -> None:
    parents = random_parents(LARGE, dtype=dtype)
    assert same(merge_one(telling(method), parents, piece=16_385), merge_one(telling(method), parents))
    few = {label: tensor[:61] for label, tensor in parents.items()}
    for chunk in (1, 7, 60):
        assert same(merge_one(telling(method), few, chunk), merge_one(telling(method), few))


@EVERY
def test_threads_change_nothing(method: str) -> None:
    parents = random_parents(LARGE)
    children = []
    for count in (1, 3):
        with threads(count):
            children.append(merge_one(telling(method), parents))
    assert same(*children)


@EVERY
def test_merging_twice_gives_the_same(method: str) -> None:
    parents = random_parents(1_000)
    child = merge_one(telling(method), parents)
    torch.manual_seed(99)  # whatever others do with the global generator
    assert same(merge_one(telling(method), parents), child)


@EVERY
def test_parents_are_never_written_to(method: str) -> None:
    parents = random_parents(500)
    before = {label: tensor.clone() for label, tensor in parents.items()}
    merge_one(telling(method), parents)
    assert all(same(parents[label], before[label]) for label in parents)


@EVERY
@DTYPES
def test_parents_that_agree_in_all_are_given_back_bit_for_bit(method: str, dtype: torch.dtype) -> None:
    """By default, when base and parents are one tensor: nothing was learned, so nothing may change."""
    tensor = random_parents(999, dtype=dtype)["a"]
    assert same(merge_one(recipe(method), {"base": tensor, "a": tensor, "b": tensor}), tensor)


@EVERY
def test_parents_that_agree_are_given_back_whatever_the_base(method: str) -> None:
    """For a mean of parents (normalized weights, or a place between two), nothing dropped."""
    mean: dict[str, Any] = {"normalize": True, "weight": {"a": 0.7, "b": 0.45}, "t": 0.3}
    values = {name: mean[name] for name in parameters(method) if name in mean}
    assert values, f"{method} takes no weights and no place between parents: say here what it does for equal parents"
    base, tensor, _ = random_parents(999).values()
    child = merge_one(recipe(method, **values), {"base": base, "a": tensor, "b": tensor})
    close(child, tensor)


@EVERY
@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 0), (2, 3, 4)], ids=str)
def test_shapes_are_kept(method: str, shape: tuple[int, ...]) -> None:
    assert merge_one(telling(method), random_parents(*shape)).shape == shape


@EVERY
@DTYPES
def test_the_child_has_the_recipes_dtype_or_else_that_of_the_parents(method: str, dtype: torch.dtype) -> None:
    parents = random_parents(64, dtype=dtype)
    child = merge_one(telling(method), parents)
    assert child.dtype == dtype
    wide = merge_one(recipe(method, dtype="float32", **telling_values(method)), parents)
    assert wide.dtype == torch.float32
    assert same(wide.to(dtype), child), "a dtype is a rounding at the end, not another computation"


@EVERY
def test_elements_do_not_know_their_neighbours(method: str) -> None:
    """Shuffling all parents alike shuffles the child, where nothing is drawn by position (density 1)."""
    parents = random_parents(2_000)
    order = torch.randperm(2_000, generator=torch.Generator().manual_seed(1))
    values = {name: value for name, value in telling_values(method).items() if name != "density"}
    child = merge_one(recipe(method, **values), parents)
    shuffled = merge_one(recipe(method, **values), {label: t[order] for label, t in parents.items()})
    close(shuffled, child[order])


@EVERY
def test_defaults_are_what_a_recipe_without_values_means(method: str) -> None:
    parents = random_parents(300)
    explicit: dict[str, Any] = {spec.name: spec.default for spec in parameters(method).values()}
    assert same(merge_one(recipe(method, **explicit), parents), merge_one(recipe(method), parents))


@EVERY
def test_every_parameter_matters(method: str) -> None:
    """A value that changes nothing would be searched in vain."""
    parents = random_parents(2_000)
    child = merge_one(telling(method), parents)
    for spec in parameters(method).values():
        other = not spec.default if spec.kind == "switch" else {"a": 0.9, "b": 0.2} if spec.kind == "per parent" else 0.8
        changed = merge_one(recipe(method, **{**telling_values(method), spec.name: other}), parents)
        assert not same(changed, child), spec.name


@EVERY
def test_parameters_are_well_formed(method: str) -> None:
    for name, spec in parameters(method).items():
        assert name == spec.name
        assert isinstance(spec.default, bool) == (spec.kind == "switch")
        assert spec.kind in {"per parent", "scalar", "switch"}
        assert spec.range.low < spec.range.high
        assert spec.kind == "switch" or spec.range.low <= spec.default <= spec.range.high
        assert math.isfinite(spec.default)


@EVERY
def test_integers_come_from_the_carrier(method: str) -> None:
    """Positions and masks stored as integers are no weights."""
    parents = readers({label: {"w": torch.ones(3), "ids": torch.arange(4) + i} for i, label in enumerate(recipe(method).parents)})
    assert merged(recipe(method), parents)["ids"].tolist() == [0, 1, 2, 3]
