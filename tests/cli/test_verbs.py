"""The verbs as scripts use them: documents on stdout, files where they were asked for."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from safetensors.torch import load_file

from evomm.resources import resource
from tests import worlds
from tests.cli.conftest import Evomm

CONFIGS = sorted(resource("configs").glob("*.yaml"))
TASKS = sorted(resource("evals").glob("*.yaml"))


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The config of a fake world."""
    return worlds.make_fake(tmp_path / "world")


def test_evolve_resume_export_merge_eval(evomm: Evomm, world: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    evolved = json.loads(evomm("evolve", world, "-o", run, "--json").out)
    assert set(evolved["test"]) == {"child", "uniform", "random", "base", "low", "high"}
    assert set(evolved["test"]["child"]) == {"score", "low", "high", "n"}
    assert evolved["evaluations"] == 120
    resumed = json.loads(evomm("resume", run, "--json").out)
    assert {**resumed, "seconds": 0} == {**evolved, "seconds": 0}

    exported = json.loads(evomm("export", run, "-o", tmp_path / "child", "--json").out)
    merged = json.loads(evomm("merge", tmp_path / "child" / "evomm_recipe.yaml", "-o", tmp_path / "again", "--json").out)
    assert exported["tensors"] == merged["tensors"] == len(load_file(tmp_path / "child" / "model.safetensors"))
    first, second = (tmp_path / name / "model.safetensors" for name in ("child", "again"))
    assert first.read_bytes() == second.read_bytes()

    scored = json.loads(evomm("eval", tmp_path / "child", "--task", world.parent / "task.yaml", "--json").out)
    assert {key: scored[key] for key in ("score", "low", "high", "n")} == evolved["test"]["child"]


def test_the_table_names_everyone(evomm: Evomm, world: Path, tmp_path: Path) -> None:
    said = evomm("evolve", world, "-o", tmp_path / "run")
    for words in ("child", "uniform", "best of random", "base", "parent low", "parent high", "evomm export"):
        assert words in said.out


def test_set_overrides_a_key(evomm: Evomm, world: Path, tmp_path: Path) -> None:
    evolved = evomm("evolve", world, "-o", tmp_path / "run", "--set", "search.evaluations=12", "--set", "baseline=null", "--json")
    document = json.loads(evolved.out)
    assert document["evaluations"] == 12
    assert "random" not in document["test"]


def test_plan_counts_genes_and_says_ready(evomm: Evomm, world: Path) -> None:
    document = json.loads(evomm("plan", world, "--json").out)
    assert (document["fits"], document["genes"], document["missing"]) == (True, 4, [])
    assert "ready" in evomm("plan", world).out


def test_plan_of_the_published_recipe_says_what_is_missing(evomm: Evomm) -> None:
    document = json.loads(evomm("plan", "evollm-jp", "--json").out)
    assert document["genes"] == 6
    assert not document["fits"]
    assert document["memory_bytes"] > 14e9
    lines = [line for line in evomm("plan", "evollm-jp").out.splitlines() if line.startswith("missing")]
    assert len(lines) == 1
    for repo in ("mistralai/Mistral-7B-v0.1", "augmxnt/shisa-gamma-7b-v1", "WizardMath-7B-V1.1", "GAIR/Abel-7B-002"):
        assert repo in lines[0]


def test_plan_of_the_published_image_recipe(evomm: Evomm) -> None:
    """Two stages: what must be fetched, the one file of a LoRA among it, but no stage's child."""
    document = json.loads(evomm("plan", "evosdxl-jp", "--json").out)
    assert document["genes"] == 2 * 4 + 1
    assert not document["fits"]
    assert document["memory_bytes"] > 6e9
    assert document["disk_bytes"] > 13e9
    said = evomm("plan", "evosdxl-jp").out
    commands = [
        "hf download stabilityai/stable-diffusion-xl-base-1.0",
        "hf download mhdang/dpo-sdxl-text2image-v1",
        "hf download RunDiffusion/Juggernaut-XL-v9",
        "hf download stabilityai/japanese-stable-diffusion-xl",
        "hf download ByteDance/SDXL-Lightning sdxl_lightning_4step_lora.safetensors",
    ]
    assert [f"`{command}`" in said for command in commands] == [True] * 5
    assert len(document["missing"]) == 5
    assert "stage     blend: genes 8" in said
    assert "stage     few-steps: genes 1" in said


def test_inspect_shows_distances(evomm: Evomm, world: Path) -> None:
    folder = world.parent
    rows = json.loads(evomm("inspect", folder / "low", folder / "low", folder / "high", "--json").out)
    assert [row["block"] for row in rows] == ["layers.0", "layers.1", "layers.2", "layers.3"]
    for row in rows:
        same, other = row["distances"]
        assert same == 0.0
        assert other > 0.5


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_is_valid_by_the_printed_schema(evomm: Evomm, path: Path) -> None:
    schema = json.loads(evomm("schema", "evolve").out)
    for document in yaml.safe_load_all(path.read_text()):
        jsonschema.Draft202012Validator(schema).validate(document)


@pytest.mark.parametrize("path", TASKS, ids=lambda path: path.stem)
def test_every_task_is_valid_by_the_printed_schema(evomm: Evomm, path: Path) -> None:
    schema = json.loads(evomm("schema", "task").out)
    jsonschema.Draft202012Validator(schema).validate(yaml.safe_load(path.read_text()))


def test_the_schema_refuses_an_unknown_key(evomm: Evomm) -> None:
    schema = json.loads(evomm("schema", "recipe").out)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"method": "linear", "parents": {"a": {"model": "x"}}, "wieght": 1}, schema)


def test_usage_errors_exit_with_2(evomm: Evomm) -> None:
    assert evomm("merge").code == 2
    assert evomm("no-such-verb").code == 2
    assert evomm("schema", "recip").code == 2


def test_zoo_lists_cards(evomm: Evomm) -> None:
    models = {row["model"] for row in json.loads(evomm("zoo", "list", "--json").out)}
    assert "mistralai/Mistral-7B-v0.1" in models


def test_a_process_says_nothing_but_its_answer() -> None:
    """Libraries that models run on like to complain while a process ends."""
    command = [
        sys.executable,
        "-c",
        "from evomm.cli.app import main; main()",
        "eval",
        "zoo:tiny/llm/ja",
        "--task",
        "tiny-math-ja",
        "--limit",
        "2",
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["n"] == 2
    assert done.stderr == ""
