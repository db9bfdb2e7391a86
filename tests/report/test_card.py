"""Cards: what hub tools read in them, and that nothing in them is markup that was not meant to be."""

import json
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard, metadata_load
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.repocard_data import model_index_to_eval_results

from evomm.adapters.llm import LLMAdapter
from evomm.errors import EvommError, UsageError
from evomm.merge.recipe import Recipe, Source
from evomm.report import markdown as md
from evomm.report.card import Card
from evomm.run.push import push
from tests.cli.conftest import Evomm


def test_the_hub_reads_it(evomm: Evomm, run: Path, tmp_path: Path) -> None:
    """huggingface_hub's checks that need no network; `RepoCard.validate` asks the hub itself."""
    said = evomm("export", run, "-o", tmp_path / "child")
    assert "card in README.md" in said.out
    path = tmp_path / "child" / "README.md"
    card = ModelCard.load(path)
    assert card.data.tags == ["merge", "evomm"]
    assert card.data.license == "cc-by-nc-4.0"
    assert card.data.language == ["ja"]
    results = {result.metric_type: result for result in card.data.eval_results or []}
    with_json = json.loads(evomm("resume", run, "--json").out)["test"]["child"]
    assert results["accuracy"].metric_value == pytest.approx(with_json["score"], abs=1e-6)
    assert (results["accuracy"].dataset_split, results["accuracy"].dataset_name) == ("test", "task")
    metadata = metadata_load(path) or {}
    assert model_index_to_eval_results(metadata["model-index"])[0] == "child"
    for section in ("Parents", "Recipe", "In mergekit's words", "Evaluation", "Limits", "Licence"):
        assert f"\n## {section}\n" in card.text
    assert "| **child (this model)** |" in card.text
    assert str(tmp_path) not in card.text and str(run.parent) not in card.text, "no path of this machine"


def test_hub_parents_are_named_as_the_hub_wants_it(tmp_path: Path) -> None:
    parents = {"base": Source(model="org/base@v1"), "a": Source(model="org/a", lora="org/a-lora"), "b": Source(model="/here/b")}
    recipe = Recipe(method="task_arithmetic", base="base", parents=parents)
    path = tmp_path / "README.md"
    path.write_text(Card(tmp_path).write("it", recipe, LLMAdapter(), {}), encoding="utf-8")
    data = ModelCard.load(path).data
    assert data.base_model == ["org/base", "org/a", "org/a-lora"]
    assert metadata_load(path)["base_model_relation"] == "merge"  # type: ignore[index]
    assert data.license == "unknown"
    assert "- model: org/a+org/a-lora" in path.read_text()
    assert "nothing here says how good it is" in path.read_text()


def test_a_candidate_that_was_not_tested_claims_nothing(evomm: Evomm, run: Path, tmp_path: Path) -> None:
    evomm("export", run, "-o", tmp_path / "other", "--candidate", "random/3")
    card = ModelCard.load(tmp_path / "other" / "README.md")
    assert card.data.eval_results is None
    assert "not its winner" in card.text


def test_a_merge_by_hand_has_a_card(evomm: Evomm, run: Path, tmp_path: Path) -> None:
    """And a merge of a mergekit file shows that file."""
    evomm("merge", run / "recipe.yaml", "-o", tmp_path / "again")
    assert ModelCard.load(tmp_path / "again" / "README.md").data.license == "cc-by-nc-4.0"
    low, high = (run.parent / "world" / name for name in ("low", "high"))
    text = f"merge_method: slerp\nbase_model: {low}\nmodels: [{{model: {low}}}, {{model: {high}}}]\nparameters: {{t: 0.5}}\n"
    (tmp_path / "mk.yaml").write_text(text)
    assert evomm("merge", tmp_path / "mk.yaml", "-o", tmp_path / "mk").code == 0
    assert "```yaml\nmerge_method: slerp" in (tmp_path / "mk" / "README.md").read_text()


