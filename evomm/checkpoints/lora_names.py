"""From the names in LoRAs of image models to the tensors that they change.

unet.mid_block.attentions.0.proj_in.lora_A.weight                      diffusers, peft
unet.mid_block...attn1.processor.to_q_lora.down.weight                 diffusers before peft; ``unet.`` may be missing
lora_unet_mid_block_attentions_0_proj_in.lora_down.weight              kohya
lora_unet_middle_block_1_proj_in.lora_down.weight                      kohya, on SDXL's original UNet

Kohya's names are diffusers' with underscores for dots, so the base tells which dots they were. For names of the original
UNet and of older diffusers, diffusers' own converters know the way.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Set
from types import SimpleNamespace

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
_KOHYA = {"lora_unet_": "unet", "lora_te_": "text_encoder", "lora_te1_": "text_encoder", "lora_te2_": "text_encoder_2"}
_ROLES = {
    ".lora_A.weight": "down",
    ".lora_down.weight": "down",
    ".down.weight": "down",
    ".lora_B.weight": "up",
    ".lora_up.weight": "up",
    ".up.weight": "up",
    ".lora_mid.weight": "mid",
    ".alpha": "alpha",
}
_OLDER = ("lora", "lora_linear_layer")  # last word before .down.weight
_PEFT = ".lora_A.weight"


def split(key: str) -> tuple[str, str] | None:
    """What a key is of (its stem), and its role: down, up, mid or alpha; None for what is no part of a LoRA."""
    for suffix, role in _ROLES.items():
        if key.endswith(suffix) and ("lora" in key or role == "alpha"):
            return key.removesuffix(suffix), role
    return None


def of_images(key: str) -> bool:
    """Whether a LoRA's key is of an image model's UNet or text encoder."""
    words = key.removeprefix("base_model.model.").split(".")
    blocks = words[0] in {"down_blocks", "mid_block", "up_blocks"}
    return split(key) is not None and (blocks or words[0] in COMPONENTS or key.startswith(tuple(_KOHYA)))


def tensor_names(stems: Iterable[str], known: Set[str], layers_per_block: int) -> Mapping[str, str]:
    """Stem -> name of the tensor that it changes; of a stem that the base does not know, what it would be, or nothing.

    Args:
        known: the base's tensors.
        layers_per_block: of its UNet.
    """
    kohya = [stem for stem in stems if stem.startswith(tuple(_KOHYA))]
    table = dict(_underscored(known))
    found = {stem: table[stem] for stem in kohya if stem in table}
    original = [stem for stem in kohya if stem not in table and stem.startswith("lora_unet_")]
    if original:
        found |= _original(original, layers_per_block)
    return found | {stem: _dotted(stem, known) for stem in stems if not stem.startswith(tuple(_KOHYA))}


def in_component(stem: str) -> tuple[str, str]:
    """Component and module of a stem with dots."""
    name = stem.removeprefix("base_model.model.")
    component, _, inner = name.partition(".")
    return (component, inner) if component in COMPONENTS else ("unet", name)


def component_of(stem: str) -> str:
    """The part of the pipeline that a stem, with dots or underscores, is of."""
    return next((owner for prefix, owner in _KOHYA.items() if stem.startswith(prefix)), in_component(stem)[0])


def _underscored(known: Collection[str]) -> Iterator[tuple[str, str]]:
    """Kohya's stem of every weight, and the weight; text encoders of recent transformers have no ``text_model``."""
    for name in known:
        component, _, inner = name.removesuffix(".weight").partition(".")
        for prefix in (prefix for prefix, owner in _KOHYA.items() if owner == component and name.endswith(".weight")):
            for module in (inner, inner.removeprefix("text_model.")):
                yield prefix + module.replace(".", "_"), name


def _original(stems: Collection[str], layers_per_block: int) -> Mapping[str, str]:
    # Imported here: it takes seconds, and most files do without.
    from diffusers.loaders.lora_conversion_utils import _convert_unet_lora_key, _maybe_map_sgm_blocks_to_diffusers
    from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft

    keys = {f"{stem}.lora_down.weight": stem for stem in stems}
    try:
        keys = _maybe_map_sgm_blocks_to_diffusers(keys, SimpleNamespace(layers_per_block=layers_per_block))
    except (ValueError, IndexError):  # blocks that such a UNet does not have
        return {}
    keys = convert_unet_state_dict_to_peft({_convert_unet_lora_key(key): stem for key, stem in keys.items()})
    return {stem: f"unet.{key.removesuffix(_PEFT)}.weight" for key, stem in keys.items()}


def _dotted(stem: str, known: Set[str]) -> str:
    component, inner = in_component(stem)
    inner = inner.replace(".processor.", ".")
    if inner.endswith(_OLDER):
        inner = _newer(inner, component)
    plain, prefixed = f"{component}.{inner}.weight", f"{component}.text_model.{inner}.weight"
    return prefixed if plain not in known and prefixed in known else plain


def _newer(inner: str, component: str) -> str:
    """A module as peft names it, from ``...to_q_lora``, ``....lora`` or ``....lora_linear_layer``."""
    from diffusers.utils.state_dict_utils import StateDictType, convert_state_dict_to_peft, convert_unet_state_dict_to_peft

    keys = {f"{inner}.down.weight": None}
    if component != "unet":
        keys = convert_state_dict_to_peft(keys, original_type=StateDictType.DIFFUSERS_OLD)
    (key,) = convert_unet_state_dict_to_peft(keys)
    return str(key).removesuffix(_PEFT)
