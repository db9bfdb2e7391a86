"""Hostile data: pictures that are none, parquet files that want to run code."""

import json
import pickle
import zlib
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from evomm.errors import DamagedFile, UsageError
from evomm.fitness.numbers import last_number
from evomm.fitness.seen import Picture
from evomm.fitness.table import load_task


class Planted:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def png(side: int) -> bytes:
    """The beginning of a black square, of which the header says how large it is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    size = side.to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(bytes(101 * 100))) + chunk(b"IEND", b"")


def test_a_picture_of_a_hundred_million_pixels_is_refused_by_its_header() -> None:
    assert Picture("here", content=png(100)).open().size == (100, 100)
    with pytest.raises(DamagedFile, match=r"the picture cannot be read .*decompression bomb"):
        Picture("here", content=png(10_000)).open()


@pytest.mark.parametrize("image", ["../secret.txt", "secret"])
def test_a_file_that_is_no_picture_is_not_quoted(tmp_path: Path, image: str) -> None:
    """Rows name files by any path, so what stands in those must not come out in a message."""
    (tmp_path / "secret.txt").write_text("the password is swordfish")
    (tmp_path / "task").mkdir()
    path = str(tmp_path / "secret.txt") if image == "secret" else image
    (tmp_path / "task" / "data.jsonl").write_text(json.dumps({"split": "test", "question": "?", "answer": "x", "image": path}))
    spec = {"kind": "vqa", "about": "x", "prompt": "<image>{question}", "data": "data.jsonl"}
    (tmp_path / "task" / "task.yaml").write_text(json.dumps(spec))
    with pytest.raises(DamagedFile, match="the picture cannot be read") as caught:
        load_task(str(tmp_path / "task" / "task.yaml")).examples("test")
    assert "swordfish" not in str(caught.value)


@pytest.mark.parametrize("data", ["/", "/dev/zero"])
def test_data_that_is_no_data_set_is_not_read_to_its_end(tmp_path: Path, data: str) -> None:
    (tmp_path / "task.yaml").write_text(json.dumps({"kind": "math", "about": "x", "prompt": "{question}", "data": data}))
    with pytest.raises(UsageError, match=r"holds more than|a device"):
        load_task(str(tmp_path / "task.yaml")).examples("test")


def test_a_pickle_in_a_parquet_file_is_not_run(tmp_path: Path) -> None:
    """Old versions of Arrow kept types of their own as pickles, and loaded these when a file was opened."""
    mark = tmp_path / "it-ran"
    hidden = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle.dumps(Planted(mark), 0)}
    fields = [pa.field(name, pa.string()) for name in ("split", "question", "answer")]
    fields[1] = fields[1].with_metadata(hidden)
    table = pa.table([["test"], ["1+1?"], ["2"]], schema=pa.schema(fields))
    parquet.write_table(table, tmp_path / "data.parquet")
    spec = {"kind": "math", "about": "x", "prompt": "{question}", "data": "data.parquet"}
    (tmp_path / "task.yaml").write_text(json.dumps(spec))
    with suppress(UsageError):  # it may be refused, or read as what it is without its type
        assert len(load_task(str(tmp_path / "task.yaml")).examples("test")) == 1
    assert not mark.exists()


@pytest.mark.parametrize("text", ["1" * 5000, "7 and " + "9" * 100_000, "1/" + "3" * 5000, "1." + "3" * 5000])
def test_digits_without_end_are_no_number(text: str) -> None:
    """A model that repeats itself writes them; Python refuses to read them."""
    assert last_number(text) is None
