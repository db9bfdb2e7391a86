"""Image models from the command line: merges of folders, single files and LoRAs; and what is refused, in one message each."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file

from evomm.checkpoints.pipeline import Pipeline
from evomm.checkpoints.single_file import SingleFile
from tests.checkpoints.lora_image_kit import factors, write
from tests.checkpoints.pipeline_kit import QUIET, make_pipeline, write_refiner_header, write_sd15_header
from tests.cli.conftest import Evomm
from tests.cli.test_bad_input import refused

pytestmark = QUIET
ONES = ",".join(["1"] * 20)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two tiny pipelines."""
    home = tmp_path_factory.mktemp("images")
    make_pipeline(home / "base", 0)
    make_pipeline(home / "other", 1)
    return home


def recipe(folder: Path, other: dict[str, Any], **more: Any) -> Path:
    """base plus the other's task vector, as a file."""
    content = {"method": "task_arithmetic", "base": "base", "parents": {"base": {"model": "base"}, "other": other}, **more}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """A folder of its own beside which the pipelines are found."""
    for name in ("base", "other"):
        (tmp_path / name).symlink_to(made / name)
    return tmp_path


def test_block_weights_that_are_one_give_the_other_model(evomm: Evomm, world: Path) -> None:
    """As a folder and as a single file; a weight of 0 keeps the base."""
    path = recipe(world, {"model": "other"}, block_weights={"other": ONES}, parameters={"weight": 1.0}, dtype="float16")
    assert evomm("merge", path, "-o", world / "child").code == 0
    assert evomm("merge", path, "-o", world / "child.safetensors").code == 0
    other, folder, single = Pipeline(world / "other"), Pipeline(world / "child"), SingleFile(world / "child.safetensors")
    for name in other.infos:
        assert torch.allclose(folder.read(name).float(), other.read(name).float(), atol=1e-3), name
        assert torch.equal(folder.read(name), single.read(name)), name
    assert "block_weights: {}" in (world / "child" / "evomm_recipe.yaml").read_text(), "kept as blocks"
    middle = ",".join(["0"] * 10 + ["1"] + ["0"] * 9)
    path = recipe(world, {"model": "other"}, block_weights={"other": middle}, dtype="float16")
    assert evomm("merge", path, "-o", world / "middle").code == 0
    base, mixed = Pipeline(world / "base"), Pipeline(world / "middle")
    changed = {name for name in base.infos if not torch.equal(mixed.read(name), base.read(name)) and name.startswith("unet.")}
    assert changed == {name for name in base.infos if name.startswith("unet.mid_block.")}


def test_the_weight_of_a_lora_is_its_scale(evomm: Evomm, world: Path) -> None:
    """Half its task vector is the LoRA at scale 0.5."""
    write(world / "style.safetensors", factors(), "kohya")
    half = recipe(world, {"model": "base", "lora": "style.safetensors"}, parameters={"weight": 0.5}, dtype="float16")
    assert evomm("merge", half, "-o", world / "a").code == 0
    scaled = recipe(world, {"model": "base", "lora": "style.safetensors", "scale": 0.5}, dtype="float16")
    assert evomm("merge", scaled, "-o", world / "b").code == 0
    a, b, base = (Pipeline(world / name) for name in ("a", "b", "base"))
    assert all(torch.allclose(a.read(name).float(), b.read(name).float(), atol=2e-3) for name in a.infos)
    assert any(not torch.equal(a.read(name), base.read(name)) for name in a.infos)


def test_parents_that_cannot_be_mixed(evomm: Evomm, world: Path) -> None:
    """Another family, a refiner, a LoRA of another family, a pickle, a truncated file: exit codes and one message each."""
    write_sd15_header(world / "sd15.safetensors")
    write_refiner_header(world / "refiner.safetensors")
    (world / "old.ckpt").write_bytes(b"\x80\x04.")
    write(world / "whole.safetensors", factors(), "kohya")
    content = (world / "whole.safetensors").read_bytes()
    (world / "cut.safetensors").write_bytes(content[: len(content) // 2])
    save_file(
        {
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": torch.ones(4, 768),
            "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": torch.ones(320, 4),
        },
        world / "sd15-lora.safetensors",
    )
    out = world / "out"
    for other, code, parts in [
        ({"model": "sd15.safetensors"}, 3, ["'other' is Stable Diffusion 1", "merge models of one family"]),
        ({"model": "refiner.safetensors"}, 3, ["'other' is SDXL refiner"]),
        ({"model": "base", "lora": "sd15-lora.safetensors"}, 3, ["sd15-lora.safetensors"]),
        ({"model": "old.ckpt"}, 4, ["old.ckpt", "a pickle can run code"]),
        ({"model": "cut.safetensors"}, 4, ["cut.safetensors", "not a whole safetensors file"]),
        ({"model": "whole.safetensors"}, 2, ["a LoRA and no model of its own"]),
        ({"model": "nowhere.safetensors"}, 4, ["nowhere.safetensors", "no such"]),
    ]:
        refused(evomm("merge", recipe(world, other), "-o", out), code, *parts)
        assert not out.exists()


def test_strings_and_components_that_cannot_be_meant(evomm: Evomm, world: Path) -> None:
    for more, parts in [
        ({"block_weights": {"other": "1,1,1"}}, ["expected 20 numbers", "got 3"]),
        ({"components": {"vea": "other"}}, ["component 'vea'", "did you mean 'vae'"]),
    ]:
        refused(evomm("merge", recipe(world, {"model": "other"}, **more), "-o", world / "out"), 2, *parts)
