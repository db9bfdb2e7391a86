"""The verbs on image models: pipelines, UNets alone and single files."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from evomm.adapters.sdxl import SDXLAdapter
from evomm.merge.recipe import Recipe, Source
from tests import worlds
from tests.checkpoints.pipeline_kit import BLOCKS, QUIET, make_pipeline
from tests.cli.conftest import Evomm
from tests.fitness.clip_kit import make_scorer

pytestmark = QUIET
TASK = """\
kind: image
about: Prompts
scorer: ./clip
device: cpu
steps: 1
guidance: 0
data: prompts.jsonl
"""
PUBLIC = "models--stabilityai--stable-diffusion-xl-base-1.0"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pipelines base and a; a's UNet alone; a in a single file; a task."""
    home = tmp_path_factory.mktemp("pictures")
    for seed, label in enumerate(("base", "a")):
        make_pipeline(home / label, seed)
    shutil.copytree(home / "a" / "unet", home / "alone" / "unet")
    adapter = SDXLAdapter()
    recipe = adapter_recipe("a")
    adapter.save(recipe, {"a": adapter.open(home / "a")}, home / "a.safetensors")
    make_scorer(home / "clip")
    (home / "prompts.jsonl").write_text("".join(json.dumps({"split": s, "prompt": s}) + "\n" for s in worlds.SPLITS))
    (home / "task.yaml").write_text(TASK)
    return home


def adapter_recipe(label: str) -> Recipe:
    """One parent as it is."""
    return Recipe(method="linear", parents={label: Source(model=label)})


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, with an empty hub cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    return made


def write(path: Path, **content: object) -> Path:
    """A recipe."""
    path.write_text(yaml.safe_dump(content))
    return path


def public(tmp_path: Path, pipeline: Path) -> None:
    """The configs and tokenizers of a pipeline as those of SDXL in the hub's cache, without weights."""
    snapshot = tmp_path / "cache" / PUBLIC / "snapshots" / ("0" * 40)
    for path in sorted(pipeline.rglob("*")):
        if path.suffix in {".json", ".txt"}:
            (snapshot / path.relative_to(pipeline)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, snapshot / path.relative_to(pipeline))
    (tmp_path / "cache" / PUBLIC / "refs").mkdir()
    (tmp_path / "cache" / PUBLIC / "refs" / "main").write_text("0" * 40)


def same(one: Path, two: Path) -> bool:
    """Whether two models hold the same tensors."""
    a, b = (SDXLAdapter().open(path) for path in (one, two))
    return set(a.infos) == set(b.infos) and all(torch.equal(a.read(name), b.read(name)) for name in a.infos)


def test_block_weights_are_said_as_they_are_pasted(evomm: Evomm, here: Path, tmp_path: Path) -> None:
    text = ",".join("1" if block == "M00" else "0.25" for block in ("BASE", *BLOCKS))
    parents = {label: {"model": str(here / label)} for label in ("base", "a")}
    content = {"method": "task_arithmetic", "base": "base", "parents": parents, "dtype": "float16"}
    recipe = write(tmp_path / "r.yaml", **content, components={"vae": "base"}, block_weights={"a": text})
    assert f"block weights of a: {text}\n" in evomm("merge", recipe, "-o", tmp_path / "child.safetensors").out
    document = json.loads(evomm("merge", recipe, "-o", tmp_path / "child", "--json").out)
    assert document["block_weights"] == {"a": text}
    assert same(tmp_path / "child", tmp_path / "child.safetensors")
    assert evomm("plan", recipe).code == 0


def test_a_single_file_of_a_language_model_is_refused(evomm: Evomm, tmp_path: Path) -> None:
    world = worlds.make_fake(tmp_path / "world")
    recipe = write(tmp_path / "r.yaml", method="linear", parents={"low": {"model": str(world.parent / "low")}})
    said = evomm("merge", recipe, "-o", tmp_path / "x.safetensors")
    assert said.code == 2
    assert "only image models are written as a single file" in said.err
    assert not (tmp_path / "x.safetensors").exists()
    evomm("evolve", world, "-o", tmp_path / "run", "--set", "search.evaluations=12", "--set", "baseline=null")
    for form, out, words in [
        ("single-file", "x", "only image models"),
        ("hf", "x.safetensors", "--format hf makes a folder"),
        ("single", "x", "did you mean 'single-file'"),
    ]:
        said = evomm("export", tmp_path / "run", "-o", tmp_path / out, "--format", form)
        assert (said.code, words in said.err) == (2, True), said.err
    assert evomm("export", tmp_path / "run", "-o", tmp_path / "x", "--format", "hf").code == 0


