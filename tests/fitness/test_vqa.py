"""Questions about pictures: data in every form, agreement by independent formulas, the language as a condition."""

import io
import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pyarrow import parquet

from evomm.adapters.generation import Shown, TextGeneration
from evomm.checkpoints import locate
from evomm.errors import DamagedFile, MissingFile, UsageError
from evomm.fitness import task as task_module
from evomm.fitness.agreement import rouge_l, vqa_accuracy
from evomm.fitness.examples import SPLITS, Example
from evomm.fitness.japanese import normalise, words
from evomm.fitness.seen import Picture
from evomm.fitness.table import load_task
from evomm.fitness.vqa import VQATask

SPEC = {"kind": "vqa", "about": "x", "prompt": "Q: <image>\n{question}\nA: ", "language": "ja", "data": "data.jsonl"}


def png(number: int, mode: str = "RGB") -> bytes:
    """A small picture, another one for every number."""
    buffer = io.BytesIO()
    Image.new(mode, (6, 5), (number, 2 * number, 3, 0)[: len(mode)]).save(buffer, "PNG")
    return buffer.getvalue()


def make(folder: Path, rows: Sequence[Mapping[str, object]] | None = None, **changes: Any) -> VQATask:
    """A task with two pictures per split."""
    if rows is None:
        rows = [
            {"split": split, "question": "これは何ですか。", "answer": "メロンです", "image": f"{split}-{i}.png"}
            for split in SPLITS
            for i in range(2)
        ]
        for number, row in enumerate(rows):
            (folder / str(row["image"])).write_bytes(png(number))
    (folder / "data.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (folder / "task.yaml").write_text(json.dumps({**SPEC, **changes}))
    task = load_task(str(folder / "task.yaml"))
    assert isinstance(task, VQATask)
    return task


def judged(task: VQATask, pairs: Sequence[tuple[str, str]]) -> tuple[float, ...]:
    """Values of (answer, what is right)."""
    examples = [Example(str(i), "?", right) for i, (_, right) in enumerate(pairs)]
    return task.score(examples, [answer for answer, _ in pairs]).values


# -------------------------------------------------------------------------------------------------------------- agreement


def longest(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The longest common subsequence, by trying all."""

    def inside(part: Sequence[str], whole: Sequence[str]) -> bool:
        rest = iter(whole)
        return all(word in rest for word in part)

    return max(n for n in range(len(ours) + 1) if any(inside(part, theirs) for part in combinations(ours, n)))


@given(st.lists(st.sampled_from("abc"), max_size=7), st.lists(st.sampled_from("abc"), max_size=7))
@settings(deadline=None)
def test_rouge_l_is_the_harmonic_mean_of_precision_and_recall(ours: list[str], theirs: list[str]) -> None:
    common = longest(ours, theirs)
    if common == 0:
        assert rouge_l(ours, theirs) == 0.0
        return
    precision, recall = common / len(ours), common / len(theirs)
    assert rouge_l(ours, theirs) == pytest.approx(2 * precision * recall / (precision + recall))
    assert rouge_l(ours, theirs) == rouge_l(theirs, ours)


def test_rouge_l_of_the_published_example() -> None:
    """Lin 2004, section 3.1: of "police kill the gunman" and "the gunman kill police" against the reference, 3/4 and 2/4."""
    reference = ["police", "killed", "the", "gunman"]
    assert rouge_l(["police", "kill", "the", "gunman"], reference) == 0.75
    assert rouge_l(["the", "gunman", "kill", "police"], reference) == 0.5


def test_vqa_accuracy_is_the_official_one() -> None:
    """Ten answers, three of them 'red': leaving out one of these leaves two, 2/3; leaving out another leaves three, 1."""
    assert vqa_accuracy("red", ["red"] * 3 + ["blue"] * 7) == pytest.approx((3 * 2 / 3 + 7 * 1) / 10)
    assert vqa_accuracy("blue", ["red"] * 3 + ["blue"] * 7) == 1.0
    assert vqa_accuracy("green", ["red"] * 3 + ["blue"] * 7) == 0.0
    assert [vqa_accuracy("red", ["red"]), vqa_accuracy("red", ["blue"])] == [1.0, 0.0]
    assert vqa_accuracy("red", ["red", "red", "red"]) == 1.0


# -------------------------------------------------------------------------------------------------------------- japanese


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ﾘﾝｺﾞ", "リンゴ"),
        ("ＡＢＣ１２３", "ABC123"),
        ("スーーーパー━━", "スーパー"),
        ("そうです〜", "そうです"),
        ("赤い 🍎🇯🇵 リンゴ", "赤いリンゴ"),
        ("a  red\u3000apple", "a red apple"),
        ("これ は ペン", "これはペン"),
        ("iPhone は 電話", "iPhoneは電話"),
        ("10−5", "10-5"),
    ],
)
def test_japanese_is_written_in_one_way(text: str, expected: str) -> None:
    assert normalise(text) == expected
    assert normalise(expected) == expected


def test_words_are_mecabs() -> None:
    assert words("これはメロンです。") == ["これ", "は", "メロン", "です", "。"]
    assert words("いいえ、果物です") == ["いいえ", "、", "果物", "です"]
    assert words(" ") == []


# ------------------------------------------------------------------------------------------------------------- judgement


def test_an_answer_must_be_in_the_language_of_what_is_right(tmp_path: Path) -> None:
    task = make(tmp_path)
    assert judged(task, [("メロンです", "メロンです"), ("果物です", "メロンです"), ("It is a melon.", "メロンです")]) == (
        1.0,
        0.5,
        0.0,
    )
    assert judged(task, [("", "メロンです"), ("?", "メロンです")]) == (0.0, 0.0)
    assert judged(task, [("iPhone", "iPhone"), ("iPhone 15", "iPhone")])[0] == 1.0, "exempt: what is right is not Japanese"
    assert judged(make(tmp_path, language=None), [("It is a melon.", "It is a melon.")]) == (1.0,)


def test_the_metric_decides_and_the_columns_tell_the_rest(tmp_path: Path) -> None:
    task = make(tmp_path, metric="exact")
    examples = [Example("a", "?", "メロンです"), Example("b", "?", "赤です", others=("赤です", "赤です", "緑です"))]
    score = task.score(examples, ["メロンです。", "緑です"])
    assert score.values == (1.0, 0.0)
    assert set(score.parts) == {"rouge-l", "exact", "vqa", "language"}
    assert list(score.parts["vqa"]) == pytest.approx([1.0, 0.25])
    assert score.parts["rouge-l"][0] == pytest.approx(0.8)
    assert score.parts["language"] == (1.0, 1.0)


def test_prompts_carry_question_and_picture(tmp_path: Path) -> None:
    task = make(tmp_path, max_new_tokens=9, beams=5, repetition_penalty=1.5)
    (prompt, _) = task.prompts(task.examples("test"))
    assert isinstance(prompt, Shown)
    assert prompt.text == "Q: <image>\nこれは何ですか。\nA: "
    assert prompt.picture.mode == "RGB"
    assert prompt.picture.getpixel((0, 0)) == (4, 8, 3)
    assert task.options(batch=2) == TextGeneration(batch=2, max_new_tokens=9, beams=5, repetition_penalty=1.5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt": "<image>"}, r"must hold \{question\}"),
        ({"prompt": "{question}"}, "must hold <image> once"),
        ({"metric": "bleu"}, "metric"),
        ({"beams": 0}, "beams"),
    ],
)
def test_a_task_file_that_makes_no_sense(changes: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=told):
        make(tmp_path, **changes)
    assert make(tmp_path, prompt="{question}", chat=True).spec.chat


# ------------------------------------------------------------------------------------------------------------------ data


def hub_rows(kind: str) -> list[dict[str, object]]:
    """Rows of the schemas of the two public benchmarks."""
    pictures = [{"bytes": png(number), "path": f"{number}.jpg"} for number in range(3)]
    if kind == "JA-VG-VQA-500":
        asked = [{"qa_id": i, "question": f"何{i}ですか。", "answer": f"赤{i}"} for i in range(2)]
        return [{"image_id": i, "image": picture, "qas": asked, "url": "x"} for i, picture in enumerate(pictures)]
    return [{"image": picture, "question": "何0ですか。", "answer": "赤0", "image_source": "x"} for picture in pictures]


@pytest.mark.parametrize("kind", ["JA-VG-VQA-500", "JA-VLM-Bench-In-the-Wild"])
@pytest.mark.parametrize("form", ["file", "folder", "hub"])
def test_parquet_as_on_the_hub(kind: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first question of each picture; from a file, a folder of shards, or the hub's cache."""
    folder = tmp_path / "set" / "data"
    folder.mkdir(parents=True)
    table = hub_rows(kind)
    parquet.write_table(pa.Table.from_pylist(table[:2]), folder / "test-00000-of-00002.parquet")
    parquet.write_table(pa.Table.from_pylist(table[2:]), folder / "test-00001-of-00002.parquet")
    data = {"file": "set/data/test-00000-of-00002.parquet", "folder": "set", "hub": f"hub:SakanaAI/{kind}"}[form]
    monkeypatch.setattr(task_module, "hub_data", lambda name, download: tmp_path / "set" if name.endswith(kind) else Path())
    task = make(tmp_path, [], data={"test": data})
    examples = task.examples("test")
    assert [(e.question, e.answer) for e in examples] == [("何0ですか。", "赤0")] * (2 if form == "file" else 3)
    assert [shown.picture.getpixel((0, 0)) for shown in task.prompts(examples)][:2] == [(0, 0, 3), (1, 2, 3)]
    assert task.missing() == []


def test_a_hub_data_set_that_is_not_here_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert not locate.hub_data("nobody/nothing", download=False).exists()
    monkeypatch.setattr(task_module, "hub_data", lambda name, download: Path(f"hub:{name}"))
    task = make(tmp_path, [], data={"test": "hub:SakanaAI/JA-VG-VQA-500"})
    assert [path.name for path in task.missing()] == ["JA-VG-VQA-500"]
    with pytest.raises(MissingFile, match="`hf download SakanaAI/JA-VG-VQA-500 --repo-type dataset` fetches it"):
        task.examples("test")


def test_no_parquet_file(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(UsageError, match=r"broken\.parquet: cannot be read as parquet"):
        make(tmp_path, [], data={"test": "broken.parquet"}).examples("test")


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"image": 5}, "line 1: expected 'image' to be a path"),
        ({"answers": "赤"}, "line 1: expected 'answers' to be a list of texts"),
        ({"answer": None}, r"line 1: expected a question \(text\) and an answer"),
    ],
)
def test_a_broken_row_is_told_by_its_line(row: dict[str, object], told: str, tmp_path: Path) -> None:
    good = {"split": "test", "question": "?", "answer": "赤", "image": "a.png"}
    with pytest.raises(UsageError, match=told):
        make(tmp_path, [{**good, **row}]).examples("test")


