"""The contract of a task, and what every task file holds.

A task file is YAML in evals/ (or anywhere): what is asked, of which data, and how answers are judged.

    kind: math
    about: Word problems of the small world, in Japanese
    prompt: "Q: {question}\\nA: "
    language: ja
    max_new_tokens: 32
    data: tiny-math/ja.jsonl                  # rows that say their split; `examples` describes the formats
    # or a file per split: data: {test: mgsm/mgsm_ja.tsv}

``kind`` names the class that judges (`TASKS`), and that class the keys it knows (`Task.Spec`).
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from evomm.adapters.generation import Generation
from evomm.checkpoints.digest import file_digest
from evomm.checkpoints.locate import fetch_data_command, hub_data
from evomm.errors import MissingFile, UsageError
from evomm.fitness.examples import Example, Split, data_files, read_examples
from evomm.fitness.score import Score
from evomm.plain import Plain, exists, parse

HUB = "hub:"


class TaskSpec(Plain):
    """What every task file holds; kinds add keys of their own.

    data: one file whose rows say their split, or one file per split; paths start at the task file. A data set on the hub is
    ``hub:OWNER/NAME``, of which the parquet files are fetched.
    """

    kind: str
    about: str
    data: str | Mapping[Split, str]


class Task(ABC):
    """Prompts to answer and a judge for the answers.

    Args:
        name: as given by the user. spec: the task file. folder: where its data paths start.
    """

    Spec: ClassVar[type[TaskSpec]]
    """The keys of its files."""
    Asks: ClassVar[type[Generation]]
    """The kind of answer it wants; keys of the task file that are also options of it are its defaults."""
    pipeline: ClassVar[str] = "text-generation"
    """What the hub calls models that such tasks are for."""
    answered: ClassVar[bool] = True
    """Whether every example must come with an answer."""

    spec: TaskSpec

    def __init__(self, name: str, spec: TaskSpec, folder: Path) -> None:
        self.name = name
        self.spec = spec
        self.folder = folder

    @abstractmethod
    def prompts(self, examples: Sequence[Example]) -> list[str]:
        """What the model is given: one prompt per example, or as many for each, one example after the other."""

    @abstractmethod
    def score(self, examples: Sequence[Example], answers: Sequence[Any]) -> Score:
        """Judge one answer per prompt; one value per example."""

    @abstractmethod
    def keep(self, answers: Sequence[Any], folder: Path, name: str, examples: Sequence[Example] = ()) -> tuple[str, ...]:
        """Answers as a run stores them: texts as they are, other things as paths of files below ``folder``.

        Args:
            name: whose answers and to what, such as ``test/parent/ja``; files are written under it.
            examples: what was asked, where that is worth writing beside the answers.

        Raises WriteFailed.
        """

    @property
    def separable(self) -> bool:
        """Whether an example's value is its own, whichever others are scored with it, as races need it."""
        return True

    @property
    def wants_parents(self) -> bool:
        """Whether `score` compares with what the parents answered, so that `reference` must be called first."""
        return False

    def reference(self, examples: Sequence[Example], answers: Mapping[str, Sequence[Any]]) -> None:
        """Take what each parent answered to these examples: label -> one answer per prompt."""
        raise NotImplementedError(f"task '{self.name}' does not compare with parents")

    def options(self, batch: int, overrides: Mapping[str, object] = {}) -> Generation:
        """How the model is asked; ``overrides`` are a run's changes to what the task file says.

        Raises UsageError for an unknown or wrong option.
        """
        own = {key: getattr(self.spec, key) for key in self.Asks.model_fields if key in type(self.spec).model_fields}
        return parse(self.Asks, {**own, "batch": batch, **overrides}, f"task '{self.name}', generation")

    def examples(self, split: Split, limit: int | None = None) -> tuple[Example, ...]:
        """The first ``limit`` examples of a split.

        Raises UsageError when there are none, and when an example stands in two splits.
        """
        found = self._all.get(split, ())
        if not found:
            own = self._files().get(split)
            if own is not None and not exists(own):
                raise MissingFile(f"{own}: the '{split}' data of task '{self.name}' is not there; {self._whence(split)}")
            have = ", ".join(f"{name} ({len(e)})" for name, e in self._all.items() if e) or "none at all"
            raise UsageError(f"task '{self.name}': no examples in split '{split}'; it has {have}")
        return found if limit is None else found[:limit]

    @property
    def digest(self) -> str:
        """SHA-256 of what scores depend on: the task file's keys, its data, and the files of what judges."""
        lines = [self.spec.model_dump_json(), *(f"{path.name} {file_digest(path)}" for path in self.files() if exists(path))]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def files(self) -> list[Path]:
        """Files on this machine that scores depend on."""
        return [file for split, path in self._files().items() for file in data_files(path, split)]

    def notes(self) -> list[str]:
        """What is odd about the examples that were read so far, but allowed."""
        return []

    def missing(self) -> list[Path]:
        """Data files, and folders of scorers, that are not there."""
        return [path for path in self._files().values() if not exists(path)]

    @property
    def _all(self) -> Mapping[Split, tuple[Example, ...]]:
        if not hasattr(self, "_read"):
            self._read = read_examples(self.name, self._files(download=True), self.answered)
        return self._read

    def _files(self, download: bool = False) -> dict[Split | None, Path]:
        data = self.spec.data
        named: Iterable[tuple[Split | None, str]] = [(None, data)] if isinstance(data, str) else data.items()
        return {split: self._place(path, download) for split, path in named}

    def _place(self, path: str, download: bool) -> Path:
        return hub_data(path.removeprefix(HUB), download) if path.startswith(HUB) else self.folder / path

    def _whence(self, split: Split) -> str:
        path = self.spec.data if isinstance(self.spec.data, str) else self.spec.data[split]
        return (
            f"`{fetch_data_command(path.removeprefix(HUB))}` fetches it" if path.startswith(HUB) else "the task file says whence"
        )
