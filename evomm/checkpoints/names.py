"""The names that all parents of a pipeline share: ``<component>.<name in the component's file>``, as diffusers has them.

unet.down_blocks.1.attentions.0.proj_in.weight
text_encoder.text_model.embeddings.token_embedding.weight

Two things were renamed over the years, and are read under one name: attentions of old VAEs, and CLIP text models whose
prefix ``text_model.`` recent transformers leave out. Position ids, which old files hold, are 0 to 76 everywhere and no weights.
"""

import re
from collections.abc import Iterable

_OLD_ATTENTION = re.compile(r"\.(query|key|value|proj_attn)\.(weight|bias)$")
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_FLATTENED = "embeddings.token_embedding.weight"  # of a CLIP text model without its prefix


def shared_names(component: str, names: Iterable[str]) -> dict[str, str]:
    """The shared name of each tensor in a component's file -> its name there; position ids are left out."""
    names = tuple(names)
    flattened = _FLATTENED in names
    shared = {}
    for name in names:
        prefix = "text_model." if flattened and name.startswith(("embeddings.", "encoder.", "final_layer_norm.")) else ""
        if not name.endswith("position_ids"):
            renamed = _OLD_ATTENTION.sub(lambda found: f".{_ATTENTION[found[1]]}.{found[2]}", name)
            shared[f"{component}.{prefix}{renamed}"] = name
    return shared