def test_a_stage_of_a_file_counts_as_its_parents(evomm: Evomm, run: Path, tmp_path: Path) -> None:
    world = run.parent / "world"
    first = f"name: mine\nmerge_method: linear\nmodels: [{{model: {world / 'base'}}}, {{model: {world / 'low'}}}]\n"
    last = f"merge_method: linear\nmodels: [{{model: mine}}, {{model: {world / 'high'}}}]\n"
    (tmp_path / "mk.yaml").write_text("---\n".join(text + "parameters: {weight: 1}\n" for text in (first, last)))
    assert evomm("merge", tmp_path / "mk.yaml", "-o", tmp_path / "mk").code == 0
    card = ModelCard.load(tmp_path / "mk" / "README.md")
    assert card.data.license == "cc-by-nc-4.0"
    assert "| mine | mine |" in card.text


def test_a_child_of_stages_has_the_first_stages_licence(evomm: Evomm, runs: dict[str, Path], tmp_path: Path) -> None:
    """Though a stage's child has no card."""
    world = runs["staged"].parent / "world"
    for name, licence in (("base", "mit"), ("low", "cc-by-sa-4.0"), ("high", "mit")):
        (world / name / "README.md").write_text(f"---\nlicense: {licence}\n---\n")
    evomm("export", runs["staged"], "-o", tmp_path / "child")
    card = ModelCard.load(tmp_path / "child" / "README.md")
    assert card.data.license == "cc-by-sa-4.0"
    assert "| first/child | the common ancestor | cc-by-sa-4.0, from its parents' cards |" in card.text
    for name in ("base", "low", "high"):
        (world / name / "README.md").unlink()


HOSTILE = "</table><script>alert(1)</script>|a\n# head [x](javascript:alert(1)) `code`"


def test_labels_are_text() -> None:
    recipe = Recipe(method="linear", parents={HOSTILE: Source(model="org/a"), "b": Source(model="org/b")})
    text = Card().write("x", recipe, LLMAdapter(), {}).partition("## In mergekit")[0]
    assert "<script" not in text.replace("\\<script", "")
    assert "\n# head" not in text
    row = next(line for line in text.splitlines() if "alert" in line)
    assert row.replace("\\|", "").count("|") == 5, "four cells"


def test_code_does_not_end_before_its_end() -> None:
    block = md.code("a\n````\nb")
    assert block.startswith("`````\n") and block.endswith("\n`````")


def test_only_web_addresses_are_links() -> None:
    assert md.link("https://acme.example/a-licence") == "<https://acme.example/a-licence>"
    assert not md.link("javascript:alert(1)").startswith("<")
    assert not md.link("https://a.example/><script>").startswith("<")


class Hub:
    """Remembers what it was asked; refuses with an error where one is given."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.error = error

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> None:
        """As HfApi's."""
        if self.error:
            raise self.error
        self.calls.append(("create_repo", {"repo_id": repo_id, "private": private, "exist_ok": exist_ok}))

    def upload_folder(self, **arguments: Any) -> None:
        """As HfApi's."""
        self.calls.append(("upload_folder", arguments))


def test_pushing_makes_a_repository_and_uploads(tmp_path: Path) -> None:
    hub = Hub()
    assert push(tmp_path, "me/it", hub) == "https://huggingface.co/me/it"
    assert [name for name, _ in hub.calls] == ["create_repo", "upload_folder"]
    assert hub.calls[0][1] == {"repo_id": "me/it", "private": True, "exist_ok": True}
    assert hub.calls[1][1]["folder_path"] == tmp_path


@pytest.mark.parametrize("error", [OSError("no route to host"), HfHubHTTPError.__new__(HfHubHTTPError)])
def test_a_hub_that_refuses(error: Exception, tmp_path: Path) -> None:
    with pytest.raises(EvommError, match="the model is in") as told:
        push(tmp_path, "me/it", Hub(error))
    assert "hf upload me/it" in str(told.value)


@pytest.mark.parametrize("name", ["me", "me/", "/it", "me/it/more", "me/it@main"])
def test_names_that_are_none(name: str, evomm: Evomm, run: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected OWNER/NAME"):
        push(tmp_path, name, Hub())
    assert evomm("export", run, "-o", tmp_path / "child", "--push-to-hub", name).code == 2
    assert not (tmp_path / "child").exists()


def test_the_verb_pushes(evomm: Evomm, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: hub)
    said = json.loads(evomm("export", run, "-o", tmp_path / "child", "--push-to-hub", "me/it", "--public", "--json").out)
    assert said["pushed"] == "https://huggingface.co/me/it"
    assert hub.calls[0][1]["private"] is False
    assert hub.calls[1][1]["folder_path"] == tmp_path / "child"
