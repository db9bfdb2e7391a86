"""Searching for paths through layers: a run, its resumption, and a plain checkpoint that answers as the live path did."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from evomm.checkpoints.reader import read_json
from evomm.genome.dataflow import steps_of
from evomm.resources import resource
from evomm.run.config import EvolveConfig
from evomm.run.engine import evolve, resume
from evomm.run.estimate import estimate_run
from evomm.run.evaluate import Evaluator
from evomm.run.export import candidate_recipe
from evomm.run.make import Workshop
from evomm.run.measure import measure
from evomm.run.setup import prepare

SMALL = ["search.evaluations=6", "search.population=6", "limits.search=16", "limits.validation=16", "limits.test=24"]
QUESTIONS = 200


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Small models are fastest with one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_a_run_resumes_and_exports_what_it_scored(tmp_path: Path) -> None:
    configs = resource("configs")
    config = EvolveConfig.load(configs / "demo-dfs.yaml", SMALL)
    outcome = evolve(config, tmp_path / "run", configs)
    assert set(outcome.test) == {"child", "random", "uniform", "math", "ja"}
    again = resume(tmp_path / "run")
    assert (again.test, again.recipe) == (outcome.test, outcome.recipe)
    recipe = candidate_recipe(tmp_path / "run", "child")
    assert recipe == outcome.recipe
    Workshop().make(recipe, tmp_path / "child")
    content = read_json(tmp_path / "child" / "config.json")
    assert content["num_hidden_layers"] == len(steps_of(recipe))
    assert "auto_map" not in content
    scored = measure(str(tmp_path / "child"), "tiny-math-ja", "test", limit=24)
    assert scored.score.mean == pytest.approx(outcome.test["child"].mean, abs=1 / 24)


def test_the_plain_checkpoint_answers_as_the_live_path_did(tmp_path: Path) -> None:
    """A path with repeats, skips and scales, in float32: the same greedy answers to many problems."""
    configs = resource("configs")
    config = EvolveConfig.load(configs / "demo-dfs.yaml", [f"limits.test={QUESTIONS}", "dtype=float32"])
    setup = prepare(config, configs)
    values = setup.codec.space.values(setup.codec.space.start)
    changed = {
        "segment.0/length": 2.5,
        "segment.1/first": 2.5,
        "segment.1/length": 3.5,
        "segment.1/scale": 0.93,
        "end/scale": 1.08,
    }
    changed |= {"segment.2/parent": 1.5, "segment.2/first": 4.5, "segment.2/length": 1.5, "segment.2/scale": 1.04}
    recipe = setup.codec.decode(setup.codec.space.vector({**values, **changed}))
    steps = steps_of(recipe)
    assert len(steps) == 8 and len({(step.label, step.layer) for step in steps}) < 8
    evaluator = Evaluator(setup)
    score, answers = evaluator.score(recipe, "test")
    Workshop().make(recipe, tmp_path / "child")
    plain = measure(str(tmp_path / "child"), config.task, "test", limit=QUESTIONS, batch=config.batch)
    assert list(plain.answers) == list(answers)
    assert len(set(answers)) > 20, "different problems get different answers"
    assert plain.score == score


def test_the_carrier_alone_is_the_start(tmp_path: Path) -> None:
    configs = resource("configs")
    config = EvolveConfig.load(configs / "demo-dfs.yaml", ["limits.search=24"])
    setup = prepare(config, configs)
    evaluator = Evaluator(setup)
    start = evaluator.score(setup.codec.decode(setup.codec.space.start), "search")[1]
    assert list(start) == list(evaluator.score(setup.parent("math"), "search")[1])


def test_a_plan_counts_the_genes_of_a_flow(tmp_path: Path) -> None:
    config = EvolveConfig.load(resource("configs", "demo-dfs.yaml"))
    found = estimate_run(config, resource("configs"), tmp_path / "run")
    assert found.genes == 4 * 4 + 1
    assert found.fits
    published = yaml.safe_load(resource("configs", "demo-dfs.yaml").read_text())
    published |= {"flow": {"kind": "slots", "repeats": 3, "scales": "pair"}}
    found = estimate_run(EvolveConfig.model_validate(published), resource("configs"), tmp_path / "run")
    assert found.genes == 3 * 12 + 12 * 12
