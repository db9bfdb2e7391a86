"""Writing pipelines and single files: what diffusers loads is what was written, and all guarantees of a folder hold."""

import json
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionXLPipeline
from safetensors import safe_open
from torch import Tensor

from evomm.checkpoints.layout import Layout, pipeline_layout
from evomm.checkpoints.original import original_layout
from evomm.checkpoints.pipeline import Pipeline
from evomm.checkpoints.reader import MemoryReader, TensorReader
from evomm.checkpoints.single_file import SingleFile
from evomm.checkpoints.writer import CheckpointWriter
from evomm.errors import WriteFailed
from tests.checkpoints.pipeline_kit import COMPONENTS, QUIET, make_pipeline, tensors_of

pytestmark = QUIET
SINGLE = original_layout("xl_base")


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return Pipeline(make_pipeline(tmp_path_factory.mktemp("pipelines") / "parent"))


def write(out: Path, model: TensorReader, layout: Layout, piece: int = 1000, shard_bytes: int = 10**9, **notes: str) -> Path:
    """Write piece by piece, out of order, from several threads."""
    cuts = [(name, start) for name, info in model.infos.items() for start in range(0, info.numel, piece)]
    with CheckpointWriter(out, model.infos, shard_bytes, layout, notes) as writer, ThreadPoolExecutor(4) as pool:

        def put(cut: tuple[str, int]) -> None:
            name, start = cut
            writer.write_piece(name, start, model.flat(name)[start : start + piece])

        list(pool.map(put, cuts[1::2] + cuts[::2]))
        if not layout.single and isinstance(model, Pipeline):
            for component, folder in model.components.items():
                writer.carry(folder, into=component)
            writer.text("model_index.json", json.dumps(model.config))
    return out


def same(model: TensorReader, tensors: Mapping[str, Tensor]) -> bool:
    """Names, dtypes, shapes and bits."""
    assert model.infos == MemoryReader(tensors).infos
    return all(torch.equal(model.read(name), tensor) for name, tensor in tensors.items())


def tensors_in(model: TensorReader) -> dict[str, Tensor]:
    return {name: model.read(name) for name in model.infos}


@pytest.mark.parametrize("shard_bytes", [10**9, 200_000], ids=["single", "shards"])
def test_diffusers_loads_the_pipeline_that_was_written(parent: Pipeline, tmp_path: Path, shard_bytes: int) -> None:
    out = write(tmp_path / "out", parent, pipeline_layout(), shard_bytes=shard_bytes, note="of mine")
    assert same(Pipeline(out), tensors_in(parent))
    assert (out / "note").read_text() == "of mine"
    assert len(Pipeline(out).files) == 4 if shard_bytes == 10**9 else len(Pipeline(out).files) > 8
    assert {path.relative_to(out) for path in Pipeline(out).configs} == {p.relative_to(parent.folder) for p in parent.configs}
    loaded = StableDiffusionXLPipeline.from_pretrained(out, dtype=torch.float16, add_watermarker=False, local_files_only=True)
    assert same(MemoryReader(tensors_of(loaded)), tensors_in(parent))
    for name in COMPONENTS:
        _, info = type(getattr(loaded, name)).from_pretrained(out / name, output_loading_info=True)
        assert not info["missing_keys"]
        assert not info["unexpected_keys"]


def test_shards_have_an_index_each(parent: Pipeline, tmp_path: Path) -> None:
    out = write(tmp_path / "out", parent, pipeline_layout(), shard_bytes=200_000)
    index = json.loads((out / "vae" / "diffusion_pytorch_model.safetensors.index.json").read_text())
    vae = {name.removeprefix("vae."): info.nbytes for name, info in parent.infos.items() if name.startswith("vae.")}
    assert index["metadata"]["total_size"] == sum(vae.values())
    assert set(index["weight_map"]) == set(vae)
    assert "diffusion_pytorch_model-00001-of-00004.safetensors" in index["weight_map"].values()
    assert not (out / "text_encoder" / "model.safetensors.index.json").exists()


def test_diffusers_loads_the_single_file_that_was_written(parent: Pipeline, tmp_path: Path) -> None:
    out = write(tmp_path / "child.safetensors", parent, SINGLE)
    assert same(SingleFile(out), tensors_in(parent))
    assert [path.name for path in tmp_path.iterdir()] == ["child.safetensors"]
    loaded = StableDiffusionXLPipeline.from_single_file(
        str(out), config=str(parent.folder), local_files_only=True, dtype=torch.float16, add_watermarker=False
    )
    assert same(MemoryReader(tensors_of(loaded)), tensors_in(parent))


