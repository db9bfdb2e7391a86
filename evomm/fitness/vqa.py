"""Tasks on questions about pictures.

kind: vqa
about: Questions about emoji, asked and answered in Japanese
prompt: "Q: [picture]<image>\\n{question}\\nA: "     # <image> is where the picture goes, whatever the model's own token for it
metric: rouge-l                                     # or exact, or vqa
language: ja
max_new_tokens: 16
beams: 5                                            # and repetition_penalty: the published evaluation's are 5 and 1.5
data: tiny-vqa/ja.jsonl                             # {"image": "a.png", "question": ..., "answer": ...} per line
# or parquet files as on the hub: data: {test: hub:SakanaAI/JA-VG-VQA-500}
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from evomm.adapters.generation import PICTURE, Answering, Shown, TextGeneration
from evomm.errors import CheckpointError, UsageError
from evomm.fitness.agreement import rouge_l, vqa_accuracy
from evomm.fitness.examples import Example, Split
from evomm.fitness.japanese import normalise, words
from evomm.fitness.language import LIKELY, probability
from evomm.fitness.score import Score
from evomm.fitness.task import Task, TaskSpec

_ENDS = " .。、,!?！？"


class VQASpec(TaskSpec, Answering):
    """A task file on questions about pictures.

    prompt: holds {question}, and <image> where the picture goes; with ``chat`` the model's template says where. metric: what
    counts. language: ISO code that an answer must be in to count, unless what is right is not in it either; none when absent.
    unreadable: whether a picture that cannot be read is refused, or its questions are skipped and counted.
    """

    prompt: str
    metric: Literal["rouge-l", "exact", "vqa"] = "rouge-l"
    language: str | None = None
    unreadable: Literal["refuse", "skip"] = "refuse"

    @model_validator(mode="after")
    def _asks(self) -> Self:
        if "{question}" not in self.prompt:
            raise ValueError(f"the prompt must hold {{question}}, got {self.prompt!r}")
        if not self.chat and self.prompt.count(PICTURE) != 1:
            raise ValueError(
                f"the prompt must hold {PICTURE} once, where the picture goes (or set chat: true), got {self.prompt!r}"
            )
        return self


class VQATask(Task):
    """How well answers agree with what is right, as far as they are in the asked-for language.

    Columns, none of which asks for the language: ``rouge-l`` (words of MeCab, `agreement.rouge_l`), ``exact`` (the same text once
    normalised), ``vqa`` (VQA accuracy, where several people answered); and, with a language, ``language``: whether the answer is
    in it. An example's value is its metric, or 0 where the language is not the asked-for one and what is right is in it, as in
    the published evaluation.
    """

    Spec = VQASpec
    Asks = TextGeneration
    pipeline = "image-text-to-text"
    spec: VQASpec

    def __init__(self, name: str, spec: TaskSpec, folder: Path) -> None:
        super().__init__(name, spec, folder)
        self._skipped: dict[Split, list[str]] = defaultdict(list)
        self._readable: dict[Split, tuple[Example, ...]] = {}

    def examples(self, split: Split, limit: int | None = None) -> tuple[Example, ...]:
        """The first ``limit`` examples of a split whose pictures can be read; each picture is read once to know.

        Raises what reading a picture can raise, unless the task file says to skip these.
        """
        if split not in self._readable:
            self._readable[split] = tuple(example for example in super().examples(split) if self._opens(example, split))
            if not self._readable[split]:
                raise UsageError(f"task '{self.name}': no picture of split '{split}' can be read; {self._skipped[split][0]}")
        return self._readable[split][:limit]

    def _opens(self, example: Example, split: Split) -> bool:
        if example.picture is None:
            raise UsageError(f"task '{self.name}', example '{example.id}': no 'image'; every question is about a picture")
        try:
            example.picture.open()
        except CheckpointError as error:
            if self.spec.unreadable == "refuse":
                raise type(error)(f"{error}, or set `unreadable: skip` in the task file") from error
            self._skipped[split].append(str(error))
            return False
        return True

    def notes(self) -> list[str]:
        """How many pictures were skipped."""
        return [
            f"task '{self.name}', {split}: {len(told)} question(s) skipped, their pictures cannot be read; the first: {told[0]}"
            for split, told in self._skipped.items()
        ]

    def files(self) -> list[Path]:
        """The data, and the pictures that are files."""
        pictures = [example.picture for found in self._all.values() for example in found if example.picture is not None]
        return [*super().files(), *dict.fromkeys(picture.path for picture in pictures if picture.path is not None)]

    def prompts(self, examples: Sequence[Example]) -> list[Any]:
        """One per example, with its picture."""
        return [
            Shown(self.spec.prompt.replace("{question}", example.question), example.picture.open())
            for example in examples
            if example.picture is not None
        ]

    def keep(self, answers: Sequence[Any], folder: Path, name: str, examples: Sequence[Example] = ()) -> tuple[str, ...]:
        """The texts themselves."""
        return tuple(answers)

    def score(self, examples: Sequence[Example], answers: Sequence[Any]) -> Score:
        """(E,) in [0, 1] per example."""
        pairs = list(zip(examples, answers, strict=True))
        columns = {
            "rouge-l": tuple(rouge_l(words(answer), words(example.answer)) for example, answer in pairs),
            "exact": tuple(float(_bare(answer) == _bare(example.answer)) for example, answer in pairs),
            "vqa": tuple(vqa_accuracy(_bare(answer), [_bare(one) for one in _right(example)]) for example, answer in pairs),
        }
        values = columns[self.spec.metric]
        if self.spec.language is None:
            return Score(values=values, parts=columns)
        is_in = partial(_is_in, language=self.spec.language)
        spoken = tuple(float(is_in(answer)) for answer in answers)
        counts = (said or not is_in(example.answer) for said, example in zip(spoken, examples, strict=True))
        both = tuple(value if counted else 0.0 for value, counted in zip(values, counts, strict=True))
        return Score(values=both, parts={**columns, "language": spoken})


def _right(example: Example) -> list[str]:
    return [example.answer, *example.others]


def _bare(text: str) -> str:
    """Normalised, in lower case, without what ends a sentence."""
    return normalise(text).lower().strip(_ENDS)


def _is_in(text: str, language: str) -> bool:
    return probability(text, language) > LIKELY
