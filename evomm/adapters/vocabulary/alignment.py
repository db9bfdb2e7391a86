"""Aligns parents by token: the child's tokenizer, and for each parent the row of its embedding that holds each token.

The rules are those of mergekit's tokenizer sources, made deterministic (parents in order, tokens by id) and with an
intersection. One difference: ordinary tokens that a union adds become tokens of the model, merges included, so that text is
cut into them. As added tokens, they would be searched for in raw text, spelled as bytes, and cut words apart.

    alignment = align(Vocabulary(source="union"), folders, {"a": 32000, "b": 32002}, base="a")
    alignment.vocabulary["<|im_start|>"]                # 32000, the child's id
    alignment.rows["b"][32000], alignment.rows["a"][32000]      # 32001, b's row; -1, a has none
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomm.adapters.vocabulary.checks import Files, Ids, check_labels, check_tokens, refuse_strange, warn
from evomm.adapters.vocabulary.edit import extend, restrict, settle
from evomm.adapters.vocabulary.tokenizer import Document, TokenizerFile, read
from evomm.errors import MisfitError
from evomm.merge.vocabulary import INTERSECTION, UNION, Vocabulary

_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


@dataclass(frozen=True, eq=False)
class Alignment:
    """The child's vocabulary, and where each parent has it.

    tokenizer: the child's tokenizer.json. vocabulary: token -> id. size: rows of the child's embedding, padding included.
    rows: by parent, the row of its embedding for each of the child's ids; -1 where it has none.
    own: by parent, its tokens that have a row. sizes: by parent, the rows of its embedding. folders: by parent.
    base: label of the recipe's base. carrier: label of the parent whose tokenizer was the start. forced: whether tokens are
    replaced that parents have. warnings: what is odd but allowed.
    """

    tokenizer: Document
    vocabulary: Mapping[str, int]
    size: int
    rows: Mapping[str, Tensor]
    own: Mapping[str, Mapping[str, int]]
    sizes: Mapping[str, int]
    folders: Mapping[str, Path]
    base: str | None
    carrier: str
    forced: bool
    warnings: tuple[str, ...]

    def identity(self, label: str) -> bool:
        """Whether nothing changes for that parent."""
        rows = self.rows[label]
        same = self.size == self.sizes[label] == len(rows)
        return same and not self.forced and torch.equal(rows, torch.arange(len(rows)))


def align(spec: Vocabulary, folders: Mapping[str, Path], vocab_sizes: Mapping[str, int], base: str | None = None) -> Alignment:
    """Align parents by token.

    Args:
        folders: by parent label, the folder that holds its tokenizer.json.
        vocab_sizes: by parent label, the rows of its embedding; tokens with higher ids have no row and do not count.
        base: label of the recipe's base; without one, the first parent's tokenizer is what a union starts from.

    Raises:
        UsageError: the spec names what is not there.
        MisfitError: vocabularies that cannot be aligned, and why.
        MissingFile, DamagedFile: of a tokenizer.json.
    """
    check_labels(spec, folders, base)
    start = base if base is not None else next(iter(folders))
    if spec.source not in {UNION, INTERSECTION}:
        start = spec.source
    whole = read({start: folders[start]} | dict(folders))  # the start's tokens come first
    own = {
        label: {token: number for token, number in file.vocabulary.items() if number < vocab_sizes[label]}
        for label, file in whole.items()
    }
    check_tokens(spec, own, vocab_sizes)
    warnings = [*refuse_strange(spec, whole, start), *warn(whole, own, start, folders)]
    child = restrict(whole[start], own[start])
    if spec.source == UNION:
        child, told = _union(child, whole, own)
        warnings += told
    elif spec.source == INTERSECTION:
        child = _intersection(child, own)
    child = extend(child, {token: _flags(token, whole.values()) for token in spec.tokens if token not in child.vocabulary})
    if child is not whole[start]:
        child = settle(child)
    rows = {label: _rows(child.vocabulary, own[label]) for label in folders}
    pad = spec.pad_to_multiple_of or 1
    return Alignment(
        tokenizer=child.document,
        vocabulary=child.vocabulary,
        size=-(-(max(child.vocabulary.values()) + 1) // pad) * pad,
        rows=rows,
        own=own,
        sizes=vocab_sizes,
        folders=folders,
        base=base,
        carrier=start,
        forced=any(token.force for token in spec.tokens.values()),
        warnings=tuple(warnings),
    )


def _union(child: TokenizerFile, whole: Files, own: Ids) -> tuple[TokenizerFile, list[str]]:
    """The first parent's tokenizer with the others' tokens: ordinary ones parent by parent, each by id, then the added ones."""
    added: dict[str, Document] = {}
    warnings = []
    for label, file in whole.items():
        for token, entry in file.added.items():
            if token not in own[label]:
                continue
            first = added.setdefault(token, entry)
            if {**first, "id": 0} != {**entry, "id": 0}:
                warnings.append(f"'{label}' adds the token {token!r} with other flags than a parent before it, whose flags count")
    pieces: dict[str, float] = {}
    for label, file in whole.items():
        for token in own[label]:
            if token not in added and token not in child.vocabulary:
                pieces.setdefault(token, file.scores.get(token, 0.0))
    return extend(child, added, pieces, (merge for file in whole.values() for merge in file.merges)), warnings


def _intersection(child: TokenizerFile, own: Ids) -> TokenizerFile:
    """The first parent's tokenizer without the tokens that some parent lacks; ids are dense, in its order."""
    shared = [token for token in child.vocabulary if all(token in tokens for tokens in own.values())]
    if not shared:
        raise MisfitError(f"{', '.join(own)} have no token in common, so their intersection is empty; take `source: {UNION}`")
    return restrict(child, {token: number for number, token in enumerate(shared)})


def _flags(token: str, files: Iterable[TokenizerFile]) -> Document:
    """A token's entry: as the first parent has it that adds it, else that of an ordinary added token."""
    return next((file.added[token] for file in files if token in file.added), {"content": token, **_PLAIN})


def _rows(vocabulary: Mapping[str, int], own: Mapping[str, int]) -> Tensor:
    rows = torch.full((max(vocabulary.values()) + 1,), -1)
    rows[list(vocabulary.values())] = torch.tensor([own.get(token, -1) for token in vocabulary])
    return rows
