"""The kinds of task by the name that task files use, and how a task is found."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

from pydantic import TypeAdapter

from evomm.errors import MissingFile, UsageError, nearest
from evomm.fitness.image import ImageTask
from evomm.fitness.task import Task, TaskSpec
from evomm.fitness.text import MathTask
from evomm.fitness.vqa import VQATask
from evomm.plain import cut, exists, load_yaml, parse, read_text
from evomm.resources import resource

TASKS: Mapping[str, type[Task]] = {"image": ImageTask, "math": MathTask, "vqa": VQATask}


def shipped_tasks() -> list[str]:
    """Names of the tasks in evals/."""
    return sorted(path.stem for path in resource("evals").glob("*.yaml"))


def load_task(name: str, beside: Path | None = None) -> Task:
    """A task by its name in evals/, or by the path of its file (relative to ``beside``, then to the working folder).

    Raises MissingFile with the nearest name, and UsageError for a file that is no task.
    """
    paths = [Path(name)] if beside is None else [beside / name, Path(name)]
    path = next((p for p in paths if p.suffix in {".yaml", ".yml"} and exists(p)), None)
    if path is None:
        if name not in shipped_tasks():
            raise MissingFile(f"task '{cut(name)}': no such file, and not in evals{nearest(name, shipped_tasks())}")
        path = resource("evals", f"{name}.yaml")
    spec = read_spec(path)
    return TASKS[spec.kind](name, spec, path.parent)


def read_spec(path: Path) -> TaskSpec:
    """A task file with the keys of its kind; UsageError or MissingFile say what is wrong with it."""
    content = load_yaml(read_text(path), str(path))
    kind = content.get("kind")
    if kind is None:
        raise UsageError(f"{path}: key 'kind' is missing; known: {', '.join(sorted(TASKS))}")
    if not isinstance(kind, str) or kind not in TASKS:
        raise UsageError(f"{path}: unknown kind '{cut(str(kind))}'{nearest(str(kind), TASKS)}")
    return parse(TASKS[kind].Spec, content, str(path))


def task_schema() -> dict[str, Any]:
    """The JSON schema of task files: of one kind or another."""
    specs: Any = Union[tuple(task.Spec for task in TASKS.values())]  # noqa: UP007 - the table is not written here
    return TypeAdapter(specs).json_schema()
