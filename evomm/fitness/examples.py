"""Examples, and the files that they are read from.

    .jsonl    {"split": "search", "question": ..., "answer": ...} per line; "prompt" for what a picture is drawn of;
              "image": a path from the file's folder, for questions about pictures; "answers": where several people answered
    .parquet  the same as columns, pictures inside (`parquet`); a folder of such files counts as one
    .tsv      question, tab, answer per line
    .txt      a prompt per line

Lines that cannot be read are told by their number; an example that stands in two splits is refused, and so is a picture.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from evomm.errors import MissingFile, UsageError
from evomm.fitness.seen import Picture
from evomm.plain import cut, exists, read_text

Split = Literal["search", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)

_MOST = 10_000  # files of a folder that is looked through; a path can be wrong, and lead to the whole disk
_ASKED = ("question", "prompt")  # keys of a row that hold what the model is asked


@dataclass(frozen=True)
class Example:
    """One problem: what is asked, and what is right (empty where nothing is).

    picture: what the question is about. others: further answers, where several people gave one.
    """

    id: str
    question: str
    answer: str = ""
    picture: Picture | None = None
    others: tuple[str, ...] = ()


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
        if own_split is not None and not exists(path):
            continue  # told when that split is asked for; the others are of use without it
        parts = data_files(path, own_split)
        if not parts:
            raise MissingFile(f"{path}: a folder without parquet files; expected the task's data")
        for part in parts:
            for number, row in enumerate(_rows(part), start=1):
                where = f"{part}, {'row' if part.suffix == '.parquet' else 'line'} {number}"
                split, example = _example(row, own_split, answered, where, number, part.parent)
                splits[split].append(example)
    _refuse_leaks(name, splits)
    return {split: tuple(examples) for split, examples in splits.items()}


def data_files(path: Path, split: Split | None) -> list[Path]:
    """The files of a split's data: the file itself, or a folder's parquet files, those named after the split where some are."""
    if not exists(path) or not path.is_dir():
        return [path]
    found = []
    for number, file in enumerate(path.rglob("*")):
        if number > _MOST:
            raise UsageError(f"{path}: holds more than {_MOST} files; expected a folder with a data set's parquet files")
        if file.suffix == ".parquet":
            found.append(file)
    found.sort()
    named = [file for file in found if split is not None and file.name.startswith(split)]
    return named or found


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not exists(path):
        raise MissingFile(f"{cut(str(path))}: the task's data is not there")
    if path.suffix == ".parquet":
        from evomm.fitness import parquet

        yield from parquet.rows(path)
        return
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
            raise UsageError(f"{path}, line {number}: not JSON ({cut(str(error))}); mend or delete the line") from error
        yield row if isinstance(row, dict) else {}


def _example(
    row: Mapping[str, Any], own_split: Split | None, answered: bool, where: str, number: int, folder: Path
) -> tuple[Split, Example]:
    split = own_split or row.get("split")
    if split not in SPLITS:
        raise UsageError(
            f"{where}: split is {cut(repr(split))}, expected one of {', '.join(SPLITS)} in every row, "
            "or a file per split in the task file"
        )
    question = next((row[key] for key in _ASKED if key in row), None)
    answer, others = _answers(row, where)
    if not isinstance(question, str) or (answered and answer is None):
        expected = "a question (text) and an answer" if answered else "a prompt (text)"
        raise UsageError(f"{where}: expected {expected}, got keys {cut(str(sorted(map(str, row))))}")
    if not question.strip():
        raise UsageError(f"{where}: expected a question or prompt, got an empty one; write it or delete the line")
    name = str(row.get("id") or f"{split}-{number}")
    return split, Example(name, question, answer or "", _picture(row.get("image"), where, folder), others)


def _answers(row: Mapping[str, Any], where: str) -> tuple[str | None, tuple[str, ...]]:
    """The answer, and others where several people gave one."""
    several = row.get("answers")
    if several is not None and not (isinstance(several, list) and several and all(isinstance(one, str) for one in several)):
        raise UsageError(f"{where}: expected 'answers' to be a list of texts, got {several!r:.60}")
    answer = row.get("answer", several[0] if several else None)
    if answer is None:
        return None, ()
    others = list(several or ())
    if str(answer) in others:
        others.remove(str(answer))
    return str(answer), tuple(others)


def _picture(image: Any, where: str, folder: Path) -> Picture | None:
    """A path from the folder of the data, or ``{bytes, path}`` as parquet files have it."""
    if image is None:
        return None
    if isinstance(image, str) and image.strip():
        return Picture(f"{where} ({image})", folder / image)
    if isinstance(image, Mapping) and isinstance(image.get("bytes"), bytes):
        return Picture(where, content=image["bytes"])
    if isinstance(image, Mapping) and isinstance(image.get("path"), str):
        return Picture(f"{where} ({image['path']})", folder / image["path"])
    raise UsageError(f"{where}: expected 'image' to be a path, or {{bytes, path}}, got {image!r:.60}")


def _refuse_leaks(name: str, splits: Mapping[Split, Sequence[Example]]) -> None:
    """What is searched on must not be tested on: a question, or where there are pictures, a picture."""
    seen: dict[str, Split] = {}
    for split, examples in splits.items():
        for example in examples:
            key = example.question.strip() if example.picture is None else _identity(example.picture)
            if seen.setdefault(key, split) != split:
                shared = "questions" if example.picture is None else "pictures"
                raise UsageError(
                    f"task '{name}': example '{example.id}' stands in both {seen[key]} and {split}; "
                    f"splits must not share {shared}"
                )


def _identity(picture: Picture) -> str:
    """A picture's own, or where it should be, when that is not there: which is told when it is needed."""
    try:
        return picture.identity
    except MissingFile:
        return picture.where
