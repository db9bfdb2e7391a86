"""From what a user writes for a model to a folder or file on this machine.

zoo:tiny/llm/ja              shipped with evomm
./models/shisa, /data/m7b    a folder (relative: to the file that names it, then to the working folder)
./models/anime.safetensors   a model in one file
augmxnt/shisa-gamma-7b-v1    a hub id, optionally @revision, through huggingface_hub's cache
"""

import re
from collections.abc import Iterable
from glob import escape
from pathlib import Path

from evomm.errors import MissingFile
from evomm.resources import resource

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]  # never pickles, never code


def is_hub_id(model: str) -> bool:
    """Whether it reads as ``owner/name`` or ``owner/name@revision``."""
    return _HUB_ID.fullmatch(model) is not None


def locate(model: str, beside: Path | None = None, download: bool = True) -> Path:
    """The folder of a model, or its file.

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
        if path.is_file():  # a link to a file of another name stays one: the name says what it is
            return path.parent.resolve() / path.name
        if path.exists():
            return path.resolve()
    if not is_hub_id(model):
        raise MissingFile(f"model '{model}': no such folder or file, and not a zoo: name or a hub id (owner/name[@revision])")
    return _fetch(model, download)


def reference(model: str, folder: Path) -> str:
    """How a recipe names a model that was found: as the user did, except that relative paths become absolute."""
    return model if model.startswith("zoo:") or (is_hub_id(model) and "snapshots" in folder.parts) else str(folder)


def _fetch(model: str, download: bool) -> Path:
    # Imported here: it takes a second, and models in folders do not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    name, _, revision = model.partition("@")
    unwanted = superfluous(_listed(name, revision)) if download else []
    try:
        return Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=_WANTED,
                ignore_patterns=[escape(path) for path in unwanted],
                local_files_only=not download,
            )
        )
    except LocalEntryNotFoundError as error:
        raise MissingFile(
            f"model '{model}': no such folder or file, and not in the hub cache of this machine; "
            f"fetch it with `hf download {name}{' --revision ' + revision if revision else ''}`"
        ) from error
    except (HfHubHTTPError, OSError) as error:
        raise MissingFile(f"model '{model}': could not be fetched from the hub ({error})") from error


def _listed(name: str, revision: str) -> list[str]:
    """The files of a hub model; none when the hub does not answer, which downloading will tell of, or the cache make good."""
    from huggingface_hub import list_repo_files

    try:
        return list(list_repo_files(name, revision=revision or None))
    except Exception:  # of whatever library it uses this year
        return []


def superfluous(files: Iterable[str]) -> list[str]:
    """Weights that others of the model's files stand for: fp16 copies, and a pipeline's single files and LoRAs beside it."""
    there = {path for path in files if path.endswith((".safetensors", ".safetensors.index.json")) or path == "model_index.json"}
    full = {_SHARD.sub("", path).removesuffix(".index.json") for path in there if ".fp16" not in path}

    def copied(path: str) -> bool:
        return ".fp16" in path and _SHARD.sub("", path).replace(".fp16", "").replace(".index.json", "") in full

    beside = "model_index.json" in there
    return sorted(path for path in there if copied(path) or (beside and "/" not in path and path != "model_index.json"))