def test_one_unreadable_picture_is_refused_or_skipped_and_counted(tmp_path: Path) -> None:
    make(tmp_path)
    (tmp_path / "search-1.png").write_bytes(png(1)[:40])
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    with pytest.raises(DamagedFile, match=r"line 2 \(search-1\.png\): the picture cannot be read .*unreadable: skip"):
        make(tmp_path, rows).examples("search")
    task = make(tmp_path, rows, unreadable="skip")
    assert len(task.examples("search")) == 1
    assert len(task.examples("test")) == 2
    (told,) = task.notes()
    assert "search: 1 question(s) skipped" in told and "search-1.png" in told
    (tmp_path / "search-0.png").unlink()
    with pytest.raises(UsageError, match="no picture of split 'search' can be read"):
        make(tmp_path, rows, unreadable="skip").examples("search")
    with pytest.raises(MissingFile, match=r"line 1 \(search-0\.png\): there is no picture"):
        make(tmp_path, rows).examples("search")


def test_a_question_without_a_picture_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="example '7': no 'image'"):
        make(tmp_path, [{"id": 7, "split": "test", "question": "?", "answer": "赤"}]).examples("test")


def test_a_picture_in_two_splits_is_refused_a_question_is_not(tmp_path: Path) -> None:
    make(tmp_path).examples("test")  # all splits ask the same
    (tmp_path / "test-1.png").write_bytes(png(0))  # the first picture of the search split under another name
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    with pytest.raises(UsageError, match="stands in both search and test; splits must not share pictures"):
        make(tmp_path, rows).examples("test")


def test_a_changed_picture_changes_the_task(tmp_path: Path) -> None:
    before = make(tmp_path).digest
    assert make(tmp_path).digest == before
    rows = [json.loads(line) for line in (tmp_path / "data.jsonl").read_text().splitlines()]
    (tmp_path / "search-0.png").write_bytes(png(99))
    assert make(tmp_path, rows).digest != before


def test_transparent_pictures_are_seen_on_white() -> None:
    assert Picture("here", content=png(7, "RGBA")).open().getpixel((0, 0)) == (255, 255, 255)


def test_a_picture_that_unfolds_to_gigabytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)
    with pytest.raises(DamagedFile, match="cannot be read"):
        Picture("here", content=png(1)).open()
