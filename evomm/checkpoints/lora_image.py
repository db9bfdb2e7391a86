"""LoRAs of image models (SDXL, Stable Diffusion), as diffusers, peft and kohya write them: one file, parts of a pipeline.

reader = image_lora(base, Path("sdxl_lightning_4step_lora.safetensors"), scale=0.8)

The base's tensors have the names that all parents share (unet.…, text_encoder.text_model.…, text_encoder_2.…). The change
is scale · alpha / r · B @ A, where alpha is r if the file does not say.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from evomm.checkpoints.lora import LoraReader, read_adapter, recorded_base
from evomm.checkpoints.lora_config import CONFIG
from evomm.checkpoints.lora_file import Lora, refuse_unfinite
from evomm.checkpoints.lora_image_file import lora_file, metadata, read_parts, refuse_variants
from evomm.checkpoints.lora_names import component_of, of_images, split, tensor_names
from evomm.checkpoints.reader import TensorInfo, TensorReader, open_file, read_tensors
from evomm.errors import CheckpointError, MisfitError, UsageError

_MODEL, _FAMILY = "ss_sd_model_name", ("ss_base_model_version", "modelspec.architecture")  # as kohya's tools write them
_XL, _NOT_XL = re.compile("xl"), re.compile(r"sd_?v?[123]|stable-diffusion-v?[123]|flux")
_XL_ONLY = "unet.add_embedding.linear_1.weight"
_READS_TEXT = re.compile(r"attn2[._](processor[._])?to_k")
_RESNET = re.compile(r"unet\.down_blocks\.0\.resnets\.(\d+)\.")


def is_image_lora(path: Path) -> bool:
    """Whether a file, or the one file in a folder, is a LoRA of an image model; headers only."""
    try:
        return any(map(of_images, open_file(lora_file(path)).keys()))
    except (CheckpointError, UsageError):
        return False


def image_lora_base(path: Path) -> str | None:
    """The model that a LoRA says it was trained on, or only the kind of model; None when it does not say.

    Raises MissingFile, DamagedFile, UnsafeFile and UsageError as `image_lora`.
    """
    return recorded_base(path) if (path / CONFIG).exists() else _said(metadata(lora_file(path)), _MODEL, *_FAMILY)


def image_lora(base: TensorReader, path: Path, scale: float = 1.0, unet_config: Mapping[str, Any] | None = None) -> LoraReader:
    """A pipeline with a LoRA on top.

    Args:
        base: the pipeline, or its UNet alone, under the names that all parents share.
        path: a ``.safetensors`` file; a folder with pytorch_lora_weights.safetensors or a single LoRA; peft's folder.
        scale: multiplies the change.
        unet_config: the UNet's config.json; without it, layers per block are counted.

    Raises:
        MissingFile, DamagedFile, UnsafeFile: no file, a broken one, or a pickle.
        UsageError: no LoRA, a variant that evomm cannot apply, or a folder with several LoRAs.
        MisfitError: a LoRA of another kind of model.
    """
    if (path / CONFIG).exists():
        return LoraReader(base, read_adapter(path), scale)
    layers = (unet_config or {}).get("layers_per_block")
    counted = len({match[1] for name in base.infos if (match := _RESNET.match(name))})
    lora = _read(lora_file(path), base.infos, layers if isinstance(layers, int) else counted)
    return LoraReader(base, lora, scale)


def _read(file: Path, infos: Mapping[str, TensorInfo], layers_per_block: int) -> Lora:
    tensors = read_tensors(file)
    refuse_variants(file, tensors)
    said = metadata(file)
    _refuse_family(file, _said(said, *_FAMILY), infos)
    _refuse_width(file, tensors, infos)
    stems = dict.fromkeys(found[0] for key in tensors if (found := split(key)))
    names = tensor_names(stems, infos.keys(), layers_per_block)
    base = _said(said, _MODEL, *_FAMILY)
    _refuse_lost(file, [stem for stem in stems if names.get(stem) not in infos], len(stems), base, infos)
    refuse_unfinite(file, tensors)
    return Lora(file, read_parts(file, tensors, names, infos), base)


def _refuse_lost(file: Path, lost: Sequence[str], layers: int, base: str | None, infos: Collection[str]) -> None:
    """Raise MisfitError when there are layers that the base does not have."""
    if not lost:
        return
    component = component_of(lost[0])
    if not any(name.startswith(f"{component}.") for name in infos):
        raise MisfitError(
            f"{file}: the LoRA changes '{lost[0]}', and the base has no {component}; put the LoRA on a whole pipeline, or use "
            "one of what the base has"
        )
    raise MisfitError(
        f"{file}: the LoRA changes '{lost[0]}', which this base does not have ({len(lost)} of {layers} layers are not there); "
        f"use the base that it was trained on ({base or 'the LoRA does not name it'}), or one of its kind"
    )


def _said(strings: Mapping[str, str], *keys: str) -> str | None:
    return next((strings[key] for key in keys if strings.get(key) not in {None, "", "None"}), None)


def _refuse_family(file: Path, said: str | None, infos: Mapping[str, TensorInfo]) -> None:
    """Raise MisfitError when the file names a kind of model that the base is not; kinds unknown here are let through."""
    text = (said or "").lower()
    if _XL.search(text) if _XL_ONLY not in infos else not _XL.search(text) and _NOT_XL.search(text):
        ours = "Stable Diffusion XL" if _XL_ONLY in infos else "not Stable Diffusion XL"
        raise MisfitError(f"{file}: the LoRA was trained on '{said}', and the base is {ours}; use a LoRA of the base's kind")


def _refuse_width(file: Path, tensors: Mapping[str, Tensor], infos: Mapping[str, TensorInfo]) -> None:
    """Raise MisfitError when the UNets read texts of another width, which is what tells kinds of Stable Diffusion apart."""
    theirs = _widths((key, tensor.shape) for key, tensor in tensors.items() if (split(key) or "?")[1:] == ("down",))
    ours = _widths((name, info.shape) for name, info in infos.items() if name.startswith("unet."))
    if theirs and ours and theirs != ours:
        raise MisfitError(
            f"{file}: the LoRA's UNet reads texts of {_list(theirs)} numbers per token, the base's of {_list(ours)} (Stable "
            "Diffusion 1: 768, 2: 1024, XL: 2048, its refiner: 1280); use a LoRA of the base's kind"
        )


def _widths(shapes: Iterable[tuple[str, tuple[int, ...]]]) -> set[int]:
    return {shape[1] for name, shape in shapes if _READS_TEXT.search(name) and len(shape) > 1}


def _list(numbers: set[int]) -> str:
    return " or ".join(map(str, sorted(numbers)))
