"""Writing model folders: the whole checkpoint or nothing, whatever happens on the way."""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from evomm.checkpoints.reader import DTYPES, INDEX, SINGLE, Checkpoint, TensorInfo
from evomm.checkpoints.writer import CheckpointWriter
from evomm.errors import UnsafeFile, WriteFailed

ONE = {"a": torch.tensor([1.0, -2.0])}
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)


def infos(tensors: Mapping[str, Tensor]) -> dict[str, TensorInfo]:
    """What a writer is told beforehand."""
    return {name: TensorInfo(t.dtype, tuple(t.shape)) for name, t in tensors.items()}


def write(out: Path, tensors: Mapping[str, Tensor], shard_bytes: int = 10**9) -> Path:
    """Write in the reverse of the file's order, which must not matter."""
    with CheckpointWriter(out, infos(tensors), shard_bytes) as writer:
        for name in reversed(list(tensors)):
            writer.write(name, tensors[name])
    return out


def same(a: Tensor, b: Tensor) -> bool:
    """Bit for bit, NaN included."""
    bits = [t.contiguous().view(-1).view(torch.uint8) for t in (a, b)]
    return (a.dtype, a.shape) == (b.dtype, b.shape) and torch.equal(*bits)


@settings(max_examples=30)
@given(st.dictionaries(st.text("ab.é\"\\", min_size=1, max_size=5), st.tuples(SHAPES, st.sampled_from(list(DTYPES))), min_size=1),
       st.sampled_from([1, 40, 10**9]))  # fmt: skip
def test_what_is_written_is_read_back(wanted: dict[str, tuple[tuple[int, ...], str]], shard_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {}
    for name, (shape, code) in wanted.items():
        data = torch.randint(0, 2, (*shape, DTYPES[code].itemsize), dtype=torch.uint8, generator=generator)
        tensors[name] = data.view(DTYPES[code]).view(shape)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(write(Path(folder) / "out", tensors, shard_bytes))
        assert checkpoint.infos == infos(tensors)
        assert all(same(checkpoint.read(name), tensor) for name, tensor in tensors.items())
        assert sorted(path.name for path in Path(folder).iterdir()) == ["out"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_programs_read_it(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"w": torch.randn(3, 5).to(dtype), "v": torch.randn(5, 3).to(dtype).T, "s": torch.tensor(1.5).to(dtype)}
    read = load_file(write(tmp_path / "out", tensors) / SINGLE)
    assert set(read) == set(tensors)
    assert all(same(read[name], tensor) for name, tensor in tensors.items())


def test_shards_fill_in_order_and_the_index_tells_where_all_is(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2), "b": torch.ones(2), "large": torch.ones(9), "c": torch.ones(1)}
    out = write(tmp_path / "out", tensors, shard_bytes=16)
    index = json.loads((out / INDEX).read_text())
    first, second, third = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
    assert index == {
        "metadata": {"total_size": 56},
        "weight_map": {"a": first, "b": first, "large": second, "c": third},
    }
    assert sorted(path.name for path in out.iterdir()) == sorted([INDEX, first, second, third])
    assert all(name in load_file(out / shard) for name, shard in index["weight_map"].items())


def test_a_single_file_needs_no_index(tmp_path: Path) -> None:
    assert [path.name for path in write(tmp_path / "new" / "deep" / "out", ONE).iterdir()] == [SINGLE]


def test_a_filled_target_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "filled").mkdir()
    for path in (tmp_path / "filled" / "mine.txt", tmp_path / "file"):
        path.write_text("mine")
    for name in ("filled", "file"):
        with pytest.raises(WriteFailed, match="exists already and is not an empty folder"):
            write(tmp_path / name, ONE)
    assert (tmp_path / "filled" / "mine.txt").read_text() == (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "filled"]


