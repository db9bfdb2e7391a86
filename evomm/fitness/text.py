"""Tasks on text."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Self

from pydantic import model_validator

from evomm.adapters.generation import Answering, TextGeneration
from evomm.errors import UsageError
from evomm.fitness.examples import Example
from evomm.fitness.language import LIKELY, probability
from evomm.fitness.numbers import last_number
from evomm.fitness.score import Score
from evomm.fitness.task import Task, TaskSpec


class TextSpec(TaskSpec, Answering):
    """A task file on text.

    prompt: holds {question}. language: ISO code that an answer must be in to count, none when absent.
    """

    prompt: str
    language: str | None = None

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if "{question}" not in self.prompt:
            raise ValueError(f"the prompt must hold {{question}}, got {self.prompt!r}")
        return self


class MathTask(Task):
    """Right when the last number of the answer is right, and the answer is in the asked-for language.

    Columns: ``number`` (the number alone) and, with a language, ``language`` (the language alone).

        question "15-8?", answer 7, language ja:   "15-8=7なので、7個です。" -> 1    "It is 7." -> 0
    """

    Spec = TextSpec
    Asks = TextGeneration
    spec: TextSpec

    def prompts(self, examples: Sequence[Example]) -> list[str]:
        """One per example."""
        return [self.spec.prompt.replace("{question}", example.question) for example in examples]

    def keep(self, answers: Sequence[Any], folder: Path, name: str, examples: Sequence[Example] = ()) -> tuple[str, ...]:
        """The texts themselves."""
        return tuple(answers)

    def score(self, examples: Sequence[Example], answers: Sequence[Any]) -> Score:
        """(E,) 1 or 0 per example."""
        pairs = list(zip(examples, answers, strict=True))
        number = tuple(float(last_number(answer) == self._reference(example)) for example, answer in pairs)
        language = self.spec.language
        if language is None:
            return Score(values=number, parts={"number": number})
        spoken = tuple(float(probability(answer, language) > LIKELY) for answer in answers)
        both = tuple(a * b for a, b in zip(number, spoken, strict=True))
        return Score(values=both, parts={"number": number, "language": spoken})

    def _reference(self, example: Example) -> Fraction:
        reference = last_number(example.answer)
        if reference is None:
            raise UsageError(f"task '{self.name}', example '{example.id}': its answer {example.answer!r} holds no number")
        return reference
