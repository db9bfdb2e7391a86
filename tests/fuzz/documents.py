"""Readers of what people paste: recipes and mergekit's YAML, configs of runs, task files."""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

from evomm.errors import EvommError
from evomm.fitness.examples import SPLITS
from evomm.fitness.table import load_task
from evomm.merge.recipe import Recipe
from evomm.plain import load_yaml_all, read_text
from evomm.resources import resource
from evomm.run.config import EvolveConfig
from evomm.run.estimate_stages import estimate_stages
from evomm.run.loop import make_searcher
from evomm.run.make import Workshop, make_file
from evomm.run.setup import prepare
from evomm.run.stages import load_stages
from tests import worlds
from tests.fuzz.judge import Contradiction

PARENTS = {label: {"model": label} for label in ("base", "low", "high")}
RECIPES: tuple[Mapping[str, Any], ...] = (
    {
        **{"method": "task_arithmetic", "base": "base", "parents": PARENTS, "parameters": {"weight": {"low": 1.0, "high": 0.5}}},
        **{"blocks": [{"name": "early", "tensors": ["layers.[01].*"], "parameters": {"weight": 0.3}}], "dtype": "float32"},
    },
    {
        **{"method": "dare_ties", "base": "base", "parents": PARENTS, "parameters": {"weight": 1.0, "density": 0.5}, "seed": 3},
        **{"tokenizer": "low", "chat_template": "chatml", "generation": {"steps": 2}},
    },
    {
        **{"method": "passthrough", "parents": PARENTS, "slices": [{"layers": {"low": [0, 2]}}, {"layers": {"high": [1, 3]}}]},
        **{"parameters": {"scale": 0.5}},
    },
    {
        **{"method": "linear", "parents": PARENTS, "components": {"layers": "low"}, "block_weights": {"low": "1,0"}},
        **{"vocabulary": {"source": "union", "tokens": {"<|x|>": {"model": "low", "token_id": 1}}, "pad_to_multiple_of": 8}},
    },
)
MERGEKIT: tuple[Mapping[str, Any], ...] = (
    {
        **{"merge_method": "slerp", "base_model": "base", "models": [{"model": "base"}, {"model": "low"}], "dtype": "float16"},
        **{"parameters": {"t": [{"filter": "layers.1", "value": [0, 1]}, {"value": 0.5}]}, "name": "first"},
    },
    {
        **{"merge_method": "ties", "base_model": {"model": {"path": "base"}}, "out_dtype": "float32"},
        **{"models": [{"model": m, "parameters": {"weight": 1.0, "density": 0.5}} for m in ("first", "high")]},
        **{"parameters": {"normalize": False, "int8_mask": True}, "chat_template": "auto"},
    },
)
SLICES: Mapping[str, Any] = {
    "merge_method": "passthrough",
    "slices": [{"sources": [{"model": m, "layer_range": r}], "parameters": {}} for m, r in (("low", [0, 2]), ("high", [1, 4]))],
    "tokenizer": {"source": "base", "tokens": {"<x>": {"source": {"kind": "zero"}, "force": True}}, "pad_to_multiple_of": 8},
}
ROWS = [{"split": split, "question": f"{split} {i}?", "answer": i, "image": f"{split}.png"} for split in SPLITS for i in range(2)]
TASKS: tuple[Mapping[str, Any], ...] = (
    {"kind": "math", "about": "x", "prompt": "Q: {question}\nA: ", "language": "ja", "max_new_tokens": 8, "data": "data.jsonl"},
    {
        **{"kind": "vqa", "about": "x", "prompt": "<image>{question}", "metric": "vqa", "unreadable": "skip", "beams": 2},
        **{"data": {"test": "test.jsonl", "search": "search.jsonl", "validation": "hub:owner/name"}, "chat": False},
    },
    {
        **{"kind": "image", "about": "x", "prompt": "{prompt}", "scorer": "scorer", "steps": 2, "guidance": 1, "samples": 2},
        **{"guards": [{"kind": "diversity", "minimum": 0.1}, {"kind": "scorer", "scorer": "other", "caption": "{answer}"}]},
        **{"caption": "a {prompt}", "width": 64, "scheduler": "EulerDiscreteScheduler", "data": "data.jsonl"},
    },
)


def world(folder: Path) -> Path:
    """Fake parents, made once."""
    if not (folder / "world").exists():
        worlds.make_fake(folder / "world")
    return folder / "world"


