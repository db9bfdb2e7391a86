"""Tasks: files are read strictly, splits never leak, and answers are judged by number and language."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomm.adapters.generation import TextGeneration
from evomm.errors import MissingFile, UsageError
from evomm.fitness.examples import SPLITS, Example
from evomm.fitness.score import Score
from evomm.fitness.table import TASKS, load_task, shipped_tasks
from tests.contract.test_tasks import ON_THE_HUB

ROWS = [{"split": split, "question": f"{split} {i}?", "answer": i} for split in SPLITS for i in range(3)]
SPEC = {"kind": "math", "about": "x", "prompt": "Q: {question}\nA: ", "data": "data.jsonl"}


def make(folder: Path, rows: Sequence[Mapping[str, object]] | None = None, **changes: Any) -> str:
    """Write a task; returns its path."""
    lines = [json.dumps(row, ensure_ascii=False) for row in (ROWS if rows is None else rows)]
    (folder / "data.jsonl").write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    (folder / "task.yaml").write_text(json.dumps({**SPEC, **changes}))  # JSON is YAML
    return str(folder / "task.yaml")


def test_examples_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    task = load_task(make(tmp_path))
    assert task.examples("test") == tuple(Example(f"test-{i + 7}", f"test {i}?", str(i)) for i in range(3))
    assert task.examples("test", limit=2) == task.examples("test")[:2]
    assert task.prompts(task.examples("search", limit=1)) == ["Q: search 0?\nA: "]


def test_a_question_may_hold_braces(tmp_path: Path) -> None:
    task = load_task(make(tmp_path, [{"split": "test", "question": "{x} {question} {0}?", "answer": 1}]))
    assert task.prompts(task.examples("test")) == ["Q: {x} {question} {0}?\nA: "]


def test_a_file_per_split(tmp_path: Path) -> None:
    (tmp_path / "test.tsv").write_text('a "quoted, question\t1,234\nb\t5\n', encoding="utf-8")
    task = load_task(make(tmp_path, data={"test": "test.tsv", "search": "nowhere.jsonl"}))
    assert [(e.question, e.answer) for e in task.examples("test")] == [('a "quoted, question', "1,234"), ("b", "5")]
    assert task.missing() == [tmp_path / "nowhere.jsonl"]
    with pytest.raises(MissingFile, match=r"nowhere\.jsonl: the 'search' data .* is not there"):
        task.examples("search")


def test_the_data_file_is_missing(tmp_path: Path) -> None:
    task = load_task(make(tmp_path, data="nowhere.jsonl"))
    with pytest.raises(MissingFile, match=r"nowhere\.jsonl"):
        task.examples("test")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "line 2: not JSON"),
        ("", "line 2: not JSON"),
        ("[1]", "line 2: split is None"),
        ('{"question": "x", "answer": 1}', "line 2: split is None, expected one of search, validation, test"),
        ('{"split": "tset", "question": "x", "answer": 1}', "line 2: split is 'tset'"),
        ('{"split": "test", "question": "x"}', r"line 2: expected a question \(text\) and an answer"),
        ('{"split": "test", "question": 5, "answer": 1}', "line 2: expected a question"),
        ('{"split": ["test"], "question": "x", "answer": 1}', "line 2: split is"),
        ('{"split": "test", "question": " ", "answer": 1}', "line 2: .* got an empty one"),
    ],
)
def test_a_broken_line_is_told_by_its_number(tmp_path: Path, line: str, said: str) -> None:
    path = make(tmp_path)
    (tmp_path / "data.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line + "\n")
    with pytest.raises(UsageError, match=said):
        load_task(path).examples("search")


@pytest.mark.parametrize("name", ["data.jsonl", "data.tsv"])
def test_data_that_is_not_utf8_is_told(tmp_path: Path, name: str) -> None:
    """Japanese files often come in Shift-JIS."""
    path = make(tmp_path, data={"test": name})
    (tmp_path / name).write_bytes("りんごは何個？\t5\n".encode("shift_jis"))
    with pytest.raises(UsageError, match=name):
        load_task(path).examples("test")


def test_a_question_in_two_splits_is_a_leak(tmp_path: Path) -> None:
    leaking: list[dict[str, object]] = [*ROWS, {"split": "test", "question": "search 1?", "answer": 1}]
    with pytest.raises(UsageError, match=r"'test-10' stands in both search and test"):
        load_task(make(tmp_path, leaking)).examples("search")


def test_files_from_other_systems_are_read(tmp_path: Path) -> None:
    """A byte-order mark and Windows' line ends are no part of the first and of every example."""
    (tmp_path / "test.tsv").write_bytes("\ufeffa\t1\r\nb\t2\r\n".encode())
    (tmp_path / "search.jsonl").write_bytes('\ufeff{"question": "c", "answer": 3}\r\n'.encode())
    task = load_task(make(tmp_path, data={"test": "test.tsv", "search": "search.jsonl"}))
    assert [(e.question, e.answer) for e in task.examples("test")] == [("a", "1"), ("b", "2")]
    assert task.prompts(task.examples("search")) == ["Q: c\nA: "]


@given(st.binary(max_size=200), st.sampled_from(["data.jsonl", "data.tsv", "data.txt"]))
def test_no_file_does_more_than_be_refused(tmp_path: Path, content: bytes, name: str) -> None:
    path = make(tmp_path, data={"test": name})
    (tmp_path / name).write_bytes(content)
    with suppress(UsageError):
        load_task(path).examples("test")


