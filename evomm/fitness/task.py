"""The contract of a task, and how task files are read.

A task file is YAML in evals/ (or anywhere): what is asked, of which data, and how answers are judged.

    kind: math
    about: Word problems of the small world, in Japanese
    prompt: "Q: {question}\\nA: "
    language: ja
    max_new_tokens: 32
    data: tiny-math/ja.jsonl                  # {"split": "search", "question": ..., "answer": ...} per line
    # or a file per split, .jsonl or .tsv (question, tab, answer): data: {test: mgsm/mgsm_ja.tsv}
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field

from evomm.errors import MissingFile, UsageError
from evomm.fitness.score import Score
from evomm.plain import Plain, load_yaml, parse, read_text

Split = Literal["search", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class Example:
    """One problem: what is asked and what is right."""

    id: str
    question: str
    answer: str


class TaskSpec(Plain):
    """A task file.

    language: ISO code that an answer must be in to count, none when absent. data: one file with a split column, or one
    per split; paths start at the task file.
    """

    kind: str
    about: str
    prompt: str
    data: str | Mapping[Split, str]
    language: str | None = None
    max_new_tokens: int = Field(default=256, ge=1)


class Task(ABC):
    """Prompts to answer and a judge for the answers.

    Args:
        name: as given by the user. spec: the task file. folder: where its data paths start.
    """

    def __init__(self, name: str, spec: TaskSpec, folder: Path) -> None:
        self.name = name
        self.spec = spec
        self._folder = folder

    @abstractmethod
    def score(self, examples: Sequence[Example], answers: Sequence[str]) -> Score:
        """Judge one answer per example."""

    def prompts(self, examples: Sequence[Example]) -> list[str]:
        """What the model is given, one per example."""
        return [self.spec.prompt.replace("{question}", example.question) for example in examples]

    def examples(self, split: Split, limit: int | None = None) -> tuple[Example, ...]:
        """The first ``limit`` examples of a split.

        Raises UsageError when there are none, and when an example stands in two splits.
        """
        found = self._all.get(split, ())
        if not found:
            own = self._files().get(split)
            if own is not None and not own.exists():
                raise MissingFile(f"{own}: the '{split}' data of task '{self.name}' is not there; the task file says whence")
            have = ", ".join(f"{name} ({len(e)})" for name, e in self._all.items() if e) or "none at all"
            raise UsageError(f"task '{self.name}': no examples in split '{split}'; it has {have}")
        return found if limit is None else found[:limit]

    def missing(self) -> list[Path]:
        """Data files that are not there."""
        return [path for path in self._files().values() if not path.exists()]

    @property
    def _all(self) -> Mapping[Split, tuple[Example, ...]]:
        if not hasattr(self, "_read"):
            self._read = self._load()
        return self._read

    def _files(self) -> dict[Split | None, Path]:
        data = self.spec.data
        if isinstance(data, str):
            return {None: self._folder / data}
        return {split: self._folder / path for split, path in data.items()}

    def _load(self) -> dict[Split, tuple[Example, ...]]:
        splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
        for own_split, path in self._files().items():
            if own_split is not None and not path.exists():
                continue  # told when that split is asked for; the others are of use without it
            for number, row in enumerate(_rows(path), start=1):
                split, example = _example(row, own_split, path, number)
                splits[split].append(example)
        _refuse_leaks(self.name, splits)
        return {split: tuple(examples) for split, examples in splits.items()}


def read_spec(path: Path) -> TaskSpec:
    """A task file; UsageError or MissingFile say what is wrong with it."""
    return parse(TaskSpec, load_yaml(read_text(path), str(path)), str(path))


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.exists():
        raise MissingFile(f"{path}: the task's data is not there")
    lines = read_text(path).split("\n")
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if path.suffix == ".tsv":
            yield dict(zip(("question", "answer"), line.rstrip("\r").split("\t"), strict=False))
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UsageError(f"{path}, line {number}: not JSON ({error}); mend or delete the line") from error
        yield row if isinstance(row, dict) else {}


def _example(row: Mapping[str, Any], own_split: Split | None, path: Path, number: int) -> tuple[Split, Example]:
    split = own_split or row.get("split")
    if split not in SPLITS:
        raise UsageError(f"{path}, line {number}: split is {split!r}, expected one of {', '.join(SPLITS)}")
    if not isinstance(row.get("question"), str) or row.get("answer") is None:
        raise UsageError(f"{path}, line {number}: expected a question (text) and an answer, got keys {sorted(row)}")
    return split, Example(str(row.get("id", f"{split}-{number}")), row["question"], str(row["answer"]))


def _refuse_leaks(name: str, splits: Mapping[Split, Sequence[Example]]) -> None:
    """What is searched on must not be tested on."""
    seen: dict[str, Split] = {}
    for split, examples in splits.items():
        for example in examples:
            if seen.setdefault(example.question, split) != split:
                raise UsageError(
                    f"task '{name}': example '{example.id}' stands in both {seen[example.question]} and {split}; "
                    "splits must not share questions"
                )
