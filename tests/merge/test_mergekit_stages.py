"""Files with several merges: each comes after those that it uses, and there is one result."""

import pytest

from evomm.errors import UsageError
from evomm.merge.mergekit.read import read_documents
from evomm.merge.mergekit.stages import stages


def stage(name: str | None, *models: str) -> str:
    """A document over these models."""
    listed = ", ".join(f"{{model: {model}}}" for model in models)
    return f"merge_method: linear\nparameters: {{weight: 1}}\nmodels: [{listed}]\n" + (f"name: {name}\n" if name else "")


def ordered(*documents: str) -> list[str | None]:
    """Names in the order in which the merges must run."""
    return [document.name for document in stages(read_documents("---\n".join(documents), "mine.yml"))]


def test_one_document_needs_no_name_and_may_have_one() -> None:
    assert ordered(stage(None, "a")) == [None]
    assert ordered(stage("x", "a")) == ["x"]


def test_what_is_used_comes_first() -> None:
    assert ordered(stage(None, "y", "x"), stage("y", "x", "a"), stage("x", "a")) == ["x", "y", None]
    assert ordered(stage("z", "y", "a"), stage("y", "x"), stage("x", "a")) == ["x", "y", "z"]
    assert ordered(stage("x", "a"), stage(None, "x+adapter", "x")) == ["x", None]


@pytest.mark.parametrize("line", ["base_model: x", "tokenizer_source: x"])
def test_a_stage_can_be_a_base_or_give_its_tokens(line: str) -> None:
    assert ordered(stage(None, "a") + line + "\n", stage("x", "b")) == ["x", None]


@pytest.mark.parametrize(
    ("documents", "said"),
    [
        ([stage("x", "a"), stage("x", "b")], "2 documents are called 'x'"),
        ([stage(None, "a"), stage(None, "b")], "more than one document has no name"),
        ([stage("x", "y"), stage("y", "x")], "in a circle: 'x' needs 'y' needs 'x'|in a circle: 'y' needs 'x' needs 'y'"),
        ([stage("x", "x", "a")], "in a circle: 'x' needs 'x'"),
        ([stage(None, "a"), stage("x", "b")], "no document uses 'x'"),
        ([stage("x", "a"), stage("y", "b")], "no document uses 'x' and 'y'"),
        ([stage(None, "x@main"), stage("x", "b")], "'x@main': 'x' is another document of the file, which has no revisions"),
        ([stage(None, "x"), stage("x", "b").replace("linear", "liner")], "mine.yml, document 2: .*'liner'"),
    ],
)
def test_files_without_one_result_are_refused(documents: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ordered(*documents)
