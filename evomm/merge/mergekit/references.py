"""How mergekit's documents name a model.

./models/m7b                                       a folder
owner/name@revision                                on the hub
owner/name+owner/adapter                           with a LoRA on top
{model: {path: ./c++, revision: main}, lora: x}    the same in parts, for names with + or @ in them
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator

from evomm.errors import nearest
from evomm.merge.recipe import Source
from evomm.merge.vocabulary import INTERSECTION, UNION
from evomm.plain import Plain

_KEYS = ("model", "lora")


class Reference(Plain):
    """One model. path: a folder, a hub id, or the name of another document of the file. lora: of an adapter on top of it."""

    path: str
    revision: str | None = None
    lora: str | None = None

    def __str__(self) -> str:
        return self.model + (f"+{self.lora}" if self.lora else "")

    @property
    def model(self) -> str:
        """The path with its revision."""
        return self.path + (f"@{self.revision}" if self.revision else "")

    @property
    def source(self) -> Source:
        """As recipes say it."""
        return Source(model=self.model, lora=self.lora)


def read_reference(value: Any) -> Reference:
    """From text or mergekit's mapping; ValueError says what is wrong."""
    if isinstance(value, Reference):
        return value
    if isinstance(value, str):
        model, *loras = value.split("+")
        if len(loras) > 1:
            raise ValueError(f"'{value}' has more than one +; expected PATH or PATH+LORA, or {{model: {{path: ...}}, lora: ...}}")
        return _reference(model, loras[0] if loras else None)
    if not isinstance(value, Mapping):
        raise ValueError(f"expected a path, hub id or {{model: ..., lora: ...}}, got {type(value).__name__}")
    if value.get("override_architecture") is not None:
        raise ValueError(
            "override_architecture is not supported: the architecture is read from the model's files; "
            "correct `architectures` in its config.json instead"
        )
    for key in value:
        if key not in (*_KEYS, "override_architecture"):
            raise ValueError(f"unknown key '{key}'{nearest(str(key), _KEYS)}")
    if "model" not in value:
        raise ValueError("key 'model' is missing")
    return _reference(value["model"], value.get("lora"))


ModelReference = Annotated[Reference, BeforeValidator(read_reference)]


def label_all(references: Iterable[Reference]) -> dict[Reference, str]:
    """A short label for each distinct reference, in their order: the last part of its name, then -2, -3 where it is taken."""
    taken = {UNION, INTERSECTION}  # recipes give these words a meaning of their own
    labels: dict[Reference, str] = {}
    for reference in dict.fromkeys(references):
        name = _last_part(reference.lora.split("@")[0] if reference.lora else reference.path)
        label, number = name, 1
        while label in taken:
            number += 1
            label = f"{name}-{number}"
        taken.add(label)
        labels[reference] = label
    return labels


def _reference(model: Any, lora: Any) -> Reference:
    path, revision = _path(model, "model")
    if lora is None:
        return Reference(path=path, revision=revision)
    adapter, its_revision = _path(lora, "lora")
    return Reference(path=path, revision=revision, lora=adapter + (f"@{its_revision}" if its_revision else ""))


def _path(value: Any, key: str) -> tuple[str, str | None]:
    """(path, revision)."""
    if isinstance(value, Mapping):
        for name in value:
            if name not in ("path", "revision"):
                raise ValueError(f"unknown key '{key}.{name}'{nearest(str(name), ('path', 'revision'))}")
        path, revision = value.get("path"), value.get("revision")
    elif isinstance(value, str):
        path, *rest = value.split("@")
        if len(rest) > 1:
            raise ValueError(f"'{value}' has more than one @; expected PATH or PATH@REVISION, or {{path: ..., revision: ...}}")
        revision = rest[0] if rest else None
    else:
        raise ValueError(f"{key}: expected a path or hub id, got {type(value).__name__}")
    if not isinstance(path, str) or not path:
        raise ValueError(f"{key}: expected a path or hub id, got {'nothing' if not path else type(path).__name__}")
    if revision is not None and not isinstance(revision, str):
        raise ValueError(f"{key}: expected a revision as text, got {type(revision).__name__}")
    return path, revision or None


def _last_part(path: str) -> str:
    parts = [part for part in re.split(r"[/\\]", path) if part not in ("", ".", "..")]
    return parts[-1] if parts else "model"
