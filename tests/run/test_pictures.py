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
from evomm.run.measure import measure
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


def test_a_model_that_writes_is_told_apart(task: Path) -> None:
    with pytest.raises(UsageError, match="pair this task with a model that draws"):
        measure(str(task.parent / "model"), str(task), "test", device_name="cpu")
