"""What a LoRA does to its base's tensors, and how peft's adapter_model.safetensors says it.

base_model.model.layers.0.q_proj.lora_A.weight        (r, in) and lora_B.weight (out, r): B @ A is added to q_proj.weight
base_model.model.embed_tokens.lora_embedding_A        (r, words) and lora_embedding_B (dim, r): (B @ A).T is added
base_model.model.norm.weight                          a module or a bias stored whole: it replaces the base's
base_model.model.embed_tokens.base_layer.weight       the same, of a module that has factors too
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from evomm.checkpoints.lora_config import WAY_OUT, WEIGHTS, LoraConfig
from evomm.checkpoints.reader import inside, read_tensors
from evomm.errors import DamagedFile, MissingFile, UnsafeFile, UsageError

PREFIX = "base_model.model."
_PICKLE = "adapter_model.bin"
_FACTOR = re.compile(r"(?P<module>.+)\.(?P<factor>lora_[AB](?=\.weight$)|lora_embedding_[AB]$)(\.weight)?")
_PIECE = 1 << 15  # elements looked at together; torch starts no threads for so few, which would wait where cores are busy


@dataclass(frozen=True)
class Product:
    """A low-rank change: ``left`` (rows, r) @ ``right`` (r, columns) · scaling, of a tensor of this shape.

    Factors are as the file has them, memory-mapped; what is made of them is made in float32.
    """

    left: Tensor
    right: Tensor
    scaling: float
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Part:
    """What an adapter does to one tensor: ``whole`` replaces it, then ``product`` is added; either can be absent."""

    whole: Tensor | None
    product: Product | None

    def same(self, other: "Part") -> bool:
        """Whether both do the same to a matrix, as the parts of an embedding and the head tied to it do."""
        ours, theirs = self._tensors(), other._tensors()
        return len(ours) == len(theirs) and all(a.ndim > 1 and torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))

    def _tensors(self) -> list[Tensor]:
        return ([] if self.whole is None else [self.whole]) + (
            [] if self.product is None else [self.product.left, self.product.right]
        )


@dataclass(frozen=True)
class Lora:
    """A LoRA as read from its files.

    path: where it lies. parts: tensor name, as the LoRA knows it -> its change. base: the model that it says it was
    trained on. names: tensor in the base -> tensor in the running model, whose names LoRAs use; only where more than one
    leading word differs, since that is found without.
    """

    path: Path
    parts: Mapping[str, Part]
    base: str | None = None
    names: Mapping[str, str] = field(default_factory=dict)


def read_parts(folder: Path, config: LoraConfig) -> Mapping[str, Part]:
    """Tensor name, as the adapter knows it -> its change.

    Raises:
        MissingFile, UnsafeFile: no weights, or pickled ones.
        DamagedFile: half a pair, a rank that the config denies, or values that are not finite.
        UsageError: tensors of a variant of LoRA that evomm cannot apply.
    """
    path = _weights(folder)
    factors: dict[str, dict[str, Tensor]] = {}
    wholes: dict[str, Tensor] = {}
    tensors = read_tensors(path)
    refuse_unfinite(path, tensors)
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        if match := _FACTOR.fullmatch(name):
            factors.setdefault(match["module"], {})[match["factor"]] = tensor
        elif ".lora_" in name or "trainable_tokens" in name:
            raise UsageError(f"{path}: '{key}' belongs to a variant of LoRA that evomm cannot apply; {WAY_OUT}")
        else:
            wholes[name.replace(".base_layer.", ".")] = tensor
    products = {f"{module}.weight": _product(module, pair, config, path) for module, pair in factors.items()}
    if not products and not wholes:
        raise DamagedFile(f"{path}: holds no tensors; download or save the adapter again")
    return {name: Part(wholes.get(name), products.get(name)) for name in {**products, **wholes}}


def _weights(folder: Path) -> Path:
    if (folder / WEIGHTS).exists():
        return inside(folder, WEIGHTS)
    if (folder / _PICKLE).exists():
        raise UnsafeFile(
            f"{folder}: only pickled weights ({_PICKLE}), which can run code when loaded, so evomm never does; convert "
            "them where you trust them: load the adapter with peft, save_pretrained writes safetensors"
        )
    raise MissingFile(f"{folder}: expected {WEIGHTS}, found no weights; copy the adapter again")


def _product(module: str, pair: Mapping[str, Tensor], config: LoraConfig, path: Path) -> Product:
    words = "lora_embedding_A" in pair
    a, b = (pair.get(f"lora_{'embedding_' if words else ''}{side}") for side in "AB")
    if a is None or b is None or len(pair) != 2:
        raise DamagedFile(f"{path}: '{module}' has {' and '.join(sorted(pair))}; expected one A and one B of a kind")
    product = low_rank(module, a, b, config.rank(module), config.scaling(module), path)
    if words or (config.fan_in_fan_out and a.ndim == 2):  # stored as (in, out)
        return Product(product.right.T, product.left.T, product.scaling, product.shape[::-1])
    return product


def low_rank(module: str, a: Tensor, b: Tensor, rank: int, scaling: float, path: Path) -> Product:
    """B (out, r) @ A (r, in) of a matrix, or B (out, r, 1, 1) and A (r, in, height, width) of a convolution.

    Raises DamagedFile when the factors have other shapes.
    """
    kernel = (1,) * (a.ndim - 2)  # of a convolution's B
    if a.ndim < 2 or 0 in (*a.shape, *b.shape) or a.shape[0] != rank or tuple(b.shape[1:]) != (rank, *kernel):
        raise DamagedFile(
            f"{path}: '{module}' has A {list(a.shape)} and B {list(b.shape)}; expected [{rank}, in] and [out, {rank}], "
            "by its rank; download or save the adapter again, unsharded"
        )
    return Product(b.flatten(1), a.flatten(1), scaling, (len(b), *a.shape[1:]))


def refuse_unfinite(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Raise DamagedFile when a tensor of a LoRA's file holds NaN or infinity."""
    for key, tensor in tensors.items():
        if not _finite(tensor):
            raise DamagedFile(f"{path}: '{key}' holds NaN or infinity; training diverged or the file is broken")


def _finite(tensor: Tensor) -> bool:
    flat = tensor.reshape(-1)
    pieces = (flat[start : start + _PIECE] for start in range(0, flat.numel(), _PIECE))
    return all(bool(torch.isfinite(p.float() if p.dtype.itemsize == 1 else p).all()) for p in pieces)