def test_lines_nested_without_end_are_told(tmp_path: Path) -> None:
    path = make(tmp_path)
    (tmp_path / "data.jsonl").write_text("[" * 100_000)
    with pytest.raises(UsageError, match="line 1: not JSON"):
        load_task(path).examples("test")


def test_space_around_a_question_hides_no_leak(tmp_path: Path) -> None:
    leaking: list[dict[str, object]] = [*ROWS, {"split": "test", "question": " search 1?", "answer": 1}]
    with pytest.raises(UsageError, match=r"'test-10' stands in both search and test"):
        load_task(make(tmp_path, leaking)).examples("search")


def test_a_run_may_change_how_the_model_is_asked(tmp_path: Path) -> None:
    task = load_task(make(tmp_path, max_new_tokens=20))
    assert task.options(8) == TextGeneration(max_new_tokens=20, batch=8)
    assert task.options(8, {"max_new_tokens": 5}) == TextGeneration(max_new_tokens=5, batch=8)
    with pytest.raises(UsageError, match="generation: unknown key 'max_new_token'; did you mean 'max_new_tokens'"):
        task.options(8, {"max_new_token": 5})
    with pytest.raises(UsageError, match=r"generation: max_new_tokens: .* greater than or equal to 1"):
        task.options(8, {"max_new_tokens": 0})


def test_texts_are_kept_as_they_are(tmp_path: Path) -> None:
    assert load_task(make(tmp_path)).keep(["7", "七"], tmp_path / "kept", "test/child") == ("7", "七")
    assert not (tmp_path / "kept").exists()


def test_an_empty_split_says_what_there_is(tmp_path: Path) -> None:
    task = load_task(make(tmp_path, [row for row in ROWS if row["split"] != "test"]))
    with pytest.raises(UsageError, match=r"no examples in split 'test'; it has search \(3\), validation \(3\)"):
        task.examples("test")
    with pytest.raises(UsageError, match="it has none at all"):
        load_task(make(tmp_path, [])).examples("test")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "maths"}, "unknown kind 'maths'; did you mean 'math'"),
        ({"prompt": "Q:"}, r"the prompt must hold \{question\}"),
        ({"langauge": "ja"}, "unknown key 'langauge'; did you mean 'language'"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"data": {"train": "x.jsonl"}}, "'search', 'validation' or 'test'"),
        ({"kind": None}, "key 'kind' is missing; known: .*math"),
        ({"kind": ["math"]}, "unknown kind"),
    ],
)
def test_a_task_file_that_means_nothing_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load_task(make(tmp_path, **changes))


def test_tasks_are_found_by_name_and_beside_the_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path)
    monkeypatch.chdir("/")
    assert load_task("task.yaml", beside=tmp_path).spec.kind == "math"
    assert load_task("mgsm-ja").name == "mgsm-ja"
    with pytest.raises(MissingFile, match=r"no such file, and not in evals; did you mean 'mgsm-ja'"):
        load_task("mgsm-jp")


@pytest.mark.parametrize("name", [name for name in shipped_tasks() if name not in ON_THE_HUB])
def test_every_shipped_task_is_whole(name: str) -> None:
    """Its references are readable, and splits are disjoint where there are several."""
    task = load_task(name)
    examples = task.examples("test")
    assert len({example.id for example in examples}) == len(examples)
    if not task.answered:
        return
    perfect = task.score(examples, [example.answer for example in examples])
    assert set(perfect.parts.get("number", perfect.values)) == {1.0}


def judged(folder: Path, answers: list[str], language: str | None = None) -> Score:
    """The score of answers to a question whose answer is 7."""
    rows: list[dict[str, object]] = [{"split": "test", "question": f"{i}", "answer": "7"} for i in range(len(answers))]
    task = TASKS["math"]("task", load_task(make(folder, rows, language=language)).spec, folder)
    return task.score(task.examples("test"), answers)


def test_the_last_number_is_the_answer(tmp_path: Path) -> None:
    score = judged(tmp_path, ["7", "15-8=7なので、7個です。", "7.0", "７", "8", "7 of 8", "none", ""])
    assert score.values == (1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0)
    assert score.parts == {"number": score.values}


def test_an_answer_must_be_in_the_language_too(tmp_path: Path) -> None:
    japanese = "りんごが15個あって、8個食べたので、残りは7個です。"
    score = judged(tmp_path, [japanese, "There are 7 apples left in the end.", japanese.replace("7", "6"), ""], language="ja")
    assert score.values == (1.0, 0.0, 0.0, 0.0)
    assert score.parts == {"number": (1.0, 1.0, 0.0, 0.0), "language": (1.0, 0.0, 1.0, 0.0)}


def test_one_answer_per_example_is_demanded(tmp_path: Path) -> None:
    task = load_task(make(tmp_path))
    with pytest.raises(ValueError, match="shorter"):
        task.score(task.examples("test"), ["7"])


def test_a_reference_without_a_number_is_told(tmp_path: Path) -> None:
    task = load_task(make(tmp_path, [{"split": "test", "id": "q9", "question": "x", "answer": "seven"}]))
    with pytest.raises(UsageError, match="example 'q9': its answer 'seven' holds no number"):
        task.score(task.examples("test"), ["7"])
