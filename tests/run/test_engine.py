"""The loop: what a run finds, how it treats failures, and what it refuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from evomm.adapters.base import LoadedModel
from evomm.adapters.fake import FakeAdapter
from evomm.adapters.generation import Generation
from evomm.errors import DamagedFile, EvaluationError, MissingFile, UsageError, WriteFailed
from evomm.fitness.examples import Split
from evomm.merge.recipe import Recipe, Source
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve, resume
from evomm.run.evaluate import Evaluator
from evomm.run.export import candidate_recipe
from evomm.run.outcome import Outcome
from evomm.run.store import Store
from tests import worlds


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """The config of a fake world."""
    return worlds.make_fake(tmp_path / "world")


def run(world: Path, folder: Path, *overrides: str) -> Outcome:
    """Evolve with overrides."""
    return evolve(EvolveConfig.load(world, overrides), folder, world.parent)


def test_the_child_beats_every_parent(world: Path, tmp_path: Path) -> None:
    outcome = run(world, tmp_path / "run")
    assert outcome.test["child"].mean > 0.8
    for role in ("base", "low", "high", "uniform"):
        assert outcome.against(role).low > 0, role


def test_same_seed_same_run_other_seed_other_run(world: Path, tmp_path: Path) -> None:
    first, again = run(world, tmp_path / "a"), run(world, tmp_path / "b")
    other = run(world, tmp_path / "c", "seed=1")
    assert first.recipe == again.recipe
    assert first.test == again.test
    assert first.recipe != other.recipe


def test_what_was_answered_is_not_asked_again(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random search and the grid both try the start: it is scored once, and both have it."""
    asked: list[str] = []
    scored = Evaluator.score

    def counted(self: Evaluator, recipe: Recipe, split: Split, **named: Any) -> Any:
        asked.extend([recipe.model_dump_json()] if split == "search" else [])
        return scored(self, recipe, split, **named)

    monkeypatch.setattr(Evaluator, "score", counted)
    run(world, tmp_path / "run", "baseline=[random, grid]", "finalists=4")
    assert len(asked) == len(set(asked))
    with Store.open(tmp_path / "run") as store:
        trials = [trial for name in ("cma", "random", "grid") for trial in store.trials(name)]
        again = [trial for trial in trials if trial.seconds == 0]
        assert len(trials) == len(asked) + len(again)
        assert again
        for trial in again:
            first = next(one for one in trials if one.vector == trial.vector)
            assert (first.score, first.id != trial.id) == (trial.score, True)
        finalists = [final.recipe for subject, final in store.finals("validation").items() if subject.startswith("grid/")]
        assert len(finalists) == len(set(finalists)) == 4
    resume(tmp_path / "run")


def test_resuming_a_finished_run_gives_its_outcome(world: Path, tmp_path: Path) -> None:
    outcome = run(world, tmp_path / "run")
    again = resume(tmp_path / "run")
    assert (again.test, again.recipe, again.evaluations) == (outcome.test, outcome.recipe, outcome.evaluations)


