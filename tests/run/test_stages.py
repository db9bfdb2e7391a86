"""Several evolutions in one file: the same as one after the other by hand, whatever stops them on the way."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from evomm.errors import DamagedFile, MissingFile, UsageError, WriteFailed
from evomm.merge.recipe import Source
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve
from evomm.run.estimate import estimate_run
from evomm.run.estimate_stages import estimate_stages
from evomm.run.make import Workshop
from evomm.run.outcome import Outcome
from evomm.run.stages import bound, evolve_stages, last_run, load_stages, resume_stages
from evomm.run.store import Store, held
from tests import worlds

SHORT = ["search.evaluations=24", "baseline=null"]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A config of two stages."""
    return worlds.make_staged(tmp_path / "world")


def run(world: Path, folder: Path) -> Outcome:
    """Both stages."""
    return evolve_stages(load_stages(world, SHORT), folder, world.parent)


def write(path: Path, *documents: str) -> Path:
    """A config of these documents."""
    path.write_text("---\n".join(documents))
    return path


def test_two_stages_are_two_runs(world: Path, tmp_path: Path) -> None:
    outcome = run(world, tmp_path / "run")
    first, second = load_stages(world, SHORT)
    alone = evolve(first, tmp_path / "by-hand" / "first", world.parent)
    Workshop().make(alone.recipe, tmp_path / "by-hand" / "child")
    then = evolve(bound(second, {"first": str(tmp_path / "by-hand" / "child")}), tmp_path / "by-hand" / "second", world.parent)
    assert outcome.test == then.test
    assert outcome.folder == tmp_path / "run" / "second"
    ours, theirs = (
        load_file(child / "model.safetensors") for child in (tmp_path / "run/first/child", tmp_path / "by-hand/child")
    )
    assert all(ours[name].equal(theirs[name]) for name in theirs)
    with Store.open(tmp_path / "run" / "second") as store:
        assert EvolveConfig.from_json(store.fact("config")).base == str((tmp_path / "run" / "first" / "child").resolve())


class Stop(BaseException):
    """As a kill: nothing may catch it."""


