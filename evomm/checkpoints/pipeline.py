"""Lazy, memory-mapped reading of diffusers pipelines: a folder with a subfolder per component.

model_index.json                               which components there are, and their classes
unet/diffusion_pytorch_model.safetensors       a component of diffusers, with its config.json
text_encoder/model.fp16.safetensors            a component of transformers; fp16 is read when there is nothing better
tokenizer/, scheduler/                         components without tensors

Format: https://huggingface.co/docs/diffusers/using-diffusers/other-formats. Folders with some of the components, as
fine-tunes of a UNet alone are published, are read too.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from evomm.checkpoints.names import shared_names
from evomm.checkpoints.reader import Checkpoint, Flat, TensorInfo, read_json, refuse_pickles, weight_names
from evomm.errors import DamagedFile, MissingFile, UnsafeFile
from evomm.plain import cut, exists

MODEL_INDEX = "model_index.json"
STEMS = ("diffusion_pytorch_model", "model")  # what diffusers and transformers call weights
_VARIANTS = ("", "fp16")
_CONFIGS = "*config.json"


class Pipeline:
    """A diffusers folder, read lazily; tensors have the names that all parents share (`names`).

    Args:
        folder: holds ``model_index.json`` and its components, or some components only.

    Raises:
        MissingFile: no folder, no component with tensors, or one that ``model_index.json`` names is not there.
        DamagedFile: a header or an index that contradicts the files.
        UnsafeFile: only pickled weights, or a component or file outside of the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.components: Mapping[str, Path] = _components(self.folder)
        self._parts = {name: Checkpoint(path, STEMS, _VARIANTS) for name, path in self.components.items() if _has_tensors(path)}
        if not self._parts:
            refuse_pickles(self.folder)
            raise MissingFile(
                f"{self.folder}: expected a diffusers pipeline, {MODEL_INDEX} and a folder per component such as unet/, "
                "found no component with weights"
            )
        self._homes = {
            shared: (part, name)
            for component, part in self._parts.items()
            for shared, name in shared_names(component, part.infos).items()
        }
        self.infos: dict[str, TensorInfo] = {name: part.infos[there] for name, (part, there) in self._homes.items()}

    def flat(self, name: str) -> Flat:
        """The tensor's elements in a row, memory-mapped."""
        part, there = self._homes[name]
        return part.flat(there)

    def read(self, name: str) -> Tensor:
        """The tensor, memory-mapped; shape and dtype as in ``infos[name]``."""
        part, there = self._homes[name]
        return part.read(there)

    @property
    def files(self) -> tuple[Path, ...]:
        """The weight files of all components."""
        return tuple(file for part in self._parts.values() for file in part.files)

    @property
    def configs(self) -> tuple[Path, ...]:
        """The files beside the weights that say what the model is."""
        found = [self.folder / MODEL_INDEX] if (self.folder / MODEL_INDEX).exists() else []
        return (*found, *(file for path in self.components.values() for file in sorted(path.glob(_CONFIGS))))

    @cached_property
    def config(self) -> dict[str, Any]:
        """``model_index.json`` as a dict; empty when there is none."""
        return _model_index(self.folder)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.infos.values())


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a diffusers pipeline, or holds some of its components."""
    return (folder / MODEL_INDEX).exists() or any(_has_weights(path) for path in _subfolders(folder))


def _components(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise MissingFile(f"{folder}: expected a pipeline's folder, found {'a file' if folder.exists() else 'nothing'}")
    index = _model_index(folder)
    if not index:
        return {path.name: _own(folder, path.name) for path in _subfolders(folder) if _is_component(path)}
    named = [name for name, kind in index.items() if isinstance(kind, list) and any(kind)]
    for name in named:
        if not exists(folder / name):
            raise MissingFile(
                f"{folder / MODEL_INDEX}: names the component '{cut(name)}', but there is no such folder; "
                f"copy the model again, or write [null, null] for '{name}' if the pipeline runs without it"
            )
    return {name: _own(folder, name) for name in sorted(named)}


def _model_index(folder: Path) -> dict[str, Any]:
    path = folder / MODEL_INDEX
    index = read_json(path, unique=True) if path.exists() else {}
    if path.exists() and not any(isinstance(kind, list) for kind in index.values()):
        raise DamagedFile(f'{path}: names no components; expected lines such as "unet": [library, class]')
    return index


def _own(folder: Path, name: str) -> Path:
    """A component's folder, refused when it is not one right inside of the pipeline's."""
    path = folder / name
    if Path(name).name != name or path.resolve().parent != folder.resolve():
        raise UnsafeFile(f"{path}: a component outside of the pipeline's folder; copy it in if you trust it")
    return path


def _subfolders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")) if folder.is_dir() else []


def _is_component(folder: Path) -> bool:
    return _has_tensors(folder) or any(folder.glob(_CONFIGS))


def _has_tensors(folder: Path) -> bool:
    """Whether weights are there, or should be: schedulers, tokenizers and processors have no config.json."""
    return _has_weights(folder) or (folder / "config.json").exists()


def _has_weights(folder: Path) -> bool:
    return any((folder / name).exists() for stem in STEMS for v in _VARIANTS for name in weight_names(stem, v))
