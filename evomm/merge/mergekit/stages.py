"""Files of several documents, in which a merge uses the child of another by its name (mergekit-multi).

merge_method: slerp
name: first
...
---
merge_method: ties
models: [{model: first}, {model: ./other}]
"""

from collections import Counter
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

from evomm.errors import UsageError
from evomm.merge.mergekit.document import Document


def used_stages(document: Document, names: Sequence[str]) -> list[str]:
    """Which of these names of other documents the document's models are."""
    used = [reference for reference in document.labels() if reference.path in names]
    for reference in used:
        if reference.revision:
            raise UsageError(f"'{reference}': '{reference.path}' is another document of the file, which has no revisions")
    return list(dict.fromkeys(reference.path for reference in used))


def stages(documents: Sequence[Document]) -> list[Document]:
    """The documents so that each stands behind those whose children it uses; the last one is the merge that is wanted.

    That is the document without a name, or else the only one that no other uses. As in mergekit, names must be distinct,
    no two documents may go without, and none may use itself in a circle. Unlike in mergekit, where such a document gives a
    second result, one that nothing uses is refused.
    """
    names = [document.name for document in documents if document.name is not None]
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(f"{count} documents are called '{name}'; give each a name of its own")
    if len(documents) - len(names) > 1:
        raise UsageError("more than one document has no name; name those whose child another one uses")
    uses = {document.name: used_stages(document, names) for document in documents}
    try:
        order = list(TopologicalSorter(uses).static_order())
    except CycleError as error:
        circle = " needs ".join(f"'{name}'" for name in reversed(error.args[1]))
        raise UsageError(f"documents use each other in a circle: {circle}") from error
    used = {name for found in uses.values() for name in found}
    unused = [name for name in names if name not in used]
    if len(names) < len(documents):
        if unused:
            raise UsageError(f"no document uses '{unused[0]}'; use it as a model, or merge it from a file of its own")
    elif len(unused) > 1:
        raise UsageError(f"no document uses {' and '.join(map(repr, unused))}; the one that is wanted must use the others")
    final = unused[0] if unused else None
    by_name = {document.name: document for document in documents}
    return [by_name[name] for name in order if name != final] + [by_name[final]]
