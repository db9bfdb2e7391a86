"""From what a user writes for a model to a folder on this machine.

zoo:tiny/llm/ja              shipped with evomm
./models/shisa, /data/m7b    a folder (relative: to the file that names it, then to the working folder)
augmxnt/shisa-gamma-7b-v1    a hub id, optionally @revision, through huggingface_hub's cache
"""

import re
from pathlib import Path

from evomm.errors import MissingFile
from evomm.resources import resource

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]  # never pickles, never code


def is_hub_id(model: str) -> bool:
    """Whether it reads as ``owner/name`` or ``owner/name@revision``."""
    return _HUB_ID.fullmatch(model) is not None


def locate(model: str, beside: Path | None = None, download: bool = True) -> Path:
    """The folder of a model.

    Args:
        model: a zoo name, a path or a hub id, as above.
        beside: folder that relative paths start from, usually that of the config.
        download: whether a hub model that is not in the cache may be fetched.

    Raises MissingFile, saying where it was looked for.
    """
    if model.startswith("zoo:"):
        return resource("model_zoo", *model.removeprefix("zoo:").split("/"))
    tried = [Path(model).expanduser()] if beside is None else [beside / Path(model).expanduser(), Path(model)]
    for path in tried:
        if path.exists():
            return path.resolve()
    if not is_hub_id(model):
        raise MissingFile(f"model '{model}': no such folder, and not a zoo: name or a hub id (owner/name[@revision])")
    return _fetch(model, download)


def reference(model: str, folder: Path) -> str:
    """How a recipe names a model that was found: as the user did, except that relative paths become absolute."""
    return model if model.startswith("zoo:") or (is_hub_id(model) and "snapshots" in folder.parts) else str(folder)


def _fetch(model: str, download: bool) -> Path:
    # Imported here: it takes a second, and models in folders do not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, allow_patterns=_WANTED, local_files_only=not download))
    except LocalEntryNotFoundError as error:
        raise MissingFile(
            f"model '{model}': no such folder, and not in the hub cache of this machine; "
            f"fetch it with `hf download {name}{' --revision ' + revision if revision else ''}`"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise MissingFile(f"model '{model}': could not be fetched from the hub ({error})") from error
