"""From diffusers' names back to the original layout of Stable Diffusion: the reverse of `converters`, which diffusers lacks.

unet.down_blocks.1.attentions.0.proj_in.weight     model.diffusion_model.input_blocks.4.1.proj_in.weight
vae.decoder.up_blocks.0.resnets.0.conv1.weight     first_stage_model.decoder.up.3.block.0.conv1.weight
text_encoder.text_model.final_layer_norm.bias      conditioner.embedders.0.transformer.text_model.final_layer_norm.bias
text_encoder_2.text_model.final_layer_norm.bias    conditioner.embedders.1.model.ln_final.bias

A UNet level is two residual blocks and a change of size, so block j of level i is number 3i + j + 1 on the way down and
3i + j on the way up.
"""

import re
from collections.abc import Mapping, Set

import torch

from evomm.checkpoints.layout import Files, Layout, Stored
from evomm.checkpoints.reader import TensorInfo
from evomm.errors import MisfitError, UsageError

_TOKENS = 77  # positions of a CLIP text model, and so the length of the position ids that original files hold
_SDXL = {
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "text_encoder": "conditioner.embedders.0.transformer.",
    "text_encoder_2": "conditioner.embedders.1.model.",  # OpenCLIP's
}
_SD1 = {"unet": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model.transformer."}
_PREFIXES = {"xl_base": _SDXL, "xl_inpaint": _SDXL, "v1": _SD1, "inpainting": _SD1}  # family -> prefixes of components
_UNET = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "mid_block.resnets.0": "middle_block.0",
    "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
_OPEN_CLIP = {
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
    "text_projection.weight": "text_projection",
}
_OPEN_CLIP_LAYER = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"(mid_block\.(?:resnets|attentions)\.\d+)\.(.+)")
_VAE_BLOCK = re.compile(r"(encoder|decoder)\.(?:down|up)_blocks\.(\d+)\.(?:resnets\.(\d+)|(down|up)samplers\.0)\.(.+)")
_VAE_MIDDLE = re.compile(r"(encoder|decoder)\.mid_block\.(resnets|attentions)\.(\d+)\.(.+)")
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)")
_UPSAMPLER = re.compile(r"unet\.up_blocks\.(\d+)\.upsamplers")
_VAE_UP = re.compile(r"vae\.decoder\.up_blocks\.(\d+)\.")
_QKV = ("q", "k", "v")


def original_layout(family: str, metadata: Mapping[str, str] | None = None, markers: tuple[str, ...] = ()) -> Layout:
    """One file, as ComfyUI and A1111 read it.

    Args:
        family: ``xl_base`` or ``v1``, or their kinds for inpainting, as `SingleFile` calls them.
        metadata: strings for the header.
        markers: names of empty tensors by which ComfyUI tells how the model was trained, ``v_pred`` and ``ztsnr``.

    Raises UsageError for a family that is not known.
    """
    if family not in _PREFIXES:
        raise UsageError(f"single files of '{family}' cannot be written; known: {', '.join(_PREFIXES)}; write a folder")
    empty = {name: Stored(TensorInfo(torch.float32, (0,)), (), value=torch.empty(0)) for name in markers}

    def divide(infos: Mapping[str, TensorInfo]) -> Files:
        return {"model": {**stored(infos, family), **empty}}

    return Layout(divide, single=True, metadata=metadata or {})


def stored(infos: Mapping[str, TensorInfo], family: str = "xl_base") -> dict[str, Stored]:
    """The tensors of the original layout, of which diffusers' tensors each is made.

    Raises MisfitError for a tensor that the layout has no place for, or for a fused one of which a part is not there.
    """
    places: dict[str, list[str]] = {}
    grown = {found[1] for found in map(_UPSAMPLER.match, infos) if found}
    plain = frozenset(
        level for level in grown if not any(name.startswith(f"unet.up_blocks.{level}.attentions.") for name in infos)
    )
    levels = 1 + max((int(found[1]) for found in map(_VAE_UP.match, infos) if found), default=-1)
    for name in infos:
        component, _, rest = name.partition(".")
        prefix = _PREFIXES[family].get(component)
        if prefix is None:
            raise MisfitError(f"'{name}': the original layout of '{family}' has no '{component}'; write a folder instead")
        places.setdefault(prefix + _inner(component, rest, plain, levels), []).append(name)
    found = {place: _stored(infos, place, tuple(parts)) for place, parts in places.items()}
    clip = _PREFIXES[family]["text_encoder"]
    if any(name.startswith("text_encoder.") for name in infos):
        ids = torch.arange(_TOKENS).unsqueeze(0)
        found[f"{clip}text_model.embeddings.position_ids"] = Stored(TensorInfo(torch.int64, (1, _TOKENS)), (), value=ids)
    # Wide elements first, so that each begins at a multiple of its size, whatever comes before.
    return dict(sorted(found.items(), key=lambda item: -item[1].info.dtype.itemsize))