@contextmanager
def nothing_else_written(folder: Path, *allowed: str) -> Iterator[None]:
    """Nothing appears in a folder but what is allowed, or `Contradiction`; what is, is removed."""
    before = set(folder.rglob("*"))
    try:
        yield
    finally:
        for name in allowed:
            shutil.rmtree(folder / name, ignore_errors=True)
        if odd := set(folder.rglob("*")) - before:
            raise Contradiction(f"written: {sorted(map(str, odd))[:5]}")


def recipes() -> list[bytes]:
    """Of evomm."""
    return [yaml.safe_dump(recipe, sort_keys=False).encode() for recipe in RECIPES]


def mergekit_files() -> list[bytes]:
    """One document, several."""
    return [yaml.safe_dump_all(documents, sort_keys=False).encode() for documents in (MERGEKIT, [SLICES], MERGEKIT[:1])]


def read_merge(data: bytes, folder: Path) -> None:
    """`evomm merge`: read, planned, written; what a recipe says in YAML reads back as itself."""
    here = world(folder)
    path = here / "recipe.yaml"
    path.write_bytes(data)
    with nothing_else_written(folder, "out"):
        with suppress(EvommError):
            recipe = Recipe.from_yaml(read_text(path))
            if Recipe.from_yaml(recipe.to_yaml()) != recipe:
                raise Contradiction(f"a recipe is another one once written and read: {recipe!r:.500}")
        make_file(path, folder / "out", Workshop(beside=here, threads=1))


def configs() -> list[bytes]:
    """The fake world's, a path through layers, stages, and all that ship."""
    fake = yaml.safe_load(worlds.CONFIG)
    flow = {key: value for key, value in fake.items() if key not in {"genes", "base", "grouping"}}
    flow |= {"method": "passthrough", "flow": {"kind": "slots", "repeats": 2, "scales": "none"}, "racing": {}}
    segments = {**flow, "flow": {"kind": "segments", "segments": 3, "scales": "none", "low": 0.5, "high": 1.5}}
    staged = [{**fake, "stage": "first"}, {**fake, "stage": "second", "base": "stage:first", "limits": {"search": 3}}]
    own = [yaml.safe_dump_all(found, sort_keys=False).encode() for found in ([fake], [flow], [segments], staged)]
    return own * 3 + [path.read_bytes() for path in sorted(resource("configs").glob("*.yaml"))]


def read_config(data: bytes, folder: Path) -> None:
    """`evomm plan`, then all that `evomm evolve` does before its first candidate."""
    here = world(folder)
    path = here / "fuzzed.yaml"
    path.write_bytes(data)
    with nothing_else_written(folder):
        stages = load_stages(path)
        for config in stages:
            if EvolveConfig.from_json(config.to_json()) != config:
                raise Contradiction(f"a config is another one once stored and read: {config!r:.500}")
        estimate_stages(stages, here, folder)
        if len(stages) > 1 or stages[0].adapter != "fake":
            return
        setup = prepare(stages[0], here)
        for vector in make_searcher(setup, setup.config.search.method).ask()[:3]:
            if not (np.isfinite(vector).all() and vector.min() >= 0 and vector.max() <= 1):
                raise Contradiction(f"asked outside of the cube: {vector}")
            setup.codec.decode(vector)


def task_files() -> list[bytes]:
    """One of each kind."""
    return [yaml.safe_dump(task, sort_keys=False, allow_unicode=True).encode() for task in TASKS]


def read_task(data: bytes, folder: Path) -> None:
    """Read, its examples and prompts, and, without a scorer, what right answers get."""
    if not (folder / "data.jsonl").exists():
        for number, split in enumerate(SPLITS):
            Image.new("RGB", (8, 8), (80 * number, 0, 0)).save(folder / f"{split}.png")
            own = [json.dumps({k: v for k, v in row.items() if k != "split"}) for row in ROWS if row["split"] == split]
            (folder / f"{split}.jsonl").write_text("\n".join(own))
        (folder / "data.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    (folder / "task.yaml").write_bytes(data)
    load_yaml_all(read_text(folder / "task.yaml"), "task.yaml")
    task = load_task("task.yaml", folder)
    task.options(8)
    task.missing()
    for split in SPLITS:
        with suppress(EvommError):
            examples = task.examples(split)
            task.prompts(examples)
            if (
                task.spec.kind != "image"
                and min(task.score(examples, [e.answer for e in examples]).parts.get("number", (1,))) < 1
            ):
                raise Contradiction("a right answer is wrong")
    _ = task.digest, task.notes()
