"""Lazy, memory-mapped reading of Hugging Face folders (one safetensors file, or shards with an index).

Opening reads headers only. A tensor that is read is a view of the file: it takes page cache, no memory of its own.
Format: https://huggingface.co/docs/safetensors (8 bytes of header length, a JSON header, raw little-endian tensors).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from evomm.errors import DamagedFile, MissingFile, UnsafeFile
from evomm.plain import cut, text_of

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_LONGEST = 500  # letters of a tensor's name: the longest in use have a hundred, and patterns run over every one

DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of one tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.numel * self.dtype.itemsize


class Flat(Protocol):
    """A tensor's elements in a row, read piece by piece; a one-dimensional tensor is one, a computed tensor another."""

    def __getitem__(self, part: slice) -> Tensor:
        """Elements ``start:stop``, one-dimensional; the caller must not write into them."""
        ...


class TensorReader(Protocol):
    """Anything tensors can be read from: a folder, one with a LoRA on top, a view with other names, a dict in memory."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Name -> dtype and shape of every tensor."""
        ...

    def flat(self, name: str) -> Flat:
        """The tensor's elements in a row, made when asked for."""
        ...

    def read(self, name: str) -> Tensor:
        """The whole tensor; the caller must not write into it."""
        ...


class FileReader(TensorReader, Protocol):
    """Tensors that are in files."""

    @property
    def folder(self) -> Path:
        """Where config and tokenizer are."""
        ...

    @property
    def files(self) -> Sequence[Path]:
        """What holds the tensors."""
        ...

    @property
    def configs(self) -> Sequence[Path]:
        """The files beside them that say what the model is."""
        ...


class MemoryReader:
    """Tensors that are in memory already."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors
        self.infos = {name: TensorInfo(t.dtype, tuple(t.shape)) for name, t in tensors.items()}

    def flat(self, name: str) -> Flat:
        """The tensor's elements in a row."""
        return self._tensors[name].reshape(-1)

    def read(self, name: str) -> Tensor:
        """The tensor of that name."""
        return self._tensors[name]


class Checkpoint:
    """A Hugging Face folder, read lazily.

    Args:
        folder: holds ``model.safetensors``, or shards and ``model.safetensors.index.json``, and usually ``config.json``.
        stems: what the weights may be called, instead of ``model``.
        variants: kinds of weights to take, best first: ``fp16`` is that of ``model.fp16.safetensors``.

    Raises:
        MissingFile: no folder, no weights, or a shard that the index names is not there.
        DamagedFile: a header or an index that contradicts the files.
        UnsafeFile: only pickled weights, or a shard outside of the folder.
    """

    def __init__(self, folder: str | Path, stems: Sequence[str] = ("model",), variants: Sequence[str] = ("",)) -> None:
        self.folder = Path(folder)
        self._index, self.files = _weight_files(self.folder, [weight_names(stem, v) for v in variants for stem in stems])
        self._handles: dict[str, Any] = {}
        self._views: dict[str, Tensor] = {}  # made once: a search asks for each of them with every candidate
        self.infos: dict[str, TensorInfo] = {}
        for file in self.files:
            handle = open_file(file)
            for name in handle.keys():  # noqa: SIM118 - a safetensors handle is no dict
                if name in self._handles:
                    raise DamagedFile(f"{self.folder}: tensor '{name}' is in two shards; which one holds is unknown")
                self._handles[name] = handle
                self.infos[name] = info_of(handle, name, file)
        self._check_index()

    def flat(self, name: str) -> Flat:
        """The tensor's elements in a row, memory-mapped."""
        return self.read(name).reshape(-1)

    def read(self, name: str) -> Tensor:
        """The tensor, memory-mapped; shape and dtype as in ``infos[name]``."""
        if name not in self._views:
            self._views[name] = self._handles[name].get_tensor(name)
        return self._views[name]

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json`` as a dict; empty when there is none."""
        path = self.folder / "config.json"
        return read_json(path) if path.exists() else {}

    @property
    def configs(self) -> tuple[Path, ...]:
        """The files beside the weights that say what the model is."""
        path = self.folder / "config.json"
        return (path,) if path.exists() else ()

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.infos.values())

    def _check_index(self) -> None:
        lost = sorted(set(_weight_map(self._index)) - set(self.infos)) if self._index else []
        if lost:
            raise DamagedFile(
                f"{self._index}: names {len(lost)} tensor(s) that no shard holds, the first is '{lost[0]}'; "
                "copy the model again, or write it again with save_pretrained"
            )


def weight_names(stem: str, variant: str = "") -> tuple[str, str]:
    """What weights are called: the index of shards, and the single file."""
    kind = f".{variant}" if variant else ""
    return f"{stem}.safetensors.index{kind}.json", f"{stem}{kind}.safetensors"


def _weight_files(folder: Path, wanted: Sequence[tuple[str, str]]) -> tuple[Path | None, tuple[Path, ...]]:
    """The index, if any, and the weight files, under the first of the wanted names that is there."""
    if not folder.is_dir():
        raise MissingFile(f"{folder}: expected a model folder, found {'a file' if folder.exists() else 'nothing'}")
    for index, single in wanted:
        if (folder / index).exists():
            return folder / index, tuple(inside(folder, shard) for shard in sorted(set(_weight_map(folder / index).values())))
        if (folder / single).exists():
            return None, (inside(folder, single),)
    refuse_pickles(folder)
    singles = " or ".join(dict.fromkeys(single for _, single in wanted))
    raise MissingFile(f"{folder}: expected {singles}, or its shards with {wanted[0][0]}, found neither; is this a model folder?")


def refuse_pickles(folder: Path) -> None:
    """Raise UnsafeFile when pickled weights are there."""
    pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise UnsafeFile(
            f"{folder}: only pickled weights ({pickles[0]}), which can run code when loaded, so evomm never does; "
            "convert them where you trust them: transformers' or diffusers' save_pretrained writes safetensors"
        )


def inside(folder: Path, name: str) -> Path:
    """The path of a model's file, refused when it leaves the folder (the hub cache's own link to its blobs is fine)."""
    if name in {"", ".", ".."} or Path(name).name != name or "\\" in name:
        raise UnsafeFile(f"{folder}: the index names a file '{name}' that leaves the folder; expected a plain file name")
    path = folder / name
    if path.suffix in PICKLES:
        raise UnsafeFile(f"{path}: a pickle can run code when loaded; expected a .safetensors file")
    try:
        target, home = path.resolve(), folder.resolve()
        there = path.exists()
    except (OSError, ValueError, RuntimeError) as error:  # a name too long, a zero byte, links in a circle
        raise DamagedFile(f"{folder}: names a file that cannot be ({name[:80]!r}: {error})") from error
    # Hub cache: <repo>/snapshots/<revision>/file, or .../<revision>/unet/file, -> <repo>/blobs/<digest>
    blobs = {above.parent / "blobs" for above in (home.parent, home.parent.parent) if above.name == "snapshots"}
    if target.parent not in {home, *blobs}:
        raise UnsafeFile(f"{path}: links to {target}, outside of the model folder; copy the file in if you trust it")
    if not there:
        raise MissingFile(f"{path}: the model names this file, but it is not there; copy the model again")
    return path


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file, memory-mapped; the caller must not write into them."""
    handle = open_file(path)
    names = list(handle.keys())
    for name in names:
        info_of(handle, name, path)
    return {name: handle.get_tensor(name) for name in names}


