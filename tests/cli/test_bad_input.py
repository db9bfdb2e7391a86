"""Bad input: one clear message, the right exit code, nothing written, nothing lost."""

import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from evomm.adapters.base import LoadedModel
from evomm.adapters.fake import FakeAdapter
from evomm.adapters.generation import Generation
from tests import worlds
from tests.cli.conftest import Evomm, Said

RECIPE = {
    "method": "task_arithmetic",
    "base": "base",
    "parents": {"base": {"model": "base"}, "low": {"model": "low"}, "high": {"model": "high"}},
    "parameters": {"weight": 1.0},
}


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A folder with parents, a task, a config and a recipe."""
    folder = worlds.make_fake(tmp_path / "world").parent
    (folder / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return folder


def refused(said: Said, code: int, *parts: str) -> None:
    """One message on stderr with these parts in it, no traceback, nothing on stdout."""
    assert said.code == code, said.err
    assert said.err.count("error:") == 1
    assert "Traceback" not in said.err
    assert said.out == ""
    for part in parts:
        assert part in said.err.replace("\n", " "), said.err


def both_refuse(evomm: Evomm, world: Path, code: int, *parts: str) -> None:
    """`merge` and `evolve` say the same, and leave the folder as it was."""
    before = sorted(path for path in world.parent.rglob("*"))
    refused(evomm("merge", world / "recipe.yaml", "-o", world.parent / "out"), code, *parts)
    refused(evomm("evolve", world / "config.yaml", "-o", world.parent / "run"), code, *parts)
    assert sorted(path for path in world.parent.rglob("*")) == before


def test_missing_folder(evomm: Evomm, world: Path) -> None:
    shutil.rmtree(world / "low")
    both_refuse(evomm, world, 4, "'low'", "no such folder")


def test_missing_recipe_and_config(evomm: Evomm, tmp_path: Path) -> None:
    refused(evomm("merge", tmp_path / "no.yaml", "-o", tmp_path / "out"), 4, "no such file")
    refused(evomm("evolve", "demo-llmm", "-o", tmp_path / "run"), 4, "did you mean 'demo-llm'?")
    assert list(tmp_path.iterdir()) == []


def test_truncated_file(evomm: Evomm, world: Path) -> None:
    path = world / "high" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    both_refuse(evomm, world, 4, str(path), "not a whole safetensors file", "copy it again")


def test_shape_mismatch(evomm: Evomm, world: Path) -> None:
    tensors = load_file(world / "low" / "model.safetensors")
    save_file({**tensors, "layers.2.weight": torch.zeros(7)}, world / "low" / "model.safetensors")
    both_refuse(evomm, world, 3, "layers.2.weight", "expected shape [90]", "'low' has [7]")


def test_nan_in_a_parent(evomm: Evomm, world: Path) -> None:
    tensors = load_file(world / "low" / "model.safetensors")
    tensors["layers.1.weight"][5] = float("nan")
    save_file(tensors, world / "low" / "model.safetensors")
    both_refuse(evomm, world, 4, "'low'", "layers.1.weight", "1 value(s) that are NaN or infinite")


def test_different_architectures(evomm: Evomm, tmp_path: Path) -> None:
    world = tmp_path / "world"
    size = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
    llama = LlamaConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, **size)
    gpt2 = GPT2Config(n_embd=32, n_layer=2, n_head=4, **size)
    for label, config in (("base", llama), ("low", llama), ("high", gpt2)):
        AutoModelForCausalLM.from_config(config).save_pretrained(world / label)
    (world / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    before = sorted(tmp_path.rglob("*"))
    refused(evomm("merge", world / "recipe.yaml", "-o", tmp_path / "out"), 3, "'high'", "model_type", "gpt2", "llama")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("old", "new", "parts"),
    [
        ("method: task_arithmetic", "metod: task_arithmetic", ("unknown key 'metod'", "did you mean 'method'?")),
        ("sigma: 0.1", "sigmaa: 0.1", ("unknown key 'search.sigmaa'", "did you mean 'sigma'?")),
        ("task_arithmetic", "tie", ("unknown method 'tie'", "did you mean 'ties'?")),
        ("parameter: weight", "parameter: wieght", ("'wieght'", "did you mean 'weight'?")),
        ("adapter: fake", "adapter: fake\nadapter: llm", ("'adapter' stands twice",)),
        ("adapter: fake", "adapter: !!python/object/apply:os.system [ls]", ("not valid YAML",)),
        ("sigma: 0.1", "sigma: .nan", ("search.sigma",)),
        ("population: 6", "population: 6000", ("population",)),
    ],
)
def test_a_wrong_config(evomm: Evomm, world: Path, tmp_path: Path, old: str, new: str, parts: tuple[str, ...]) -> None:
    config = world / "config.yaml"
    config.write_text(config.read_text().replace(old, new))
    refused(evomm("evolve", config, "-o", tmp_path / "run"), 2, *parts)
    assert not (tmp_path / "run").exists()


def test_a_wrong_recipe(evomm: Evomm, world: Path, tmp_path: Path) -> None:
    (world / "recipe.yaml").write_text(yaml.safe_dump({**RECIPE, "parameters": {"wieght": 1.0}}))
    refused(evomm("merge", world / "recipe.yaml", "-o", tmp_path / "out"), 2, "'wieght'", "did you mean 'weight'?")


def test_a_pickle(evomm: Evomm, world: Path) -> None:
    (world / "low" / "model.safetensors").unlink()
    (world / "low" / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    both_refuse(evomm, world, 4, "pytorch_model.bin", "can run code", "save_pretrained")


def test_an_index_that_leaves_the_folder(evomm: Evomm, world: Path) -> None:
    low = world / "low"
    (low / "model.safetensors").rename(world / "outside.safetensors")
    index = {"weight_map": {f"layers.{i}.weight": "../outside.safetensors" for i in range(4)}}
    (low / "model.safetensors.index.json").write_text(json.dumps(index))
    both_refuse(evomm, world, 4, "../outside.safetensors", "leaves the folder")


def test_an_empty_task(evomm: Evomm, world: Path, tmp_path: Path) -> None:
    (world / "task.jsonl").write_text("")
    refused(evomm("evolve", world / "config.yaml", "-o", tmp_path / "run"), 2, "no examples in split 'search'")
    refused(evomm("eval", world / "low", "--task", world / "task.yaml"), 2, "no examples in split 'test'")
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_seen_before_anything_is_written(
    evomm: Evomm, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=100))
    before = sorted(tmp_path.rglob("*"))
    refused(evomm("merge", world / "recipe.yaml", "-o", tmp_path / "out"), 4, "the disk has", "free")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("verb", ["merge", "evolve"])
def test_a_write_that_fails_halfway(world: Path, tmp_path: Path, verb: str) -> None:
    """The system refuses files above a size, as a full disk would."""
    source = world / ("recipe.yaml" if verb == "merge" else "config.yaml")
    before = sorted(tmp_path.rglob("*"))
    command = [sys.executable, "-c", "from evomm.cli.app import main; main()", verb, str(source), "-o", str(tmp_path / "out")]
    limit = 1000
    done = subprocess.run(
        command,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        capture_output=True,
        text=True,
        check=False,
    )
    refused(Said(done.returncode, done.stdout, done.stderr), 4, "could not be")
    if verb == "merge":
        assert sorted(tmp_path.rglob("*")) == before
    else:  # a folder without a store is no run: the same command starts it again
        assert not (tmp_path / "out" / "run.sqlite").exists()


def test_a_merge_does_not_need_to_keep_compiled_code(world: Path, tmp_path: Path) -> None:
    """The child's files are small enough for the system, compiled code is not."""
    code, limit = tmp_path / "code", 4096
    done = subprocess.run(
        [sys.executable, "-c", "from evomm.cli.app import main; main()", "merge", "recipe.yaml", "-o", "out"],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={**os.environ, "NUMBA_CACHE_DIR": str(code)},
        cwd=world,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(code.rglob("*.nbi"))
    assert not list(code.rglob("*.nbc"))


def test_a_taken_target_is_not_overwritten(evomm: Evomm, world: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    refused(evomm("merge", world / "recipe.yaml", "-o", tmp_path / "out"), 4, "exists already")
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_digest_that_differs(evomm: Evomm, world: Path, tmp_path: Path) -> None:
    content = {**RECIPE, "parents": {**RECIPE["parents"], "low": {"model": "low", "digest": "0" * 64}}}  # type: ignore[dict-item]
    (world / "recipe.yaml").write_text(yaml.safe_dump(content))
    refused(evomm("merge", world / "recipe.yaml", "-o", tmp_path / "out"), 4, "'low'", "digest")
    assert not (tmp_path / "out").exists()


def test_an_interrupt_saves_and_exits_with_130(
    evomm: Evomm, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = json.loads(evomm("evolve", world / "config.yaml", "-o", tmp_path / "whole", "--json").out)
    calls = 0
    real = FakeAdapter.generate

    def interrupted(self: FakeAdapter, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        return real(self, model, prompts, options)

    monkeypatch.setattr(FakeAdapter, "generate", interrupted)
    said = evomm("evolve", world / "config.yaml", "-o", tmp_path / "run", "--json")
    assert (said.code, said.out) == (130, "")
    assert "evomm resume" in said.err
    resumed = json.loads(evomm("resume", tmp_path / "run", "--json").out)
    assert resumed["test"] == undisturbed["test"]
    assert resumed["child"] == undisturbed["child"]
