"""How models are asked: options are checked before anything is loaded."""

from typing import Any

import pytest

from evomm.adapters.generation import Generation, ImageGeneration, TextGeneration, expect
from evomm.errors import UsageError
from evomm.plain import parse


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps"),
        ({"guidance": -1}, "guidance"),
        ({"guidance": float("nan")}, "guidance"),
        ({"width": 100}, "width.* multiple of 8"),
        ({"height": 0}, "height"),
        ({"seed": -1}, "seed"),
        ({"spacing": "trialing"}, "spacing"),
        ({"scheduler": "euler"}, "such as EulerDiscreteScheduler, got 'euler'"),
        ({"scheduler": "os.Scheduler"}, "such as EulerDiscreteScheduler"),
        ({"stepps": 3}, "unknown key 'stepps'; did you mean 'steps'"),
        ({"batch": 0}, "batch"),
    ],
)
def test_options_that_mean_nothing_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse(ImageGeneration, changes, "generation")


def test_a_few_step_model_can_be_described() -> None:
    options = ImageGeneration(steps=4, guidance=0, scheduler="EulerDiscreteScheduler", spacing="trailing", width=512, height=512)
    assert ImageGeneration.model_validate_json(options.model_dump_json()) == options


def test_an_adapter_gets_the_kind_it_understands() -> None:
    options: Generation = TextGeneration(max_new_tokens=3)
    assert expect(options, TextGeneration).max_new_tokens == 3
    with pytest.raises(UsageError, match="asks with TextGeneration, this kind of model answers ImageGeneration"):
        expect(options, ImageGeneration)
