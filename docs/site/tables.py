"""Tables of the reference, made from the tables and signatures of the code."""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence

import typer
from pydantic.fields import FieldInfo

import evomm
from evomm.cli.app import app
from evomm.fitness.table import TASKS, read_spec, shipped_tasks
from evomm.fitness.task import TaskSpec
from evomm.merge.method import Parameter
from evomm.merge.table import METHODS, parameters
from evomm.plain import Plain
from evomm.resources import resource
from evomm.run.config import EvolveConfig
from evomm.search.base import Settings
from evomm.search.table import SEARCHERS

_MODULES = re.compile(r"\b[a-z_.]+\.(?=[A-Z])")
_ON = {"weights": "weights", "deltas": "task vectors", "either": "task vectors where there is a base, else weights"}


def methods() -> str:
    """Every merge method with its parameters, as its signature has them."""
    rows = []
    for name, method in METHODS.items():
        low, high = method.parents
        count = f"{low}" if low == high else f"{low} or more" if high == float("inf") else f"{low} to {high:g}"
        told = ", ".join(_told(one) for one in parameters(name).values())
        rows.append((f"`{name}`", _about(method.combine), _ON[method.on], "yes" if method.needs_base else "no", count, told))
    return _table(("method", "what it does", "mixes", "needs a base", "inputs", "parameters"), rows)


def searchers() -> str:
    """Every searcher, and what it can be used for."""
    rows = [
        (f"`{name}`", _about(sys.modules[kind.__module__]), _yes(kind.many_goals), _yes(not kind.wants_values))
        for name, kind in SEARCHERS.items()
    ]
    return _table(("searcher", "what it is", "several goals", "can race"), rows)


def settings() -> str:
    """What every searcher can be told."""
    return _fields(Settings.model_fields)


def config() -> str:
    """The keys of a config."""
    return _fields(EvolveConfig.model_fields)


def tasks() -> str:
    """The keys of each kind of task, after those that all kinds have."""
    shared = set(TaskSpec.model_fields)
    parts = ["Every kind has:\n\n" + _fields(TaskSpec.model_fields)]
    for kind, task in TASKS.items():
        own = {key: field for key, field in task.Spec.model_fields.items() if key not in shared}
        parts.append(f"## `kind: {kind}`\n\n{_about(task)}\n\n{_fields(own)}")
    return "\n\n".join(parts)


def shipped() -> str:
    """The tasks in evals/."""
    specs = {name: read_spec(resource("evals", f"{name}.yaml")) for name in shipped_tasks()}
    return _table(("task", "kind", "about"), [(f"`{name}`", f"`{spec.kind}`", spec.about) for name, spec in specs.items()])


def configs() -> str:
    """The configs, with the first sentence of each."""
    rows = []
    for path in sorted(resource("configs").glob("*.yaml")):
        comments = [line.lstrip("# ") for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        rows.append((f"`{path.stem}`", " ".join(comments).partition(". ")[0].rstrip(".") + "."))
    return _table(("config", "what it is"), rows)


def commands() -> str:
    """Every verb, with its arguments and options."""
    root = typer.main.get_command(app)
    assert isinstance(root, typer.core.TyperGroup)
    parts = []
    for name, command in root.commands.items():
        inner = command.commands if isinstance(command, typer.core.TyperGroup) else {}
        for verb, one in ({f"{name} {sub}": each for sub, each in inner.items()} or {name: command}).items():
            rows = [(_typed(parameter), getattr(parameter, "help", None) or "") for parameter in one.params]
            parts.append(f"## `evomm {verb}`\n\n{one.help}\n\n{_table(('argument or option', 'what it says'), rows)}")
    return "\n\n".join(parts)


def names() -> str:
    """A place for every public name, which mkdocstrings fills from its docstring."""
    return "\n\n".join(f"::: evomm.{evomm._HOMES[name]}.{name}" for name in evomm.__all__)


TABLES: Mapping[str, Callable[[], str]] = {
    "commands": commands,
    "config": config,
    "configs": configs,
    "methods": methods,
    "names": names,
    "searchers": searchers,
    "settings": settings,
    "shipped": shipped,
    "tasks": tasks,
}


def _told(parameter: Parameter) -> str:
    """Such as ``density`` (per parent, 0 to 1, default 1)."""
    low, high = parameter.range.low, parameter.range.high
    least = [] if low == float("-inf") else [f"{low:g} to {high:g}" if high < float("inf") else f"{low:g} or more"]
    default = str(parameter.default).lower() if parameter.kind == "switch" else f"{parameter.default:g}"
    return f"`{parameter.name}` ({', '.join([parameter.kind, *least, f'default {default}'])})"


def _fields(fields: Mapping[str, FieldInfo]) -> str:
    rows = []
    for name, field in fields.items():
        kind = field.annotation.__name__ if isinstance(field.annotation, type) else str(field.annotation)
        rows.append((f"`{name}`", f"`{_MODULES.sub('', kind)}`", _default(field)))
    return _table(("key", "kind", "default"), rows)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    value = field.get_default(call_default_factory=True)
    return "its own, below" if isinstance(value, Plain) else f"`{value!r}`"


def _typed(parameter: object) -> str:
    """An option as it is typed, an argument in capitals."""
    if isinstance(parameter, typer.core.TyperOption):
        return " ".join(f"`{one}`" for one in (*parameter.opts, *parameter.secondary_opts))
    return f"`{str(getattr(parameter, 'name', '')).upper()}`"


def _about(thing: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
