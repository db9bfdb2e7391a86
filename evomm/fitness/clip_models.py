"""Scorers brought to life; kept apart from `clip`, because importing open_clip takes seconds.

All raise MissingFile, UsageError for an unknown name (with the nearest), UnsafeFile for weights that are pickles or models
that need code of their own, and DamagedFile.
"""

import difflib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.tokenizer import HFTokenizer
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModel, AutoProcessor
from transformers.utils import logging as transformers_logging

from evomm.checkpoints.locate import locate
from evomm.errors import DamagedFile, MissingFile, UnsafeFile, UsageError, nearest
from evomm.fitness.towers import Towers

_CONFIG = "open_clip_config.json"
_WEIGHTS = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")  # what open_clip prefers to all else
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json")


def of_name(source: str, device: str) -> Towers:
    """``NAME/WEIGHTS`` of open_clip, which fetches them from the hub; anything but tensors in them is refused by torch."""
    name, _, weights = source.partition("/")
    if name not in open_clip.list_models():
        close = difflib.get_close_matches(name, open_clip.list_models(), n=1)
        hint = f"did you mean '{close[0]}'?" if close else "a model on the hub is written hf-hub:owner/name"
        raise UsageError(f"scorer '{source}': no such folder, and open_clip has no model '{name}'; {hint}")
    known = open_clip.list_pretrained_tags_by_model(name)
    if weights not in known:
        raise UsageError(f"scorer '{source}': expected weights as in {name}/WEIGHTS, got '{weights}'{nearest(weights, known)}")
    trained, built = open_clip.get_pretrained_cfg(name, weights), open_clip.get_model_config(name)
    other = f"{name}-quickgelu" in open_clip.list_models()
    if other and bool(trained.get("quick_gelu")) != bool(built.get("quick_gelu")):  # open_clip only warns, and scores worse
        raise UsageError(f"scorer '{source}': these weights belong to another activation; write {name}-quickgelu/{weights}")
    try:
        model, preprocess = open_clip.create_model_from_pretrained(name, weights, device=device, weights_only=True)
        tokenizer = open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ValueError) as error:
        raise MissingFile(
            f"scorer '{source}': its weights or tokenizer could not be fetched ({_first(error)}); it needs the hub, or its cache"
        ) from error
    return _towers(model, preprocess, tokenizer, device)


def of_folder(folder: Path, device: str) -> Towers:
    """open_clip's layout: open_clip_config.json, safetensors, and a tokenizer unless it is CLIP's own."""
    text = _config(folder).get("text_cfg", {})
    _refuse_pickles(folder, _WEIGHTS)
    name = f"local-dir:{folder}"
    try:
        model, preprocess = open_clip.create_model_from_pretrained(name, device=device, weights_only=True)
        tokenizer = _tokenizer(folder, text) if text.get("hf_tokenizer_name") else open_clip.get_tokenizer(name)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError, SafetensorError) as error:
        raise DamagedFile(f"{folder}: open_clip cannot load this scorer ({_first(error)}); copy it again") from error
    return _towers(model, preprocess, tokenizer, device)


def _config(folder: Path) -> Mapping[str, Any]:
    path = folder / _CONFIG
    if not path.is_file():
        raise MissingFile(f"{path}: is not there, so this is no scorer in open_clip's layout; for others write transformers:...")
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model_cfg"]
        text = model["text_cfg"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedFile(
            f"{path}: expected JSON with model_cfg and a text_cfg in it ({_first(error)}); copy it again"
        ) from error
    if (text.get("tokenizer_kwargs") or {}).get("trust_remote_code"):
        raise UnsafeFile(f"{path}: its tokenizer needs code of its own, which evomm does not run; use another scorer")
    return dict(model)


def _refuse_pickles(folder: Path, preferred: Sequence[str]) -> None:
    """Whatever the library would pick from this folder must be safetensors."""
    if any((folder / name).is_file() for name in preferred):
        return
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UnsafeFile(
            f"{folder / pickles[0]}: weights that are pickles can run code and are not loaded; convert them to {preferred[0]}"
        )
    if not any(folder.glob("*.safetensors")):
        raise MissingFile(f"{folder}: expected weights in {preferred[0]}, found none; copy the scorer again")


def _tokenizer(folder: Path, text: Mapping[str, Any]) -> Any:
    """The folder's own, or the one that its config names on the hub."""
    own = any((folder / name).is_file() for name in _TOKENIZERS)
    return HFTokenizer(
        str(folder) if own else text["hf_tokenizer_name"],
        context_length=text.get("context_length", 77),
        tokenizer_mode=text.get("tokenizer_mode"),
        **{**(text.get("tokenizer_kwargs") or {}), "trust_remote_code": False},
    )


def _towers(model: Any, preprocess: Any, tokenizer: Any, device: str) -> Towers:
    model = model.eval().requires_grad_(False)

    def pictures(items: Sequence[Image.Image]) -> Tensor:
        return model.encode_image(torch.stack([preprocess(item) for item in items]).to(device))  # type: ignore[no-any-return]

    def texts(items: Sequence[str]) -> Tensor:
        return model.encode_text(tokenizer(list(items)).to(device))  # type: ignore[no-any-return]

    return Towers(pictures, texts)


def of_transformers(source: str, beside: Path | None, device: str) -> Towers:
    """A class with get_image_features and get_text_features (CLIP, SigLIP, PickScore, ...)."""
    name, _, processor_name = source.partition(",")
    folder = locate(name, beside)
    transformers_logging.disable_progress_bar()
    _refuse_pickles(folder, ("model.safetensors", "model.safetensors.index.json"))
    prepared = locate(processor_name, beside) if processor_name else folder
    try:
        model = AutoModel.from_pretrained(folder, local_files_only=True, trust_remote_code=False, use_safetensors=True)
        processor = AutoProcessor.from_pretrained(prepared, local_files_only=True, trust_remote_code=False)
    except (RuntimeError, OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedFile(
            f"{folder}: transformers cannot load this scorer ({_first(error)}); name another folder for the processor "
            "as transformers:MODEL,PROCESSOR when the model comes without one"
        ) from error
    if not (hasattr(model, "get_image_features") and hasattr(model, "get_text_features")):
        raise UsageError(f"scorer '{source}': a {type(model).__name__} does not compare pictures with texts; use a CLIP model")
    model = model.to(device).eval().requires_grad_(False)

    def pictures(items: Sequence[Image.Image]) -> Tensor:
        return _pooled(model.get_image_features(**processor(images=list(items), return_tensors="pt").to(device)))

    limit = min(processor.tokenizer.model_max_length, model.config.text_config.max_position_embeddings)

    def texts(items: Sequence[str]) -> Tensor:
        tokens = processor(text=list(items), padding="max_length", truncation=True, max_length=limit, return_tensors="pt")
        return _pooled(model.get_text_features(**tokens.to(device)))

    return Towers(pictures, texts)


def _pooled(out: Any) -> Tensor:
    """transformers 5 wraps the features."""
    return out if isinstance(out, Tensor) else out.pooler_output


def _first(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