def open_file(path: Path) -> Any:
    """The handle of a safetensors file: ``keys()``, ``get_slice(name)``, ``get_tensor(name)`` (memory-mapped), ``metadata()``."""
    try:
        handle = safe_open(path, framework="pt", device="cpu")
        _refuse_header(path)
    except SafetensorError as error:
        raise DamagedFile(f"{path}: not a whole safetensors file ({cut(str(error))}); download or copy it again") from error
    except OSError as error:
        raise MissingFile(f"{path}: cannot be opened ({error})") from error
    return handle


def _refuse_header(path: Path) -> None:
    """What the library accepts in a header, and evomm does not: a tensor that stands twice, of which it takes the last."""
    with path.open("rb") as file:
        header = file.read(int.from_bytes(file.read(8), "little"))  # the library has seen that it is there, and below 100 MB
    content = parse_json(header.decode("utf-8"), path, unique=True)
    for name in content:
        if len(name) > _LONGEST or not name.isprintable():
            raise DamagedFile(
                f"{path}: a tensor is called {cut(repr(name[:_LONGEST]))} ({len(name)} letters); "
                f"expected at most {_LONGEST} printable letters, so this is no model's file"
            )


def info_of(handle: Any, name: str, file: Path) -> TensorInfo:
    """What the header of an open file says of a tensor."""
    part = handle.get_slice(name)
    dtype = part.get_dtype()
    if dtype not in DTYPES:
        raise DamagedFile(f"{file}: tensor '{name}' has dtype {dtype}; supported: {', '.join(DTYPES)}")
    return TensorInfo(DTYPES[dtype], tuple(part.get_shape()))


def _weight_map(index: Path) -> dict[str, str]:
    content = read_json(index, unique=True)
    weights = content.get("weight_map")
    if isinstance(weights, dict) and not weights:
        raise DamagedFile(f"{index}: names no tensors; copy the model again")
    if not isinstance(weights, dict) or not all(isinstance(v, str) for v in weights.values()):
        raise DamagedFile(f"{index}: expected a 'weight_map' from tensor names to shard names")
    return weights


def read_json(path: Path, unique: bool = False) -> dict[str, Any]:
    """A JSON object from a file; DamagedFile when it is none, or when a key stands twice and must be unique."""
    try:
        text = text_of(path)
    except (OSError, ValueError) as error:
        raise DamagedFile(f"{path}: not valid JSON ({error})") from error
    return parse_json(text, path, unique)


def parse_json(text: str, path: Path, unique: bool = False) -> dict[str, Any]:
    """A JSON object from the text of a file, as `read_json` reads it."""

    def pairs(items: Iterable[tuple[str, Any]]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key, value in items:
            if unique and key in out:
                raise DamagedFile(f"{path}: '{cut(key)}' stands twice; which one holds is unknown")
            out[key] = value
        return out

    try:
        content = json.loads(text, object_pairs_hook=pairs)
    except (ValueError, RecursionError) as error:
        raise DamagedFile(f"{path}: not valid JSON ({cut(str(error))})") from error
    if not isinstance(content, dict):
        raise DamagedFile(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content
