"""From recipes to bytes: disk and memory get the same ones, and what cannot be merged is refused by name."""

import math
import random
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from evomm.checkpoints.reader import Checkpoint, MemoryReader
from evomm.checkpoints.writer import CheckpointWriter
from evomm.errors import DamagedFile, MisfitError
from evomm.merge import engine as engines
from evomm.merge.apply import apply
from evomm.merge.engine import Engine, Pieces
from evomm.merge.live import Live
from evomm.merge.method import Parameter
from evomm.merge.plan import Job, Readers, plan
from evomm.merge.recipe import Block, DtypeName, Recipe
from evomm.merge.table import parameters
from tests.merge.kit import (
    KINDS,
    LABELS,
    Kind,
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
FOUR = (*LABELS, "c")

SHAPES = {"embed": (7, 3), "layers.0.w": (3, 5), "layers.1.w": (3, 5), "norm": (3,), "scale": ()}


def models(dtype: torch.dtype = torch.float16) -> Readers:
    """Three parents of several tensors, one of integers."""
    per_tensor = {name: random_parents(*shape, dtype=dtype, seed=i) for i, (name, shape) in enumerate(SHAPES.items())}
    return readers({label: {"ids": torch.arange(4), **{name: per_tensor[name][label] for name in SHAPES}} for label in LABELS})


def telling(kind: Kind, labels: tuple[str, ...] = LABELS, seed: int = 0) -> Recipe:
    """A recipe that uses every part of the method."""
    return recipe(kind.method, labels, based=kind.based, seed=seed, **telling_values(kind.method, labels, kind.based))


def blocked(kind: Kind, dtype: DtypeName | None) -> Recipe:
    """A recipe with a block of its own values."""
    specs = parameters(kind.method)
    values = {name: 3 if specs[name].kind == "count" else 0.25 for name in telling_values(kind.method)}
    own = Block(name="first", tensors=("layers.0.*",), parameters=values)
    return telling(kind).model_copy(update={"blocks": (own,), "dtype": dtype})


@EVERY
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", None])
@pytest.mark.parametrize("held", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_model_in_memory_is_the_one_on_disk(tmp_path: Path, kind: Kind, dtype: DtypeName | None, held: torch.dtype) -> None:
    """Rounded to the recipe's dtype first, then to the resident one, where it is another."""
    what, parents = blocked(kind, dtype), models()
    written = apply(what, parents, tmp_path / "out", shard_bytes=64)
    disk = Checkpoint(tmp_path / "out")
    resident = {name: torch.full(shape, 9.0, dtype=held) for name, shape in SHAPES.items()}
    resident["ids"] = torch.zeros(4, dtype=torch.int64)
    resident["layers.1.w"] = torch.full((5, 3), 9.0, dtype=held).T  # a view that is not contiguous
    live = Live(Engine(parents), resident)
    live.write(telling(kind, seed=5))  # another candidate leaves no trace
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
        apply(recipe("linear"), readers(parents), tmp_path / "out", engine=Engine(readers(parents), piece=64))
    assert list(tmp_path.iterdir()) == []


def test_infinities_that_cancel_are_seen() -> None:
    parents = random_parents(100)
    parents["a"][:2] = torch.tensor([float("inf"), -float("inf")])
    with pytest.raises(DamagedFile, match=r"parent 'a'.* 2 value"):
        merge_one(recipe("linear"), parents)


@EVERY
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_parent_that_is_half_nan_is_refused(kind: Kind, dtype: torch.dtype) -> None:
    """Though no cutoff divides its magnitudes."""
    parents = random_parents(10, 10, dtype=dtype)
    bits = torch.tensor(-1, dtype=torch.int16 if dtype.itemsize == 2 else torch.int32)
    parents["a"][::2] = bits.view(dtype)
    with pytest.raises(DamagedFile, match=r"parent 'a': tensor 'w' holds 50 value"):
        merge_one(telling(kind), parents)


def test_large_values_are_not_taken_for_infinite() -> None:
    huge = torch.full((100,), 3e38)  # their sum is infinite, they are not
    assert same(merge_one(recipe("linear", weight={"a": 1.0, "b": 0.0}), {"a": huge, "b": torch.zeros(100)}), huge)


def test_values_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    parents = random_parents(1_000, dtype=torch.float16)
    parents["b"][700] = 60_000
    what = recipe("linear", weight=1.0, normalize=False)
    large = {**parents, "a": parents["b"]}
    with pytest.raises(MisfitError, match="'w' has values too large for float16; merge with `dtype: float32`"):
        apply(what, readers({label: large[label] for label in "ab"}), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
    for dtype in ("bfloat16", "float32"):
        child = merge_one(recipe("linear", weight=1.0, normalize=False, dtype=dtype), large)
        assert child[700].item() == pytest.approx(120_000, rel=0.01)
    assert merge_one(what, {**large, "a": torch.full((1_000,), 5_504.0).half()})[700] == 65_504, "the largest there is"
    with pytest.raises(MisfitError, match="too large for float16"):
        merge_one(what, {**large, "a": torch.full((1_000,), 5_520.0).half()})  # rounds up to infinity


@EVERY
def test_coefficients_that_overflow_are_told_as_such(kind: Kind) -> None:
    """Beyond float32, where torch would raise an error of its own; or a result that is."""
    specs = parameters(kind.method)
    free = [name for name, spec in specs.items() if spec.kind in {"per parent", "number"} and spec.range.high == math.inf]
    plain: dict[str, Any] = {"normalize": False} if "normalize" in specs else {}
    parents = {label: 10 * tensor for label, tensor in random_parents(33, 48).items()}
    told = set()
    for name in free:
        for value in (1e38, 1e39, 1e308):
            try:
                child = merge_one(recipe(kind.method, based=kind.based, **{**plain, name: value}), parents)
                assert bool(child.isfinite().all())
            except MisfitError as error:
                assert str(error) == "'w' overflows: its parents are finite, but their mixture is not; use smaller coefficients"
                told.add(name)
    factors = {"weight", "scale", "lambda"} & set(free)
    if kind.method not in {"nuslerp", "multislerp"}:  # of their weights only the ratio counts
        assert factors <= told


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


def test_a_loaded_tensor_of_another_shape_is_told() -> None:
    resident = {name: torch.zeros(shape) for name, shape in SHAPES.items()} | {"ids": torch.zeros(4)}
    resident["embed"] = torch.zeros(8, 3)
    with pytest.raises(MisfitError, match=r"'embed' has shape \[7, 3\] in the parents' files, but \[8, 3\] in the loaded model"):
        Live(Engine(models()), resident).write(recipe("linear"))


def test_integers_of_another_width_are_stored_as_announced(tmp_path: Path) -> None:
    parents = readers({"a": {"ids": torch.arange(4)}, "b": {"ids": torch.arange(1, 5, dtype=torch.int32)}})
    apply(recipe("linear").model_copy(update={"tokenizer": "b"}), parents, tmp_path / "out")
    assert same(Checkpoint(tmp_path / "out").read("ids"), torch.arange(1, 5))


def test_an_engine_that_remembers_gives_what_a_fresh_one_gives() -> None:
    """Whatever was merged with it before: other methods, seeds and coefficients over the same parents."""
    parents = readers(related_parents(33, 48))
    remembering, forgetful = Engine(parents), Engine(parents, forgetful=True)
    recipes = [telling(kind, FOUR, seed) for kind in KINDS for seed in (0, 1)]
    recipes += [recipe(kind.method, FOUR, based=kind.based) for kind in KINDS]
    fresh = [merged(what, parents)["w"] for what in recipes]
    for _ in range(2):
        for what, expected in zip(recipes, fresh, strict=True):
            assert same(merged(what, parents, engine=remembering)["w"], expected), what.method
            assert same(merged(what, parents, engine=forgetful)["w"], expected), what.method


@EVERY
def test_an_engine_remembers_right_through_many_candidates(kind: Kind) -> None:
    """What it learned with other coefficients is not taken for what these need: one of them is changed at a time."""
    parents = readers(related_parents(15, 40))
    remembering, chance = Engine(parents), random.Random(0)
    values = some_values(kind.method, chance)
    for _ in range(6):
        for name, changed in some_values(kind.method, chance).items():
            values[name] = changed
            what = recipe(kind.method, FOUR, based=kind.based, **values)
            assert same(merged(what, parents, engine=remembering)["w"], merged(what, parents)["w"]), name


def some_values(method: str, chance: random.Random) -> dict[str, Any]:
    """Any value for every parameter."""

    def value(spec: Parameter) -> Any:
        if spec.kind == "switch":
            return chance.random() < 0.5
        if spec.kind == "count":
            return chance.randint(0, 5)
        low, high = (
            max(spec.range.low, 0.0),
            min(spec.range.high, {"alpha": 8.0, "epsilon": 2.0, "eps": 1e-3, "tol": 0.02}.get(spec.name, 0.3)),
        )
        numbers = {label: chance.uniform(low, high) for label in recipe(method, FOUR).mixed}
        return numbers if spec.kind == "per parent" and chance.random() < 0.6 else chance.uniform(low, high)

    return {spec.name: value(spec) for spec in parameters(method).values()}


@pytest.mark.parametrize(("name", "values"), [("max_iter", [1, 2, 3]), ("tol", [0.3, 0.1, 1e-3, 0.0])])
def test_karchers_steps_are_not_taken_for_those_of_another_candidate(name: str, values: list[float]) -> None:
    parents = readers(related_parents(15, 40))
    remembering, steps = Engine(parents), {"max_iter": 20, "tol": 0.0}
    for value in values:
        what = recipe("karcher", FOUR, **{**steps, name: value})  # type: ignore[arg-type]
        assert same(merged(what, parents, engine=remembering)["w"], merged(what, parents)["w"]), value


def test_an_engine_forgets_what_is_oldest_and_learns_it_again() -> None:
    parents = readers(related_parents(33, 48))
    remembering = Engine(parents)
    first = merged(telling(Kind("ties"), FOUR), parents, engine=remembering)["w"]
    for value in range(1, 100):
        merged(recipe("ties", FOUR, density=value / 100), parents, engine=remembering)
    assert same(merged(telling(Kind("ties"), FOUR), parents, engine=remembering)["w"], first)


def test_an_error_in_one_thread_stops_the_merge_and_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "_SMALL", 0)
    parents = readers({label: {f"w{i}": torch.ones(50) for i in range(40)} for label in "ab"})
    parents["b"].read("w7")[3] = float("nan")
    with pytest.raises(DamagedFile, match="parent 'b': tensor 'w7'"):
        apply(recipe("linear"), parents, tmp_path / "out", engine=Engine(parents, threads=3))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threads", [1, 3])
def test_what_waits_is_not_begun_after_an_error(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_SMALL", 0)
    parents = readers({label: {f"w{i}": torch.ones(5) for i in range(400)} for label in "ab"})
    what, seen = recipe("linear"), []

    def take(job: Job, pieces: Pieces) -> None:
        seen.append(job.name)
        if len(seen) == 5:
            raise OSError("the disk is gone")
        time.sleep(0.01)

    with pytest.raises(OSError, match="the disk is gone"):
        Engine(parents, threads=threads).each(what, plan(what, parents), take)
    assert len(seen) < 400


@EVERY
def test_memory_mapped_parents_are_never_written_to(tmp_path: Path, kind: Kind) -> None:
    """Float32 ones are not copied on the way; a file that may not be written to will do."""
    tensors = related_parents(33, 48)
    for label, tensor in tensors.items():
        home = tmp_path / label
        with CheckpointWriter(home, {"w": MemoryReader({"w": tensor}).infos["w"]}) as writer:
            writer.write("w", tensor)
        (home / "model.safetensors").chmod(0o444)
    parents = {label: Checkpoint(tmp_path / label) for label in tensors}
    bytes_before = {label: (tmp_path / label / "model.safetensors").read_bytes() for label in tensors}
    for what in (telling(kind, FOUR), recipe(kind.method, FOUR, based=kind.based)):
        assert same(merged(what, parents)["w"], merge_one(what, tensors))
    for label, reader in parents.items():
        assert same(reader.read("w"), tensors[label])
        assert (tmp_path / label / "model.safetensors").read_bytes() == bytes_before[label]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@EVERY
def test_a_gpu_gives_the_same_to_rounding(kind: Kind) -> None:
    """Random masks are drawn on the CPU, so they are the same; sums are added in another order."""
    what, parents = telling(kind), readers(related_parents(33, 48))
    child = merged(what, parents)
    there = merged(what, parents, engine=Engine(parents, device="cuda"))
    assert all(torch.allclose(child[name], there[name], rtol=1e-4, atol=1e-5) for name in child)


def test_a_block_may_have_a_method_of_its_own() -> None:
    """Its tensors are those of the whole merge by that method; all others those of the recipe's."""
    parents = models()
    shared: dict[str, Any] = {"weight": {"a": 0.7, "b": 0.45}}
    own = Block(name="first", tensors=("layers.0.*",), method="ties", parameters={"density": 0.5})
    mixed = merged(recipe("task_arithmetic", blocks=(own,), **shared), parents)
    plain = merged(recipe("task_arithmetic", **shared), parents)
    ties = merged(recipe("ties", density=0.5, **shared), parents)
    for name, tensor in mixed.items():
        assert same(tensor, (ties if name.startswith("layers.0") else plain)[name]), name
    assert not same(plain["layers.0.w"], ties["layers.0.w"])
