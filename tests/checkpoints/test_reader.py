"""Reading model folders: what is whole reads exactly, and what is not is refused by name."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from evomm.checkpoints.reader import DTYPES, INDEX, SINGLE, Checkpoint, MemoryReader, TensorInfo
from evomm.errors import CheckpointError, DamagedFile, MissingFile, UnsafeFile

PAIR = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(2, dtype=torch.float16)}


def single(folder: Path, tensors: Mapping[str, Tensor] = PAIR) -> Path:
    """A model of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / SINGLE)
    return folder


def sharded(folder: Path, shards: Mapping[str, Mapping[str, Tensor]], index: Mapping[str, str] | None = None) -> Path:
    """A model of shards; the index tells the truth unless given."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, tensors in shards.items():
        save_file(dict(tensors), folder / file)
    truth = {name: file for file, tensors in shards.items() for name in tensors}
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": truth if index is None else index}))
    return folder


@pytest.mark.parametrize("code", DTYPES)
def test_every_dtype_reads_bit_for_bit(tmp_path: Path, code: str) -> None:
    tensors = {shape: torch.ones(shape).to(DTYPES[code]) for shape in [(), (0,), (3,), (2, 0, 3), (2, 3)]}
    checkpoint = Checkpoint(single(tmp_path, {str(shape): tensor for shape, tensor in tensors.items()}))
    for shape, tensor in tensors.items():
        info, read = checkpoint.infos[str(shape)], checkpoint.read(str(shape))
        assert (info.dtype, info.shape, info.nbytes) == (tensor.dtype, shape, tensor.nbytes)
        assert (read.dtype, tuple(read.shape)) == (tensor.dtype, shape)
        assert read.reshape(-1).view(torch.uint8).tolist() == tensor.reshape(-1).view(torch.uint8).tolist()


def test_shards_read_as_one_model(tmp_path: Path) -> None:
    checkpoint = Checkpoint(sharded(tmp_path, {"x-1.safetensors": {"a": PAIR["a"]}, "x-2.safetensors": {"b": PAIR["b"]}}))
    assert set(checkpoint.infos) == {"a", "b"}
    assert checkpoint.nbytes == 6 * 4 + 2 * 2
    assert all(torch.equal(checkpoint.read(name), tensor) for name, tensor in PAIR.items())


def test_the_config_is_read_when_there_is_one(tmp_path: Path) -> None:
    folder = single(tmp_path)
    assert Checkpoint(folder).config == {}
    (folder / "config.json").write_text('{"model_type": "x"}')
    assert Checkpoint(folder).config == {"model_type": "x"}
    (folder / "config.json").write_text("[1]")
    with pytest.raises(DamagedFile, match="expected a JSON object, found list"):
        _ = Checkpoint(folder).config


@pytest.mark.parametrize("keep", [0, 5, 20, -24, -1])
def test_a_truncated_file_is_damaged(tmp_path: Path, keep: int) -> None:
    path = single(tmp_path) / SINGLE
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DamagedFile, match=r"model\.safetensors: not a whole safetensors file"):
        Checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff" * 64,
        (2).to_bytes(8, "little") + b"[]",
        (9).to_bytes(8, "little") + b'{"a": 1}]',
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
)
def test_a_garbage_header_is_damaged(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SINGLE).write_bytes(content)
    with pytest.raises(DamagedFile, match=r"model\.safetensors"):
        Checkpoint(tmp_path)


def test_an_unknown_dtype_is_named(tmp_path: Path) -> None:
    header = json.dumps({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}).encode()
    (tmp_path / SINGLE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(DamagedFile, match="'a' has dtype C64; supported: F64, "):
        Checkpoint(tmp_path)


def test_an_index_that_contradicts_the_files_is_refused(tmp_path: Path) -> None:
    one, two = {"x-1.safetensors": {"a": PAIR["a"]}}, {"x-2.safetensors": {"a": PAIR["a"]}}
    with pytest.raises(MissingFile, match=r"x-9\.safetensors"):
        Checkpoint(sharded(tmp_path / "missing", one, {"a": "x-1.safetensors", "b": "x-9.safetensors"}))
    with pytest.raises(DamagedFile, match=r"names 1 tensor\(s\) that no shard holds, the first is 'b'"):
        Checkpoint(sharded(tmp_path / "lost", one, {"a": "x-1.safetensors", "b": "x-1.safetensors"}))
    with pytest.raises(DamagedFile, match="'a' is in two shards"):
        Checkpoint(sharded(tmp_path / "twice", {**one, **two}, {"a": "x-1.safetensors", "b": "x-2.safetensors"}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}', "'a' stands twice"),
        ('{"weight_map": {"a": 1}}', "expected a 'weight_map'"),
        ('{"weight_map": {}}', "no tensors"),
        ("{}", "expected a 'weight_map'"),
        ("[]", "expected a JSON object"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("\udcff", "not valid JSON"),
    ],
)
def test_a_broken_index_is_damaged(tmp_path: Path, text: str, said: str) -> None:
    single(tmp_path)
    (tmp_path / INDEX).write_text(text, errors="surrogateescape")
    with pytest.raises(DamagedFile, match=said):
        Checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\x.safetensors", "..", ".", ""])
def test_an_index_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    single(tmp_path)  # so that ../model.safetensors is there
    with pytest.raises(UnsafeFile, match="expected a plain file name"):
        Checkpoint(sharded(tmp_path / "model", {}, {"a": name}))


@pytest.mark.parametrize("name", ["a\0b.safetensors", "x" * 300 + ".safetensors", "loop.safetensors"])
def test_an_index_that_names_nonsense_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop.safetensors").symlink_to(tmp_path / "loop.safetensors")
    with pytest.raises(CheckpointError):
        Checkpoint(sharded(tmp_path, {}, {"a": name}))


def test_an_index_that_names_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UnsafeFile, match="a pickle can run code"):
        Checkpoint(sharded(tmp_path, {}, {"a": "pytorch_model.bin"}))


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    elsewhere, folder = single(tmp_path / "elsewhere"), tmp_path / "model"
    folder.mkdir()
    (folder / SINGLE).symlink_to(elsewhere / SINGLE)
    with pytest.raises(UnsafeFile, match="outside of the model folder"):
        Checkpoint(folder)


def test_the_hub_caches_own_links_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "0a1b"
    single(blobs)
    (blobs / SINGLE).rename(blobs / "deadbeef")
    snapshot.mkdir(parents=True)
    (snapshot / SINGLE).symlink_to("../../blobs/deadbeef")
    assert torch.equal(Checkpoint(snapshot).read("a"), PAIR["a"])


@pytest.mark.parametrize("pickle", ["pytorch_model.bin", "model.ckpt", "weights.pt", "x.pth", "x.pkl"])
def test_pickles_are_refused_with_the_way_out(tmp_path: Path, pickle: str) -> None:
    (tmp_path / pickle).write_bytes(b"")
    with pytest.raises(UnsafeFile, match=rf"{pickle}.*save_pretrained writes safetensors"):
        Checkpoint(tmp_path)


def test_what_is_no_model_folder_says_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, said in [("nowhere", "found nothing"), ("file", "found a file"), (".", "is this a model folder")]:
        with pytest.raises(MissingFile, match=said):
            Checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", [SINGLE, INDEX])
def test_a_folder_where_a_file_should_be_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(CheckpointError, match=name):
        Checkpoint(tmp_path)


def test_tensors_in_memory_read_alike() -> None:
    reader = MemoryReader(PAIR)
    assert reader.infos == {"a": TensorInfo(torch.float32, (2, 3)), "b": TensorInfo(torch.float16, (2,))}
    assert reader.read("a") is PAIR["a"]
