"""How a model's tensors are divided into files, and what they are called there.

A layout is data for the writer: which files there are, and of which tensors each of their tensors is made.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import Tensor

from evomm.checkpoints.reader import TensorInfo


@dataclass(frozen=True)
class Stored:
    """One tensor of a file.

    Attributes:
        info: its dtype and shape in the file.
        parts: names of the tensors whose elements it holds, one after the other.
        turned: it is the transpose of its only part.
        value: what it is when it has no parts.
    """

    info: TensorInfo
    parts: tuple[str, ...]
    turned: bool = False
    value: Tensor | None = None


Files = Mapping[str, Mapping[str, Stored]]  # a weight file's path without .safetensors -> its tensors, in file order


@dataclass(frozen=True)
class Layout:
    """A way to store models.

    Attributes:
        divide: from the tensors that will be written to the files that hold them.
        single: whether all is one file, without a folder and without text files beside it.
        metadata: strings in the header of each weight file.
    """

    divide: Callable[[Mapping[str, TensorInfo]], Files]
    single: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)


def folder_layout(stem: str = "model") -> Layout:
    """A Hugging Face folder: everything under its own name, in one file or in shards."""
    return Layout(lambda infos: {stem: as_they_are(infos)})


def as_they_are(infos: Mapping[str, TensorInfo], prefix: str = "") -> dict[str, Stored]:
    """Tensors that are stored under their names, without the prefix."""
    return {name.removeprefix(prefix): Stored(info, (name,)) for name, info in infos.items()}


def pipeline_layout() -> Layout:
    """A diffusers pipeline: a folder per component, whose weights are called as its library calls them."""
    return Layout(_by_component)


def _by_component(infos: Mapping[str, TensorInfo]) -> Files:
    parts: dict[str, dict[str, TensorInfo]] = {}
    for name, info in infos.items():
        parts.setdefault(name.partition(".")[0], {})[name] = info
    return {f"{name}/{_stem(name)}": as_they_are(tensors, f"{name}.") for name, tensors in parts.items()}


def _stem(component: str) -> str:
    """Encoders and safety checkers are transformers', everything else is diffusers'."""
    return "model" if component.startswith(("text_encoder", "image_encoder", "safety_checker")) else "diffusion_pytorch_model"
