"""Where each tensor of a pipeline stands in a single file, found by running diffusers' own converters on stand-ins.

The converters rename, cut and transpose tensors. A stand-in lets itself be renamed, cut and transposed, and remembers
which tensor it came from; so nothing of diffusers' knowledge is repeated here, and nothing is read.
Source of the converters: https://github.com/huggingface/diffusers/blob/main/src/diffusers/loaders/single_file_utils.py
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Self

from evomm.checkpoints.names import shared_names
from evomm.errors import DamagedFile

UNET = "model.diffusion_model."
_VAE = ("first_stage_model.", "vae.")
# Prefix of a text encoder -> the component it is, and whether it is OpenCLIP's. The refiner's only one is the second.
_ENCODERS = {
    "conditioner.embedders.0.transformer.": ("text_encoder", False),
    "conditioner.embedders.1.model.": ("text_encoder_2", True),
    "conditioner.embedders.0.model.": ("text_encoder_2", True),
    "cond_stage_model.transformer.": ("text_encoder", False),
    "cond_stage_model.model.": ("text_encoder", True),
}


@dataclass(frozen=True)
class Part:
    """A tensor that is part of another, as far as converters can tell a tensor.

    source: the other's name. shape: of the part. start: its first element, counted in the source's rows one after the
    other. turned: whether it is the source's transpose.
    """

    source: str
    shape: tuple[int, ...]
    start: int = 0
    turned: bool = False

    @property
    def ndim(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def T(self) -> Self:  # noqa: N802 - torch's name
        """The transpose of a matrix."""
        return replace(self, shape=self.shape[::-1], turned=not self.turned)

    def __getitem__(self, key: Any) -> Self:
        """Some of the rows, or a matrix out of a convolution of one pixel."""
        first, *rest = key if isinstance(key, tuple) else (key,)
        if first == slice(None):  # [:, :, 0] and [:, :, 0, 0]
            kept = self.shape[: len(self.shape) - rest.count(0)]
            if any(size != 1 for size in self.shape[len(kept) :]):
                raise DamagedFile(f"'{self.source}' has shape {list(self.shape)}; expected a convolution of one pixel")
            return replace(self, shape=kept)
        low, high, _ = first.indices(self.shape[0])
        row = 1
        for size in self.shape[1:]:
            row *= size
        return replace(self, shape=(max(high - low, 0), *self.shape[1:]), start=self.start + low * row)

    def contiguous(self) -> Self:
        """Itself; stand-ins lie nowhere."""
        return self

    clone = detach = contiguous


def model_type(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What diffusers takes a single file for: ``xl_base``, ``v1``, ...; ``v1`` also stands for whatever it does not know.

    Raises DamagedFile for a tensor that tells models apart, and is none in its number of dimensions.
    """
    # Imported here, as below: it takes seconds, and folders do not need it.
    from diffusers.loaders.single_file_utils import infer_diffusers_model_type

    try:
        found: str = infer_diffusers_model_type({name: Part(name, shape) for name, shape in shapes.items()})
    except (IndexError, KeyError, TypeError) as error:
        raise DamagedFile(f"has tensors with too few dimensions ({error}); download or copy it again") from error
    return found


def convert(shapes: Mapping[str, tuple[int, ...]], embedding: str) -> dict[str, Part]:
    """The shared name of each tensor -> where it stands, of a file whose UNet is named in the original way.

    Args:
        shapes: original name -> shape.
        embedding: what the UNet's label embedding is in diffusers, ``add_embedding`` or ``class_embedding``.

    Raises DamagedFile when the names are those of a UNet, but not those of a whole one.
    """
    from diffusers.loaders.single_file_utils import (
        convert_ldm_clip_checkpoint,
        convert_ldm_unet_checkpoint,
        convert_ldm_vae_checkpoint,
        convert_open_clip_checkpoint,
    )

    def below(prefix: str) -> dict[str, Part]:
        return {name: Part(name, shape) for name, shape in shapes.items() if name.startswith(prefix)}

    found: dict[str, dict[str, Part]] = {}
    try:
        found["unet"] = convert_ldm_unet_checkpoint(below(UNET), _unet_config(shapes, embedding))
        for prefix in _VAE:
            if vae := below(prefix):
                found["vae"] = convert_ldm_vae_checkpoint(vae, _vae_config(vae))
        for prefix, (component, open_clip) in _ENCODERS.items():
            parts = below(prefix)
            if parts and open_clip:
                found[component] = convert_open_clip_checkpoint(_width(parts, prefix), parts, prefix=prefix)
            elif parts:
                named = convert_ldm_clip_checkpoint(parts)
                # Some tools store an identity as projection, which the model does not have.
                found[component] = {name: part for name, part in named.items() if "projection" not in name}
    except (KeyError, IndexError, AttributeError) as error:
        raise DamagedFile(f"lacks tensors that belong together ({error}); download or copy it again") from error
    return {shared: parts[name] for component, parts in found.items() for shared, name in shared_names(component, parts).items()}


def _unet_config(shapes: Iterable[str], embedding: str) -> dict[str, Any]:
    """What the converter asks of a UNet's config."""
    blocks = 1
    while f"{UNET}input_blocks.{blocks}.0.in_layers.0.weight" in shapes:  # the first that is none halves the picture
        blocks += 1
    config: dict[str, Any] = {"layers_per_block": max(blocks - 1, 1)}
    if f"{UNET}label_emb.0.0.weight" in shapes:
        config |= {"addition_embed_type": "text_time"} if embedding == "add_embedding" else {"class_embed_type": "projection"}
    return config


def _vae_config(names: Iterable[str]) -> dict[str, Any]:
    """What the converter asks of a VAE's config: how many blocks there are."""
    levels = {name.split(".up.")[-1].split(".")[0] for name in names if ".up." in name}
    levels |= {name.split(".down.")[-1].split(".")[0] for name in names if ".down." in name}
    return {"down_block_types": [""] * len(levels), "up_block_types": [""] * len(levels)}


def _width(parts: Mapping[str, Part], prefix: str) -> Any:
    """What the converter asks of an OpenCLIP model when it has no projection: its width."""
    positions = parts[f"{prefix}positional_embedding"]
    return SimpleNamespace(config=SimpleNamespace(hidden_size=positions.shape[-1]))
