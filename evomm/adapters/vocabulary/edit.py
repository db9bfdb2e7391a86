"""Makes new tokenizers out of one: with fewer tokens, with more, under other ids."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel

from evomm.adapters.vocabulary.tokenizer import Document, Merge, TokenizerFile, load
from evomm.errors import DamagedFile, MisfitError


def restrict(file: TokenizerFile, keep: Mapping[str, int]) -> TokenizerFile:
    """The tokenizer with only the tokens of ``keep``, under its ids.

    Raises MisfitError when it would lose what it needs: a byte, the unknown token, one that it puts around every text.
    """
    if keep == file.vocabulary:
        return file
    _refuse_losses(file, keep)
    pieces = {token: keep[token] for token in file.pieces if token in keep}
    model = _with_pieces(file, pieces, file.scores)
    if file.merges:
        model["merges"] = [[*merge] for merge in file.merges if all(t in pieces for t in (*merge, file.joined(merge)))]
    document = {
        **file.document,
        "model": model,
        "added_tokens": [{**entry, "id": keep[token]} for token, entry in file.added.items() if token in keep],
        "post_processor": _renumbered(file.document["post_processor"], keep),
        "padding": _padding(file.document["padding"], keep),
    }
    return replace(file, document=document)


def extend(
    file: TokenizerFile,
    added: Mapping[str, Document],
    pieces: Mapping[str, float] | None = None,
    merges: Iterable[Merge] = (),
) -> TokenizerFile:
    """The tokenizer with more tokens; ids go on after its last one, first those of ``pieces``, then those of ``added``.

    Args:
        added: added tokens and their flags; one that is a piece already becomes an added token under its old id.
        pieces: tokens of the model itself and their scores, which only Unigram reads.
        merges: the way of BPE to those pieces. They come after its own: text is cut as before, then joined further.
    """
    if not pieces and added.keys() <= file.added.keys():
        return file
    ids = dict(file.vocabulary)
    free = max(ids.values(), default=-1) + 1
    new = dict.fromkeys(token for token in (*(pieces or ()), *added) if token not in ids)
    ids |= {token: free + number for number, token in enumerate(new)}
    entries = file.added | {token: entry for token, entry in added.items() if token not in file.added}
    document = dict(file.document)
    document["added_tokens"] = [{**entry, "id": ids[token]} for token, entry in entries.items()]
    document["added_tokens"].sort(key=lambda entry: int(entry["id"]))
    if pieces:
        # Pieces after the old added tokens: only when all are in the model do all keep their ids.
        document["model"] = _with_pieces(file, ids, {**pieces, **file.scores})
        own = set(file.merges)
        fitting = [merge for merge in merges if merge not in own and all(t in ids for t in (*merge, file.joined(merge)))]
        if file.kind == "BPE":
            document["model"]["merges"] = [[*merge] for merge in dict.fromkeys((*file.merges, *fitting))]
    return replace(file, document=document)


def settle(file: TokenizerFile) -> TokenizerFile:
    """The tokenizer such that the library, which numbers added tokens itself, gives each token the id it has here.

    Where it would not, added tokens are put into the model too, which holds their ids.
    """
    wanted = file.vocabulary
    for model in (file.document["model"], _with_pieces(file, wanted, file.scores)):
        settled = {**file.document, "model": model}
        tokenizer = load(json.dumps(settled), file.where)
        if tokenizer.get_vocab(with_added_tokens=True) == wanted:
            return replace(file, document=settled)
    raise MisfitError(f"{file.where}: its token ids have gaps that the tokenizers library does not keep; write it again")


def _with_pieces(file: TokenizerFile, ids: Mapping[str, int], scores: Mapping[str, float]) -> Document:
    """The model with these pieces."""
    model = file.document["model"]
    ordered = sorted(ids.items(), key=lambda item: item[1])
    if file.kind != "Unigram":
        return {**model, "vocab": dict(ordered)}
    unknown = None if model["unk_id"] is None else ids[model["vocab"][model["unk_id"]][0]]
    return {**model, "unk_id": unknown, "vocab": [[token, scores.get(token, 0.0)] for token, _ in ordered]}


def _refuse_losses(file: TokenizerFile, keep: Mapping[str, int]) -> None:
    lost = [(token, why) for token, why in _needed(file) if token in file.vocabulary and token not in keep]
    if lost:
        token, why = lost[0]
        raise MisfitError(
            f"{file.where}: needs {len(lost)} token(s) that the child would not have, the first is {token!r} ({why}); "
            "another parent lacks it, or it has no row in the embedding; take another source, such as union"
        )


def _needed(file: TokenizerFile) -> Iterator[tuple[str, str]]:
    """(token, why) of what the tokenizer cannot be without."""
    model = file.document["model"]
    if model.get("unk_token") is not None:
        yield model["unk_token"], "stands for what it does not know"
    if model.get("unk_id") is not None:
        yield model["vocab"][model["unk_id"]][0], "stands for what it does not know"
    if model.get("byte_fallback"):
        yield from ((f"<0x{byte:02X}>", "a byte, without which text could be lost") for byte in range(256))
    if file.spelling.startswith("byte-level"):
        yield from ((byte, "a byte, without which text could be lost") for byte in sorted(ByteLevel.alphabet()))
    yield from ((token, "put around every text") for token in _framing(file.document["post_processor"]))


def _framing(processor: Any) -> Iterator[str]:
    """Tokens that a post-processor puts around texts."""
    kind = processor["type"] if processor else None
    if kind == "Sequence":
        yield from (token for inner in processor["processors"] for token in _framing(inner))
    elif kind == "TemplateProcessing":
        used = {part["SpecialToken"]["id"] for part in processor["single"] + processor["pair"] if "SpecialToken" in part}
        if lost := used - processor["special_tokens"].keys():
            raise DamagedFile(
                f"a tokenizer's template puts {min(lost)!r} around texts, and does not say what that is; write it again"
            )
        yield from (token for name in sorted(used) for token in processor["special_tokens"][name]["tokens"])
    elif kind in {"BertProcessing", "RobertaProcessing"}:
        yield from (processor[role][0] for role in ("cls", "sep"))


def _renumbered(processor: Any, ids: Mapping[str, int]) -> Any:
    """A post-processor with other ids; tokens of templates that it never uses may be gone."""
    kind = processor["type"] if processor else None
    if kind == "Sequence":
        return {**processor, "processors": [_renumbered(inner, ids) for inner in processor["processors"]]}
    if kind == "TemplateProcessing":
        named = {
            name: {**special, "ids": [ids[token] for token in special["tokens"]]}
            for name, special in processor["special_tokens"].items()
            if all(token in ids for token in special["tokens"])
        }
        return {**processor, "special_tokens": named}
    if kind in {"BertProcessing", "RobertaProcessing"}:
        return {
            **processor,
            **{role: [token, ids.get(token, old)] for role in ("cls", "sep") for token, old in [processor[role]]},
        }
    return processor


def _padding(padding: Any, ids: Mapping[str, int]) -> Any:
    """Padding settings with another id, or none when the token is gone."""
    if not padding or padding["pad_token"] not in ids:
        return None
    return {**padding, "pad_id": ids[padding["pad_token"]]}
