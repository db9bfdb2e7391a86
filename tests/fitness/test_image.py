"""Tasks on pictures: the fitness is what its formula says, guards bite where they should, and pictures are kept."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from evomm.adapters.generation import ImageGeneration
from evomm.errors import UsageError, WriteFailed
from evomm.fitness.examples import SPLITS
from evomm.fitness.guards import Guard, diversity, drift
from evomm.fitness.image import ImageTask
from evomm.fitness.table import load_task
from evomm.fitness.towers import Towers
from tests.fitness.clip_kit import flat, make_scorer, picture

WORDS = ["りんご", "みかん", "ぶどう"]
ROWS = [{"split": split, "prompt": f"{word}{split}", "answer": f"{word} in English"} for split in SPLITS for word in WORDS]
SPEC = {"kind": "image", "about": "x", "scorer": "nowhere", "data": "data.jsonl"}


def make(folder: Path, rows: Sequence[dict[str, Any]] = ROWS, **changes: Any) -> ImageTask:
    """A task of this file."""
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "task.yaml").write_text(json.dumps({**SPEC, **changes}))
    task = load_task(str(folder / "task.yaml"))
    assert isinstance(task, ImageTask)
    return task


def see(task: ImageTask, words: dict[str, list[float]]) -> list[str]:
    """Let the task's scorers take the mean colour of a picture as its features, and these as those of texts.

    Returns the list that texts are written down in when they are read.
    """
    read: list[str] = []

    def pictures(items: Sequence[Image.Image]) -> Tensor:
        return torch.tensor(np.array([np.asarray(item, dtype=float).mean((0, 1)) for item in items]))

    def texts(items: Sequence[str]) -> Tensor:
        read.extend(items)
        return torch.tensor([next(vector for word, vector in words.items() if word in text) for text in items])

    for scorer in task._scorers.values():
        scorer._loaded = Towers(pictures, texts)
    return read


def coloured(red: int, green: int, blue: int) -> Image.Image:
    """A picture of this mean colour that is not blank: half of it black, half twice as bright."""
    half = Image.new("RGB", (8, 8), "black")
    half.paste((2 * red, 2 * green, 2 * blue), (0, 0, 8, 4))
    return half


RED, GREEN, BLUE = coloured(100, 0, 0), coloured(0, 100, 0), coloured(0, 0, 100)
SEEN = {"りんご": [1.0, 0, 0], "みかん": [0, 1.0, 0], "ぶどう": [0, 0.6, 0.8]}


def test_the_fit_of_picture_and_prompt_is_the_score(tmp_path: Path) -> None:
    task = make(tmp_path)
    see(task, SEEN)
    examples = task.examples("search")
    score = task.score(examples, [RED, GREEN, BLUE])
    assert score.values == pytest.approx((1.0, 1.0, 0.8))
    assert score.parts == {"clip": score.values, "retrieved": (1.0, 1.0, 1.0), "blank": (0.0, 0.0, 0.0)}
    wrong = task.score(examples, [GREEN, RED, BLUE])
    assert wrong.values == pytest.approx((0.0, 0.0, 0.8))
    assert wrong.parts["retrieved"] == (0.0, 0.0, 1.0)


def test_fits_below_zero_are_kept(tmp_path: Path) -> None:
    task = make(tmp_path)
    see(task, {**SEEN, "りんご": [-1.0, 0, 0]})
    assert task.score(task.examples("search"), [RED, GREEN, BLUE]).values[0] == pytest.approx(-1.0)


def test_a_blank_picture_scores_minus_one_or_less(tmp_path: Path) -> None:
    task = make(tmp_path, guards=[{"kind": "diversity", "weight": 5.0}])
    see(task, SEEN)
    score = task.score(task.examples("search"), [RED, Image.new("RGB", (8, 8), (0, 99, 0)), BLUE])
    assert score.values[1] == -1.0
    assert score.parts["blank"] == (0.0, 1.0, 0.0)
    assert min(score.values[0], score.values[2]) > 5


def test_a_penalty_does_not_make_blank_pictures_worth_painting(tmp_path: Path) -> None:
    task = make(tmp_path, guards=[{"kind": "diversity", "minimum": 1.0, "penalty": 10.0}])
    see(task, SEEN)
    grey = Image.new("RGB", (8, 8), (99, 99, 99))
    values = task.score(task.examples("search"), [grey] * 3).values
    assert all(value < -8 for value in values)


def test_samples_are_averaged(tmp_path: Path) -> None:
    task = make(tmp_path, samples=2)
    see(task, SEEN)
    examples = task.examples("search")
    assert task.prompts(examples) == [f"{word}search" for word in WORDS for _ in range(2)]
    score = task.score(examples, [RED, GREEN, GREEN, GREEN, BLUE, BLUE])
    assert score.values == pytest.approx((0.5, 1.0, 0.8))
    assert score.parts["retrieved"] == (0.5, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"expected 3 x 2 pictures, got 3"):
        task.score(examples, [RED, GREEN, BLUE])


def test_prompt_and_caption_are_templates(tmp_path: Path) -> None:
    task = make(tmp_path, prompt="{prompt}のイラスト")
    read = see(task, SEEN)
    examples = task.examples("search")
    task.score(examples, [RED, GREEN, BLUE])
    assert task.prompts(examples)[0] == read[0] == "りんごsearchのイラスト"
    task = make(tmp_path, prompt="{prompt}のイラスト", caption="{answer}: {prompt}")
    read = see(task, SEEN)
    task.score(examples, [RED, GREEN, BLUE])
    assert read[0] == "りんご in English: りんごsearch"


def test_a_prompt_may_hold_braces(tmp_path: Path) -> None:
    rows = [{"split": "test", "prompt": "{answer} {prompt}", "answer": "りんご"}]
    task = make(tmp_path, rows, caption="{prompt} {answer}", prompt="a {prompt}")
    read = see(task, SEEN)
    task.score(task.examples("test"), [RED])
    assert (task.prompts(task.examples("test")), read) == (["a {answer} {prompt}"], ["{answer} {prompt} りんご"])


def test_an_answer_that_the_caption_needs_is_missed(tmp_path: Path) -> None:
    task = make(tmp_path, [{"split": "test", "id": "p9", "prompt": "りんご"}], caption="{answer}")
    with pytest.raises(UsageError, match="example 'p9': the caption asks for an answer"):
        task.score(task.examples("test"), [RED])


def test_painting_one_picture_for_all_is_punished(tmp_path: Path) -> None:
    """RED, GREEN, BLUE are at distance 1 of each other; all RED at 0, which is 0.4 short, twice."""
    task = make(tmp_path, guards=[{"kind": "diversity", "minimum": 0.4, "penalty": 2.0}])
    see(task, SEEN)
    examples = task.examples("search")
    assert task.score(examples, [RED, GREEN, BLUE]).values == pytest.approx((1.0, 1.0, 0.8))
    same = task.score(examples, [RED] * 3)
    assert same.values == pytest.approx((1.0 - 0.8, -0.8, -0.8))
    assert same.parts["diversity"] == pytest.approx((0.0, 0.0, 0.0))
    with pytest.raises(UsageError, match="'diversity' needs two prompts at least"):
        task.score(examples[:1], [RED])


def test_leaving_the_parents_is_punished(tmp_path: Path) -> None:
    task = make(tmp_path, guards=[{"kind": "parents", "maximum": 0.5, "penalty": 3.0}])
    see(task, SEEN)
    examples = task.examples("search")
    assert task.wants_parents
    with pytest.raises(UsageError, match="'parents' needs the parents' pictures of example 'search-1', and got none"):
        task.score(examples, [RED, GREEN, BLUE])
    task.reference(examples, {"ja": [RED, RED, RED], "style": [GREEN, RED, BLUE]})
    score = task.score(examples, [GREEN, GREEN, BLUE])
    assert score.parts["parents"] == pytest.approx((0.0, 1.0, 0.0))
    assert score.values == pytest.approx((0.0, 1.0 - 3.0 * 0.5, 0.8))
    with pytest.raises(UsageError, match="example 'test-7'"):
        task.score(task.examples("test"), [GREEN, GREEN, BLUE])


def test_another_scorer_is_a_term_or_a_column(tmp_path: Path) -> None:
    held_out = {"kind": "scorer", "name": "held out", "scorer": "elsewhere", "caption": "{answer}"}
    task = make(tmp_path, guards=[held_out, {"kind": "scorer", "scorer": "elsewhere", "weight": 0.5}])
    see(task, {"りんご in": [0.0, 1.0, 0], **SEEN})
    score = task.score(task.examples("search"), [RED, GREEN, BLUE])
    assert score.parts["held out"] == pytest.approx((0.0, 1.0, 0.8))
    assert score.parts["scorer"] == pytest.approx((1.0, 1.0, 0.8))
    assert score.values == pytest.approx((1.5, 1.5, 1.2))


@given(st.integers(1, 4), st.integers(1, 3), st.integers(0, 10**6))
def test_guards_measure_what_they_say(prompts: int, samples: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = torch.nn.functional.normalize(torch.tensor(rng.normal(size=((prompts + 1) * samples, 5))), dim=-1)
    owner = torch.arange(prompts + 1).repeat_interleave(samples)
    vectors = features.tolist()
    for i, found in enumerate(diversity(features, owner).tolist()):
        others = [np.dot(vectors[i], v) for j, v in enumerate(vectors) if owner[j] != owner[i]]
        assert found == pytest.approx(np.mean([1 - cosine for cosine in others]))
    parents = features[torch.tensor(rng.integers(0, len(features), (len(features), 2)))]
    nearest = [min(1 - np.dot(v, p) for p in parents[i].tolist()) for i, v in enumerate(vectors)]
    assert drift(features, parents).tolist() == pytest.approx(nearest)


def test_a_guard_pulls_towards_what_is_allowed() -> None:
    guard = Guard(kind="diversity", weight=0.5, minimum=0.2, maximum=0.6, penalty=2.0)
    measured = torch.tensor([0.1, 0.4, 0.9], dtype=torch.float64)
    assert guard.term(measured).tolist() == pytest.approx([0.05 - 0.2, 0.2, 0.45 - 0.6])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"scorer": None}, "scorer"),
        ({"scorer": ""}, "scorer"),
        ({"prompt": "りんご"}, r"the prompt must hold \{prompt\}"),
        ({"caption": "x"}, r"a caption must hold \{prompt\} or \{answer\}"),
        ({"samples": 0}, "samples"),
        ({"stepps": 2}, "unknown key 'stepps'; did you mean 'steps'"),
        ({"max_new_tokens": 2}, "unknown key 'max_new_tokens'"),
        ({"batch": 2}, "unknown key 'batch'"),
        ({"scheduler": "Euler"}, "such as EulerDiscreteScheduler"),
        ({"guards": [{"kind": "divresity"}]}, "guards.0.kind"),
        ({"guards": [{"kind": "diversity", "minium": 1}]}, "unknown key 'guards.0.minium'; did you mean 'minimum'"),
        ({"guards": [{"kind": "scorer"}]}, "names a scorer"),
        ({"guards": [{"kind": "diversity", "scorer": "x"}]}, "no other kind does"),
        ({"guards": [{"kind": "diversity", "caption": "{prompt}"}]}, "only a guard of kind 'scorer' has a caption"),
        ({"guards": [{"kind": "diversity", "minimum": 1, "maximum": 0}]}, "minimum 1.0 is above maximum 0.0"),
        ({"guards": [{"kind": "diversity"}] * 2}, "two columns are called 'diversity'"),
        ({"guards": [{"kind": "diversity", "name": "clip"}]}, "two columns are called 'clip'"),
    ],
)
def test_a_task_file_that_means_nothing_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make(tmp_path, **changes)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"split": "test"}', r"line 2: expected a prompt \(text\), got keys \['split'\]"),
        ('{"split": "test", "prompt": 5}', "line 2: expected a prompt"),
        ('{"split": "test", "prompt": "　"}', "line 2: .* got an empty one"),
        ("りんご", "line 2: not JSON"),
        ('{"prompt": "x"}', "line 2: split is None"),
    ],
)
def test_a_broken_line_is_told_by_its_number(tmp_path: Path, line: str, said: str) -> None:
    task = make(tmp_path)
    (tmp_path / "data.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + line + "\n", encoding="utf-8")
    with pytest.raises(UsageError, match=said):
        task.examples("search")


def test_prompts_are_read_from_plain_files(tmp_path: Path) -> None:
    (tmp_path / "test.txt").write_bytes("\ufeff赤い りんご\r\n雪の富士山\r\n".encode())
    (tmp_path / "search.txt").write_text("りんご\n\n", encoding="utf-8")
    task = make(tmp_path, data={"test": "test.txt"})
    assert [(e.question, e.answer) for e in task.examples("test")] == [("赤い りんご", ""), ("雪の富士山", "")]
    with pytest.raises(UsageError, match=r"search\.txt, line 2: .* got an empty one"):
        make(tmp_path, data={"search": "search.txt"}).examples("search")
    (tmp_path / "search.txt").write_text("雪の富士山 \n", encoding="utf-8")
    with pytest.raises(UsageError, match="stands in both"):
        make(tmp_path, data={"search": "search.txt", "test": "test.txt"}).examples("test")
    with pytest.raises(UsageError, match="a file per split in the task file"):
        make(tmp_path, data="test.txt").examples("test")


def test_how_pictures_are_drawn_is_the_tasks_and_then_the_runs(tmp_path: Path) -> None:
    task = make(tmp_path, steps=2, guidance=1, scheduler="EulerDiscreteScheduler", spacing="trailing")
    options = task.options(4, {"steps": 8, "negative": "blurry"})
    assert options == ImageGeneration(
        batch=4, steps=8, guidance=1, scheduler="EulerDiscreteScheduler", spacing="trailing", negative="blurry"
    )
    with pytest.raises(UsageError, match="generation: unknown key 'step'; did you mean 'steps'"):
        task.options(4, {"step": 8})


def test_pictures_are_kept_as_files_and_on_a_sheet(tmp_path: Path) -> None:
    task = make(tmp_path, samples=2)
    examples = task.examples("test")
    drawn = [picture(seed) for seed in range(6)]
    paths = task.keep(drawn, tmp_path / "run", "test/parent/ja", examples)
    assert paths == tuple(f"test/parent/ja/{i:03d}.png" for i in range(6))
    for path, original in zip(paths, drawn, strict=True):
        with Image.open(tmp_path / "run" / path) as stored:
            assert stored.tobytes() == original.tobytes()
    with Image.open(tmp_path / "run" / "test" / "parent" / "ja.png") as sheet:
        assert sheet.width > 6 * 96
    with pytest.raises(WriteFailed, match="leads out of"):
        task.keep(drawn, tmp_path / "run", "../elsewhere")
    with pytest.raises(UsageError, match="got str"):
        task.keep(["7"], tmp_path / "run", "x")


def test_texts_are_no_pictures(tmp_path: Path) -> None:
    task = make(tmp_path)
    with pytest.raises(UsageError, match="pair this task with a model that draws"):
        task.score(task.examples("search"), ["7", "7", "7"])


def test_a_real_scorer_from_the_tasks_folder(tmp_path: Path) -> None:
    """Whole: from files to a score that repeats to the bit."""
    make_scorer(tmp_path / "clip")
    guards = [{"kind": "diversity", "minimum": 0.1}, {"kind": "scorer", "scorer": "./clip", "caption": "{answer}"}]
    task = make(tmp_path, scorer="clip", device="cpu", guards=guards)
    drawn = [picture(0), flat("black"), picture(2)]
    score = task.score(task.examples("search"), drawn)
    assert score == make(tmp_path, scorer="clip", device="cpu", guards=guards).score(task.examples("search"), drawn)
    assert set(score.parts) == {"clip", "retrieved", "blank", "diversity", "scorer"}
    assert score.values[1] <= -1 < score.values[0]


def test_a_scorer_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert make(tmp_path, scorer="./nowhere").missing() == [Path("./nowhere")]
    task = make(tmp_path, scorer="ViT-B-23/openai")
    with pytest.raises(UsageError, match="did you mean 'ViT-B-32'"):
        task.score(task.examples("search"), [RED, GREEN, BLUE])
