"""Reports, read as a browser would: what is in them, and what must not be."""

import base64
import io
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from evomm.errors import MissingFile
from evomm.report.page import page
from evomm.report.story import Story
from evomm.run.stages import begun
from tests.cli.conftest import Evomm
from tests.report.kit import HOSTILE, KINDS

NAMES = ["plain", *KINDS, "several"]
SECTIONS = ["verdict", "test", "search", "genome", "parents", "splits", "examples", "cost", "licences", "again"]


class Read(HTMLParser):
    """Tags with their attributes, the text, and the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.sections: dict[str, str] = {}
        self._inside = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Count it."""
        self.tags.append((tag, dict(attrs)))
        if tag == "section":
            self._inside = dict(attrs).get("id") or ""
            self.sections[self._inside] = ""

    def handle_data(self, data: str) -> None:
        """Add it."""
        self.text += data
        if self._inside:
            self.sections[self._inside] += data


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_and_nothing_is_fetched(pages: dict[str, str], name: str) -> None:
    read = Read(pages[name])
    assert Counter(tag for tag, _ in read.tags)["html"] == 1
    for tag, attributes in read.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base", "form", "foreignobject", "a"}
        for key, value in attributes.items():
            assert not key.startswith("on"), (tag, key)
            if key in {"src", "href", "xlink:href", "srcset", "action"}:
                assert (value or "").startswith(("data:", "#")), (tag, value)
            if key == "style":
                assert "url(" not in (value or "").replace("url(#", "")
    policies = [
        attributes["content"] for tag, attributes in read.tags if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policies and "default-src 'none'" in (policies[0] or "")
    assert "url(" not in pages[name].partition("<style>")[2].partition("</style>")[0]


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_unique_and_what_points_at_them_finds_them(pages: dict[str, str], name: str) -> None:
    read = Read(pages[name])
    ids = Counter(attributes["id"] for _, attributes in read.tags if "id" in attributes)
    assert [one for one, count in ids.items() if count > 1] == []
    targets = {attributes["href"] for tag, attributes in read.tags if tag == "use"}
    clips = set(re.findall(r"url\((#[\w-]+)\)", pages[name]))
    assert {target for target in targets | clips if (target or "")[1:] not in ids} == set()


@pytest.mark.parametrize("name", ["plain", "hostile", "drawn", "seen", "staged"])
def test_every_section_is_there(pages: dict[str, str], name: str) -> None:
    sections = Read(pages[name]).sections
    pictured = ["pictures"] if name == "drawn" else []
    assert sorted(sections) == sorted([*SECTIONS, *pictured])
    assert all(len(text.split()) > 8 for text in sections.values())


def test_numbers_are_those_of_the_run(run: Path, pages: dict[str, str]) -> None:
    story, read = Story.read(run), Read(pages["plain"])
    for role, score in story.scores.items():
        interval = score.interval
        assert f"{100 * interval.score:.1f} ({100 * interval.low:.1f} to {100 * interval.high:.1f})" in read.sections["test"]
        assert {"uniform": "uniform merge", "low": "parent low"}.get(role, role.split()[0]) in read.sections["test"]
    lead = story.against("uniform")
    assert f"{100 * lead.score:+.1f} ({100 * lead.low:+.1f} to {100 * lead.high:+.1f})" in read.sections["test"]
    recipe = story.recipe
    assert recipe is not None
    for block in recipe.blocks:
        weights = block.parameters["weight"]
        assert isinstance(weights, dict)
        assert block.name in read.sections["genome"]
        for value in weights.values():
            assert f"{value:.3f}" in read.sections["genome"]
    for digest in (value for key, value in story.facts.items() if "digest" in key):
        assert digest in read.sections["again"]
    assert recipe.to_yaml() in read.sections["again"]
    assert "cc-by-nc-4.0" in read.sections["licences"]


def test_markup_from_outside_is_text(pages: dict[str, str]) -> None:
    """Labels, blocks, questions, answers and a licence's name are read as they were written, to the letter."""
    read = Read(pages["hostile"])
    for section, what in (
        ("test", f"parent {HOSTILE}"),
        ("genome", f"{HOSTILE} block"),
        ("parents", f"distance of {HOSTILE}"),
        ("examples", f"{HOSTILE} says"),
        ("examples", f"test 0 {HOSTILE}"),
        ("licences", HOSTILE),
        ("licences", "javascript:alert(1)"),
    ):
        assert what in read.sections[section], section
    assert "<script" not in pages["hostile"]
    assert "{{7*7}}" in read.text, "templates are not filled in twice"
    assert HOSTILE in Read(pages["unfinished"]).sections["search"], "why a candidate failed"


def test_an_unfinished_run_shows_what_is_there(runs: dict[str, Path], evomm: Evomm, tmp_path: Path) -> None:
    said = evomm("report", runs["unfinished"], "-o", tmp_path / "deep" / "r.html")
    assert (said.code, said.out.strip()) == (0, str(tmp_path / "deep" / "r.html"))
    read = Read((tmp_path / "deep" / "r.html").read_text(encoding="utf-8"))
    assert "not finished: 8 of 12 evaluations" in read.sections["verdict"]
    assert "1 candidate could not be scored" in read.sections["search"]
    assert set(read.sections) == {"verdict", "search", "splits", "cost", "again"}


def test_stages_are_reported_as_their_last(runs: dict[str, Path], evomm: Evomm, tmp_path: Path) -> None:
    assert evomm("report", runs["staged"]).code == 0
    text = Read((runs["staged"] / "report.html").read_text(encoding="utf-8")).text
    assert "run/second" in text
    assert "stage second of first → second" in text
    assert evomm("report", runs["staged"] / "first", "-o", tmp_path / "first.html").code == 0


def test_several_runs(runs: dict[str, Path], evomm: Evomm, tmp_path: Path) -> None:
    assert evomm("report", runs["plain"], runs["drawn"], runs["unfinished"], "-o", tmp_path / "r.html").code == 0
    text = Read((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert text.count("The child scores") == 2
    assert "not finished" in text


def test_what_is_no_run(evomm: Evomm, run: Path, tmp_path: Path) -> None:
    said = evomm("report", tmp_path / "nothing")
    assert said.code == 4
    assert "no run here" in said.err
    with pytest.raises(MissingFile):
        begun(tmp_path)
    (tmp_path / "file").write_text("")
    assert evomm("report", run, "-o", tmp_path / "file" / "r.html").code == 4


def test_drawings_are_in_the_page(runs: dict[str, Path], pages: dict[str, str]) -> None:
    """Two samples of both for every example, and a row of the search's first and last improvements."""
    sources = [attributes["src"] or "" for tag, attributes in Read(pages["drawn"]).tags if tag == "img"]
    for source in sources:
        Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).verify()
    improved = [path for path in (runs["drawn"] / "pictures" / "cma").iterdir() if path.is_dir()]
    assert improved
    assert len(sources) == 5 * 2 * 2 + min(6, len(improved)) * 5
    for path in improved[:1]:
        assert f"cma/{path.name}" in Read(pages["drawn"]).sections["pictures"]
    assert "search の絵 0".replace(" ", "", 1) in Read(pages["drawn"]).sections["pictures"]


def test_pictures_that_were_asked_about_are_in_the_page(pages: dict[str, str]) -> None:
    read = Read(pages["seen"])
    assert sum(tag == "img" for tag, _ in read.tags) == 4
    assert "何の絵 3" in read.sections["examples"] and "りんご 1" in read.sections["examples"]


def test_without_task_and_parents_the_rest_is_there(tmp_path: Path) -> None:
    folder = KINDS["seen"](tmp_path)
    (tmp_path / "world" / "a" / "model.safetensors").unlink()
    (tmp_path / "world" / "task.jsonl").write_text("")
    read = Read(page([Story.read(folder)]))
    assert "The questions cannot be shown" in read.sections["examples"]
    assert "りんご" in read.sections["examples"], "answers are in the store"
    assert "this part is left out" in read.sections["parents"]


def test_a_picture_outside_of_the_run_is_not_read(tmp_path: Path) -> None:
    from evomm.report.embed import stored

    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "run" / "text.png").write_text("no picture")
    for name in ("../secret.png", "link.png", "text.png", "absent.png"):
        assert stored(tmp_path / "run", name) is None


def test_several_goals_are_told_with_their_front(pages: dict[str, str], runs: dict[str, Path]) -> None:
    """Every point, the child among them, the goal of everyone on the test split, and whether the floor was kept."""
    story, sections = Story.read(runs["torn"]), Read(pages["torn"]).sections
    assert len(story.front) > 1
    for candidate, goals in story.front.items():
        assert candidate in sections["front"]
        assert f"{100 * goals['modest.yaml'].score:.1f}" in sections["front"]
    assert story.subjects["child"] in story.front
    assert "uniform merge" in sections["front"]
    (kept,) = story.constraints
    assert ("kept" if kept.met else "missed") in sections["constraints"]
    assert "front" not in Read(pages["plain"]).sections
