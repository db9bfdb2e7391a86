"""The file of an image model's LoRA: which one it is, what its header says, and the changes that it holds.

Keys and their naming: `lora_names`. Alphas are tensors of the file, or in the header as diffusers writes it
(``lora_adapter_metadata``: JSON of peft's config, with the component in front of each key).
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from evomm.checkpoints.lora_config import LoraConfig, parse_config
from evomm.checkpoints.lora_file import Part, Product, low_rank
from evomm.checkpoints.lora_names import COMPONENTS, in_component, of_images, split
from evomm.checkpoints.reader import PICKLES, TensorInfo, inside, open_file
from evomm.errors import DamagedFile, MissingFile, UnsafeFile, UsageError

NAME = "pytorch_lora_weights.safetensors"
_SUFFIX = ".safetensors"
_METADATA = "lora_adapter_metadata"
_VARIANTS = {
    r"dora_scale|lora_magnitude_vector": "DoRA",
    r"\.hada_": "LoHa",
    r"\.lokr_": "LoKr",
    r"\.oft_": "OFT",
    r"\.diff(_b)?$|\.[wb]_norm$": "differences stored whole",
}
_WAY_OUT = "merge it into its base with the tool that it was made with, and use the result as a model"
_PICKLED = (
    "a pickled LoRA can run code when loaded, so evomm never does; convert it where you trust it: "
    "load it into its pipeline, diffusers' save_lora_weights writes safetensors"
)


def lora_file(path: Path) -> Path:
    """The file itself, or the one in a folder: diffusers' name for it, or a single LoRA of whatever name.

    Raises:
        MissingFile: nothing there, or nothing that is a LoRA.
        UnsafeFile: a pickle.
        UsageError: another kind of file, or several LoRAs.
    """
    if path.is_dir():
        return _only(path)
    if path.suffix in PICKLES:
        raise UnsafeFile(f"{path}: {_PICKLED}")
    if path.suffix != _SUFFIX:
        raise UsageError(f"{path}: expected a LoRA in a {_SUFFIX} file, or a folder with one")
    return path


def _only(folder: Path) -> Path:
    if (folder / NAME).exists():
        return inside(folder, NAME)
    files = [inside(folder, path.name) for path in sorted(folder.glob(f"*{_SUFFIX}"))]
    loras = [path for path in files if any(map(of_images, open_file(path).keys()))]
    if len(loras) == 1:
        return loras[0]
    if loras:
        raise UsageError(f"{folder}: holds {len(loras)} LoRAs ({', '.join(p.name for p in loras)}); name the file of one")
    pickles = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    if pickles and not files:
        raise UnsafeFile(f"{folder}: only {pickles[0]}; {_PICKLED}")
    raise MissingFile(f"{folder}: expected {NAME} or a single LoRA of an image model, found none")


def metadata(file: Path) -> Mapping[str, str]:
    """The strings in a file's header."""
    return dict(open_file(file).metadata() or {})


def refuse_variants(file: Path, keys: Collection[str]) -> None:
    """Raise UsageError for a file that is no LoRA, or of a variant that evomm cannot apply; DamagedFile for an empty one."""
    if not keys:
        raise DamagedFile(f"{file}: holds no tensors; download or save the LoRA again")
    for key in keys:
        for pattern, variant in _VARIANTS.items():
            if re.search(pattern, key):
                raise UsageError(f"{file}: '{key}' is of {variant}, which evomm cannot apply; {_WAY_OUT}")
    foreign = [key for key in keys if split(key) is None]
    if foreign and not any(map(split, keys)):
        raise UsageError(f"{file}: expected a LoRA, found '{foreign[0]}', a tensor of a whole model; use the file as a model")
    if foreign:
        raise UsageError(f"{file}: '{foreign[0]}' belongs to a variant of LoRA that evomm cannot apply; {_WAY_OUT}")


def read_parts(
    file: Path, tensors: Mapping[str, Tensor], names: Mapping[str, str], infos: Mapping[str, TensorInfo]
) -> Mapping[str, Part]:
    """Tensor of the base -> its change.

    Args:
        names: stem (`lora_names.split`) -> tensor of the base.

    Raises DamagedFile: half a pair, factors that do not fit, the same change twice, or a broken header.
    """
    roles: dict[str, dict[str, Tensor]] = {}
    stems: dict[str, str] = {}
    for key, tensor in tensors.items():
        stem, role = split(key) or (key, "")
        held = roles.setdefault(names[stem], {})
        if role in held:
            raise DamagedFile(f"{file}: '{key}' is there twice, under different names; which one holds is unknown")
        held[role] = tensor
        if role == "down":
            stems[names[stem]] = stem
    configs = _configs(file)
    return {
        name: Part(None, _like(_product(file, stems.get(name, name), held, configs), infos[name])) for name, held in roles.items()
    }


def _configs(file: Path) -> Mapping[str, LoraConfig]:
    """Component -> what diffusers noted of its ranks and alphas."""
    noted = metadata(file).get(_METADATA)
    if noted is None:
        return {}
    try:
        raw = json.loads(noted)
        items = list(raw.items())
    except (ValueError, RecursionError, AttributeError) as error:
        raise DamagedFile(f"{file}: {_METADATA} in the header is no JSON object ({error}); download the file again") from error
    found = {c: {key.removeprefix(f"{c}."): value for key, value in items if key.startswith(f"{c}.")} for c in COMPONENTS}
    return {c: parse_config({"peft_type": "LORA", **config}, file) for c, config in found.items() if config}


def _product(file: Path, stem: str, held: Mapping[str, Tensor], configs: Mapping[str, LoraConfig]) -> Product:
    if not {"down", "up"} <= set(held):
        raise DamagedFile(f"{file}: '{stem}' has {' and '.join(sorted(held))}; expected down (A) and up (B)")
    a, component, inner = held["down"], *in_component(stem)
    if "mid" in held:
        a = _joined(file, stem, a, held["mid"])
    rank = len(a) if a.ndim else 0
    if "alpha" in held:
        if held["alpha"].numel() != 1:
            raise DamagedFile(f"{file}: '{stem}' has an alpha of shape {list(held['alpha'].shape)}; expected one number")
        scaling = float(held["alpha"]) / max(rank, 1)
    elif component in configs:
        rank, scaling = configs[component].rank(inner), configs[component].scaling(inner)
    else:
        scaling = 1.0
    return low_rank(stem, a, held["up"], rank, scaling, file)


def _joined(file: Path, stem: str, down: Tensor, mid: Tensor) -> Tensor:
    """A of three factors, (r, in, height, width): down (r, in, 1, 1), then mid (r, r, height, width)."""
    if mid.ndim != 4 or down.ndim != 4 or tuple(down.shape) != (mid.shape[1], down.shape[1], 1, 1):
        raise DamagedFile(f"{file}: '{stem}' has down {list(down.shape)} and mid {list(mid.shape)}; expected [r, in, 1, 1] "
                          "and [r, r, height, width]")  # fmt: skip
    return torch.einsum("rshw,si->rihw", mid.float(), down.float().flatten(1))


def _like(product: Product, info: TensorInfo) -> Product:
    """The product with the base's shape, where only 1×1 kernels tell them apart: layers of one kind are stored as another."""
    theirs, ours = list(product.shape), list(info.shape)
    bare = theirs[:2] == ours[:2] and set(theirs[2:] + ours[2:]) <= {1}
    return replace(product, shape=info.shape) if bare else product
