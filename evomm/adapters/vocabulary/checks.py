"""What speaks against aligning vocabularies: refusals, and warnings."""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

from evomm.adapters.vocabulary.tokenizer import NAME, TokenizerFile
from evomm.checkpoints.reader import read_json
from evomm.errors import MisfitError, UsageError, nearest
from evomm.merge.vocabulary import INTERSECTION, UNION, Vocabulary

_FEW = 0.1  # of the smaller vocabulary shared: less, and most of an embedding is merged with nothing
_RULES = ("normalizer", "pre_tokenizer", "decoder")

Ids = Mapping[str, Mapping[str, int]]  # by parent: token -> id
Files = Mapping[str, TokenizerFile]


def check_labels(spec: Vocabulary, labels: Mapping[str, object], base: str | None) -> None:
    """Raise UsageError when the spec names a parent that is none."""
    known = {UNION, INTERSECTION, *labels}
    if spec.source not in known:
        raise UsageError(
            f"vocabulary: source is '{spec.source}', expected {UNION}, {INTERSECTION} or a parent's label"
            f"{nearest(spec.source, known)}"
        )
    for token, wanted in spec.tokens.items():
        if wanted.model is not None and wanted.model not in labels:
            raise UsageError(f"vocabulary: token {token!r} comes from '{wanted.model}', no parent{nearest(wanted.model, labels)}")
    if base is not None and base not in labels:
        raise UsageError(f"vocabulary: the base '{base}' is no parent{nearest(base, labels)}")


def check_tokens(spec: Vocabulary, own: Ids, sizes: Mapping[str, int]) -> None:
    """Raise UsageError when the spec takes a token from a parent that lacks it."""
    for token, wanted in spec.tokens.items():
        if wanted.model is None:
            continue
        if wanted.token_id is not None:
            if wanted.token_id >= sizes[wanted.model]:
                raise UsageError(
                    f"vocabulary: token {token!r} comes from row {wanted.token_id} of '{wanted.model}', "
                    f"which has rows 0 to {sizes[wanted.model] - 1}"
                )
        elif (name := wanted.token or token) not in own[wanted.model]:
            raise UsageError(
                f"vocabulary: token {token!r} comes from {name!r} of '{wanted.model}', which has no such token"
                f"{nearest(name, own[wanted.model]) if len(own[wanted.model]) < 50 else ''}; "
                "name another token or model, or write `zero: true`"
            )


def refuse_strange(spec: Vocabulary, files: Files, start: str) -> Iterator[str]:
    """Raise MisfitError for tokenizers whose tokens mean different text; a warning when the child has one parent's."""
    ours = files[start]
    for label, theirs in files.items():
        if theirs.spelling != ours.spelling:
            message = (
                f"'{label}' spells tokens otherwise than '{start}' ({theirs.spelling} against {ours.spelling}): the same text "
                "is cut differently, and tokens that are spelled alike do not mean the same"
            )
            if spec.source in {UNION, INTERSECTION}:
                raise MisfitError(f"{message}; merge parents of one family of tokenizers")
            yield message
        if theirs.kind != ours.kind:
            message = f"'{label}' has a tokenizer of type {theirs.kind}, '{start}' one of type {ours.kind}"
            if spec.source == UNION:
                raise MisfitError(
                    f"{message}, and no tokenizer is both; take `source: {INTERSECTION}`, or the label of one parent"
                )
            yield f"{message}; the child cuts text as '{start}'"


def warn(whole: Files, own: Ids, start: str, folders: Mapping[str, Path]) -> Iterator[str]:
    """What is odd but allowed."""
    ours = whole[start]
    for label, file in whole.items():
        forgotten = [token for token in _named_elsewhere(folders[label]) if token not in file.vocabulary]
        if forgotten:
            yield (
                f"'{label}' names {len(forgotten)} token(s) that its {NAME} lacks, the first is {forgotten[0]!r}; they do not "
                "count as its tokens until transformers writes its tokenizer again (save_pretrained)"
            )
        rowless = [token for token in file.vocabulary if token not in own[label]]
        if rowless:
            yield (
                f"'{label}' has {len(rowless)} token(s) without a row in its embedding, the first is {rowless[0]!r}; "
                "they do not count as its tokens"
            )
        if label == start:
            continue
        differing = [part for part in _RULES if file.document[part] != ours.document[part]]
        if differing and file.spelling == ours.spelling:
            yield f"'{label}' has another {' and '.join(differing)} than '{start}'; the child cuts text as '{start}'"
        if _reordered(ours, file):
            yield (
                f"'{label}' joins letters in another order than '{start}'; the child cuts text as '{start}', "
                f"so '{label}' may see tokens where it was not trained on them"
            )
        shared = len(own[label].keys() & own[start].keys()) / max(1, min(len(own[label]), len(own[start])))
        if shared < _FEW:
            yield (
                f"'{label}' and '{start}' share {shared:.1%} of the smaller vocabulary; a token that only one of them has gets "
                "one row from both, so hardly any of the embedding is merged"
            )


def _reordered(ours: TokenizerFile, theirs: TokenizerFile) -> bool:
    """Whether merges that both have come in another order."""
    rank = {merge: number for number, merge in enumerate(theirs.merges)}
    ranks = [rank[merge] for merge in ours.merges if merge in rank]
    return any(left > right for left, right in pairwise(ranks))


def _named_elsewhere(folder: Path) -> list[str]:
    """Tokens that transformers would add to what tokenizer.json has."""
    config = read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    added = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").exists() else {}
    decoder = config.get("added_tokens_decoder")
    entries = [entry for entry in decoder.values() if isinstance(entry, Mapping)] if isinstance(decoder, Mapping) else []
    return list(dict.fromkeys([*(str(entry["content"]) for entry in entries if "content" in entry), *added]))