def original_name(name: str, plain: Set[str] = frozenset()) -> str:
    """A UNet's tensor in the original layout: ``down_blocks.1.resnets.0.conv1.bias`` -> ``input_blocks.4.0.in_layers.2.bias``.

    Args:
        name: diffusers', without the component.
        plain: numbers of up-blocks without attention, whose change of size has its place.

    Raises MisfitError for a tensor that such a UNet does not have.
    """
    if found := _BLOCK.fullmatch(name):
        way, level, kind, number, rest = found.groups()
        at = 3 * int(level) + int(number)
        if kind == "downsamplers":
            return f"input_blocks.{at + 3}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{at + 2}.{1 if level in plain else 2}.{rest}"
        blocks = f"input_blocks.{at + 1}" if way == "down" else f"output_blocks.{at}"
        return f"{blocks}.1.{rest}" if kind == "attentions" else f"{blocks}.0.{_head(rest, _RESNET)}"
    if (found := _MIDDLE.fullmatch(name)) and found[1] in _UNET:
        return f"{_UNET[found[1]]}.{_head(found[2], _RESNET) if 'resnets' in found[1] else found[2]}"
    return _head(name, _UNET)


def _inner(component: str, name: str, plain: Set[str], levels: int) -> str:
    """A tensor's place below its component's prefix."""
    try:
        if component == "unet":
            return original_name(name, plain)
        if component == "vae":
            return _vae_name(name, levels)
        return _open_clip_name(name) if component == "text_encoder_2" else name
    except MisfitError as error:
        raise MisfitError(f"'{component}.{name}': the original layout has no place for it; write a folder instead") from error


def _vae_name(name: str, levels: int) -> str:
    if found := _VAE_BLOCK.fullmatch(name):
        half, level, number, size, rest = found.groups()
        at = f"encoder.down.{level}" if half == "encoder" else f"decoder.up.{levels - 1 - int(level)}"
        inner = f"{size}sample.{rest}" if size else f"block.{number}.{rest.replace('conv_shortcut', 'nin_shortcut')}"
        return f"{at}.{inner}"
    if found := _VAE_MIDDLE.fullmatch(name):
        half, kind, number, rest = found.groups()
        inner = f"attn_1.{_head(rest, _VAE_ATTENTION)}" if kind == "attentions" else f"block_{int(number) + 1}.{rest}"
        return f"{half}.mid.{inner}"
    return name.replace("conv_norm_out", "norm_out")


def _open_clip_name(name: str) -> str:
    if name in _OPEN_CLIP:
        return _OPEN_CLIP[name]
    found = _LAYER.fullmatch(name)
    if not found:
        raise MisfitError(name)
    layer, module, kind = found.groups()
    at = f"transformer.resblocks.{layer}"
    if module in {f"self_attn.{letter}_proj" for letter in _QKV}:
        return f"{at}.attn.in_proj_{kind}"
    return f"{at}.{_head(f'{module}.{kind}', _OPEN_CLIP_LAYER)}"


def _head(name: str, table: Mapping[str, str]) -> str:
    """The name with its module renamed; every module of the table is one that has a weight or a bias."""
    module, _, kind = name.rpartition(".")
    if module not in table:
        raise MisfitError(name)
    return f"{table[module]}.{kind}"


def _stored(infos: Mapping[str, TensorInfo], place: str, parts: tuple[str, ...]) -> Stored:
    first = infos[parts[0]]
    if ".attn.in_proj_" in place:
        return _fused(infos, place, parts)
    if place.endswith(".text_projection"):
        return Stored(TensorInfo(first.dtype, first.shape[::-1]), parts, turned=True)
    if re.search(r"\.mid\.attn_1\.(q|k|v|proj_out)\.weight$", place):
        return Stored(TensorInfo(first.dtype, (*first.shape, 1, 1)), parts)  # a convolution of one pixel
    return Stored(first, parts)


def _fused(infos: Mapping[str, TensorInfo], place: str, parts: tuple[str, ...]) -> Stored:
    """Rows of the query, the key, and the value, in this order."""
    kinds = {letter: name for name in parts for letter in _QKV if f".self_attn.{letter}_proj." in name}
    if tuple(sorted(kinds)) != tuple(sorted(_QKV)) or len({infos[name] for name in parts}) > 1:
        raise MisfitError(
            f"'{place}' holds a query, a key and a value of one dtype and shape, "
            f"found {', '.join(f'{name} ({infos[name].dtype})' for name in parts)}; give the child one dtype, or write a folder"
        )
    info = infos[parts[0]]
    shape = (sum(infos[name].shape[0] for name in parts), *info.shape[1:])
    return Stored(TensorInfo(info.dtype, shape), tuple(kinds[letter] for letter in _QKV))