def test_an_empty_target_is_filled(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert same(Checkpoint(write(tmp_path / "empty", ONE)).read("a"), ONE["a"])


def test_a_link_to_an_empty_folder_is_filled(tmp_path: Path) -> None:
    """Large disks are often linked to."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    write(tmp_path / "link", ONE)
    assert same(Checkpoint(tmp_path / "disk").read("a"), ONE["a"])


def test_the_current_folder_is_refused_before_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be replaced under the feet of who stands in it."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WriteFailed, match="-o"):
        CheckpointWriter(Path(), infos(ONE)).__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_missing_tensor_or_an_error_leaves_nothing(tmp_path: Path) -> None:
    with (
        pytest.raises(WriteFailed, match=r"1 tensor\(s\) were never written, the first is 'a'"),
        CheckpointWriter(tmp_path / "out", infos(ONE)),
    ):
        pass
    with pytest.raises(KeyError), CheckpointWriter(tmp_path / "out", infos(ONE)) as writer:
        writer.write("a", ONE["a"])
        raise KeyError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", [torch.ones(3), torch.ones(2, dtype=torch.float16), torch.ones(2, 1)])
def test_a_tensor_that_was_not_announced_so_is_refused(tmp_path: Path, wrong: Tensor) -> None:
    with (
        pytest.raises(WriteFailed, match=r"a: announced as torch\.float32 \(2,\), got"),
        CheckpointWriter(tmp_path / "out", infos(ONE)) as writer,
    ):
        writer.write("a", wrong)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
@pytest.mark.parametrize("shard_bytes", [1, 10**9])
def test_pieces_may_come_in_any_order_and_from_any_thread(tmp_path: Path, dtype: torch.dtype, shard_bytes: int) -> None:
    tensors = {name: (torch.arange(60) + 60 * i).to(dtype).view(5, 12) for i, name in enumerate("abc")}
    cuts = [(name, start, min(start + 7, 60)) for name in tensors for start in range(0, 60, 7)]
    cuts = cuts[1::2] + cuts[::2]
    with CheckpointWriter(tmp_path / "out", infos(tensors), shard_bytes) as writer, ThreadPoolExecutor(4) as pool:
        for _ in pool.map(lambda cut: writer.write_piece(cut[0], cut[1], tensors[cut[0]].view(-1)[cut[1] : cut[2]]), cuts):
            pass
    read = Checkpoint(tmp_path / "out")
    assert all(same(read.read(name), tensor) for name, tensor in tensors.items())


def test_whole_tensors_pieces_and_empty_tensors_go_together(tmp_path: Path) -> None:
    tensors = {"whole": torch.ones(3), "pieces": torch.arange(4.0), "none": torch.ones(0, 3), "scalar": torch.tensor(2.0)}
    with CheckpointWriter(tmp_path / "out", infos(tensors)) as writer:
        writer.write("whole", tensors["whole"])
        writer.write_piece("pieces", 1, tensors["pieces"][1:])
        writer.write_piece("scalar", 0, tensors["scalar"])
        writer.write_piece("pieces", 0, tensors["pieces"][:1])
    read = Checkpoint(tmp_path / "out")
    assert all(same(read.read(name), tensor) for name, tensor in tensors.items()), "of nothing, nothing is missing"


def test_a_missing_piece_leaves_nothing(tmp_path: Path) -> None:
    """The rest of a tensor would be zeros, which look like weights."""
    with (
        pytest.raises(WriteFailed, match=r"1 tensor\(s\) were never written, the first is 'a'"),
        CheckpointWriter(
            tmp_path / "out", {"a": TensorInfo(torch.float32, (2, 5)), "b": TensorInfo(torch.float32, (1,))}
        ) as writer,
    ):
        writer.write_piece("a", 0, torch.ones(4))
        writer.write_piece("a", 5, torch.ones(5))
        writer.write_piece("b", 0, torch.ones(1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("start", "piece", "got"), [
    (9, torch.ones(2), r"torch\.float32, elements 9 to 11"),
    (0, torch.ones(11), r"torch\.float32, elements 0 to 11"),
    (0, torch.ones(2, dtype=torch.float16), r"torch\.float16, elements 0 to 2"),
])  # fmt: skip
def test_a_piece_that_does_not_fit_is_refused(tmp_path: Path, start: int, piece: Tensor, got: str) -> None:
    """Behind a tensor's end stands the next tensor."""
    two = {name: TensorInfo(torch.float32, (2, 5)) for name in "ab"}
    with (
        pytest.raises(WriteFailed, match=rf"a: announced as torch\.float32 of 10 elements, got {got}"),
        CheckpointWriter(tmp_path / "out", two) as writer,
    ):
        writer.write_piece("a", start, piece)
    assert list(tmp_path.iterdir()) == []


def test_more_than_the_disk_holds_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match=r"the disk has .* GB free"):
        CheckpointWriter(tmp_path / "out", {"a": TensorInfo(torch.float32, (1 << 50,))}).__enter__()
    assert list(tmp_path.iterdir()) == []


