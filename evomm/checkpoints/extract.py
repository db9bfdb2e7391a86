"""A fine-tuned or merged model as a peft adapter of its base: small files instead of a second model.

Of each linear layer's difference the best product of a rank is kept; norms, embeddings and heads that differ are stored
whole, biases too. The adapter's scaling is 1: what it adds is B @ A.
"""

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomm.checkpoints.extract_plan import Plan, plan
from evomm.checkpoints.layout import folder_layout
from evomm.checkpoints.locate import is_hub_id
from evomm.checkpoints.lora_config import CONFIG, WEIGHTS
from evomm.checkpoints.lora_file import PREFIX
from evomm.checkpoints.low_rank import factors
from evomm.checkpoints.reader import TensorInfo, TensorReader
from evomm.checkpoints.writer import CheckpointWriter, refuse_taken
from evomm.errors import DamagedFile, UsageError

_DTYPES = {torch.float16, torch.bfloat16, torch.float32}  # that products are stored in


@dataclass(frozen=True)
class Running:
    """The model as a library runs it, which is the one that peft adapts.

    names: tensor in the files -> tensor in the running model; one that is left out is not in it. kind: its class.
    library: the module that has the class.
    """

    names: Mapping[str, str]
    kind: str
    library: str


@dataclass(frozen=True)
class Extracted:
    """What `extract_lora` wrote.

    adapted: modules with a product. whole: modules stored whole. biases: modules whose bias is stored. bytes: of all tensors.
    error: what the adapter misses of the difference, sqrt(sum |Δ - BA|² / sum |Δ|²) over the whole model, as stored.
    """

    adapted: tuple[str, ...]
    whole: tuple[str, ...]
    biases: tuple[str, ...]
    bytes: int
    error: float


def extract_lora(
    model: TensorReader,
    base: TensorReader,
    rank: int,
    out: Path,
    *,
    base_name: str,
    running: Running | None = None,
    seed: int = 0,
    advance: Callable[[int], None] = lambda nbytes: None,
) -> Extracted:
    """Write the adapter that makes the base into (nearly) the model; the whole folder appears at the end, or nothing does.

    Args:
        base_name: what the adapter says of its base: a hub id, with its @revision if any, or a path.
        running: how the model runs; without it, its tensors are taken to be named as in the files.
        seed: of the random vectors that large matrices are looked at with.
        advance: called with the bytes of each of the model's tensors.

    Raises:
        UsageError: a rank below 1, or a model that is its base.
        MisfitError: other tensors than the base, or a difference that peft cannot hold.
        DamagedFile: weights that are not finite.
        WriteFailed: as `CheckpointWriter`.
    """
    if rank < 1:
        raise UsageError(f"rank {rank}: expected at least 1")
    refuse_taken(out)  # before two models are read
    todo = plan(model, base, running.names if running else {name: name for name in model.infos})
    if not todo.adapted and not todo.biases and not todo.whole:
        raise UsageError("the model is its base, tensor by tensor; expected one that differs")
    infos = dict(_announce(todo, model.infos, rank))
    missed = total = 0.0
    with CheckpointWriter(out, infos, sys.maxsize, folder_layout(Path(WEIGHTS).stem)) as writer:
        for name, info in model.infos.items():
            if name in todo.adapted or name in todo.biases or name in todo.whole:
                delta = _delta(model, base, name)
                total += _square(delta)
            if name in todo.adapted:
                key = f"{PREFIX}{todo.adapted[name]}"
                delta = delta.T if todo.turned else delta  # (out, in)
                b, a = (f.to(infos[f"{key}.lora_A.weight"].dtype) for f in factors(delta, rank, seed, name))
                writer.write(f"{key}.lora_A.weight", a)
                writer.write(f"{key}.lora_B.weight", b)
                missed += _square(delta - b.float() @ a.float())
            for key in _keys(todo, name):
                writer.write(key, model.read(name))
            advance(info.nbytes)
        writer.text(CONFIG, json.dumps(_config(todo, rank, base_name, running), indent=2, sort_keys=True) + "\n")
    kept = sorted({running.rpartition(".")[0] for running in todo.whole.values()})
    nbytes = sum(info.nbytes for info in infos.values())
    adapted, biases = tuple(todo.adapted.values()), tuple(todo.biases.values())
    return Extracted(adapted, tuple(kept), biases, nbytes, math.sqrt(missed / total) if total else 0.0)


def _announce(todo: Plan, infos: Mapping[str, TensorInfo], rank: int) -> Iterator[tuple[str, TensorInfo]]:
    """Every tensor of the adapter, in file order."""
    for name, info in infos.items():
        if name in todo.adapted:
            outs, ins = info.shape[::-1] if todo.turned else info.shape
            dtype = info.dtype if info.dtype in _DTYPES else torch.float32 if info.dtype.itemsize > 2 else torch.bfloat16
            yield f"{PREFIX}{todo.adapted[name]}.lora_A.weight", TensorInfo(dtype, (rank, ins))
            yield f"{PREFIX}{todo.adapted[name]}.lora_B.weight", TensorInfo(dtype, (outs, rank))
        yield from ((key, info) for key in _keys(todo, name))


def _keys(todo: Plan, name: str) -> Iterator[str]:
    """Where a tensor is stored as it is: nowhere, once, or, of a tied embedding, a second time as the head."""
    if name in todo.whole:
        yield f"{PREFIX}{todo.whole[name]}"
    if name == todo.tied:
        yield f"{PREFIX}lm_head.weight"
    if name in todo.biases:  # an adapted module is wrapped
        wrapped = ".base_layer" if todo.biases[name] in todo.adapted.values() else ""
        yield f"{PREFIX}{todo.biases[name]}{wrapped}.bias"


def _delta(model: TensorReader, base: TensorReader, name: str) -> Tensor:
    delta = model.read(name).float() - base.read(name).float()
    if not torch.isfinite(delta).all():
        raise DamagedFile(f"'{name}' holds NaN or infinity, in the model or in its base; expected finite weights")
    return delta


def _square(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) ** 2


def _config(todo: Plan, rank: int, base_name: str, running: Running | None) -> dict[str, object]:
    name, _, revision = base_name.partition("@") if is_hub_id(base_name) else (base_name, "", "")
    whole = sorted({running.rpartition(".")[0] for running in todo.whole.values()})
    return {
        "peft_type": "LORA",
        "task_type": None,
        "auto_mapping": {"base_model_class": running.kind, "parent_library": running.library} if running else None,
        "base_model_name_or_path": name,
        "revision": revision or None,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        # Peft's own word for none at all.
        "target_modules": sorted(todo.adapted.values()) or "dummy-target-modules",
        "modules_to_save": [*whole, "lm_head"] if todo.tied else whole or None,
        "bias": "all" if todo.biases else "none",
        "fan_in_fan_out": todo.turned,
        "inference_mode": True,
        **({"ensure_weight_tying": True} if todo.tied else {}),
    }
