"""Reading diffusers folders: whole ones, partial ones, every naming of weight files; what is broken is refused by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from evomm.checkpoints.digest import checkpoint_digest
from evomm.checkpoints.pipeline import Pipeline, is_pipeline
from evomm.errors import DamagedFile, MissingFile, UnsafeFile
from tests.checkpoints.pipeline_kit import COMPONENTS, QUIET, tensors_of, tiny_pipeline

pytestmark = QUIET


@pytest.fixture(scope="module")
def made() -> Any:
    return tiny_pipeline()


@pytest.fixture
def folder(made: Any, tmp_path: Path) -> Path:
    """A pipeline to be damaged."""
    made.save_pretrained(tmp_path / "pipeline")
    return tmp_path / "pipeline"


def equal(pipeline: Pipeline, tensors: dict[str, Tensor]) -> bool:
    """Whether a pipeline reads as the tensors, names, shapes, dtypes and bits."""
    infos = {name: (info.dtype, info.shape) for name, info in pipeline.infos.items()}
    assert infos == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    whole = all(torch.equal(pipeline.read(name), tensor) for name, tensor in tensors.items())
    return whole and all(torch.equal(pipeline.flat(name)[3:9], tensor.reshape(-1)[3:9]) for name, tensor in tensors.items())


@pytest.mark.parametrize(
    "saving",
    [{}, {"variant": "fp16"}, {"max_shard_size": 200_000}, {"variant": "fp16", "max_shard_size": 200_000}],
    ids=["single", "fp16", "shards", "fp16-shards"],
)
def test_every_naming_of_weights_reads_exactly(made: Any, tmp_path: Path, saving: dict[str, Any]) -> None:
    made.save_pretrained(tmp_path, **saving)
    pipeline = Pipeline(tmp_path)
    assert equal(pipeline, tensors_of(made))
    assert set(pipeline.components) == {*COMPONENTS, "scheduler", "tokenizer", "tokenizer_2"}
    assert pipeline.config["_class_name"] == "StableDiffusionXLPipeline"
    assert all(path.suffix == ".safetensors" for path in pipeline.files)
    assert pipeline.nbytes == sum(tensor.nbytes for tensor in tensors_of(made).values())


def test_full_precision_is_read_when_there_is_a_copy_in_fp16(made: Any, folder: Path) -> None:
    unet = folder / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_name("diffusion_pytorch_model.fp16.safetensors"))
    save_file({name: tensor.float() for name, tensor in made.unet.state_dict().items()}, unet)
    pipeline = Pipeline(folder)
    assert pipeline.infos["unet.conv_in.weight"].dtype == torch.float32
    assert unet in pipeline.files


def test_names_of_other_years_read_as_todays(made: Any, folder: Path) -> None:
    """Older text encoders have a prefix and position ids, older VAEs other names in their attention."""
    text, vae = folder / "text_encoder" / "model.safetensors", folder / "vae" / "diffusion_pytorch_model.safetensors"
    old = {name if name.startswith("text_model.") else f"text_model.{name}": tensor for name, tensor in load_file(text).items()}
    save_file({**old, "text_model.embeddings.position_ids": torch.arange(77).unsqueeze(0)}, text)
    words = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}
    tensors = load_file(vae)
    for new, was in words.items():
        tensors = {name.replace(new, was): tensor for name, tensor in tensors.items()}
    save_file(tensors, vae)
    assert equal(Pipeline(folder), tensors_of(made))


@pytest.mark.parametrize("kept", [{"unet"}, {"unet", "text_encoder", "tokenizer"}], ids="-".join)
def test_a_folder_with_some_components_is_read(made: Any, folder: Path, kept: set[str]) -> None:
    (folder / "model_index.json").unlink()
    for path in folder.iterdir():
        if path.name not in kept:
            shutil.rmtree(path)
    (folder / "samples").mkdir()
    assert is_pipeline(folder)
    pipeline = Pipeline(folder)
    assert set(pipeline.components) == kept
    assert pipeline.config == {}
    assert equal(pipeline, {name: tensor for name, tensor in tensors_of(made).items() if name.split(".")[0] in kept})


def test_the_hub_caches_own_links_are_followed_and_no_others(made: Any, folder: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "repo" / "snapshots" / "0a1b", tmp_path / "repo" / "blobs"
    blobs.mkdir(parents=True)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        link = snapshot / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        blob = blobs / "-".join(link.relative_to(snapshot).parts)
        path.rename(blob)
        link.symlink_to(Path(*[".."] * len(link.relative_to(snapshot.parent.parent).parent.parts)) / "blobs" / blob.name)
    assert equal(Pipeline(snapshot), tensors_of(made))
    unet = snapshot / "unet" / "diffusion_pytorch_model.safetensors"
    target = unet.resolve().rename(tmp_path / "elsewhere")
    unet.unlink()
    unet.symlink_to(target)
    with pytest.raises(UnsafeFile, match="outside of the model folder"):
        Pipeline(snapshot)


def test_a_component_outside_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "vae").rename(tmp_path / "vae")
    (folder / "vae").symlink_to(tmp_path / "vae")
    with pytest.raises(UnsafeFile, match="a component outside of the pipeline's folder"):
        Pipeline(folder)


def test_what_is_missing_is_named(folder: Path, tmp_path: Path) -> None:
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.unlink()
    with pytest.raises(MissingFile, match=r"vae: expected diffusion_pytorch_model\.safetensors or model\.safetensors"):
        Pipeline(folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(MissingFile, match=r"names the component 'vae', but there is no such folder"):
        Pipeline(folder)
    with pytest.raises(MissingFile, match="found no component with weights"):
        Pipeline(tmp_path)
    with pytest.raises(MissingFile, match="found nothing"):
        Pipeline(tmp_path / "nowhere")
    assert not is_pipeline(tmp_path / "nowhere")


def test_pickled_weights_are_refused_with_the_way_out(folder: Path) -> None:
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(UnsafeFile, match=r"unet: only pickled weights.*diffusers' save_pretrained writes safetensors"):
        Pipeline(folder)


def test_a_truncated_component_is_damaged(folder: Path) -> None:
    weights = folder / "text_encoder_2" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(DamagedFile, match=r"text_encoder_2/model\.safetensors: not a whole safetensors file"):
        Pipeline(folder)


def test_an_index_without_components_is_damaged(folder: Path) -> None:
    (folder / "model_index.json").write_text('{"_class_name": "X"}')
    with pytest.raises(DamagedFile, match="names no components"):
        Pipeline(folder)


def test_a_pipelines_digest_follows_its_content_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    seen = [checkpoint_digest(Pipeline(folder))]
    (tmp_path / "copy" / "README.md").write_text("not the model")
    assert checkpoint_digest(Pipeline(tmp_path / "copy")) == seen[0]
    for name in ("scheduler/scheduler_config.json", "vae/config.json", "model_index.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**content, "note": 1}))
        seen.append(checkpoint_digest(Pipeline(folder)))
    assert len(set(seen)) == 4
