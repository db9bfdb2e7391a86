"""The same recipe into every layout: the same tensors, and the recipe with them."""

from pathlib import Path

import pytest
import torch

from evomm.checkpoints.layout import pipeline_layout
from evomm.checkpoints.original import original_layout
from evomm.checkpoints.pipeline import Pipeline
from evomm.checkpoints.reader import FileReader, TensorReader
from evomm.checkpoints.single_file import SingleFile
from evomm.merge.apply import apply
from evomm.merge.recipe import DtypeName, Recipe
from tests.checkpoints.pipeline_kit import QUIET, make_pipeline
from tests.merge.kit import recipe

pytestmark = QUIET


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TensorReader]:
    folder = tmp_path_factory.mktemp("parents")
    return {label: Pipeline(make_pipeline(folder / label, seed)) for seed, label in enumerate("ab")}


def same(one: TensorReader, other: TensorReader) -> bool:
    assert one.infos == other.infos
    return all(torch.equal(one.read(name), other.read(name)) for name in one.infos)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_a_pipeline_and_a_single_file_hold_the_same_child(
    tmp_path: Path, parents: dict[str, TensorReader], dtype: DtypeName
) -> None:
    what = recipe("linear", ("a", "b"), dtype=dtype, weight={"a": 0.25, "b": 0.75})
    written = apply(what, parents, tmp_path / "folder", layout=pipeline_layout())
    assert apply(what, parents, tmp_path / "x.safetensors", layout=original_layout("xl_base")) == written
    folder, file = Pipeline(tmp_path / "folder"), SingleFile(tmp_path / "x.safetensors")
    assert same(folder, file)
    assert {info.dtype for info in file.infos.values()} == {getattr(torch, dtype)}
    name = "text_encoder_2.text_projection.weight"
    a, b = (parents[label].read(name).float() for label in "ab")
    assert torch.equal(file.read(name), (0.25 * a + 0.75 * b).to(getattr(torch, dtype)))
    assert Recipe.from_yaml(file.metadata["evomm_recipe.yaml"]) == what
    assert Recipe.from_yaml((tmp_path / "folder" / "evomm_recipe.yaml").read_text()) == what


def test_files_and_folders_are_parents_of_one_child(tmp_path: Path, parents: dict[str, TensorReader]) -> None:
    apply(recipe("passthrough", ("a",)), {"a": parents["a"]}, tmp_path / "a.safetensors", layout=original_layout("xl_base"))
    mixed: dict[str, FileReader] = {"a": SingleFile(tmp_path / "a.safetensors")}
    what = recipe("linear", ("a", "b"))
    apply(what, {**parents, **mixed}, tmp_path / "mixed", layout=pipeline_layout())
    apply(what, parents, tmp_path / "plain", layout=pipeline_layout())
    assert same(Pipeline(tmp_path / "mixed"), Pipeline(tmp_path / "plain"))