def test_a_single_file_carries_notes_and_markers(parent: Pipeline, tmp_path: Path) -> None:
    layout = original_layout("xl_base", {"modelspec.title": "child"}, markers=("v_pred", "ztsnr"))
    model = SingleFile(write(tmp_path / "x.safetensors", parent, layout, recipe="a: 1\nb: ü\n"))
    assert model.metadata == {"format": "pt", "modelspec.title": "child", "recipe": "a: 1\nb: ü\n"}
    assert (model.prediction_type, model.zero_terminal_snr) == ("v_prediction", True)
    with safe_open(model.path, "pt") as file:
        ids = file.get_tensor("conditioner.embedders.0.transformer.text_model.embeddings.position_ids")
        assert torch.equal(ids, torch.arange(77).unsqueeze(0))
        assert file.get_tensor("v_pred").numel() == 0


def test_whole_tensors_are_turned_and_placed_too(parent: Pipeline, tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "x.safetensors", parent.infos, layout=SINGLE) as writer:
        for name in reversed(parent.infos):
            writer.write(name, parent.read(name))
    assert same(SingleFile(tmp_path / "x.safetensors"), tensors_in(parent))


def test_a_unet_alone_is_written(parent: Pipeline, tmp_path: Path) -> None:
    unet = MemoryReader({name: parent.read(name) for name in parent.infos if name.startswith("unet.")})
    model = SingleFile(write(tmp_path / "x.safetensors", unet, SINGLE))
    assert (model.family, model.left_out) == ("xl_base", ())
    assert same(model, tensors_in(unet))


@pytest.mark.parametrize("taken", ["file", "folder", "link"])
def test_a_taken_file_is_refused_and_untouched(parent: Pipeline, tmp_path: Path, taken: str) -> None:
    out = tmp_path / "x.safetensors"
    if taken == "folder":
        out.mkdir()
    elif taken == "link":
        out.symlink_to(tmp_path / "nowhere")
    else:
        out.write_text("mine")
    with pytest.raises(WriteFailed, match="exists already; remove it or choose another -o"):
        write(out, parent, SINGLE)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_file_that_came_meanwhile_is_not_replaced(parent: Pipeline, tmp_path: Path) -> None:
    out = tmp_path / "x.safetensors"
    with pytest.raises(WriteFailed, match="exists already"), CheckpointWriter(out, parent.infos, layout=SINGLE) as writer:
        for name in parent.infos:
            writer.write(name, parent.read(name))
        out.write_text("mine")
    assert out.read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize(
    "lost", ["text_encoder_2.text_projection.weight", "text_encoder_2.text_model.encoder.layers.9.self_attn.k_proj.bias"]
)
@pytest.mark.parametrize("layout", [SINGLE, pipeline_layout()], ids=["file", "pipeline"])
def test_a_missing_piece_leaves_nothing(parent: Pipeline, tmp_path: Path, layout: Layout, lost: str) -> None:
    """Also of a tensor that is collected, and of one that is a part of another."""
    with (
        pytest.raises(WriteFailed, match=rf"1 tensor\(s\) were never written, the first is '{lost}'"),
        CheckpointWriter(tmp_path / "out.safetensors", parent.infos, layout=layout) as writer,
    ):
        for name in parent.infos:
            if name != lost:
                writer.write(name, parent.read(name))
        writer.write_piece(lost, 0, parent.flat(lost)[:10])
    assert list(tmp_path.iterdir()) == []


def test_a_single_file_has_nothing_beside_it(parent: Pipeline, tmp_path: Path) -> None:
    with (
        pytest.raises(WriteFailed, match=r"is one file, and can't have 'README\.md' beside it"),
        CheckpointWriter(tmp_path / "x.safetensors", parent.infos, layout=SINGLE) as writer,
    ):
        writer.text("README.md", "")
    assert list(tmp_path.iterdir()) == []


FULL = """
import resource, sys, torch
from pathlib import Path
from evomm.checkpoints.layout import pipeline_layout
from evomm.checkpoints.original import original_layout
from evomm.checkpoints.reader import TensorInfo
from evomm.checkpoints.writer import CheckpointWriter
from evomm.errors import WriteFailed

resource.setrlimit(resource.RLIMIT_FSIZE, (900, 900))
for out, layout in (("full.safetensors", original_layout("xl_base")), ("full", pipeline_layout())):
    try:
        infos = {"unet.conv_in.weight": TensorInfo(torch.float32, (8, 4, 3, 3))}
        CheckpointWriter(Path(sys.argv[1]) / out, infos, layout=layout).__enter__()
    except WriteFailed as error:
        print(error)
"""


def test_a_full_disk_is_told_before_the_work_and_leaves_nothing(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.count("the disk is full); nothing was left behind") for line in done.stdout.splitlines()] == [1, 1]
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_writer_left_is_cleared(parent: Pipeline, tmp_path: Path) -> None:
    """Folders of components, under another layout."""
    (tmp_path / ".x.safetensors.partial" / "unet").mkdir(parents=True)
    (tmp_path / ".x.safetensors.partial" / "unet" / "half.safetensors").write_text("half")
    write(tmp_path / "x.safetensors", parent, SINGLE)
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]
