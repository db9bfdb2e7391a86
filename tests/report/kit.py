"""Small runs of every kind that a report shows: words, hostile words, drawings, questions about pictures, and one cut short."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from evomm.adapters.base import LoadedModel
from evomm.adapters.fake import FakeAdapter
from evomm.adapters.generation import Generation
from evomm.plain import load_yaml
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve
from evomm.run.stages import evolve_stages, load_stages
from evomm.run.store import Store, Trial
from tests import worlds
from tests.fitness.clip_kit import make_scorer, picture

HOSTILE = '</script></style><script>window.hacked=1</script><img src=x onerror="window.hacked=1">\'&amp;{{7*7}}日本語'
_TASK = 'kind: math\nabout: Zero or one\nprompt: "{question}"\ndata: task.jsonl\n'
_CONFIG = """\
adapter: fake
task: task.yaml
method: task_arithmetic
base: base
grouping: {by: layer, size: 2}
genes: [{parameter: weight, low: 0, high: 2, start: 1}]
search: {evaluations: 12, population: 4}
finalists: 2
dtype: float32
"""


def _parents(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for label, values in (("base", [1.0, 1.0, 1.0]), ("a", [9.0, 1.0, 4.0]), ("b", [1.0, 7.0, 2.0])):
        worlds.fake_model(folder / label, torch.tensor(values))


def _run(config: dict[str, Any], folder: Path, answer: Callable[[int, str, int], Any]) -> Path:
    """Evolve with models that answer ``answer(place of the prompt, prompt, what their weights add up to)``."""
    world = folder / "world"
    _parents(world)

    def generate(self: FakeAdapter, model: LoadedModel, prompts: Sequence[Any], options: Generation) -> Sequence[Any]:
        total = int(1000 * float(torch.stack([t.float() for t in model.targets.values()]).sum()))
        return [answer(i, prompt, abs(total)) for i, prompt in enumerate(prompts)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeAdapter, "generate", generate)
        evolve(EvolveConfig.model_validate({**load_yaml(_CONFIG, "config"), **config}), folder / "run", world)
    return folder / "run"


def _rows(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _questions(mark: str = "") -> list[dict[str, Any]]:
    return [
        {"split": split, "question": f"{split} {k} {mark}", "answer": f"{mark} {k % 2}"}
        for split in worlds.SPLITS
        for k in range(9)
    ]


def hostile(folder: Path) -> Path:
    """Markup wherever something comes from outside: labels, blocks, prompts, answers, the task, a parent's card."""
    world = folder / "world"
    _rows(world, _questions(HOSTILE))
    (world / "task.yaml").write_text(_TASK, encoding="utf-8")
    card = f"---\nlicense: other\nlicense_name: {json.dumps(HOSTILE)}\nlicense_link: 'javascript:alert(1)'\n---\n"
    _parents(world)
    (world / "a" / "README.md").write_text(card, encoding="utf-8")
    config = {
        "parents": {HOSTILE: "a", "b": "b"},
        "grouping": {"patterns": {f"{HOSTILE} block": ["layers.0.*"], "rest": ["*"]}},
    }
    return _run(config, folder, lambda i, prompt, total: f"{HOSTILE} says {(i + total) % 3}")


def drawn(folder: Path) -> Path:
    """A task on pictures."""
    world = folder / "world"
    _rows(world, [{"split": split, "prompt": f"{split}の絵 {k}"} for split in worlds.SPLITS for k in range(5)])
    make_scorer(world / "clip")
    (world / "task.yaml").write_text(
        "kind: image\nabout: Noise\nscorer: ./clip\ndevice: cpu\nsteps: 3\nsamples: 2\ndata: task.jsonl\n"
    )
    return _run({"parents": {"a": "a", "b": "b"}}, folder, lambda i, prompt, total: picture(total + i))


def seen(folder: Path) -> Path:
    """Questions about pictures."""
    world = folder / "world"
    world.mkdir(parents=True)
    rows = []
    for number, split in enumerate(worlds.SPLITS):
        for k in range(4):
            picture(10 * number + k).save(world / f"{split}{k}.png")
            rows.append({"split": split, "image": f"{split}{k}.png", "question": f"何の絵 {k}", "answer": f"りんご {k % 2}"})
    _rows(world, rows)
    (world / "task.yaml").write_text('kind: vqa\nabout: Pictures\nprompt: "<image>{question}"\nmetric: exact\ndata: task.jsonl\n')
    return _run({"parents": {"a": "a", "b": "b"}}, folder, lambda i, prompt, total: f"りんご {(i + total) % 2}")


def staged(folder: Path) -> Path:
    """Two stages."""
    config = worlds.make_staged(folder / "world")
    evolve_stages(load_stages(config, ["search.evaluations=12", "baseline=null"]), folder / "run", config.parent)
    return folder / "run"


def torn(folder: Path) -> Path:
    """Two goals, and a constraint."""
    config = worlds.make_torn(folder / "world")
    search = "search={method: nsga2, evaluations: 96, population: 16}"
    goals = ["objectives=[{task: modest.yaml}]", "constraints=[{task: modest.yaml, at_least: 0.2}]", "finalists=6"]
    evolve(EvolveConfig.load(config, [search, *goals]), folder / "run", config.parent)
    return folder / "run"


class Stop(BaseException):
    """As a kill."""


def unfinished(folder: Path) -> Path:
    """A run that was killed after eight evaluations of twelve, one of which failed."""
    config = worlds.make_fake(folder / "world")
    append, asked, generate = Store.append, iter(range(100)), FakeAdapter.generate

    def until_eight(self: Store, trial: Trial) -> None:
        if trial.number == 8:
            raise Stop
        append(self, trial)

    def breaking(self: FakeAdapter, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
        if next(asked) == 5:
            raise RuntimeError(HOSTILE)
        return generate(self, model, prompts, options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Store, "append", until_eight)
        patch.setattr(FakeAdapter, "generate", breaking)
        with pytest.raises(Stop):
            evolve(EvolveConfig.load(config, ["search.evaluations=12"]), folder / "run", config.parent)
    return folder / "run"


KINDS: dict[str, Callable[[Path], Path]] = {
    "hostile": hostile,
    "drawn": drawn,
    "seen": seen,
    "staged": staged,
    "torn": torn,
    "unfinished": unfinished,
}
