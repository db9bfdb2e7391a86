"""Transformers' models in memory: configs that are known, files that are whole, and where each checkpoint tensor lives.

Kept apart from the adapters, because importing transformers takes seconds that a merge need not pay.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.core_model_loading import revert_weight_conversion
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import logging as transformers_logging

from evomm.checkpoints.reader import Checkpoint, TensorInfo, inside
from evomm.checkpoints.writer import TEXTS
from evomm.errors import DamagedFile, MisfitError, UnsafeFile
from evomm.plain import cut

Names = Callable[[Iterable[str], str], Mapping[str, str]]


def bring_up(auto: Any, folder: Path, device: str, dtype: torch.dtype, names: Names) -> Any:
    """A model in evaluation mode.

    Args:
        auto: the class of transformers' that loads this kind, such as AutoModelForCausalLM.
        names: checkpoint names, and the prefix that the class has for the model without its head -> the names that all
            layouts of such a model share.

    Raises DamagedFile when config.json names no known model or contradicts the tensors, UnsafeFile when the model needs code
    from its own folder.
    """
    checkpoint = Checkpoint(folder)
    _refuse_links(folder)
    config = _config(checkpoint)
    _refuse_contradiction(auto, folder, checkpoint.infos, config, names)
    transformers_logging.disable_progress_bar()
    safely = {"local_files_only": True, "trust_remote_code": False, "use_safetensors": True}
    try:
        model, told = auto.from_pretrained(folder, dtype=dtype, output_loading_info=True, **safely)
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # as below
        raise _no_model(folder, error) from error
    if told["missing_keys"]:  # which transformers fills with random numbers
        lost = sorted(told["missing_keys"])
        raise DamagedFile(f"{folder}: holds no '{lost[0]}', and {len(lost) - 1} more that its model needs; copy the model again")
    return model.to(device).eval().requires_grad_(False)


def tokens(auto: Any, folder: Path) -> Any:
    """A tokenizer, or the processor that holds one, from a folder's files.

    Args:
        auto: the class of transformers' that loads it, such as AutoTokenizer.

    Raises UnsafeFile when it needs code from the folder, or links lead out of it; DamagedFile when it cannot be built.
    """
    _refuse_links(folder)
    try:
        return auto.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # as many ways as files can be wrong
        if "trust_remote_code" in str(error):
            raise UnsafeFile(
                f"{folder}: its tokenizer or processor needs code from the folder, which evomm does not run; "
                "take files that transformers itself knows"
            ) from error
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DamagedFile(f"{folder}: its tokenizer or processor cannot be built ({cut(first)}); copy its files again") from error


def _refuse_links(folder: Path) -> None:
    """Raise UnsafeFile when a text that transformers would read is elsewhere on this machine."""
    for path in folder.iterdir():
        if path.suffix in TEXTS and path.is_symlink():
            inside(folder, path.name)


class _Window(Tensor):
    """A tensor that stays a view: transformers' conversion asks for contiguous copies, evomm needs the original bytes."""

    def contiguous(self, *args: Any, **kwargs: Any) -> "_Window":
        """Itself."""
        return self


def targets(model: Any) -> dict[str, Tensor]:
    """Checkpoint name -> view of the resident tensor, so that writing into it changes the model.

    Raises MisfitError for a model whose checkpoint tensors are no plain views of what is in memory.
    """
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    views = revert_weight_conversion(model, {name: tensor.as_subclass(_Window) for name, tensor in state.items()})
    storages = {tensor.untyped_storage().data_ptr() for tensor in state.values()}
    plain = {name: view.as_subclass(Tensor) for name, view in views.items()}
    for name, view in plain.items():
        if view.numel() and view.untyped_storage().data_ptr() not in storages:
            raise MisfitError(f"'{name}' is stored in another arrangement than in memory; this model can't be evolved live")
    return plain


def _config(checkpoint: Checkpoint) -> Any:
    raw = checkpoint.config
    if not raw:
        raise DamagedFile(f"{checkpoint.folder}: no config.json; copy it along with the weights")
    if raw.get("auto_map") and not _known(raw.get("model_type")):
        raise UnsafeFile(
            f"{checkpoint.folder}: model type '{raw.get('model_type')}' needs code from its own folder, "
            "which evomm does not run; use a model that transformers knows"
        )
    try:
        return AutoConfig.from_pretrained(checkpoint.folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # classes of transformers fail in as many ways as configs can be wrong
        raise _no_model(checkpoint.folder, error) from error


def _no_model(folder: Path, error: Exception) -> DamagedFile:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return DamagedFile(f"{folder}: config.json is of no model that transformers can make ({cut(first)}); copy the model again")


def _known(model_type: object) -> bool:
    return isinstance(model_type, str) and model_type in CONFIG_MAPPING


def _skeleton(auto: Any, config: Any, folder: Path) -> Any:
    """The model without memory for its weights; names, shapes and ties can be read off it."""
    try:
        with torch.device("meta"):
            return auto.from_config(config)
    except Exception as error:  # as above
        raise _no_model(folder, error) from error


def _tied(skeleton: Any, config: Any) -> Mapping[str, str]:
    """Tied name -> the name it repeats, when the config ties them."""
    keys = getattr(skeleton, "_tied_weights_keys", None)
    return dict(keys) if isinstance(keys, Mapping) and config.get_text_config().tie_word_embeddings else {}


def _refuse_contradiction(auto: Any, folder: Path, infos: Mapping[str, TensorInfo], config: Any, names: Names) -> None:
    """Compare the files with what the config's class expects; tensors that it does not know of are left alone."""
    skeleton = _skeleton(auto, config, folder)
    state = revert_weight_conversion(skeleton, dict(skeleton.state_dict()))
    # What is repeated, or computed by the class itself, need not be stored.
    optional = {*_tied(skeleton, config), *(name for name, _ in skeleton.named_buffers())}
    prefix = f"{skeleton.base_model_prefix}."
    found = {shared: infos[name] for name, shared in names(infos, prefix).items()}
    wanted = {shared: state[name] for name, shared in names(state, prefix).items()}
    for name, tensor in wanted.items():
        if name in found and tuple(tensor.shape) != found[name].shape:
            raise DamagedFile(
                f"{folder}: config.json asks for '{name}' of shape {list(tensor.shape)}, the file has "
                f"{list(found[name].shape)}; the config is of another model"
            )
    if not wanted.keys() & found.keys():
        raise DamagedFile(f"{folder}: none of the tensors that config.json's model needs are in the files")
    lost = sorted(wanted.keys() - found.keys() - {*names(optional, prefix).values()})
    if lost and found.keys() <= wanted.keys():  # names of an older layout are transformers' to convert, and not lost
        raise DamagedFile(
            f"{folder}: config.json's model needs {len(lost)} tensor(s) that no file holds, the first is '{lost[0]}'; "
            "copy the model again"
        )
