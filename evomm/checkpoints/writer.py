"""Streaming, sharded, atomic writing of Hugging Face folders.

All names, dtypes and shapes are known before the first byte, so headers are written at once, space is reserved
(a full disk shows before any work is lost) and tensors land at their offsets in any order. Everything happens in
``.NAME.partial`` beside the target; the last step renames it. A killed write leaves that folder, never the target.
"""

import errno
import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from evomm.checkpoints.reader import DTYPES, INDEX, SINGLE, TensorInfo, inside
from evomm.errors import WriteFailed

CODES = {dtype: code for code, dtype in DTYPES.items()}
SHARD_BYTES = 5_000_000_000  # what save_pretrained uses
_SYNC_BYTES = 1 << 26
SIDECARS = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "chat_template*",
    "*processor_config.json",
)


TEXTS = {".json", ".txt", ".model", ".tiktoken", ".jinja"}  # no code, no pickles


@dataclass(frozen=True)
class _Slot:
    file: int
    offset: int
    info: TensorInfo


class CheckpointWriter:
    """Writes one folder; a context manager that leaves the whole checkpoint or nothing.

    Args:
        out: the folder to make; must not exist, or be empty.
        infos: every tensor that will be written, in file order.
        shard_bytes: largest shard.
        single: the file's name when one shard is enough.

    Raises WriteFailed when the target is taken, the disk is full, or a tensor is missing at the end.
    """

    def __init__(
        self, out: str | Path, infos: Mapping[str, TensorInfo], shard_bytes: int = SHARD_BYTES, single: str = SINGLE
    ) -> None:
        self.out = Path(out).resolve() if Path(out).is_dir() else Path(out)  # through a link to an empty folder
        self.partial = self.out.parent / f".{self.out.name}.partial"
        self._shards = _split(infos, shard_bytes)
        self._infos = infos
        self._single = single
        self._slots: dict[str, _Slot] = {}
        self._fds: list[int] = []
        self._missing = {name: info.nbytes for name, info in infos.items()}
        self._counting = threading.Lock()
        # What is written goes to the disk while the next is computed, so that little is left to wait for at the end.
        self._syncer = ThreadPoolExecutor(1, "sync")
        self._syncing: Future[None] = Future()
        self._syncing.set_result(None)
        self._unsynced = 0

    def __enter__(self) -> Self:
        refuse_taken(self.out)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._refuse_full()
            for number, names in enumerate(self._shards):
                self._reserve(number, names)
        except OSError as error:
            self._discard()
            raise _write_failed(self.out, error) from error
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, name: str, tensor: Tensor) -> None:
        """Write one tensor (any order, any thread); dtype and shape must be as announced."""
        slot = self._slots[name]
        if (tensor.dtype, tuple(tensor.shape)) != (slot.info.dtype, slot.info.shape):
            got = f"{tensor.dtype} {tuple(tensor.shape)}"
            raise WriteFailed(f"{name}: announced as {slot.info.dtype} {slot.info.shape}, got {got}")
        self._put(name, _raw(tensor), slot.offset)

    def write_piece(self, name: str, start: int, piece: Tensor) -> None:
        """Write consecutive elements of a tensor, from element ``start`` on (any order, any thread, each element once)."""
        slot = self._slots[name]
        if piece.dtype != slot.info.dtype or not 0 <= start <= slot.info.numel - piece.numel():
            got = f"{piece.dtype}, elements {start} to {start + piece.numel()}"
            raise WriteFailed(f"{name}: announced as {slot.info.dtype} of {slot.info.numel} elements, got {got}")
        self._put(name, _raw(piece), slot.offset + start * piece.element_size())

    def _put(self, name: str, data: memoryview, offset: int) -> None:
        try:
            _pwrite(self._fds[self._slots[name].file], data, offset)
        except OSError as error:
            raise _write_failed(self.out, error) from error
        with self._counting:
            self._missing[name] -= data.nbytes
            self._unsynced += data.nbytes
            if self._unsynced >= _SYNC_BYTES and self._syncing.done():
                self._unsynced = 0
                self._syncing = self._syncer.submit(os.fdatasync, self._fds[self._slots[name].file])

    def carry(self, folder: Path, leave: Iterable[str] = ()) -> None:
        """Copy config, generation config, tokenizer and processor files along from a parent, but for patterns to leave."""
        for pattern in SIDECARS:
            for path in sorted(folder.glob(pattern)):
                if path.suffix in TEXTS and not any(path.match(unwanted) for unwanted in leave):
                    shutil.copyfile(inside(folder, path.name), self.partial / path.name)

    def text(self, name: str, content: str) -> None:
        """Add a text file."""
        (self.partial / name).write_text(content, encoding="utf-8")

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if kind is None:
                self._finish()
        except OSError as oops:
            raise _write_failed(self.out, oops) from oops
        finally:
            self._discard()
        if isinstance(error, OSError):  # of `carry` or `text`
            raise _write_failed(self.out, error) from error

    def _finish(self) -> None:
        missing = sorted(name for name, nbytes in self._missing.items() if nbytes)
        if missing:
            raise WriteFailed(f"{self.out}: {len(missing)} tensor(s) were never written, the first is '{missing[0]}'")
        if len(self._shards) > 1:
            weight_map = {name: self._file_name(slot.file) for name, slot in self._slots.items()}
            total = sum(info.nbytes for info in self._infos.values())
            index = {"metadata": {"total_size": total}, "weight_map": weight_map}
            self.text(INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")
        self._syncing.result()
        for fd in self._fds:
            os.fsync(fd)
        with suppress(FileNotFoundError):
            self.out.rmdir()  # an empty folder may stand there; a filled one was refused on entry
        self.partial.rename(self.out)
        with suppress(FileNotFoundError):
            (self.out / ".lock").unlink()
        _sync_folder(self.out.parent)

    def _file_name(self, number: int) -> str:
        count = len(self._shards)
        return self._single if count == 1 else f"model-{number + 1:05d}-of-{count:05d}.safetensors"

    def _lock(self) -> None:
        """Take the partial folder: what a killed write left there is cleared, a living one is respected."""
        self.partial.mkdir(exist_ok=True)
        fd = os.open(self.partial / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise WriteFailed(f"{self.out}: another process is writing it right now; wait, or choose another -o") from None
        self._lock_fd: int = fd
        for path in self.partial.iterdir():
            if path.name != ".lock":
                path.unlink()

    def _refuse_full(self) -> None:
        need = sum(info.nbytes for info in self._infos.values())
        free = shutil.disk_usage(self.partial).free
        if need > free:
            raise WriteFailed(
                f"{self.out}: needs {need / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; make room or choose another -o"
            )

    def _reserve(self, number: int, names: list[str]) -> None:
        header, offsets = _header({name: self._infos[name] for name in names})
        fd = os.open(self.partial / self._file_name(number), os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
        self._fds.append(fd)
        size = len(header) + sum(self._infos[name].nbytes for name in names)
        _claim(fd, size)
        _pwrite(fd, memoryview(header), 0)
        for name in names:
            self._slots[name] = _Slot(number, len(header) + offsets[name], self._infos[name])

    def _discard(self) -> None:
        self._syncer.shutdown(wait=True, cancel_futures=True)
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()
        lock = getattr(self, "_lock_fd", None)
        if lock is not None:  # only who holds the lock may clear the folder
            shutil.rmtree(self.partial, ignore_errors=True)
            os.close(lock)
            del self._lock_fd


def _claim(fd: int, size: int) -> None:
    """Reserve the bytes now, where the file system can; a full disk is an error here and not an hour later."""
    if not hasattr(os, "posix_fallocate"):
        return
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as error:
        if error.errno not in {errno.EOPNOTSUPP, errno.EINVAL}:
            raise


def refuse_taken(out: Path) -> None:
    """Raise WriteFailed when something stands where a folder is to be made."""
    there = out.exists() or out.is_symlink()
    if there and (not out.is_dir() or any(out.iterdir()) or out.resolve() == Path.cwd()):
        raise WriteFailed(f"{out}: exists already and is not an empty folder to fill; remove it or choose another -o")


def _write_failed(out: Path, error: OSError) -> WriteFailed:
    what = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else str(error)
    return WriteFailed(f"{out}: could not be written ({what}); nothing was left behind; make room or choose another -o")


def _split(infos: Mapping[str, TensorInfo], limit: int) -> list[list[str]]:
    """Fill shards in order, each up to the limit; a larger tensor gets a shard of its own."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in infos.items():
        if shards[-1] and size + info.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    return shards


def _header(infos: Mapping[str, TensorInfo]) -> tuple[bytes, dict[str, int]]:
    """The safetensors header (length, JSON, padded to 8 bytes) and each tensor's offset behind it."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offsets: dict[str, int] = {}
    at = 0
    for name, info in infos.items():
        offsets[name] = at
        entries[name] = {
            "dtype": CODES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [at, at + info.nbytes],
        }
        at += info.nbytes
    body = json.dumps(entries, separators=(",", ":")).encode()
    body += b" " * (-len(body) % 8)
    return len(body).to_bytes(8, "little") + body, offsets


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().contiguous().view(-1)
    return memoryview(flat.view(torch.uint8).numpy().data) if flat.numel() else memoryview(b"")


def _pwrite(fd: int, data: memoryview, offset: int) -> None:
    while data.nbytes:
        done = os.pwrite(fd, data[: 1 << 30], offset)  # one call writes at most 2 GiB
        data, offset = data[done:], offset + done


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
