"""Streaming, atomic writing of models: a folder, a folder of folders, or one file, as a `Layout` says.

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
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from evomm.checkpoints.binary import claim, header, pwrite, raw, sync_folder
from evomm.checkpoints.layout import Layout, Stored, folder_layout
from evomm.checkpoints.reader import TensorInfo, inside, weight_names
from evomm.errors import WriteFailed

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
    "scheduler_config.json",
)


TEXTS = {".json", ".txt", ".model", ".tiktoken", ".jinja"}  # no code, no pickles


@dataclass(frozen=True)
class _File:
    group: str  # the weights that it is a shard of
    path: Path  # from the partial folder
    tensors: Mapping[str, Stored]


@dataclass(frozen=True)
class _Slot:
    """Where a tensor goes; a turned one is stored as its transpose."""

    file: int
    offset: int
    info: TensorInfo
    turned: bool


class CheckpointWriter:
    """Writes one model; a context manager that leaves the whole checkpoint or nothing.

    Args:
        out: the folder or file to make; must not exist, or be an empty folder to fill.
        infos: every tensor that will be written, in file order.
        shard_bytes: largest shard, where the layout has shards.
        layout: what the files are and how tensors are called in them; names given to the writer are those of ``infos``.
        notes: texts that travel with the model by name: files of a folder, strings in the header of a single file.

    Raises WriteFailed when the target is taken, the disk is full, or a tensor is missing at the end; what the layout raises.
    """

    def __init__(
        self,
        out: str | Path,
        infos: Mapping[str, TensorInfo],
        shard_bytes: int = SHARD_BYTES,
        layout: Layout | None = None,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        self.out = Path(out).resolve() if Path(out).is_dir() else Path(out)  # through a link to an empty folder
        self.partial = self.out.parent / f".{self.out.name}.partial"
        self._layout = layout or folder_layout()
        self._notes = notes or {}
        self._infos = infos
        self._groups = self._layout.divide(infos)
        self._files = list(self._divided(shard_bytes))
        self._slots: dict[str, _Slot] = {}
        self._fds: list[int] = []
        self._missing = {name: info.nbytes for name, info in infos.items()}
        self._turning: dict[str, tuple[Tensor, int]] = {}  # elements so far of tensors that are stored as their transpose
        self._counting = threading.Lock()
        # What is written goes to the disk while the next is computed, so that little is left to wait for at the end.
        self._syncer = ThreadPoolExecutor(1, "sync")
        self._syncing: Future[None] = Future()
        self._syncing.set_result(None)
        self._unsynced = 0

    def __enter__(self) -> Self:
        refuse_taken(self.out, self._layout.single)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            self._lock()
            self._refuse_full()
            for number, file in enumerate(self._files):
                self._reserve(number, file)
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
        self._put(name, raw(tensor.T if slot.turned else tensor), slot.offset)

    def write_piece(self, name: str, start: int, piece: Tensor) -> None:
        """Write consecutive elements of a tensor, from element ``start`` on (any order, any thread, each element once)."""
        slot = self._slots[name]
        if piece.dtype != slot.info.dtype or not 0 <= start <= slot.info.numel - piece.numel():
            got = f"{piece.dtype}, elements {start} to {start + piece.numel()}"
            raise WriteFailed(f"{name}: announced as {slot.info.dtype} of {slot.info.numel} elements, got {got}")
        if slot.turned:
            self._collect(name, start, piece)
        else:
            self._put(name, raw(piece), slot.offset + start * piece.element_size())

    def _collect(self, name: str, start: int, piece: Tensor) -> None:
        """Keep a piece until the whole tensor is there, which is then stored as its transpose."""
        info = self._slots[name].info
        with self._counting:
            if name not in self._turning:
                self._turning[name] = torch.empty(info.numel, dtype=info.dtype), 0
            whole, count = self._turning[name]
            whole[start : start + piece.numel()] = piece.reshape(-1)
            count += piece.numel()
            self._turning[name] = whole, count
        if count == info.numel:
            self.write(name, self._turning.pop(name)[0].view(info.shape))

    def _put(self, name: str, data: memoryview, offset: int) -> None:
        try:
            pwrite(self._fds[self._slots[name].file], data, offset)
        except OSError as error:
            raise _write_failed(self.out, error) from error
        with self._counting:
            self._missing[name] -= data.nbytes
            self._unsynced += data.nbytes
            if self._unsynced >= _SYNC_BYTES and self._syncing.done():
                self._unsynced = 0
                self._syncing = self._syncer.submit(os.fdatasync, self._fds[self._slots[name].file])

    def carry(self, folder: Path, leave: Iterable[str] = (), into: str = "") -> None:
        """Copy config, generation config, tokenizer, scheduler and processor files along from a folder of a parent.

        Args:
            leave: patterns of files not to copy.
            into: subfolder of the child.
        """
        for pattern in SIDECARS:
            for path in sorted(folder.glob(pattern)):
                if path.suffix in TEXTS and not any(path.match(unwanted) for unwanted in leave):
                    shutil.copyfile(inside(folder, path.name), self._beside(f"{into}/{path.name}" if into else path.name))

    def text(self, name: str, content: str) -> None:
        """Add a text file; its name may begin with a subfolder."""
        self._beside(name).write_text(content, encoding="utf-8")

    def _beside(self, name: str) -> Path:
        """Where a file beside the weights goes."""
        if self._layout.single:
            raise WriteFailed(f"{self.out}: is one file, and can't have '{name}' beside it; give it to the writer as a note")
        path = self.partial / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

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
        if not self._layout.single:
            self._index()
            for name, content in self._notes.items():
                self.text(name, content)
        self._syncing.result()
        for fd in self._fds:
            os.fsync(fd)
        if self._layout.single:
            refuse_taken(self.out, single=True)  # renaming would replace what has come since
            (self.partial / self.out.name).rename(self.out)
        else:
            with suppress(FileNotFoundError):
                self.out.rmdir()  # an empty folder may stand there; a filled one was refused on entry
            self.partial.rename(self.out)
            with suppress(FileNotFoundError):
                (self.out / ".lock").unlink()
        sync_folder(self.out.parent)

    def _index(self) -> None:
        """Write which shard has which tensor, for weights that are in several."""
        for group, tensors in self._groups.items():
            shards = [file for file in self._files if file.group == group]
            if len(shards) > 1:
                weight_map = {name: file.path.name for file in shards for name in file.tensors}
                total = sum(stored.info.nbytes for stored in tensors.values())
                index = {"metadata": {"total_size": total}, "weight_map": weight_map}
                self.text(weight_names(group)[0], json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _divided(self, shard_bytes: int) -> Iterator[_File]:
        """The weight files, shard by shard."""
        for group, tensors in self._groups.items():
            if self._layout.single:
                yield _File(group, Path(self.out.name), tensors)
                continue
            shards = _split({name: stored.info for name, stored in tensors.items()}, shard_bytes)
            for number, names in enumerate(shards):
                part = f"-{number + 1:05d}-of-{len(shards):05d}" if len(shards) > 1 else ""
                yield _File(group, Path(f"{group}{part}.safetensors"), {name: tensors[name] for name in names})

    def _lock(self) -> None:
        """Take the partial folder: what a killed write left there is cleared, a living one is respected."""
        if self.partial.is_symlink():
            raise WriteFailed(f"{self.partial}: a link, whose target would be cleared; remove it or choose another -o")
        self.partial.mkdir(exist_ok=True)
        fd = os.open(self.partial / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            raise WriteFailed(f"{self.out}: another process is writing it right now; wait, or choose another -o") from None
        self._lock_fd: int = fd
        for path in self.partial.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != ".lock":
                path.unlink()

    def _refuse_full(self) -> None:
        need = sum(info.nbytes for info in self._infos.values())
        free = shutil.disk_usage(self.partial).free
        if need > free:
            raise WriteFailed(
                f"{self.out}: needs {need / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; make room or choose another -o"
            )

    def _reserve(self, number: int, file: _File) -> None:
        notes = self._notes if self._layout.single else {}
        head, offsets = header({name: one.info for name, one in file.tensors.items()}, {**self._layout.metadata, **notes})
        path = self.partial / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_TRUNC, 0o644)
        self._fds.append(fd)
        claim(fd, len(head) + sum(one.info.nbytes for one in file.tensors.values()))
        pwrite(fd, memoryview(head), 0)
        for name, one in file.tensors.items():
            at = len(head) + offsets[name]
            for part in one.parts:
                self._slots[part] = _Slot(number, at, self._infos[part], one.turned)
                at += self._infos[part].nbytes
            if one.value is not None:
                pwrite(fd, raw(one.value), at)

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


def refuse_taken(out: Path, single: bool = False) -> None:
    """Raise WriteFailed when something stands where a folder is to be made, or a single file."""
    there = out.exists() or out.is_symlink()
    if there and single:
        raise WriteFailed(f"{out}: exists already; remove it or choose another -o")
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