def test_evolve_and_export_image_models(evomm: Evomm, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In either form the same child; its block weights are printed by all verbs."""

    def draw(self: SDXLAdapter, model: object, prompts: list[str], options: object) -> list[Image.Image]:
        total = abs(float(model.targets["unet.conv_in.weight"].sum()))  # type: ignore[attr-defined]
        return [Image.new("RGB", (16, 16), (int(1000 * total) % 256, i, 0)) for i in range(len(prompts))]

    monkeypatch.setattr(SDXLAdapter, "generate", draw)
    config = {
        "adapter": "sdxl",
        "task": str(here / "task.yaml"),
        "method": "linear",
        "parents": {"base": str(here / "base"), "a": str(here / "a.safetensors")},
        "grouping": {"by": "component"},
        "genes": [{"parameter": "weight", "low": 0, "high": 1, "start": 0.5}],
        "search": {"evaluations": 4, "population": 4},
        "baseline": None,
        "dtype": "float16",
    }
    planned = json.loads(evomm("plan", write(tmp_path / "c.yaml", **config), "--json").out)
    assert (planned["genes"], planned["fits"]) == (4, True)
    evolved = evomm("evolve", tmp_path / "c.yaml", "-o", tmp_path / "run")
    assert evolved.code == 0, evolved.err
    strings = dict(re.findall(r"^block weights of (\S+): (\S+)$", evolved.out, re.MULTILINE))
    assert set(strings) == {"base/conv", "base/attn", "a/conv", "a/attn"}
    assert all(len(text.split(",")) == 20 for text in strings.values())
    exported = json.loads(evomm("export", tmp_path / "run", "-o", tmp_path / "x", "--format", "single-file", "--json").out)
    assert exported["out"] == str(tmp_path / "x.safetensors")
    assert exported["block_weights"] == strings
    assert "block weights of a/attn" in evomm("export", tmp_path / "run", "-o", tmp_path / "x").out
    assert same(tmp_path / "x", tmp_path / "x.safetensors")


@pytest.mark.parametrize("other", ["a", "alone", "a.safetensors"])
def test_inspect_compares_what_all_have(evomm: Evomm, here: Path, other: str) -> None:
    said = evomm("inspect", here / "base", here / other, "--json")
    assert said.code == 0, said.err
    rows = {row["block"]: row for row in json.loads(said.out)}
    assert set(rows) >= {"BASE", *BLOCKS}
    assert ("vae" in rows) == (other != "alone")
    assert all(row["distances"][0] > 0 for row in rows.values())
    alone = json.loads(evomm("inspect", here / other, "--json").out)
    assert {row["block"] for row in alone} == set(rows)
    assert evomm("inspect", here / other, here / "base").code == 0


def test_eval_of_a_pipeline_and_of_a_single_file(evomm: Evomm, here: Path, tmp_path: Path) -> None:
    """The same score, once the configs that a single file lacks are in the cache; a UNet alone cannot draw."""
    pipeline = json.loads(evomm("eval", here / "a", "--task", here / "task.yaml", "--json").out)
    said = evomm("eval", here / "a.safetensors", "--task", here / "task.yaml", "--json")
    assert said.code == 4
    assert "hf download stabilityai/stable-diffusion-xl-base-1.0 --include" in said.err
    public(tmp_path, here / "a")
    single = json.loads(evomm("eval", here / "a.safetensors", "--task", here / "task.yaml", "--json").out)
    assert single == pipeline
    said = evomm("eval", here / "alone", "--task", here / "task.yaml")
    assert said.code == 4
    assert "UNets alone have no text encoders" in said.err


def test_single_files_become_a_folder(evomm: Evomm, here: Path, tmp_path: Path) -> None:
    """With the family's configs and tokenizers; told before the work when they are not here."""
    recipe = write(tmp_path / "r.yaml", method="linear", parents={"a": {"model": str(here / "a.safetensors")}})
    said = evomm("merge", recipe, "-o", tmp_path / "child")
    assert said.code == 4
    assert "hf download stabilityai/stable-diffusion-xl-base-1.0 --include" in said.err
    assert not list(tmp_path.glob("*child*"))
    public(tmp_path, here / "a")
    assert evomm("merge", recipe, "-o", tmp_path / "child").code == 0
    assert same(tmp_path / "child", here / "a")

    def files(folder: Path) -> set[str]:
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        return {path for path in found if path.endswith((".json", ".txt")) and "generation" not in path}

    assert files(tmp_path / "child") == files(here / "a")
