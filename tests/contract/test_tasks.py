"""What every kind of task and every shipped task keeps to."""

import json

import pytest

from evomm.adapters.generation import Generation
from evomm.errors import UsageError
from evomm.fitness.table import TASKS, load_task, shipped_tasks, task_schema
from evomm.fitness.task import Task, TaskSpec

ON_THE_HUB = {"ja-vg-vqa", "ja-vlm-bench"}  # whose test split is fetched when first used


@pytest.mark.parametrize("kind", TASKS.values(), ids=TASKS)
def test_a_kind_names_its_keys_and_its_answers(kind: type[Task]) -> None:
    assert issubclass(kind.Spec, TaskSpec)
    assert issubclass(kind.Asks, Generation)
    assert "batch" not in kind.Spec.model_fields, "how many prompts at a time is the run's choice"


def test_the_schema_knows_every_kind() -> None:
    keys = {key for task in TASKS.values() for key in task.Spec.model_fields}
    text = json.dumps(task_schema())
    assert [key for key in keys if f'"{key}"' not in text] == []


@pytest.mark.parametrize("name", shipped_tasks())
def test_a_shipped_task_says_how_it_asks(name: str) -> None:
    task = load_task(name)
    options = task.options(batch=3)
    assert type(options) is task.Asks
    assert options.batch == 3
    for key in set(task.Asks.model_fields) & set(task.Spec.model_fields):
        assert getattr(options, key) == getattr(task.spec, key)
    with pytest.raises(UsageError, match="unknown key 'colour'"):
        task.options(3, {"colour": "red"})


@pytest.mark.parametrize("name", [name for name in shipped_tasks() if name not in ON_THE_HUB])
def test_a_shipped_task_asks_as_often_for_every_example(name: str) -> None:
    task = load_task(name)
    examples = task.examples("test", 5)
    prompts = task.prompts(examples)
    assert len(prompts) % len(examples) == 0
    assert all(isinstance(example.question, str) and example.question.strip() for example in examples)
