"""From recipes to bytes: disk and memory get the same ones, and what cannot be merged is refused by name."""

from pathlib import Path

import pytest
import torch

from evomm.checkpoints.reader import Checkpoint, MemoryReader
from evomm.errors import DamagedFile, MisfitError
from evomm.merge.apply import apply
from evomm.merge.engine import Engine
from evomm.merge.plan import Readers
from evomm.merge.live import Live
from evomm.merge.table import METHODS
from evomm.merge.recipe import Block, DtypeName, Recipe
from tests.merge.kit import merge_one, merged, random_parents, readers, recipe, same, telling_values

SHAPES = {"embed": (7, 3), "layers.0.w": (3, 5), "layers.1.w": (3, 5), "norm": (3,), "scale": ()}


def models(dtype: torch.dtype = torch.float16) -> Readers:
    """Three parents of several tensors, one of integers."""
    per_tensor = {name: random_parents(*shape, dtype=dtype, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}
    return readers(
        {label: {"ids": torch.arange(4), **{name: per_tensor[name][label] for name in SHAPES}} for label in ("base", "a", "b")}
    )


def blocked(method: str, dtype: DtypeName | None) -> Recipe:
    """A recipe with a block of its own values."""
    values = telling_values(method)
    own = Block(name="first", tensors=("layers.0.*",), parameters=dict.fromkeys(values, 0.25))
    return recipe(method, blocks=(own,), dtype=dtype, **values)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", None])
def test_the_model_in_memory_is_the_one_on_disk(tmp_path: Path, method: str, dtype: DtypeName | None) -> None:
    """Rounded to the recipe's dtype first, then to the resident one."""
    what, parents = blocked(method, dtype), models()
    written = apply(what, parents, tmp_path / "out", shard_bytes=64)
    disk = Checkpoint(tmp_path / "out")
    resident = {name: torch.full(shape, 9.0) for name, shape in SHAPES.items()} | {"ids": torch.zeros(4, dtype=torch.int64)}
    resident["layers.1.w"] = torch.full((5, 3), 9.0).T  # a view that is not contiguous
    live = Live(Engine(parents), resident)
    live.write(recipe(method, seed=5, **telling_values(method)))  # another candidate leaves no trace
    live.write(what)
    assert all(same(resident[name], disk.read(name).to(resident[name].dtype)) for name in disk.infos)
    assert written.tensors == len(SHAPES) + 1
    assert written.bytes == disk.nbytes
    assert Recipe.from_yaml((tmp_path / "out" / "evomm_recipe.yaml").read_text()) == what


def test_progress_adds_up_to_the_childs_bytes(tmp_path: Path) -> None:
    seen: list[int] = []
    written = apply(recipe("linear"), models(), tmp_path / "out", advance=seen.append)
    assert sum(seen) == written.bytes
    assert len(seen) == written.tensors


def test_each_block_gets_its_own_values() -> None:
    whole = Block(name="a only", tensors=("layers.0.*",), parameters={"weight": {"a": 1.0, "b": 0.0}})
    parents = models()
    child = merged(recipe("linear", blocks=(whole,), weight={"a": 0.0, "b": 1.0}), parents)
    assert {name: next(label for label in "ab" if same(parents[label].read(name), child[name])) for name in SHAPES} == {
        name: "a" if name.startswith("layers.0.") else "b" for name in SHAPES
    }


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_values_that_are_not_finite_are_refused_by_name(tmp_path: Path, bad: float, dtype: torch.dtype) -> None:
    parents = random_parents(100, dtype=dtype)
    parents["b"][[5, 50]] = bad
    with pytest.raises(DamagedFile, match=r"parent 'b': tensor 'w' holds 2 value\(s\) that are NaN or infinite"):
        apply(recipe("linear"), readers(parents), tmp_path / "out", piece=40)
    assert list(tmp_path.iterdir()) == []


def test_infinities_that_cancel_are_seen() -> None:
    parents = random_parents(100)
    parents["a"][:2] = torch.tensor([float("inf"), -float("inf")])
    with pytest.raises(DamagedFile, match=r"parent 'a'.* 2 value"):
        merge_one(recipe("linear"), parents)


def test_large_values_are_not_taken_for_infinite() -> None:
    huge = torch.full((100,), 3e38)  # their sum is infinite, they are not
    assert same(merge_one(recipe("linear", weight={"a": 1.0, "b": 0.0}), {"a": huge, "b": torch.zeros(100)}), huge)


def test_parents_that_do_not_fit_are_told_tensor_by_tensor() -> None:
    parents = {
        "a": MemoryReader({"w": torch.ones(2, 3), "only.a": torch.ones(1)}),
        "b": MemoryReader({"w": torch.ones(3, 2), "only.b": torch.ones(1)}),
    }
    with pytest.raises(MisfitError) as caught:
        merged(recipe("linear"), parents)
    said = str(caught.value)
    assert "w: expected shape [2, 3], 'b' has [3, 2]" in said
    assert "only.a: not in 'b'" in said
    assert "only.b: only in 'b'" in said


def test_many_misfits_are_counted_not_listed() -> None:
    parents = {"a": MemoryReader({f"t{i}": torch.ones(1) for i in range(50)}), "b": MemoryReader({})}
    with pytest.raises(MisfitError, match="and 42 more"):
        merged(recipe("linear"), parents)


def test_a_loaded_model_that_lacks_a_tensor_is_told() -> None:
    resident = {name: torch.zeros(shape) for name, shape in SHAPES.items() if name != "norm"} | {"ids": torch.zeros(4)}
    with pytest.raises(MisfitError, match="'norm' is in the parents' files, but the loaded model has no such tensor"):
        Live(Engine(models()), resident).write(recipe("linear"))


def test_the_first_parents_dtype_counts_when_the_recipe_has_none() -> None:
    parents = random_parents(10)
    mixed = {"a": parents["a"].half(), "b": parents["b"].bfloat16()}
    child = merge_one(recipe("linear", weight={"a": 0.0, "b": 1.0}), mixed)
    assert same(child, mixed["b"].half())
