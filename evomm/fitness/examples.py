"""Examples, and the files that they are read from.

    .jsonl    {"split": "search", "question": ..., "answer": ...} per line; "prompt" for what a picture is drawn of
    .tsv      question, tab, answer per line
    .txt      a prompt per line

Lines that cannot be read are told by their number; an example that stands in two splits is refused.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from evomm.errors import MissingFile, UsageError
from evomm.plain import read_text

Split = Literal["search", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_ASKED = ("question", "prompt")  # keys of a row that hold what the model is asked


@dataclass(frozen=True)
class Example:
    """One problem: what is asked and what is right (empty where nothing is)."""

    id: str
    question: str
    answer: str = ""


def read_examples(name: str, files: Mapping[Split | None, Path], answered: bool) -> dict[Split, tuple[Example, ...]]:
    """The examples of every split, in the order of the files.

    Args:
        name: the task's, for messages.
        files: a file for each split, or one for None whose rows say their split. A split's own file may be absent.
        answered: whether every row must hold an answer.

    Raises MissingFile and UsageError, which names file and line.
    """
    splits: dict[Split, list[Example]] = {split: [] for split in SPLITS}
    for own_split, path in files.items():
        if own_split is not None and not path.exists():
            continue  # told when that split is asked for; the others are of use without it
        for number, row in enumerate(_rows(path), start=1):
            split, example = _example(row, own_split, answered, f"{path}, line {number}", number)
            splits[split].append(example)
    _refuse_leaks(name, splits)
    return {split: tuple(examples) for split, examples in splits.items()}


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.exists():
        raise MissingFile(f"{path}: the task's data is not there")
    lines = read_text(path).removeprefix("\ufeff").split("\n")  # editors on Windows put a byte-order mark first
    if lines[-1] == "":
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if path.suffix == ".txt":
            yield {"prompt": line.strip()}
            continue
        if path.suffix == ".tsv":
            yield dict(zip(("question", "answer"), line.rstrip("\r").split("\t"), strict=False))
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UsageError(f"{path}, line {number}: not JSON ({error}); mend or delete the line") from error
        yield row if isinstance(row, dict) else {}


def _example(row: Mapping[str, Any], own_split: Split | None, answered: bool, where: str, number: int) -> tuple[Split, Example]:
    split = own_split or row.get("split")
    if split not in SPLITS:
        raise UsageError(
            f"{where}: split is {split!r}, expected one of {', '.join(SPLITS)} in every row, or a file per split in the task file"
        )
    question = next((row[key] for key in _ASKED if key in row), None)
    if not isinstance(question, str) or (answered and row.get("answer") is None):
        expected = "a question (text) and an answer" if answered else "a prompt (text)"
        raise UsageError(f"{where}: expected {expected}, got keys {sorted(row)}")
    if not question.strip():
        raise UsageError(f"{where}: expected a question or prompt, got an empty one; write it or delete the line")
    answer = row.get("answer")
    return split, Example(str(row.get("id", f"{split}-{number}")), question, "" if answer is None else str(answer))


def _refuse_leaks(name: str, splits: Mapping[Split, Sequence[Example]]) -> None:
    """What is searched on must not be tested on."""
    seen: dict[str, Split] = {}
    for split, examples in splits.items():
        for example in examples:
            if seen.setdefault(example.question.strip(), split) != split:
                raise UsageError(
                    f"task '{name}': example '{example.id}' stands in both {seen[example.question.strip()]} and {split}; "
                    "splits must not share questions"
                )
