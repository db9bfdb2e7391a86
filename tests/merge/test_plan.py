"""From a recipe and headers to the child's tensors: stacks of layers, blocks with parents of their own, and refusals."""

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from evomm.checkpoints.reader import Checkpoint, MemoryReader
from evomm.errors import MisfitError, UsageError
from evomm.merge.apply import apply
from evomm.merge.plan import Job, Layers, Readers, plan, renumber
from evomm.merge.recipe import Block, Recipe, Slice, Source
from evomm.plain import parse
from tests.merge.kit import merged, readers, recipe

LLAMA = "model.layers.{}.mlp.w", "model.layers.{}.mlp.experts.{}.w"
ENDS = ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight")


def decoder(depth: int, width: int = 2, ends: tuple[str, ...] = ENDS, inside: tuple[str, ...] = LLAMA) -> MemoryReader:
    """A model whose tensors say where they stand: the layer's number, -1 outside; named in the order of a sorted file."""
    names = dict.fromkeys(ends, -1) | {name.format(i, 3): i for i in range(depth) for name in inside}
    return MemoryReader({name: torch.full((width,), float(names[name])) for name in sorted(names)})


def layers_of(parents: Readers) -> Layers:
    """Label -> tensor name -> number of its layer."""
    return {
        label: {name: int(at.group(1)) if (at := re.search(r"(?:layers|\bh)\.(\d+)\.", name)) else None for name in reader.infos}
        for label, reader in parents.items()
    }


def stacked(method: str, slices: list[dict[str, tuple[int, int]]], base: str | None = None, **more: Any) -> Recipe:
    """A recipe with slices over the parents that they name."""
    labels = dict.fromkeys([*([base] if base else []), *(label for part in slices for label in part)])
    return Recipe(
        method=method,
        parents={label: Source(model=label) for label in labels},
        base=base,
        slices=tuple(Slice(layers=part) for part in slices),
        **more,
    )


def jobs(what: Recipe, parents: Readers) -> dict[str, Job]:
    """By the child's tensor names, which must not repeat."""
    found = plan(what, parents, layers_of(parents))
    assert len({job.name for job in found}) == len(found)
    return {job.name: job for job in found}


def came_from(found: Mapping[str, Job], name: str) -> dict[str, str]:
    """Label -> layer's number, of a tensor of the child."""
    return {label: re.findall(r"layers\.(\d+)", source)[0] for label, source in found[name].sources.items()}


def test_layers_can_be_repeated_left_out_and_put_in_another_order() -> None:
    parents = {"a": decoder(4)}
    found = jobs(stacked("passthrough", [{"a": (2, 4)}, {"a": (0, 3)}]), parents)
    assert [came_from(found, f"model.layers.{i}.mlp.w") for i in range(5)] == [{"a": i} for i in "23012"]
    assert "model.layers.5.mlp.w" not in found
    child = merged_stack(stacked("passthrough", [{"a": (2, 4)}, {"a": (0, 3)}]), parents)
    assert [child[f"model.layers.{i}.mlp.experts.3.w"][0].item() for i in range(5)] == [2, 3, 0, 1, 2]


def merged_stack(what: Recipe, parents: Readers) -> Mapping[str, torch.Tensor]:
    """The child's tensors, by way of the disk."""
    with tempfile.TemporaryDirectory() as folder:
        apply(what, parents, Path(folder) / "out", layers=layers_of(parents))
        disk = Checkpoint(Path(folder) / "out")
        return {name: disk.read(name).clone() for name in disk.infos}


