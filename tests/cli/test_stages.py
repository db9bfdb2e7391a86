"""The verbs on a run of several stages."""

import json
from pathlib import Path

from evomm.run.export import candidate_recipe
from tests import worlds
from tests.cli.conftest import Evomm

SHORT = ["search.evaluations=24", "baseline=null"]


def test_the_verbs_know_stages(evomm: Evomm, tmp_path: Path) -> None:
    world, folder = worlds.make_staged(tmp_path / "world"), tmp_path / "run"
    short = [part for setting in SHORT for part in ("--set", setting)]
    evolved = json.loads(evomm("evolve", world, "-o", folder, *short, "--json").out)
    assert evolved["run"] == str(folder / "second")
    assert evolved["evaluations"] == 24
    resumed = json.loads(evomm("resume", folder, "--json").out)
    assert {**resumed, "seconds": 0} == {**evolved, "seconds": 0}
    for run_folder, out in ((folder, "last"), (folder / "second", "second"), (folder / "first", "first")):
        assert evomm("export", run_folder, "-o", tmp_path / out).code == 0
    last, second, first, kept = (
        (path / "model.safetensors").read_bytes()
        for path in (tmp_path / "last", tmp_path / "second", tmp_path / "first", folder / "first" / "child")
    )
    assert last == second != first == kept
    planned = evomm("plan", world)
    assert "stage     first: genes 4" in planned.out
    assert json.loads(evomm("plan", world, "--json").out)["genes"] == 8
    (folder / "second" / "run.sqlite").unlink()
    refused = evomm("export", folder, "-o", tmp_path / "x")
    assert refused.code == 2
    assert f"`evomm resume {folder}`" in refused.err
    assert candidate_recipe(folder / "first", "child").mixed == ("low", "high")
