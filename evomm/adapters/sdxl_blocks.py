"""The blocks of a Stable Diffusion UNet as block-weight users name them, and their weights as the string they paste around.

BASE, IN00-IN08, M00, OUT00-OUT08     SDXL: 20 blocks
BASE, IN00-IN11, M00, OUT00-OUT11     SD 1 and 2: 26

    conv_in                             IN00        mid_block                      M00
    down_blocks.i.{resnets,attentions}.j IN(3i+j+1)  up_blocks.i....j               OUT(3i+j)
    down_blocks.i.downsamplers.0        IN(3i+3)    up_blocks.i.upsamplers.0       OUT(3i+2)
    conv_norm_out, conv_out             the last OUT

with 3 for residual blocks per level plus one. Tools disagree about the embeddings of time and sizes; here they are BASE. A
weight of 0 keeps the first model (the base), 1 is the other model.
"""

import re
from collections.abc import Iterable, Mapping, Sequence

from evomm.errors import UsageError
from evomm.genome.blocks import Place
from evomm.merge.recipe import Block, Recipe

UNET = "unet."
_LEVEL = re.compile(r"(down|up)_blocks\.(\d+)\.(resnets|attentions|downsamplers|upsamplers)\.(\d+)\.")
_ATTENTION = re.compile(r"\.(to_q|to_k|to_v|to_out\.0)\.")
_PARAMETER = "weight"
_SECTIONS = ("BASE", "IN", "M", "OUT")


def places(names: Sequence[str]) -> dict[str, Place]:
    """Where each tensor stands: the UNet's block by its common name, and attn or conv, the two groups of the published merge.

    attn: the projections to_q, to_k, to_v and to_out.0; conv: all the rest. Other components stand for themselves.
    """
    blocks = _blocks([name for name in names if name.startswith(UNET)])
    order = {block: i for i, block in enumerate(block_names(blocks.values()))}
    found = {}
    for name in names:
        if name in blocks:
            kind = "attn" if _ATTENTION.search(name) else "conv"
            found[name] = Place(order[blocks[name]], kind, blocks[name])
        else:
            component = name.partition(".")[0]
            found[name] = Place(None, component, component)
    return found


def block_names(blocks: Iterable[str]) -> list[str]:
    """Each once, in the order of block-weight strings: BASE, IN, M, OUT."""
    return sorted(set(blocks), key=lambda block: (_SECTIONS.index(block.rstrip("0123456789")), block))


def parse_weights(text: str, blocks: Sequence[str]) -> dict[str, float]:
    """Block -> weight, from ``0.5,1,0,...``.

    Raises UsageError unless there are as many numbers as blocks.
    """
    parts = [part.strip() for part in text.replace("\n", ",").split(",") if part.strip()]
    try:
        numbers = [float(part) for part in parts]
    except ValueError as error:
        raise UsageError(f"block weights '{text}': expected numbers with commas between them ({error})") from error
    if len(numbers) != len(blocks):
        raise UsageError(
            f"block weights: expected {len(blocks)} numbers ({blocks[0]}, {blocks[1]}-..., {blocks[-1]}), got {len(numbers)}"
        )
    return dict(zip(blocks, numbers, strict=True))


def unfold(recipe: Recipe, names: Sequence[str]) -> Recipe:
    """The recipe with its block-weight strings as blocks."""
    if not recipe.block_weights:
        return recipe
    if recipe.blocks:
        raise UsageError("a recipe has either block_weights or blocks, not both")
    inside = {name: place.name for name, place in places(names).items() if place.layer is not None and place.name}
    order = block_names(inside.values())
    weights = {label: parse_weights(text, order) for label, text in recipe.block_weights.items()}
    rest = recipe.parameters.get(_PARAMETER)
    blocks = tuple(
        Block(
            name=block,
            tensors=tuple(name for name, at in inside.items() if at == block),
            parameters={_PARAMETER: {**(rest if isinstance(rest, Mapping) else {}), **{p: w[block] for p, w in weights.items()}}},
        )
        for block in order
    )
    return Recipe.model_validate({**recipe.model_dump(), "block_weights": {}, "blocks": [b.model_dump() for b in blocks]})


def weight_strings(recipe: Recipe, names: Sequence[str]) -> dict[str, str]:
    """Label -> the recipe's weights of that parent as a string to paste; ``LABEL/attn`` and ``LABEL/conv`` where they differ.

    Empty for recipes without weights, and where a block holds more than these two weights.
    """
    mixed = {n: p for n, p in places(names).items() if p.layer is not None and n.partition(".")[0] not in recipe.components}
    found: dict[tuple[str, str], dict[str, set[float]]] = {}
    for name, place in mixed.items():
        values = recipe.arguments(name).get(_PARAMETER)
        if not isinstance(values, tuple):
            return {}
        for label, value in zip(recipe.mixed, values, strict=True):
            found.setdefault((label, place.component), {}).setdefault(str(place.name), set()).add(float(value))
    if any(len(weights) > 1 for blocks in found.values() for weights in blocks.values()):
        return {}
    strings = {}
    order = block_names({str(place.name) for place in mixed.values()}) if mixed else []
    for label in recipe.mixed:
        conv, attn = ({b: next(iter(w)) for b, w in found.get((label, kind), {}).items()} for kind in ("conv", "attn"))
        if all(conv.get(block, weight) == weight for block, weight in attn.items()):
            strings[label] = _string({**attn, **conv}, order)
        else:  # a block without attention has nothing to say of it
            strings[f"{label}/conv"] = _string({**attn, **conv}, order)
            strings[f"{label}/attn"] = _string({**conv, **attn}, order)
    return strings


def _string(weights: Mapping[str, float], order: Sequence[str]) -> str:
    return ",".join(f"{weights[block]:.6g}" for block in order)


def _blocks(names: Sequence[str]) -> dict[str, str]:
    """``unet.down_blocks.1.attentions.0.proj_in.weight`` -> IN04, for all of a UNet's tensors."""
    levels = {name: found for name in names if (found := _LEVEL.match(name.removeprefix(UNET)))}
    # Residual blocks of a level on the way down, and one more for the change of size: as many as there are on the way up.
    width = 2 + max((int(at[4]) for at in levels.values() if at[1] == "down" and at[3] == "resnets"), default=1)
    heights = [int(at[2]) for at in levels.values() if at[1] == "up"]
    last = f"OUT{width * (1 + max(heights, default=0)) - 1:02d}"
    ends = {"conv_in": "IN00", "mid_block": "M00", "conv_norm_out": last, "conv_out": last}
    return {
        name: _level_block(levels[name], width) if name in levels else ends.get(name.removeprefix(UNET).partition(".")[0], "BASE")
        for name in names
    }


def _level_block(at: re.Match[str], width: int) -> str:
    way, level, kind, place = at[1], int(at[2]), at[3], int(at[4])
    if way == "down":
        return f"IN{width * (level + 1) if kind == 'downsamplers' else width * level + place + 1:02d}"
    return f"OUT{width * level + (width - 1 if kind == 'upsamplers' else place):02d}"