def test_the_test_split_is_looked_at_once_per_subject(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(world, tmp_path / "run")

    def again(*arguments: object) -> Sequence[str]:
        raise AssertionError("a finished run has nothing left to ask")

    monkeypatch.setattr(FakeAdapter, "generate", again)
    resume(tmp_path / "run")
    with Store.open(tmp_path / "run") as store:
        looks = store.finals("test")
    assert {"parent/base", "parent/low", "parent/high", "uniform"} < set(looks)
    assert len(looks) == 6  # and the two searches' winners


def test_the_baseline_gets_the_same_budget(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run")
    with Store.open(tmp_path / "run") as store:
        assert len(store.trials("cma")) == len(store.trials("random")) == 60


def test_a_crashing_candidate_is_a_trial_with_a_reason(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    real = FakeAdapter.generate

    def flaky(self: FakeAdapter, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise RuntimeError("out of memory\nand a long trace")
        return real(self, model, prompts, options)

    monkeypatch.setattr(FakeAdapter, "generate", flaky)
    outcome = run(world, tmp_path / "run")
    with Store.open(tmp_path / "run") as store:
        failed = [trial for trial in store.trials("cma") if trial.failure]
    assert [(trial.number, trial.failure) for trial in failed] == [(2, "RuntimeError: out of memory")]
    assert failed[0].fitness == float("-inf")
    assert outcome.test["child"].mean > 0.5


def test_a_first_generation_that_only_fails_ends_the_run(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: FakeAdapter, model: LoadedModel, prompts: Sequence[str], options: Generation) -> Sequence[str]:
        raise RuntimeError("no kernel for this device")

    monkeypatch.setattr(FakeAdapter, "generate", broken)
    with pytest.raises(EvaluationError, match="no kernel for this device"):
        run(world, tmp_path / "run")


def test_a_parent_that_changed_is_refused_on_resume(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run")
    path = world.parent / "low" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFile, match=r"'low'.*has changed since the run began"):
        resume(tmp_path / "run")


def test_a_task_that_changed_is_refused_on_resume(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run")
    data = world.parent / "task.jsonl"
    data.write_text(data.read_text().replace('"answer": 2}', '"answer": 3}'))
    with pytest.raises(DamagedFile, match=r"task 'task\.yaml' has changed since the run began"):
        resume(tmp_path / "run")
    assert candidate_recipe(tmp_path / "run", "child").method == "task_arithmetic", "what was found can still be had"


def test_a_replay_that_asks_otherwise_is_refused(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run")
    with Store.open(tmp_path / "run", writing=True) as store:
        store._commit("UPDATE trials SET vector = ? WHERE search = 'cma' AND number = 7", ("[0.1, 0.2, 0.3, 0.4]",))
    with pytest.raises(DamagedFile, match="cma/7 was asked with another vector"):
        resume(tmp_path / "run")


def test_a_filled_folder_is_refused(world: Path, tmp_path: Path) -> None:
    run(world, tmp_path / "run")
    with pytest.raises(WriteFailed, match="evomm resume"):
        run(world, tmp_path / "run")


def test_resume_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(MissingFile, match="no run here"):
        resume(tmp_path)


def test_any_candidate_can_be_named(world: Path, tmp_path: Path) -> None:
    outcome = run(world, tmp_path / "run")
    assert candidate_recipe(tmp_path / "run", "child") == outcome.recipe
    assert candidate_recipe(tmp_path / "run", "cma/0") != outcome.recipe
    assert candidate_recipe(tmp_path / "run", "low").mixed == ("low",)
    for wrong in ("cma/9999", "nobody"):
        with pytest.raises(UsageError, match=wrong):
            candidate_recipe(tmp_path / "run", wrong)


def test_too_small_a_budget_is_refused(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="population"):
        run(world, tmp_path / "run", "search.population=8", "search.evaluations=7")


def test_parents_are_asked_through_their_own_files(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each parent is built by its own config and tokenizer; candidates by the carrier's, and only once."""
    loaded = []
    real = FakeAdapter.load

    def load(self: FakeAdapter, recipe: Recipe, *rest: Any) -> LoadedModel:
        loaded.append(recipe.carrier)
        return real(self, recipe, *rest)

    monkeypatch.setattr(FakeAdapter, "load", load)
    run(world, tmp_path / "run")
    assert loaded == ["base", "low", "high", "base"]


def test_components_and_loras_of_a_config(world: Path) -> None:
    """What a config says of its parents, and how it is told when it cannot be meant."""
    few = EvolveConfig.load(world, ["parents={high: high, few: {lora: adapter}}"])
    assert few.models["few"] == Source(model="base", lora="adapter")
    for override, said in [
        ("components={layers: hihg}", "component 'layers': 'hihg' is no parent; did you mean 'high'"),
        ("parents={mixed: low}", "parent 'mixed'"),
        ("parents={few: {model: low}}", "lora"),
    ]:
        with pytest.raises(UsageError, match=said):
            EvolveConfig.load(world, [override])


def test_a_component_taken_whole_has_no_genes(world: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"component 'layer' is to be taken from 'high', which has none; did you mean 'layers'"):
        run(world, tmp_path / "a", "components={layer: high}")
    with pytest.raises(UsageError, match="no genes"):
        run(world, tmp_path / "b", "components={layers: high}")
