"""A base model with a LoRA on top (arXiv 2106.09685): W + scale · alpha/r · B @ A, made when read.

reader = LoraReader(Checkpoint(base), read_adapter(folder))       # a peft adapter; `lora_image` reads those of image models

Nothing is materialised: a slice of an adapted matrix multiplies only the rows that it covers. Products are computed over
blocks of rows that depend on the matrix alone, so no element depends on how a tensor is cut into pieces.
"""

from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from evomm.checkpoints.lora_config import CONFIG, read_config
from evomm.checkpoints.lora_file import Lora, Part, Product, read_parts
from evomm.checkpoints.reader import INDEX, SINGLE, Flat, TensorInfo, TensorReader
from evomm.errors import MisfitError

_BLOCK = 1 << 16  # elements of a product made at once: 256 KiB of float32 stay in the cache
_ROWS = 8  # at least; a product of a single row is slow, and rounded otherwise


def is_lora(folder: Path) -> bool:
    """Whether a folder holds a peft adapter and no model of its own."""
    return (folder / CONFIG).exists() and not (folder / SINGLE).exists() and not (folder / INDEX).exists()


def recorded_base(folder: Path) -> str | None:
    """The base model that the adapter names, as ``name`` or ``name@revision``; None when it names none."""
    return read_config(folder).base


def read_adapter(folder: str | Path, names: Mapping[str, str] | None = None) -> Lora:
    """A peft adapter: a folder with adapter_config.json and adapter_model.safetensors.

    Args:
        names: tensor in the base -> tensor in the running model, as in `Lora`.

    Raises:
        MissingFile, DamagedFile, UnsafeFile: the adapter's files are not there, broken, or pickled.
        UsageError: the adapter is of a kind that evomm cannot apply.
    """
    config = read_config(Path(folder))
    return Lora(Path(folder), read_parts(Path(folder), config), config.base, names or {})


class LoraReader:
    """A base model's tensors, changed by a LoRA; names, shapes and dtypes are the base's.

    Args:
        base: the model that the LoRA was trained on.
        lora: what was read from its files.
        scale: multiplies the whole change: products, and what modules and biases stored whole differ by.

    Raises MisfitError when the LoRA was made for another base.
    """

    def __init__(self, base: TensorReader, lora: Lora, scale: float = 1.0) -> None:
        self.infos = base.infos
        self._base = base
        self._scale = scale
        tables = list(_tables(lora.parts, set(base.infos), {place: name for name, place in lora.names.items()}))
        homes = _homes(lora, set(base.infos), tables)
        self._parts = {home: lora.parts[name] for name, home in homes.items()}
        for home, part in self._parts.items():
            _refuse_misfit(part, home, base.infos[home], lora)

    @property
    def changed(self) -> tuple[str, ...]:
        """Names of the tensors that the LoRA changes."""
        return tuple(self._parts)

    def flat(self, name: str) -> Flat:
        """The tensor's elements in a row, changed as they are read."""
        base = self._base.flat(name)
        return _Adapted(base, self.infos[name], self._parts[name], self._scale) if name in self._parts else base

    def read(self, name: str) -> Tensor:
        """The whole tensor."""
        return self.flat(name)[:].reshape(self.infos[name].shape) if name in self._parts else self._base.read(name)


@dataclass(frozen=True)
class _Adapted:
    """Elements of one changed tensor."""

    base: Flat
    info: TensorInfo
    part: Part
    scale: float

    @cached_property
    def _product(self) -> Product | None:
        """The change with A in float32, for as long as the tensor is read."""
        product = self.part.product
        return product and replace(product, right=product.right.float().contiguous())

    def __getitem__(self, part: slice) -> Tensor:
        start, stop, step = part.indices(self.info.numel)
        stop = max(start, stop)
        whole, product = self.part.whole, self._product
        if whole is not None and self.scale == 1:
            out = whole.reshape(-1)[start:stop]
        else:
            out = self.base[start:stop].float()
            if whole is not None:
                out = out + (whole.reshape(-1)[start:stop].float() - out) * self.scale
        if product is not None and stop > start:
            out = out.float() + _elements(product, start, stop) * (self.scale * product.scaling)
        return out.to(self.info.dtype)[::step]


def _elements(product: Product, start: int, stop: int) -> Tensor:
    """Elements ``start:stop`` of left @ right, float32 as ``right`` is, from whole blocks of rows."""
    columns = product.right.shape[1]
    rows = max(_ROWS, _BLOCK // columns)
    first = start // columns // rows * rows
    blocks = [product.left[row : row + rows].float() @ product.right for row in range(first, -(-stop // columns), rows)]
    return torch.cat(blocks).reshape(-1)[start - first * columns : stop - first * columns]


def _homes(lora: Lora, known: Set[str], tables: Sequence[Mapping[str, str]]) -> Mapping[str, str]:
    """Tensor name in the LoRA -> in the base.

    Tied heads that the LoRA stores a second time, but the base does not, are left out.
    """
    found = [{name: home for name, home in table.items() if home in known} for table in tables]
    homes, parts = max(found, key=len), lora.parts  # the first of the best
    lost = [name for name in parts if name not in homes and not any(parts[name].same(parts[twin]) for twin in homes)]
    if lost:
        raise MisfitError(
            f"{lora.path}: the adapter changes '{lost[0]}', which this base does not have ({len(lost)} of {len(parts)} changed "
            f"tensors are not there); {_wanted(lora)}"
        )
    others = any(len(table) == len(homes) and table != homes for table in found)
    if (homes is not found[0] and others) or len(set(homes.values())) < len(homes):
        raise MisfitError(
            f"{lora.path}: '{next(iter(parts))}' could be more than one tensor of this base; {_wanted(lora)}, "
            "named as it was when the adapter was trained"
        )
    return homes


def _tables(parts: Mapping[str, Part], known: Set[str], told: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """Ways to read the adapter's names: as told, or with one leading word (``model.``, ``transformer.``) less or more."""
    yield {name: told.get(name, name) for name in parts}
    for word in sorted({f"{name.partition('.')[0]}." for name in parts}):
        yield {name: name if name in known else name.removeprefix(word) for name in parts}
    for word in sorted({f"{name.partition('.')[0]}." for name in known}):
        yield {name: name if name in known else word + name for name in parts}


def _refuse_misfit(part: Part, home: str, info: TensorInfo, lora: Lora) -> None:
    stored = [tuple(part.whole.shape)] if part.whole is not None else []
    made = [part.product.shape] if part.product is not None else []
    for shape in stored + made:
        if shape != info.shape:
            turned = made and shape[::-1] == info.shape
            raise MisfitError(
                f"{lora.path}: the adapter's '{home}' has shape {list(shape)}, expected the base's {list(info.shape)}; "
                + ("fan_in_fan_out in adapter_config.json says how the base stores it, is it right? " if turned else "")
                + _wanted(lora)
            )
    if made and not info.dtype.is_floating_point:
        raise MisfitError(f"{lora.path}: the base's '{home}' is quantized ({info.dtype}); use the base before quantization")


def _wanted(lora: Lora) -> str:
    return f"use the base that it was trained on ({lora.base or 'the adapter does not name it'})"
