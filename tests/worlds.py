"""Small worlds that tests evolve in: parents, a task and a config in one folder. Plain functions, for any process."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

SPLITS = ("search", "validation", "test")
PER_SPLIT = 30
LAYERS = 4
QUESTIONS = PER_SPLIT * len(SPLITS)

CONFIG = """\
adapter: fake
task: task.yaml
method: task_arithmetic
base: base
parents: {low: low, high: high}
grouping: {by: layer, size: 2}
genes: [{parameter: weight, low: 0, high: 2, start: 0.8}]
search: {evaluations: 60, population: 6, sigma: 0.1}
finalists: 2
dtype: float32
"""


def make_fake(folder: Path) -> Path:
    """Fill the folder with three fake models, a task and a config; returns the config's path.

    Asked k, a model answers with the k-th element of its layers' sum. ``low`` knows the first half of the answers, ``high``
    the second, ``base`` none, so each parent scores about 50% and a child of both, at weights near 1, 100%. Large answers
    tolerate less error of the weights than small ones, so scores rise smoothly towards the solution.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    answers = torch.randint(2, 13, (QUESTIONS,), generator=generator).float()
    first_half = torch.arange(QUESTIONS) < QUESTIONS // 2
    fake_model(folder / "base", torch.zeros(QUESTIONS))
    fake_model(folder / "low", torch.where(first_half, answers, 0.0))
    fake_model(folder / "high", torch.where(first_half, 0.0, answers))
    rows = [{"split": SPLITS[k % 3], "question": str(k), "answer": int(answers[k])} for k in range(QUESTIONS)]
    (folder / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "task.yaml").write_text('kind: math\nabout: Recall a number\nprompt: "{question}"\ndata: task.jsonl\n')
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    return config


def make_torn(folder: Path) -> Path:
    """A world as `make_fake` makes it, with a second task, ``modest.yaml``, that wants nine tenths of what ``high`` knows.

    So a weight of 1 for ``high`` does the first task, 0.9 the second, and between them each in part.
    """
    config = make_fake(folder)
    rows = [json.loads(line) for line in (folder / "task.jsonl").read_text().splitlines()]
    modest = [{**row, "answer": round(0.9 * row["answer"])} for row in rows if int(row["question"]) >= QUESTIONS // 2]
    (folder / "modest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in modest))
    (folder / "modest.yaml").write_text((folder / "task.yaml").read_text().replace("task.jsonl", "modest.jsonl"))
    return config


def fake_model(folder: Path, total: torch.Tensor) -> Path:
    """A checkpoint of the fake adapter whose layers add up to ``total``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "evomm-fake"}))
    save_file({f"layers.{i}.weight": total / LAYERS for i in range(LAYERS)}, folder / "model.safetensors")
    return folder


def make_staged(folder: Path) -> Path:
    """A world as `make_fake` makes it, and a config of two stages; returns its path.

    ``first`` mixes ``low`` and ``high``; ``second`` adds ``high`` to what came out, as a base and as a parent.
    """
    config = make_fake(folder)
    second = CONFIG.replace("base: base", "base: stage:first").replace("low: low", "low: stage:first")
    config.write_text(f"stage: first\n{CONFIG}---\nstage: second\n{second}")
    return config
