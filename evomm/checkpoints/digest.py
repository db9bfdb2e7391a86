"""SHA-256 of files and of models, so that a run knows what it was made from."""

import hashlib
from pathlib import Path

from evomm.checkpoints.reader import FileReader


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex; the same as ``sha256sum`` prints."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checkpoint_digest(checkpoint: FileReader) -> str:
    """One SHA-256 for a model: over ``name digest`` lines of its weight files and its config, in file order."""
    files = [*checkpoint.files, *(p for p in [checkpoint.folder / "config.json"] if p.exists())]
    lines = "".join(f"{path.name} {file_digest(path)}\n" for path in files)
    return hashlib.sha256(lines.encode()).hexdigest()
