"""SHA-256 of files and of models, so that a run knows what it was made from."""

import hashlib
from pathlib import Path

from evomm.checkpoints.reader import FileReader
from evomm.checkpoints.single_file import SingleFile


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex; the same as ``sha256sum`` prints."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_digest(checkpoint: FileReader) -> str:
    """One SHA-256 for a model: over ``path digest`` lines of its weight files and configs, or that of its single file."""
    if isinstance(checkpoint, SingleFile):
        return file_digest(checkpoint.path)  # it may be called anything
    paths = [*checkpoint.files, *checkpoint.configs]
    lines = "".join(f"{path.relative_to(checkpoint.folder).as_posix()} {file_digest(path)}\n" for path in paths)
    return hashlib.sha256(lines.encode()).hexdigest()