def test_parents_are_mixed_layer_by_layer_wherever_these_stand_in_them() -> None:
    """SOLAR's stack, mixed with a deeper parent's last layers."""
    parents = {"a": decoder(3), "b": decoder(5)}
    what = stacked("linear", [{"a": (0, 2)}, {"a": (1, 3), "b": (3, 5)}], parameters={"weight": {"a": 1.0, "b": 3.0}})
    found = jobs(what, parents)
    wanted = [{"a": "0"}, {"a": "1"}, {"a": "1", "b": "3"}, {"a": "2", "b": "4"}]
    assert [came_from(found, f"model.layers.{i}.mlp.w") for i in range(4)] == wanted
    assert [found[f"model.layers.{i}.mlp.w"].arguments["weight"] for i in (0, 2)] == [(1.0,), (1.0, 3.0)]
    child = merged_stack(what, parents)
    assert [child[f"model.layers.{i}.mlp.w"][0].item() for i in range(4)] == [0, 1, (1 + 3 * 3) / 4, (2 + 3 * 4) / 4]


@pytest.mark.parametrize(("ends", "inside", "first"), [
    (ENDS, LLAMA, {"model.embed_tokens.weight"}),
    (("embed_out.weight", "gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight"),
     ("gpt_neox.layers.{}.w",), {"gpt_neox.embed_in.weight"}),
    (("transformer.ln_f.weight", "transformer.wpe.weight", "transformer.wte.weight"),
     ("transformer.h.{}.attn.w",), {"transformer.wpe.weight", "transformer.wte.weight"}),
], ids=["llama", "neox", "gpt2"])  # fmt: skip
def test_embeddings_follow_the_first_slice_and_norm_and_head_the_last(
    ends: tuple[str, ...], inside: tuple[str, ...], first: set[str]
) -> None:
    """Whatever their order in the file: sorted by name, lm_head comes first and wte last."""
    parents = {label: decoder(2, ends=ends, inside=inside) for label in ("a", "b")}
    found = jobs(stacked("passthrough", [{"a": (0, 1)}, {"b": (1, 2)}]), parents)
    assert {name for name in ends if found[name].labels == ("a",)} == first
    assert {name for name in ends if found[name].labels == ("b",)} == set(ends) - first


@pytest.mark.parametrize(("name", "old", "new", "wanted"), [
    ("model.layers.3.mlp.up_proj.weight", 3, 7, "model.layers.7.mlp.up_proj.weight"),
    ("transformer.h.3.attn.c_attn.weight", 3, 10, "transformer.h.10.attn.c_attn.weight"),
    ("model.layers.3.mlp.experts.3.w", 3, 0, "model.layers.0.mlp.experts.3.w"),
    ("model.layers.13.mlp.experts.3.w", 13, 3, "model.layers.3.mlp.experts.3.w"),
    ("3.w", 3, 4, "4.w"),
])  # fmt: skip
def test_only_the_layers_number_changes_in_a_name(name: str, old: int, new: int, wanted: str) -> None:
    assert renumber(name, old, new) == wanted
    assert renumber(wanted, new, old) == name


def test_task_vectors_start_from_the_same_slices_base() -> None:
    parents = {"base": decoder(4), "a": decoder(4)}
    found = jobs(stacked("task_arithmetic", [{"base": (0, 2), "a": (2, 4)}], base="base"), parents)
    job = found["model.layers.1.mlp.w"]
    assert (job.labels, job.base) == (("a",), "base")
    assert came_from(found, "model.layers.1.mlp.w") == {"a": "3", "base": "1"}


def test_repeated_layers_have_masks_of_their_own() -> None:
    """A mask belongs to the child's tensor, not to the parent's that it was made from."""
    parents = {"base": decoder(1, width=1_000), "a": MemoryReader({n: t + 1 for n, t in wide(decoder(1, width=1_000)).items()})}
    what = stacked("dare_linear", [{"base": (0, 1), "a": (0, 1)}] * 2, base="base", parameters={"density": 0.5})
    child = merged_stack(what, parents)
    first, second = (child[f"model.layers.{i}.mlp.w"] != 0 for i in (0, 1))
    assert 400 < int(first.sum()) < 600
    assert not torch.equal(first, second)


def wide(reader: MemoryReader) -> Mapping[str, torch.Tensor]:
    """A model's tensors."""
    return {name: reader.read(name) for name in reader.infos}


SCALES = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 8.0}


