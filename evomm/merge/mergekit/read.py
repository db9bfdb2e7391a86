"""The documents of a file."""

from collections.abc import Mapping
from typing import Any

from evomm.merge.mergekit.document import Document
from evomm.plain import load_yaml_all, parse


def read_documents(text: str, where: str) -> list[Document]:
    """One document, or several with ``---`` between them; UsageError says what is wrong."""
    contents = load_yaml_all(text, where)
    many = len(contents) > 1
    return [parse(Document, content, f"{where}, document {n}" if many else where) for n, content in enumerate(contents, 1)]


def is_mergekit(content: Mapping[str, Any]) -> bool:
    """Whether it is a document of mergekit's, no recipe."""
    return "merge_method" in content
