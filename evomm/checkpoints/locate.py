"""From what a user writes for a model to a folder or file on this machine.

zoo:tiny/llm/ja              shipped with evomm
./models/shisa, /data/m7b    a folder (relative: to the file that names it, then to the working folder)
./models/anime.safetensors   a model in one file
augmxnt/shisa-gamma-7b-v1    a hub id, optionally @revision, through huggingface_hub's cache
ByteDance/SDXL-Lightning/sdxl_lightning_4step_lora.safetensors
                             one file of a hub repository, fetched alone: owner/name[@revision]/path/in/it.safetensors
"""

import re
from collections.abc import Iterable, Sequence
from glob import escape
from pathlib import Path

from evomm.checkpoints.reader import PICKLES
from evomm.errors import MissingFile
from evomm.plain import cut, exists
from evomm.resources import resource

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")
_HUB_FILE = re.compile(r"([A-Za-z0-9][\w.-]*/[\w.-]+)(?:@([\w.-]+))?/((?:[\w-][\w.-]*/)*[\w-][\w.-]*\.safetensors)")
_SHARD = re.compile(r"-\d{5}-of-\d{5}")
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken"]  # never pickles, never code
_CONFIGS = ["*.json", "*.txt"]  # with tokenizers, and no weights
# Family of a single file -> the public model whose configs and tokenizers it was trained with.
_PUBLIC = {"xl_base": "stabilityai/stable-diffusion-xl-base-1.0", "v1": "stable-diffusion-v1-5/stable-diffusion-v1-5"}


def is_hub_id(model: str) -> bool:
    """Whether it reads as ``owner/name`` or ``owner/name@revision``."""
    return _HUB_ID.fullmatch(model) is not None and _HUB_FILE.fullmatch(model) is None


def hub_parts(model: str) -> tuple[str, str, str] | None:
    """(owner/name, revision, file) of a hub id or of a file on the hub, empty where it says none; None for any other model."""
    file = _HUB_FILE.fullmatch(model)
    if file is not None:
        return file[1], file[2] or "", file[3]
    name, _, revision = model.partition("@")
    return (name, revision, "") if is_hub_id(model) else None


def fetch_command(model: str) -> str:
    """What puts a hub model, or a file of one, into the cache."""
    name, revision, file = hub_parts(model) or (model, "", "")
    return f"hf download {name}{' ' + file if file else ''}{' --revision ' + revision if revision else ''}"


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
    tried = [_home(model)] if beside is None else [beside / _home(model), Path(model)]
    for path in filter(exists, tried):
        if path.is_file():  # a link to a file of another name stays one: the name says what it is
            return path.parent.resolve() / path.name
        return path.resolve()
    parts = hub_parts(model)
    if parts is None:
        raise MissingFile(
            f"model '{cut(model)}': no such folder or file, and not a zoo: name or a hub id (owner/name[@revision])"
        )
    try:
        return _fetch_file(*parts, download) if parts[2] else _fetch(*parts[:2], _WANTED, download)
    except MissingFile as error:
        raise MissingFile(
            f"model '{model}': no such folder or file, and {error}; fetch it with `{fetch_command(model)}`"
        ) from error


def hub_data(name: str, download: bool = True) -> Path:
    """The folder with the parquet files of a data set on the hub, ``owner/name`` or ``owner/name@revision``.

    Where it is not here and cannot be fetched, a path that does not exist.
    """
    # Imported here: it takes a second, and data in files does not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    repo, _, revision = name.partition("@")
    try:
        return Path(
            snapshot_download(
                repo, repo_type="dataset", revision=revision or None, allow_patterns=["*.parquet"], local_files_only=not download
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError):  # the last: no name that the hub could have
        return Path(f"hub:{name}")


def fetch_data_command(name: str) -> str:
    """What puts a data set of the hub into the cache."""
    repo, _, revision = name.partition("@")
    return f"hf download {repo} --repo-type dataset{' --revision ' + revision if revision else ''}"


def locate_configs(family: str, download: bool = True) -> Path:
    """The folder with configs and tokenizers, and maybe no weights, of a family's public model: what single files lack.

    Args:
        family: as in `SingleFile.family`.

    Raises MissingFile for families that have none, or when it is not here and cannot be fetched.
    """
    if family not in _PUBLIC:
        raise MissingFile(
            f"single files of the family '{family}' come without configs and tokenizers; "
            "make a diffusers folder of the same family one of the parents"
        )
    name = _PUBLIC[family]
    included = " ".join(f"--include '{pattern}'" for pattern in _CONFIGS)
    command = f"hf download {name} {included}"
    try:
        folder = _fetch(name, "", _CONFIGS, download)
    except MissingFile as error:
        raise MissingFile(f"the configs and tokenizers that single files lack: {error}; fetch them with `{command}`") from error
    lost = [
        path
        for path in ("model_index.json", "unet/config.json", "tokenizer/tokenizer_config.json", "scheduler/scheduler_config.json")
        if not (folder / path).exists()
    ]
    if lost:
        raise MissingFile(f"{folder}: has no {lost[0]}, which single files lack; fetch it with `{command}`")
    return folder


def reference(model: str, folder: Path) -> str:
    """How a recipe names a model that was found: as the user did, except that relative paths become absolute."""
    return model if model.startswith("zoo:") or (hub_parts(model) and "snapshots" in folder.parts) else str(folder)


def _home(model: str) -> Path:
    """The path with ``~`` as the user's home; as it is written, when there is no such user."""
    try:
        return Path(model).expanduser()
    except RuntimeError:
        return Path(model)


def _fetch(name: str, revision: str, wanted: Sequence[str], download: bool) -> Path:
    # Imported here: it takes a second, and models in folders do not need it.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    unwanted = superfluous(_listed(name, revision)) if download else []
    try:
        folder = Path(
            snapshot_download(
                name,
                revision=revision or None,
                allow_patterns=list(wanted),
                ignore_patterns=[escape(path) for path in unwanted],
                local_files_only=not download,
            )
        )
    except LocalEntryNotFoundError as error:
        raise MissingFile("not in the hub cache of this machine") from error
    except (HfHubHTTPError, OSError, ValueError) as error:  # the last: no name that the hub could have
        raise MissingFile(f"could not be fetched from the hub ({cut(str(error))})") from error
    if not download and wanted is _WANTED and not any(path.suffix in {".safetensors", *PICKLES} for path in folder.rglob("*")):
        raise MissingFile("in the hub cache of this machine without its weights")
    return folder


def _fetch_file(name: str, revision: str, file: str, download: bool) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(name, file, revision=revision or None, local_files_only=not download))
    except LocalEntryNotFoundError as error:
        raise MissingFile("not in the hub cache of this machine") from error
    except (HfHubHTTPError, OSError, ValueError) as error:  # the last: no name that the hub could have
        raise MissingFile(f"could not be fetched from the hub ({cut(str(error))})") from error


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