def test_a_block_can_have_parents_and_a_base_of_its_own() -> None:
    parents = readers({label: {name: torch.full((2,), value) for name in "xy"} for label, value in SCALES.items()})
    own = Block(name="own", tensors=("y",), parents=("b", "c", "d"), base="d", parameters={"weight": {"b": 1.0, "c": 10.0}})
    what = Recipe(method="task_arithmetic", parents={label: Source(model=label) for label in SCALES}, base="a", blocks=(own,))
    found = jobs(what, parents)
    assert (found["x"].labels, found["x"].base) == (("b", "c", "d"), "a")
    assert (found["y"].labels, found["y"].base) == (("b", "c"), "d")
    child = merged(what, parents)
    assert child["x"][0] == 1 + (2 - 1) + (4 - 1) + (8 - 1)
    assert child["y"][0] == 8 + (2 - 8) + 10 * (4 - 8)


def test_a_block_with_parents_of_its_own_asks_nothing_of_the_others() -> None:
    """One parent may lack a tensor, or have another shape of it, where it takes no part."""
    parents = readers({"a": {"x": torch.ones(2), "y": torch.ones(2)}, "b": {"x": torch.zeros(2), "y": torch.zeros(3)}})
    own = Block(name="own", tensors=("y",), parents=("a",))
    child = merged(recipe("linear", blocks=(own,)), parents)
    assert child["x"].tolist() == [0.5, 0.5]
    assert child["y"].tolist() == [1.0, 1.0]
    lacking = {"a": parents["a"], "b": MemoryReader({"x": torch.zeros(2)})}
    assert merged(recipe("linear", blocks=(own,)), lacking)["y"].tolist() == [1.0, 1.0]


def test_methods_that_can_do_without_a_base_take_task_vectors_when_they_have_one() -> None:
    parents = {label: decoder(1) for label in ("base", "a", "b")}
    for based, labels in ((False, {"a", "b"}), (True, {"base", "a", "b"})):
        job = jobs(recipe("multislerp", based=based), parents)["model.norm.weight"]
        assert (job.labels, job.base, set(job.sources)) == (("a", "b"), "base" if based else None, labels)
    job = jobs(recipe("add_difference"), parents)["model.norm.weight"]
    assert (job.labels, job.base) == (("base", "a", "b"), None)


TWO = {"a": (0, 2), "b": (0, 2)}


@pytest.mark.parametrize(("what", "error", "said"), [
    (stacked("passthrough", [{"a": (1, 5)}]), UsageError, "slices ask for layer 4 of 'a', which has layers 0 to 3"),
    (stacked("linear", [TWO, {"b": (2, 4)}]), UsageError, "slices ask for layer 2 of 'b', which has layers 0 to 1"),
    (stacked("passthrough", [TWO]), UsageError, r"passthrough mixes 1 parent\(s\), '.*' has 2: a, b"),
    (stacked("slerp", [TWO, {"a": (2, 3)}]), UsageError, r"slerp mixes 2 parent\(s\), '.*' has 1: a"),
    (stacked("task_arithmetic", [TWO], base="base"), UsageError, "task_arithmetic needs the base 'base' in every slice"),
    (stacked("nuslerp", [TWO], base="base"), UsageError, "nuslerp needs the base 'base' in every slice"),
    (stacked("nearswap", [{"base": (0, 2), "a": (0, 2)}, TWO], base="base"), UsageError,
     "nearswap needs the base 'base' in every slice"),
    (stacked("linear", [TWO, {"a": (2, 4)}], blocks=(Block(name="x", tensors=("*.2.*",), parents=("b",)),)), UsageError,
     "'model.layers.2.mlp.experts.3.w': block 'x' mixes 'b', which is not in this slice"),
    (stacked("linear", [{"a": (0, 2), "other": (0, 2)}]), MisfitError, "not in layer 0 of '.*'; mix layers of one kind"),
    (stacked("linear", [{"a": (0, 2), "wide": (0, 2)}]), MisfitError, r"expected shape \[2\], 'wide' has \[3\]"),
])  # fmt: skip
def test_stacks_that_cannot_be_are_refused_by_name(what: Recipe, error: type[Exception], said: str) -> None:
    every = {
        "a": decoder(4),
        "b": decoder(2),
        "base": decoder(4),
        "wide": decoder(4, width=3),
        "other": decoder(4, inside=("model.layers.{}.conv.w",)),
    }
    parents = {label: every[label] for label in what.parents}
    with pytest.raises(error, match=said):
        plan(what, parents, layers_of(parents))