def after(count: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose call of this number (from 0) does its work, and never comes back."""
    calls = iter(range(10**6))

    def stopping(*arguments: Any, **more: Any) -> Any:
        found = real(*arguments, **more)
        if next(calls) == count:
            raise Stop
        return found

    return stopping


@pytest.mark.parametrize(
    ("what", "count"),
    [
        ("evomm.run.stages._begin", 0),
        ("evomm.run.store.Store.append", 7),
        ("evomm.run.store.Store.append", 24),
        ("evomm.run.store.Store.append", 30),
        ("evomm.run.store.Store.add_final", 3),
        ("evomm.run.stages.evolve", 0),
        ("evomm.checkpoints.writer.CheckpointWriter.write_piece", 1),
        ("evomm.run.make.Workshop.make", 0),
        ("evomm.run.engine.prepare", 1),
        ("evomm.run.stages.evolve", 1),
    ],
)
def test_stopped_anywhere_it_goes_on(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, count: int) -> None:
    """In a search, between search and export, in an export, between stages, at the end."""
    expected = run(world, tmp_path / "undisturbed")
    home, _, name = what.rpartition(".")
    with monkeypatch.context() as patch:
        module = (
            pytest.importorskip(home)
            if home.islower()
            else getattr(pytest.importorskip(home.rpartition(".")[0]), home.rpartition(".")[2])
        )
        real = vars(module)[name]
        replacement = classmethod(after(count, real.__func__)) if isinstance(real, classmethod) else after(count, real)
        patch.setattr(module, name, replacement)
        with pytest.raises(Stop):
            run(world, tmp_path / "run")
    outcome = resume_stages(tmp_path / "run")
    assert (outcome.test, outcome.evaluations, outcome.subjects) == (expected.test, expected.evaluations, expected.subjects)
    children = [tmp_path / name / "first" / "child" / "model.safetensors" for name in ("run", "undisturbed")]
    assert children[0].read_bytes() == children[1].read_bytes()
    assert resume_stages(tmp_path / "run").test == expected.test


def test_a_lost_child_is_made_again(world: Path, tmp_path: Path) -> None:
    """A run's digests of its parents hold for children, too: the same bytes are made again, others are refused."""
    outcome = run(world, tmp_path / "run")
    child = tmp_path / "run" / "first" / "child"
    shutil.rmtree(child)
    assert resume_stages(tmp_path / "run").test == outcome.test
    content = bytearray((child / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (child / "model.safetensors").write_bytes(content)
    with pytest.raises(DamagedFile, match="has changed since the run began"):
        resume_stages(tmp_path / "run")


def test_a_run_of_one_stage_is_an_ordinary_run(fake_world: Path, tmp_path: Path) -> None:
    """With or without a name."""
    for number, name in enumerate(([], ["stage=only"])):
        folder = tmp_path / str(number)
        evolve_stages(load_stages(fake_world, [*SHORT, *name]), folder, fake_world.parent)
        assert (folder / "run.sqlite").exists()
        assert last_run(folder) == folder
        assert resume_stages(folder).folder == folder


def test_folders_that_are_taken(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run")
    with pytest.raises(WriteFailed, match=r"holds a run already; `evomm resume"):
        run(world, tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    with pytest.raises(WriteFailed, match="is not empty"):
        run(world, tmp_path / "other")
    with held(tmp_path / "run"), pytest.raises(UsageError, match="another evomm is working"):
        resume_stages(tmp_path / "run")
    (tmp_path / "run" / "stages.json").write_text("{}")
    with pytest.raises(DamagedFile, match=r"stages\.json: cannot be read"):
        resume_stages(tmp_path / "run")


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("stage: a\n", "", "document 2 of 2 has no name; give it one, as `stage: NAME`"),
        ("stage: a\n", "stage: a\n", "2 stages are called 'a'"),
        ("stage: first\nBASE stage:second", "stage: second\n", "'first' builds on 'second', which comes after it"),
        (
            "stage: first\n",
            "stage: second\nBASE stage:frist",
            "names 'stage:frist', and there is no such stage; did you mean 'first'",
        ),
        ("stage: first\n", "stage: second\nBASE stage:second", "'second' builds on itself"),
        ("stage: first\n", "stage: ../second\n", r"document 2: stage: String should match"),
    ],
)
def test_stages_that_cannot_be(fake_world: Path, first: str, second: str, said: str) -> None:
    documents = []
    for head in (first, second):
        name, _, base = head.partition("BASE ")
        documents.append(name + worlds.CONFIG.replace("base: base", f"base: {base}" if base else "base: base"))
    with pytest.raises(UsageError) as error:
        load_stages(write(fake_world, *documents))
    assert said in str(error.value)


def test_a_single_config_names_no_stage(fake_world: Path) -> None:
    fake_world.write_text(worlds.CONFIG.replace("base: base", "base: stage:first"))
    with pytest.raises(UsageError, match="names 'stage:first', and there is no such stage"):
        load_stages(fake_world)


def test_loras_are_put_on_children(fake_world: Path) -> None:
    """Of a stage that is named as their model, or as the base; a child is no LoRA itself."""
    second = worlds.CONFIG.replace("base: base", "base: stage:a").replace("low: low", "low: {lora: x, model: 'stage:a'}")
    write(fake_world, f"stage: a\n{worlds.CONFIG}", f"stage: b\n{second.replace('high: high', 'high: {lora: x}')}")
    models = bound(load_stages(fake_world)[1], {"a": "/there"}).models
    assert models["low"] == models["high"] == Source(model="/there", lora="x")
    write(fake_world, f"stage: a\n{worlds.CONFIG}", f"stage: b\n{worlds.CONFIG.replace('low: low', 'low: {lora: stage:a}')}")
    with pytest.raises(UsageError, match="'stage:a' is a whole model"):
        load_stages(fake_world)


def test_what_a_later_stage_lacks_is_told_before_the_first_begins(world: Path, tmp_path: Path) -> None:
    stages = load_stages(world, SHORT)
    lacking = stages[1].model_copy(update={"parents": {"low": "nowhere"}})
    with pytest.raises(MissingFile, match="nowhere"):
        evolve_stages([stages[0], lacking], tmp_path / "run", world.parent)
    assert not (tmp_path / "run").exists()


def test_plan_adds_stages_up(world: Path, tmp_path: Path) -> None:
    stages = load_stages(world, SHORT)
    whole = estimate_stages(stages, world.parent, tmp_path)
    one = estimate_run(stages[0], world.parent, tmp_path)
    assert whole.fits
    assert (whole.genes, whole.evaluations, whole.missing) == (8, 48, [])
    assert (whole.memory_bytes, whole.disk_bytes) == (one.memory_bytes, 2 * one.disk_bytes)
    shutil.rmtree(world.parent / "high")
    lacking = estimate_stages(stages, world.parent, tmp_path)
    assert lacking.missing == ["high (no such folder)"]
