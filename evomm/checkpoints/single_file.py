"""Lazy, memory-mapped reading of Stable Diffusion in one file, as ComfyUI and A1111 keep it, under diffusers' names.

model.diffusion_model.input_blocks.4.1.proj_in.weight          unet.down_blocks.1.attentions.0.proj_in.weight
conditioner.embedders.1.model.transformer...attn.in_proj_bias  rows of it are text_encoder_2...self_attn.{q,k,v}_proj.bias

Accepted are whole models, and UNets alone in either naming.
"""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from evomm.checkpoints.converters import UNET, Part, convert, model_type
from evomm.checkpoints.names import shared_names
from evomm.checkpoints.reader import PICKLES, Flat, TensorInfo, info_of, open_file
from evomm.errors import DamagedFile, MisfitError, MissingFile, UnsafeFile, UsageError

_FIRST = "input_blocks.0.0.weight"  # of a UNet in the original layout
_BARE = {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"}  # of a UNet in diffusers' naming
_LORA = ("lora_up.weight", "lora_down.weight", "lora_A.weight", "lora_B.weight", ".alpha", ".dora_scale", ".hada_w1_a")
_PREDICTIONS = {"v": "v_prediction", "eps": "epsilon"}  # what modelspec calls otherwise


class SingleFile:
    """A ``.safetensors`` file, read lazily; tensors have the names that all parents share (`names`).

    Attributes:
        family: what diffusers takes it for: ``xl_base``, ``xl_refiner``, ``v1``, ``inpainting``, ...
        metadata: the strings in its header.
        left_out: names in the file that are no tensors of the pipeline: markers, EMA copies, position ids.

    Raises:
        MissingFile: no such file.
        DamagedFile: not a whole safetensors file, or not a whole model.
        UnsafeFile: a pickle.
        UsageError: a LoRA.
        MisfitError: any other kind of model.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _refuse_path(self.path)
        self._handle = open_file(self.path)
        originals = {name: info_of(self._handle, name, self.path) for name in self._handle.keys()}  # noqa: SIM118
        self.metadata: Mapping[str, str] = self._handle.metadata() or {}
        try:
            self.family, self._parts = _parts({name: info.shape for name, info in originals.items()})
        except (DamagedFile, UsageError, MisfitError) as error:
            raise type(error)(f"{self.path}: {error}") from error
        self.infos: dict[str, TensorInfo] = {
            name: TensorInfo(originals[part.source].dtype, part.shape) for name, part in self._parts.items()
        }
        used = {part.source for part in self._parts.values()}
        self.left_out = tuple(name for name in originals if name not in used)

    def flat(self, name: str) -> Flat:
        """The tensor's elements in a row, memory-mapped; a transposed one is made."""
        part = self._parts[name]
        whole: Tensor = self._handle.get_tensor(part.source)
        if part.turned:
            return whole.T.reshape(-1)
        return whole.reshape(-1)[part.start : part.start + self.infos[name].numel]

    def read(self, name: str) -> Tensor:
        """The tensor; shape and dtype as in ``infos[name]``."""
        return self.flat(name)[:].reshape(self.infos[name].shape)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.path.parent

    @property
    def files(self) -> tuple[Path, ...]:
        """The file."""
        return (self.path,)

    @property
    def configs(self) -> tuple[Path, ...]:
        """A single file has none."""
        return ()

    @property
    def config(self) -> dict[str, Any]:
        """A single file has none."""
        return {}

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors."""
        return sum(info.nbytes for info in self.infos.values())

    @cached_property
    def prediction_type(self) -> str | None:
        """What the UNet predicts, ``epsilon`` or ``v_prediction``, where the file says so: by a marker, or in its metadata."""
        said = self.metadata.get("modelspec.prediction_type", "").lower()
        return "v_prediction" if "v_pred" in self.left_out else _PREDICTIONS.get(said, said) or None

    @property
    def zero_terminal_snr(self) -> bool:
        """Whether the file is marked as trained down to a signal of zero."""
        return "ztsnr" in self.left_out


def _refuse_path(path: Path) -> None:
    if path.suffix in PICKLES:
        raise UnsafeFile(
            f"{path}: a pickle can run code when loaded, so evomm never does; expected a .safetensors file: "
            "publishers offer one beside it, or convert it where you trust it (load with torch, save with safetensors)"
        )
    if not path.is_file():
        raise MissingFile(f"{path}: expected a .safetensors file, found {'a folder' if path.is_dir() else 'nothing'}")


def _parts(shapes: Mapping[str, tuple[int, ...]]) -> tuple[str, dict[str, Part]]:
    """The family, and the shared name of each tensor -> where it stands."""
    if any(name.endswith(_LORA) for name in shapes) and f"{UNET}{_FIRST}" not in shapes:
        raise UsageError("a LoRA and no model of its own; name the model that it was trained on, and this file as its LoRA")
    if shapes.keys() >= _BARE:
        _refuse_no_convolution("conv_in.weight", shapes)
        shared = shared_names("unet", shapes)
        levels = len({name.split(".")[1] for name in shapes if name.startswith("down_blocks.")})
        extended = "add_embedding.linear_1.weight" in shapes
        family = _family("v1", levels, shapes["conv_in.weight"][1]) if extended else "v1"
        return family, {name: Part(there, shapes[there]) for name, there in shared.items()}
    prefix = "" if _FIRST in shapes else UNET
    if f"{prefix}{_FIRST}" not in shapes:
        raise MisfitError(
            f"no Stable Diffusion UNet in it (its first tensor is '{next(iter(shapes), 'none')}'); "
            "expected a whole model or a UNet, in the original layout or in diffusers' naming"
        )
    _refuse_no_convolution(f"{prefix}{_FIRST}", shapes)
    named = {f"{UNET}{name}": shape for name, shape in shapes.items()} if not prefix else shapes
    family = model_type(named)
    extended = f"{UNET}label_emb.0.0.weight" in named
    if extended and family in {"v1", "inpainting"}:  # diffusers goes by the text encoders, which are not there
        halvings = sum(name.endswith(".0.op.weight") for name in named if name.startswith(f"{UNET}input_blocks."))
        family = _family(family, 1 + halvings, named[f"{UNET}{_FIRST}"][1])
    parts = convert(named, "add_embedding" if family.startswith("xl_") or family == "playground-v2-5" else "class_embedding")
    if not prefix:
        parts = {name: Part(p.source.removeprefix(UNET), p.shape, p.start, p.turned) for name, p in parts.items()}
    return family, parts


def _refuse_no_convolution(name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
    if len(shapes[name]) != 4:
        raise DamagedFile(f"'{name}' has shape {list(shapes[name])}; expected a convolution's four dimensions")


def _family(otherwise: str, levels: int, channels: int) -> str:
    """That of a UNet alone that embeds sizes: SDXL's base has three levels, its refiner four."""
    return {(3, 4): "xl_base", (3, 9): "xl_inpaint", (4, 4): "xl_refiner"}.get((levels, channels), otherwise)
