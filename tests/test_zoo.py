"""The models that ship: whole, small, and what the demo says they are."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch

from evomm.adapters import llm_model
from evomm.adapters.llm import LLMAdapter
from evomm.errors import DamagedFile, MissingFile
from evomm.fitness.score import Score
from evomm.fitness.table import load_task, shipped_tasks
from evomm.merge.engine import Engine
from evomm.merge.live import Live
from evomm.merge.recipe import Recipe, Source
from evomm.plain import load_yaml
from evomm.resources import resource
from evomm.run import zoo
from evomm.run.config import EvolveConfig
from evomm.run.evaluate import Evaluator
from evomm.run.setup import prepare

LLM = resource("model_zoo", "tiny", "llm")
BUDGET = 40_000_000  # bytes, over all modalities


def test_every_family_is_what_was_shipped() -> None:
    assert set(zoo.families()) >= {"llm", "sdxl", "vlm"}
    for name in zoo.families():
        assert zoo.verify(name) >= 3


def test_the_models_are_small() -> None:
    files = resource("model_zoo").rglob("*.safetensors")
    assert 0 < sum(path.stat().st_size for path in files) <= BUDGET


def test_a_changed_or_missing_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    family = zoo.family("llm")[1]
    (tmp_path / "base").mkdir()
    for file in family.files:
        target = tmp_path / file
        target.parent.mkdir(exist_ok=True)
        target.write_bytes((LLM / file).read_bytes())
    monkeypatch.setattr(zoo, "family", lambda name: (tmp_path, family))
    assert zoo.verify("llm") == len(family.files)
    weights = tmp_path / "ja" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(DamagedFile, match="digest"):
        zoo.verify("llm")
    weights.unlink()
    with pytest.raises(MissingFile, match="is not there"):
        zoo.verify("llm")


@pytest.mark.parametrize("name", [name for name in shipped_tasks() if name.startswith("tiny-math")])
def test_the_task_is_solved_by_its_own_references_only(name: str) -> None:
    """A reference answer scores, an open one or the twin language's does not."""
    task = load_task(name)
    other = "en" if name.endswith("ja") else "ja"
    twins = [json.loads(line) for line in resource("evals", "data", "tiny-math", f"{other}.jsonl").read_text().splitlines()]
    own = [json.loads(line) for line in resource("evals", "data", "tiny-math", f"{name[-2:]}.jsonl").read_text().splitlines()]
    examples = task.examples("test")
    rows = [row for row in own if row["split"] == "test"]
    assert task.score(examples, [row["solution"] for row in rows]).mean == 1.0
    assert task.score(examples, [row["solution"] for row in twins if row["split"] == "test"]).mean < 0.01
    assert task.score(examples, [row["question"] for row in rows]).mean < 0.01


Scorer = Callable[[str, str | None, Sequence[str]], Score]


@pytest.fixture(scope="module")
def score() -> Iterator[Scorer]:
    """Scores a merge (method, base, parents) of the shipped models on the first Japanese validation problems."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    adapter = LLMAdapter()
    folders = {label: LLM / label for label in ("base", "ja", "math")}
    model = llm_model.load(folders["base"], "cpu", torch.float32)
    live = Live(Engine({label: adapter.open(folder) for label, folder in folders.items()}), model.targets)
    task = load_task("tiny-math-ja")
    examples = task.examples("validation", 96)

    def run(method: str, base: str | None, labels: Sequence[str]) -> Score:
        parents = {label: Source(model=label) for label in labels}
        live.write(Recipe(method=method, base=base, parents=parents, dtype="float16"))
        options = task.options(batch=64)
        return task.score(examples, adapter.generate(model, task.prompts(examples), options))

    yield run
    torch.set_num_threads(threads)


def test_no_parent_can_do_it_alone_and_both_together_can(score: Scorer) -> None:
    alone = {label: score("linear", None, [label]) for label in ("base", "ja", "math")}
    both = score("task_arithmetic", "base", ["base", "ja", "math"])
    assert alone["ja"].part("language").score > 0.9
    assert alone["math"].part("number").score > alone["ja"].part("number").score
    assert all(one.mean < 0.1 for one in alone.values())
    assert both.mean > 0.4


Scored = tuple[Score, dict[str, Score], Score]


def scored(demo: str, *overrides: str) -> Scored:
    """On the search split of a demo: task vectors at 1, each parent alone in the child's body, and the uniform merge."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    config = EvolveConfig.load(resource("configs", f"{demo}.yaml"), list(overrides))
    setup = prepare(config, resource("configs"))
    evaluator = Evaluator(setup)
    both = evaluator.score(setup.codec.decode(setup.codec.space.start), "search")[0]
    alone = {label: evaluator.score(setup.parent(label), "search")[0] for label in config.models}
    uniform = evaluator.score(setup.uniform(), "search")[0]
    torch.set_num_threads(threads)
    return both, alone, uniform


def test_a_child_of_the_image_models_draws_what_no_parent_draws() -> None:
    both, alone, uniform = scored("demo-sdxl", "limits.search=24")
    assert both.mean > 1.2 * max(score.mean for score in [*alone.values(), uniform])
    assert max(alone, key=lambda label: alone[label].mean) == "ja"
    assert alone["style"].part("retrieved").score < 0.3


def test_a_child_of_the_seeing_models_answers_in_japanese_what_no_parent_does() -> None:
    both, alone, uniform = scored("demo-vlm", "limits.search=96")
    assert both.part("language").score > 0.9
    assert both.mean > uniform.mean + 0.05
    assert all(score.mean < 0.1 for score in alone.values())
    assert alone["vlm"].part("language").score < 0.1, "the LLaVA answers in English"


def test_one_core_evolves_texts_and_what_is_seen() -> None:
    """Between the two demos nothing differs but the kind of model, the models and the task."""
    texts, seen = (load_yaml(resource("configs", f"{name}.yaml").read_text(), name) for name in ("demo-llm", "demo-vlm"))
    assert texts.keys() == seen.keys()
    assert {key for key in texts if texts[key] != seen[key]} == {"adapter", "task", "base", "parents"}
