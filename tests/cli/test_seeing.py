"""Vision-language models from the command line: merged, evolved, asked; and what is refused, in one message each."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText

from tests.adapters.llava_kit import LAYERS, language_model, picture, tensors, vision_language_model
from tests.cli.conftest import Evomm
from tests.cli.test_bad_input import refused

TASK = {
    "kind": "vqa",
    "about": "x",
    "prompt": "<image>{question}",
    "language": "ja",
    "max_new_tokens": 4,
    "data": "data.jsonl",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model, a LLaVA over it, and a Japanese model over it."""
    home = tmp_path_factory.mktemp("seeing")
    for label in ("base", "ja"):
        language_model(home, "llava", label)
    vision_language_model(home, "llava", "vlm", layout="new", shard="60KB")
    return home


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    """A folder with these models, a task, and two configs."""
    for name in ("base", "ja", "vlm"):
        (tmp_path / name).symlink_to(made / name)
    rows = [
        {"split": split, "question": "これは何ですか。", "answer": "リンゴです", "image": f"{split}{i}.png"}
        for split in ("search", "validation", "test")
        for i in range(3)
    ]
    for number, row in enumerate(rows):
        picture(number).save(tmp_path / str(row["image"]))
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(TASK))
    config = {
        "adapter": "llava",
        "task": "task.yaml",
        "method": "task_arithmetic",
        "base": "base",
        "parents": {"ja": "ja", "vlm": "vlm"},
        "genes": [{"parameter": "weight", "start": 1.0, "low": 0.0, "high": 2.0}],
        "search": {"method": "cma", "evaluations": 4, "population": 4},
        "dtype": "float32",
        "threads": 1,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def recipe(world: Path, **parents: str) -> Path:
    """Task vectors of the parents, added to the base."""
    named = {"base": "base", "vlm": "vlm", "ja": "ja"} | parents
    content = {
        "method": "task_arithmetic",
        "base": "base",
        "parents": {label: {"model": model} for label, model in named.items()},
        "dtype": "float32",
    }
    (world / "recipe.yaml").write_text(yaml.safe_dump(content))
    return world / "recipe.yaml"


def test_a_merge_says_what_is_lent_and_repeats(evomm: Evomm, world: Path) -> None:
    """From the kept recipe the same bytes are made again; from a mergekit file too."""
    said = evomm("merge", recipe(world), "-o", world / "child", "--json")
    assert said.code == 0, said.err
    assert "taken from 'vlm'" in said.err
    assert evomm("merge", world / "child" / "evomm_recipe.yaml", "-o", world / "again").code == 0
    child, again, seen = (tensors(world / name) for name in ("child", "again", "vlm"))
    assert child.keys() == seen.keys()
    assert all(torch.equal(child[name], again[name]) for name in child)
    eyes = [name for name in seen if "vision_tower" in name or "projector" in name]
    assert eyes and all(torch.equal(child[name], seen[name]) for name in eyes)
    document = {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "models": [{"model": name, "parameters": {"weight": 1.0}} for name in ("base", "vlm", "ja")],
        "parameters": {"normalize": False},
        "dtype": "float32",
    }
    (world / "mergekit.yaml").write_text(yaml.safe_dump(document))
    assert evomm("merge", world / "mergekit.yaml", "-o", world / "third").code == 0
    third = tensors(world / "third")
    assert all(torch.equal(child[name], third[name]) for name in child)
    AutoModelForImageTextToText.from_pretrained(world / "third")


def test_a_run_is_evolved_resumed_and_exported(evomm: Evomm, world: Path) -> None:
    """Every parent is asked through the one that sees, the base and the Japanese model among them."""
    said = evomm("evolve", world / "config.yaml", "-o", world / "run", "--json")
    assert said.code == 0, said.err
    document = json.loads(said.out)
    assert set(document["test"]) == {"child", "uniform", "random", "base", "ja", "vlm"}
    assert set(document["parts"]["child"]) == {"rouge-l", "exact", "vqa", "language"}
    again = json.loads(evomm("resume", world / "run", "--json").out)
    assert again["test"] == document["test"]
    assert evomm("export", world / "run", "-o", world / "child").code == 0
    scored = json.loads(evomm("eval", world / "child", "--task", world / "task.yaml", "--json").out)
    assert scored["score"] == document["test"]["child"]["score"]
    found = json.loads(evomm("plan", world / "config.yaml", "--json").out)
    assert found["fits"] and found["genes"] == 2


def test_inspect_compares_the_decoders(evomm: Evomm, world: Path) -> None:
    said = evomm("inspect", world / "base", world / "vlm", world / "ja", "--by", "layer", "--json")
    assert said.code == 0, said.err
    blocks = [row["block"] for row in json.loads(said.out)["blocks"]] if "blocks" in said.out else said.out
    assert all(f"layers.{layer}" in str(blocks) for layer in range(LAYERS))


def test_parents_that_cannot_be_mixed(evomm: Evomm, world: Path, made: Path) -> None:
    language_model(world, "llava", "shallow", num_hidden_layers=2)
    language_model(world, "llava", "wide", hidden_size=64)
    strange = language_model(world, "llava", "strange")
    content = json.loads((strange / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {f"zz{token}": n for token, n in content["model"]["vocab"].items()}, "merges": []}
    content["added_tokens"] = []
    (strange / "tokenizer.json").write_text(json.dumps(content))
    for parent, parts in [
        ("shallow", ["'ja' does not fit", "its decoder has 2 layers of width 32, expected 3"]),
        ("wide", ["'ja' does not fit", "3 layers of width 64, expected 3 of width 32"]),
        ("strange", ["'ja' has", "their vocabularies cannot be aligned"]),
    ]:
        refused(evomm("merge", recipe(world, ja=parent), "-o", world / "out"), 3, *parts)
        assert not (world / "out").exists()


def test_missing_processor_files(evomm: Evomm, world: Path) -> None:
    vlm = vision_language_model(world, "llava", "blind")
    for name in ("processor_config.json", "preprocessor_config.json"):
        (vlm / name).unlink(missing_ok=True)
    refused(
        evomm("merge", recipe(world, vlm="blind"), "-o", world / "out"), 4, "processor_config.json", "how pictures are prepared"
    )
    refused(evomm("eval", vlm, "--task", world / "task.yaml"), 4, "processor_config.json")
    refused(evomm("evolve", world / "config.yaml", "-o", world / "run", "--set", "parents.vlm=blind"), 4, "processor_config.json")


@pytest.mark.parametrize(
    ("line", "code", "parts"),
    [
        ("{", 2, ["data.jsonl, line 2", "not JSON"]),
        ({"image": "search0.png"}, 2, ["data.jsonl, line 2", "expected a question"]),
        ({"image": "nowhere.png", "question": "?", "answer": "赤"}, 4, ["line 2 (nowhere.png)", "there is no picture"]),
        (
            {"image": "data.jsonl", "question": "?", "answer": "赤"},
            4,
            ["line 2 (data.jsonl)", "cannot be read", "unreadable: skip"],
        ),
        ({"question": "?", "answer": "赤"}, 2, ["no 'image'"]),
    ],
)
def test_broken_questions(evomm: Evomm, world: Path, line: Any, code: int, parts: list[str]) -> None:
    lines = (world / "data.jsonl").read_text(encoding="utf-8").splitlines()
    broken = line if isinstance(line, str) else json.dumps({"split": "test", **line}, ensure_ascii=False)
    (world / "data.jsonl").write_text("\n".join([lines[0], broken, *lines[1:]]) + "\n", encoding="utf-8")
    refused(evomm("eval", world / "vlm", "--task", world / "task.yaml"), code, *parts)
    refused(evomm("evolve", world / "config.yaml", "-o", world / "run"), code, *parts)
    assert not (world / "run").exists()


def test_one_unreadable_picture_among_many_is_skipped_by_choice_and_counted(evomm: Evomm, world: Path) -> None:
    (world / "test1.png").write_bytes((world / "test1.png").read_bytes()[:60])
    (world / "task.yaml").write_text(yaml.safe_dump({**TASK, "unreadable": "skip"}))
    said = evomm("eval", world / "vlm", "--task", world / "task.yaml", "--json")
    assert said.code == 0, said.err
    assert json.loads(said.out)["n"] == 2
    assert "1 question(s) skipped" in said.err and "test1.png" in said.err
    said = evomm("evolve", world / "config.yaml", "-o", world / "run")
    assert said.code == 0, said.err
    assert "1 question(s) skipped" in said.err
