"""Parents as a run or a merge has them: located, opened, a LoRA on top where one is given, and what their files are."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from evomm.adapters.base import Adapter, Model
from evomm.checkpoints.digest import checkpoint_digest, file_digest
from evomm.checkpoints.locate import reference
from evomm.errors import DamagedFile
from evomm.merge.recipe import Source

Find = Callable[[str], Path]


@dataclass(frozen=True)
class Parent:
    """One parent.

    source: as the user named it. path and lora: where its files are. model: its tensors, the LoRA's change included.
    note: what is odd about it.
    """

    source: Source
    path: Path
    lora: Path | None
    stored: Model
    model: Model
    note: str | None = None

    @property
    def digest(self) -> str:
        """SHA-256 over its files, the LoRA's among them; reads all of them."""
        own = checkpoint_digest(self.stored)
        if self.lora is None:
            return own
        files = [self.lora] if self.lora.is_file() else sorted(self.lora.glob("*.safetensors"))
        lines = "".join(f"{file.name} {file_digest(file)}\n" for file in files)
        return hashlib.sha256(f"{own}\n{lines}".encode()).hexdigest()

    @property
    def found(self) -> Source:
        """As a recipe names it that works from wherever it lies: relative paths become absolute."""
        names = {"model": reference(self.source.model, self.path)}
        if self.source.lora is not None and self.lora is not None:
            names["lora"] = reference(self.source.lora, self.lora)
        return self.source.model_copy(update=names)


def open_parent(adapter: Adapter, source: Source, find: Find) -> Parent:
    """Locate and open one parent.

    Args:
        find: from what the user wrote for a model to its path.

    Raises what locating and reading headers can raise.
    """
    path = find(source.model)
    stored = adapter.open(path)
    if source.lora is None:
        return Parent(source, path, None, stored, stored)
    lora = find(source.lora)
    trained_on = adapter.lora_base(lora)
    note = None
    if trained_on is not None and Path(trained_on).name != Path(source.model).name:
        note = f"LoRA '{source.lora}' was trained on '{trained_on}', and is put on '{source.model}'"
    return Parent(source, path, lora, stored, adapter.lora(stored, lora, source.scale), note)


def refuse_other(label: str, parent: Parent) -> None:
    """Raise DamagedFile when the files are not those that the source's digest is of."""
    if parent.source.digest is not None and parent.digest != parent.source.digest:
        raise DamagedFile(
            f"parent '{label}' ({parent.path}) is not the one this recipe was made with: its digest differs; "
            "find the right files, or drop `digest` from the recipe to merge what is there"
        )