FULL_DISK = """
import errno, os, resource, sys, torch
from pathlib import Path
from evomm.checkpoints.reader import TensorInfo
from evomm.checkpoints.writer import CheckpointWriter
from evomm.errors import WriteFailed

def no_reserving(*_): raise OSError(errno.EOPNOTSUPP, "as on some file systems")

def attempt(out, numel, text=""):
    try:
        with CheckpointWriter(Path(out), {"a": TensorInfo(torch.float32, (numel,))}) as writer:
            writer.write("a", torch.ones(numel))
            writer.text("notes.txt", text)
    except WriteFailed as error:
        print(error)

resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
folder = sys.argv[1]
attempt(f"{folder}/reserved", 10_000)
attempt(f"{folder}/text", 10, text="x" * 30_000)
os.posix_fallocate = no_reserving
attempt(f"{folder}/written", 10_000)
"""


def test_a_write_that_really_fails_leaves_nothing_and_says_so(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    said = done.stdout.splitlines()
    assert [Path(line.partition(":")[0]).name for line in said] == ["reserved", "text", "written"]
    assert all("the disk is full); nothing was left behind" in line for line in said)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys, time, torch
from pathlib import Path
from evomm.checkpoints.reader import TensorInfo
from evomm.checkpoints.writer import CheckpointWriter
with CheckpointWriter(Path(sys.argv[1]), {n: TensorInfo(torch.float32, (2,)) for n in "ab"}, 8) as writer:
    writer.write("a", torch.zeros(2))
    print("writing", flush=True)
    time.sleep(600)
"""


def test_a_killed_writer_leaves_no_model_and_the_next_one_succeeds(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with subprocess.Popen([sys.executable, "-c", KILLED, out], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "writing\n"
            with pytest.raises(WriteFailed, match="another process is writing it right now"):
                write(out, ONE)
        finally:
            process.send_signal(signal.SIGKILL)
    assert not out.exists()
    assert same(Checkpoint(write(out, ONE)).read("a"), ONE["a"])
    assert [path.name for path in tmp_path.rglob("*")] == ["out", SINGLE]


def test_a_second_writer_does_not_disturb_the_first(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path / "out", infos(ONE)) as writer:
        with pytest.raises(WriteFailed, match="another process is writing"):
            write(tmp_path / "out", ONE)
        writer.write("a", ONE["a"])
    assert same(Checkpoint(tmp_path / "out").read("a"), ONE["a"])


def test_tokenizer_and_config_travel_but_no_code_and_no_pickles(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    parent.mkdir()
    travel = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "merges.txt",
              "vocab.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja", "preprocessor_config.json",
              "qwen.tiktoken"}  # fmt: skip
    stay = {"modeling_x.py", "tokenizer.py", "tokenizer.pkl", "pytorch_model.bin", "vocab.pt", "README.md", "optimizer.pt"}
    for name in travel | stay:
        (parent / name).write_text(name)
    with CheckpointWriter(tmp_path / "out", infos(ONE)) as writer:
        writer.write("a", ONE["a"])
        writer.carry(parent)
    assert {path.name for path in (tmp_path / "out").iterdir()} == travel | {SINGLE}
    assert all((tmp_path / "out" / name).read_text() == name for name in travel)


def test_a_tokenizer_that_links_out_of_the_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "parent").mkdir()
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "parent" / "tokenizer.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UnsafeFile, match="outside of the model folder"), CheckpointWriter(tmp_path / "out", infos(ONE)) as writer:
        writer.carry(tmp_path / "parent")
    assert not (tmp_path / "out").exists()
