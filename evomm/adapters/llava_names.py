"""Names of a vision-language model's tensors: its decoder's are those of a language model, whichever layout the files have.

    of transformers 4 and 5, on disk        language_model.model.layers.0...    vision_tower.vision_model.encoder...
    of transformers 4.52 and later          model.language_model.layers.0...    model.vision_tower.vision_model.encoder...
    of Idefics and SmolVLM                  model.text_model.layers.0...        model.vision_model.encoder...
    of Qwen2-VL, first generation           model.layers.0...                   visual.blocks...
    shared by all parents                   model.layers.0...                   vision_tower.encoder...

So a component, the first word of a shared name, is ``model`` or ``lm_head`` where it belongs to the decoder, and any other
word where it belongs to what sees: ``vision_tower``, ``multi_modal_projector``, ``visual``, ``connector``.
"""

import re
from collections.abc import Collection, Iterable

DECODER: Collection[str] = frozenset({"model", "lm_head"})
"""Components that a language model has too."""

_NESTED = re.compile(r"model\.(language_model|text_model)\.")
_INNER = re.compile(r"(language_model|text_model)\.(.*)")
_WRAPPED = re.compile(r"(vision_tower)\.vision_model\.")  # CLIP's and SigLIP's own wrapper, which transformers 5 leaves out


def shared_names(names: Iterable[str]) -> dict[str, str]:
    """Name in the files -> name that all parents share; the names must be of one model."""
    names = list(names)
    nested = any(_NESTED.match(name) for name in names)
    return {name: _shared(name, nested) for name in names}


def _shared(name: str, nested: bool) -> str:
    part = name.removeprefix("model.") if nested else name
    inner = _INNER.fullmatch(part)
    if inner is not None:
        return f"model.{inner[2]}" if nested else inner[2]
    return _WRAPPED.sub(r"\1.", part)
