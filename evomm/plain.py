"""Plain data: frozen typed models, safe YAML, and errors in the user's words.

Whatever flows between the floors (configs, recipes, scores, trials) is a `Plain`; whatever users write is read here.
"""

import re
from collections.abc import Hashable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from evomm.errors import MissingFile, UsageError, nearest

T = TypeVar("T", bound=BaseModel)

_LETTERS = 1 << 24  # of a YAML file: more is none that people write, and takes minutes to read
_NODES = 1 << 20  # of a document with its aliases written out
_TOLD = 5  # mistakes in one message, each cut where nobody reads on
_LONG = 600


class Plain(BaseModel):
    """Frozen, typed, closed: an unknown key fails."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def load_yaml(text: str, where: str) -> dict[str, Any]:
    """A YAML mapping, safely; duplicate keys and anything but a mapping are refused with UsageError."""
    _refuse_long(text, where)
    try:
        content = yaml.load(text, Loader=_Careful)  # noqa: S506 - a SafeLoader
    except _BROKEN as error:
        raise _no_yaml(error, where) from error
    return _mapping(content, where)


def load_yaml_all(text: str, where: str) -> list[dict[str, Any]]:
    """The YAML mappings of a file with ``---`` between them, as `load_yaml` reads one; empty documents are left out."""
    _refuse_long(text, where)
    try:
        contents = [content for content in yaml.load_all(text, Loader=_Careful) if content is not None]
    except _BROKEN as error:
        raise _no_yaml(error, where) from error
    return [_mapping(content, where) for content in contents or [None]]


def dump_yaml(content: Any) -> str:
    """Plain data as YAML that `load_yaml` reads back equal, floats to the last bit."""
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True))


def read_text(path: Path) -> str:
    """The text of a config or recipe; MissingFile or UsageError say what is wrong with it."""
    try:
        return text_of(path)
    except FileNotFoundError as error:
        raise MissingFile(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # no text, or no name that a file can have
        raise UsageError(f"{cut(str(path))}: cannot be read as text ({cut(str(error))})") from error


def text_of(path: Path) -> str:
    """As `Path.read_text`, of UTF-8; OSError for a device, which need not end."""
    if path.is_char_device() or path.is_block_device():
        raise OSError("a device, expected a file")
    return path.read_text(encoding="utf-8")


def exists(path: Path) -> bool:
    """Whether there is such a file or folder; a name that none can have (too long, a zero byte) names none."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def cut(text: str) -> str:
    """Text from a file as a message can quote it: not without end."""
    return text if len(text) <= _LONG else f"{text[:_LONG]} ... ({len(text)} letters)"


def parse(model: type[T], content: Any, where: str) -> T:
    """Validate plain data against a frozen model; UsageError lists what is wrong, in the user's words."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        mistakes = error.errors(include_url=False)
        told = [cut(_explain(model, mistake)) for mistake in mistakes[:_TOLD]]
        more = [f"and {len(mistakes) - _TOLD} more"] if len(mistakes) > _TOLD else []
        raise UsageError(f"{where}: " + "; ".join([*told, *more])) from error


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise UsageError(f"{where}: expected a mapping of keys to values, found {type(content).__name__}")
    return content


def _refuse_long(text: str, where: str) -> None:
    if len(text) > _LETTERS:
        raise UsageError(f"{where}: has {len(text)} letters, expected at most {_LETTERS}; is it the right file?")


def _no_yaml(error: Exception, where: str) -> UsageError:
    return UsageError(f"{where}: not valid YAML: {cut(str(error))}")


_BROKEN = (yaml.YAMLError, RecursionError, ValueError, TypeError, AttributeError, KeyError, IndexError)  # last: tags on odd nodes


class _Careful(yaml.SafeLoader):
    """A key that stands twice is a mistake, not an override; what unfolds without end is refused before it does."""

    def construct_document(self, node: yaml.Node) -> Any:
        _unfolded(node, {})
        return super().construct_document(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for found in (self.construct_object(key, deep=True) for key, _ in node.value):
            if not isinstance(found, Hashable):
                break  # is told below
            if found in seen:
                raise _refused(f"key '{found}' stands twice", node)
            seen.add(found)
        return super().construct_mapping(node, deep)

    def construct_number(self, node: yaml.ScalarNode) -> int:
        number = self.construct_yaml_int(node)
        if abs(number) >= 1 << 64:
            raise _refused("a number of more than 64 bits", node)
        return number

    def construct_text(self, node: yaml.ScalarNode) -> str:
        text = self.construct_scalar(node)
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            raise _refused("half of a surrogate pair, which is no letter", node)
        return text


def _refused(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """How many nodes it stands for, aliases written out: a few lines of them can mean billions, or go round in a circle."""
    if id(node) in known:
        if not known[id(node)]:
            raise _refused("an alias of something that it is part of", node)
        return known[id(node)]
    known[id(node)] = 0
    inner = node.value if isinstance(node, yaml.CollectionNode) else ()
    parts = (part for entry in inner for part in (entry if isinstance(entry, tuple) else (entry,)))
    count = 1 + sum(_unfolded(part, known) for part in parts)
    if count > _NODES:
        raise _refused(f"aliases that stand for more than {_NODES} values", node)
    known[id(node)] = count
    return count


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Careful` would otherwise read as a number."""


_Careful.add_constructor("tag:yaml.org,2002:int", _Careful.construct_number)
_Careful.add_constructor("tag:yaml.org,2002:str", _Careful.construct_text)
# YAML 1.1 reads 1e-3 as text; a number was meant.
for _side in (_Careful, _Dumper):
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
