"""A model that draws, scored on a task on pictures: from the files to the score."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from evomm.adapters.base import LoadedModel
from evomm.adapters.fake import FakeAdapter
from evomm.adapters.generation import Generation, ImageGeneration, expect
from evomm.errors import UsageError
from evomm.fitness.table import load_task
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve
from evomm.run.measure import measure
from evomm.run.store import Store
from tests import worlds
from tests.fitness.clip_kit import make_scorer, picture

TASK = """\
kind: image
about: Noise
scorer: ./clip
device: cpu
steps: 3
samples: 2
guards: [{kind: diversity, minimum: 0.1}]
data: prompts.jsonl
"""


@pytest.fixture
def task(tmp_path: Path) -> Path:
    """A task with a scorer of its own, and a model beside it."""
    worlds.fake_model(tmp_path / "model", torch.tensor([3.0, 1.0, 2.0]))
    make_scorer(tmp_path / "clip")
    (tmp_path / "prompts.jsonl").write_text("".join(f'{{"split": "test", "prompt": "{k}"}}\n' for k in range(3)))
    (tmp_path / "task.yaml").write_text(TASK)
    return tmp_path / "task.yaml"


def test_a_model_that_draws_is_scored(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def draw(self: FakeAdapter, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[Image.Image]:
        assert expect(options, ImageGeneration).steps == 3
        return [picture(i) for i in range(len(prompts))]

    monkeypatch.setattr(FakeAdapter, "generate", draw)
    found = measure(str(task.parent / "model"), str(task), "test", device_name="cpu")
    assert len(found.answers) == 6
    assert len(found.score.values) == 3
    assert set(found.score.parts) == {"clip", "retrieved", "blank", "diversity"}
    assert found.score == measure(str(task.parent / "model"), str(task), "test", device_name="cpu").score


def test_another_scorer_is_another_task(task: Path) -> None:
    """What judges belongs to what scores depend on."""
    before = load_task(str(task)).digest
    assert load_task(str(task)).digest == before
    weights = next((task.parent / "clip").glob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    assert load_task(str(task)).digest != before


def test_a_model_that_writes_is_told_apart(task: Path) -> None:
    with pytest.raises(UsageError, match="pair this task with a model that draws"):
        measure(str(task.parent / "model"), str(task), "test", device_name="cpu")


CONFIG = """\
adapter: fake
task: task.yaml
method: task_arithmetic
base: base
parents: {a: a, b: b}
grouping: {by: layer}
genes: [{parameter: weight, low: 0, high: 2, start: 1}]
search: {evaluations: 12, population: 4}
finalists: 1
dtype: float32
"""


def test_a_run_keeps_what_improvements_look_like(task: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sheets of trials that were the best so far, and the pictures behind every final score; guards know the parents'."""
    home = task.parent
    for label, values in (("base", [0.0, 0.0, 0.0]), ("a", [9.0, 0.0, 4.0]), ("b", [0.0, 7.0, 2.0])):
        worlds.fake_model(home / label, torch.tensor(values))
    rows = [f'{{"split": "{split}", "prompt": "{k}{k}"}}' for k, split in enumerate(("search", "validation", "test"))]
    (home / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    guards = "guards: [{kind: parents, maximum: 0.5}]"
    task.write_text(TASK.replace("guards: [{kind: diversity, minimum: 0.1}]", guards))
    (home / "config.yaml").write_text(CONFIG)

    def draw(self: FakeAdapter, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[Image.Image]:
        total = int(1000 * float(torch.stack([t.float() for t in model.targets.values()]).sum()))
        return [picture(abs(total) + i) for i in range(len(prompts))]

    monkeypatch.setattr(FakeAdapter, "generate", draw)
    evolve(EvolveConfig.load(home / "config.yaml"), tmp_path / "run", home)
    with Store.open(tmp_path / "run") as store:
        trials, finals = store.trials("cma"), store.finals("test")
    best, improved = float("-inf"), []
    for trial in trials:
        if trial.fitness > best:
            best = trial.fitness
            improved.append(f"{trial.number}.png")
    folder = tmp_path / "run" / "pictures"
    assert sorted(path.name for path in (folder / "cma").glob("*.png")) == sorted(improved)
    assert set(finals["parent/a"].score.parts) > {"clip", "blank", "parents"}
    for final in finals.values():
        assert len(final.answers) == 2
        assert all((folder / path).exists() for path in final.answers)
