"""Which part of a peft adapter holds the difference of each tensor: a product, a bias, or a module stored whole.

Nothing but names and shapes is known here. A matrix is a linear layer's unless its module is called an embedding or a
head. Layers that store their matrices transposed (GPT-2's) show it by a bias that is as long as the matrix is wide.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from evomm.checkpoints.reader import TensorInfo, TensorReader
from evomm.errors import MisfitError, nearest

_NO_LINEAR = re.compile(r"embed|^(wte|wpe|shared|lm_head|head|score|classifier|relative_attention_bias)$")
_TIED = {"embed_tokens", "wte"}  # what a head can repeat
_HEADS = {"lm_head", "embed_out", "head", "output"}
_PIECE = 1 << 22  # elements compared together


@dataclass(frozen=True)
class Plan:
    """Where differences go; modules are named as the running model names them, tensors as the files do.

    adapted: matrix -> its module. biases: bias -> its module. whole: tensor -> its name in the running model.
    turned: whether adapted matrices are stored as (in, out). tied: the embedding that an absent head repeats.
    """

    adapted: Mapping[str, str]
    biases: Mapping[str, str]
    whole: Mapping[str, str]
    turned: bool
    tied: str | None


def plan(model: TensorReader, base: TensorReader, names: Mapping[str, str]) -> Plan:
    """Compare the models and place what differs.

    Args:
        names: tensor in the files -> tensor in the running model.

    Raises MisfitError when the models have different tensors, or when one differs that peft cannot hold.
    """
    infos = model.infos
    _refuse_misfits(infos, base.infos)
    changed = [name for name in infos if _differs(model, base, name)]
    for name in changed:
        if name not in names:
            raise MisfitError(f"'{name}' differs, but the running model has no such tensor; a peft adapter cannot hold it")
    turned = any(_turned(name, infos) for name in infos)
    adapted = [name for name in changed if _linear(name, infos, turned)]
    biases = [name for name in changed if _bias_of_matrix(name, infos)]
    kept = {_module(names[name]) for name in changed if name not in {*adapted, *biases} and _alone(name, infos)}
    kept = {module for module in map(_module, names.values()) if module.endswith(tuple(kept))}  # as peft will match them
    whole = {name: names[name] for name in infos if name in names and _module(names[name]) in kept}
    embeddings = [name for name in whole if _leaf(_module(name)) in _TIED and name in changed]
    headless = not any(_leaf(_module(name)) in _HEADS for name in infos)
    return Plan(
        {name: _module(names[name]) for name in adapted if name not in whole},
        {name: _module(names[name]) for name in biases if name not in whole},
        whole,
        turned,
        embeddings[0] if embeddings and headless else None,
    )


def _refuse_misfits(ours: Mapping[str, TensorInfo], theirs: Mapping[str, TensorInfo]) -> None:
    for name, info in theirs.items():
        if name not in ours:
            raise MisfitError(f"the base has '{name}', the model has not; expected a model with the tensors of its base")
        if ours[name].shape != info.shape:
            raise MisfitError(
                f"'{name}' has shape {list(ours[name].shape)}, expected the base's {list(info.shape)}; "
                "name the base that the model was made from"
            )
    for name in ours:
        if name not in theirs:
            raise MisfitError(
                f"the model has '{name}', the base has not{nearest(name, theirs)}; expected the tensors of its base"
            )


def _differs(model: TensorReader, base: TensorReader, name: str) -> bool:
    """Whether the model has other values than the base has in the model's dtype."""
    info, ours, theirs = model.infos[name], model.flat(name), base.flat(name)
    return any(
        not torch.equal(ours[start : start + _PIECE], theirs[start : start + _PIECE].to(info.dtype))
        for start in range(0, info.numel, _PIECE)
    )


def _linear(name: str, infos: Mapping[str, TensorInfo], turned: bool) -> bool:
    info = infos[name]
    if _leaf(name) != "weight" or len(info.shape) != 2 or not info.dtype.is_floating_point:
        return False
    if _NO_LINEAR.search(_leaf(_module(name))):
        return False
    if not turned:
        return True
    rows, columns = info.shape  # among transposed layers, one whose bias does not say so is no such layer
    return f"{_module(name)}.bias" in infos and (rows == columns or _turned(name, infos))


def _turned(name: str, infos: Mapping[str, TensorInfo]) -> bool:
    shape, bias = infos[name].shape, infos.get(f"{_module(name)}.bias")
    return _leaf(name) == "weight" and len(shape) == 2 and bias is not None and bias.shape == shape[1:] != shape[:1]


def _bias_of_matrix(name: str, infos: Mapping[str, TensorInfo]) -> bool:
    weight = infos.get(f"{_module(name)}.weight")
    return _leaf(name) == "bias" and weight is not None and len(weight.shape) > 1


def _alone(name: str, infos: Mapping[str, TensorInfo]) -> bool:
    """True; refuses a tensor that belongs to a module with modules inside, which cannot be stored whole."""
    module = _module(name)
    inner = (other for other in infos if other.startswith(f"{module}.") and "." in other[len(module) + 1 :])
    if not module or any(inner):
        raise MisfitError(
            f"'{name}' differs, and is neither a weight nor a bias of a layer; a peft adapter cannot hold it: "
            "keep the model whole, or leave this tensor as the base has it"
        )
    return True


def _module(name: str) -> str:
    return name.rpartition(".")[0]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]