def test_models_without_known_layers_cannot_be_stacked() -> None:
    parents = {"a": decoder(2)}
    with pytest.raises(UsageError, match="a recipe with slices needs a model whose layers are known"):
        plan(stacked("passthrough", [{"a": (0, 1)}]), parents)
    flat = {"a": MemoryReader({"w": torch.ones(2)})}
    with pytest.raises(UsageError, match="slices ask for layer 0 of 'a'"):
        plan(stacked("passthrough", [{"a": (0, 1)}]), flat, layers_of(flat))


def test_a_block_that_takes_too_many_or_too_few_is_refused_by_tensor() -> None:
    parents = {label: decoder(1) for label in ("base", "a", "b")}
    one = Block(name="one", tensors=("lm_head.*",), parents=("a",))
    with pytest.raises(UsageError, match=r"slerp mixes 2 parent\(s\), 'lm_head.weight' has 1: a"):
        plan(recipe("slerp", blocks=(one,)), parents)
    with pytest.raises(UsageError, match=r"nearswap mixes 2 parent\(s\), 'lm_head.weight' has 1: a"):
        plan(recipe("nearswap", blocks=(one,)), parents)
    none = Block(name="none", tensors=("lm_head.*",), parents=("base",))
    with pytest.raises(UsageError, match=r"ties mixes at least 1 parent\(s\), 'lm_head.weight' has none"):
        plan(recipe("ties", blocks=(none,)), parents)


def pipelines() -> Readers:
    """Two models of two parts, of which the encoders differ in shape, and one that has no encoder."""
    parts = {"unet.w": torch.tensor([1.0, 2.0]), "encoder.w": torch.tensor([5.0]), "encoder.ids": torch.tensor([7])}
    other = {"unet.w": torch.tensor([3.0, 4.0]), "encoder.w": torch.tensor([6.0, 7.0, 8.0]), "encoder.b": torch.tensor([9.0])}
    return {"a": MemoryReader(parts), "b": MemoryReader(other), "c": MemoryReader({"unet.w": torch.tensor([5.0, 6.0])})}


def half_and_half(**more: Any) -> Recipe:
    """The average of a and b, and c."""
    return Recipe(method="linear", parents={label: Source(model=label) for label in "abc"}, **more)


def test_components_are_taken_whole() -> None:
    """The mixed part is mixed; the other is one parent's, tensor by tensor, whatever the others have."""
    child = merged(half_and_half(components={"encoder": "b"}), pipelines())
    assert {name: tensor.tolist() for name, tensor in child.items()} == {
        "unet.w": [3.0, 4.0],
        "encoder.w": [6.0, 7.0, 8.0],
        "encoder.b": [9.0],
    }
    child = merged(half_and_half(components={"encoder": "a", "unet": "c"}, dtype="float16"), pipelines())
    assert {name: (tensor.tolist(), tensor.dtype) for name, tensor in child.items()} == {
        "unet.w": ([5.0, 6.0], torch.float16),
        "encoder.w": ([5.0], torch.float16),
        "encoder.ids": ([7], torch.int64),
    }


def test_components_that_differ_are_refused_unless_taken_whole() -> None:
    with pytest.raises(MisfitError, match=r"encoder\.w"):
        plan(half_and_half(), pipelines())
    with pytest.raises(UsageError, match="owner of component 'encoder' 'd' is no parent"):
        parse(Recipe, half_and_half().model_dump() | {"components": {"encoder": "d"}}, "recipe")
