"""Plain data: frozen typed models, safe YAML, and errors in the user's words.

Whatever flows between the floors (configs, recipes, scores, trials) is a `Plain`; whatever users write is read here.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from evomm.errors import MissingFile, UsageError, nearest

T = TypeVar("T", bound=BaseModel)


class Plain(BaseModel):
    """Frozen, typed, closed: an unknown key fails."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def load_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping, safely; duplicate keys and anything but a mapping are refused with UsageError."""
    try:
        content = yaml.load(text, Loader=_UniqueKeys)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{where}: not valid YAML: {error}") from error
    return _mapping(content, where)


def load_yaml_all(text: str, where: str) -> list[dict[str, Any]]:
    """The YAML mappings of a file with ``---`` between them, as `load_yaml` reads one; empty documents are left out."""
    try:
        contents = [content for content in yaml.load_all(text, Loader=_UniqueKeys) if content is not None]
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageError(f"{where}: not valid YAML: {error}") from error
    return [_mapping(content, where) for content in contents or [None]]


def dump_yaml(content: Any) -> str:
    """Plain data as YAML that `load_yaml` reads back equal, floats to the last bit."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_text(path: Path) -> str:
    """The text of a config or recipe; MissingFile or UsageError say what is wrong with it."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise MissingFile(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: cannot be read as text ({error})") from error


def parse(model: type[T], content: Any, where: str) -> T:
    """Validate plain data against a frozen model; UsageError lists what is wrong, in the user's words."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{where}: " + "; ".join(_explain(model, e) for e in error.errors())) from error


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UsageError(f"{where}: expected a mapping of keys to values, found {type(content).__name__}")
    return content


class _UniqueKeys(yaml.SafeLoader):
    """A key that stands twice is a mistake, not an override."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in seen:
            if seen.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what `_UniqueKeys` would otherwise read as a number."""


# YAML 1.1 reads 1e-3 as text; a number was meant.
for _side in (_UniqueKeys, _Dumper):
    _side.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )


def _explain(model: type[BaseModel], error: Any) -> str:
    at = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"unknown key '{at}'{nearest(str(error['loc'][-1]), _known_keys(model, error['loc'][:-1]))}"
    if error["type"] == "missing":
        return f"key '{at}' is missing"
    message = error["msg"].removeprefix("Value error, ")
    return f"{at}: {message}" if at else message


def _known_keys(model: type[BaseModel], path: Iterable[Any]) -> set[str]:
    """Keys allowed at a place of the config: walks the fields' types as far as they are models."""
    here: Any = model
    for part in path:
        if not isinstance(part, str) or part not in getattr(here, "model_fields", {}):
            continue
        found = [t for t in _flatten(here.model_fields[part].annotation) if hasattr(t, "model_fields")]
        here = found[0] if found else here
    return set(here.model_fields)


def _flatten(hint: Any) -> list[Any]:
    inner = getattr(hint, "__args__", ())
    return [hint, *(t for arg in inner for t in _flatten(arg))]
