"""`evomm batch`, and `evomm resume` of one."""

import json
from pathlib import Path

from tests import worlds
from tests.cli.conftest import Evomm


def test_a_job_that_fails_stops_no_other_and_is_tried_again(tmp_path: Path, evomm: Evomm) -> None:
    world = worlds.make_fake(tmp_path / "world").parent
    jobs = world / "jobs.yaml"
    (world / "lost.yaml").write_text((world / "config.yaml").read_text().replace("low: low", "low: gone"))
    jobs.write_text("configs: [lost.yaml, config.yaml]\nalways: {search.evaluations: 24}\n")
    said = evomm("batch", jobs, "-o", tmp_path / "batch", "--json")
    assert said.code == 5
    assert "1 of 2 jobs failed" in said.err
    lost, well = json.loads(said.out)["jobs"]
    assert (lost["child"], well["failure"]) == (None, None)
    assert "gone" in lost["failure"]
    (world / "low").rename(world / "gone")
    again = evomm("resume", tmp_path / "batch", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["jobs"][1] == well
    assert json.loads(again.out)["jobs"][0]["child"]["n"] > 0
    assert "lost" in evomm("batch", jobs, "-o", tmp_path / "batch").out
