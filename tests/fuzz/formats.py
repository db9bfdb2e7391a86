"""Mutations of whole inputs, by what they are: mostly well-formed ones with odd content, sometimes broken ones."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import yaml

from tests.fuzz.mutate import TEXTS, mutate_bytes, mutate_text, mutate_tree

Mutate = Callable[[Random, bytes, Sequence[bytes]], bytes]
ODD = (ValueError, RecursionError, yaml.YAMLError, OverflowError)  # that a mutated tree cannot be written, or a broken text read


def raw(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Bytes, whatever they mean."""
    return mutate_bytes(rng, data)


def text(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """Text, seldom broken as such."""
    if rng.random() < 0.15:
        return mutate_bytes(rng, data)
    return mutate_text(rng, data.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogatepass")


def as_json(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A JSON tree; keys that stand twice now and then."""
    return _tree(rng, data, seeds, json.loads, _json)


def as_yaml(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A YAML file of one document or several; nodes that are shared become anchors and aliases."""
    return _tree(rng, data, seeds, lambda found: list(yaml.safe_load_all(found)), _yaml)


def lines(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A file of JSON lines, one of them changed."""
    rows = data.split(b"\n")
    at = rng.randrange(len(rows))
    rows[at] = as_json(rng, rows[at], [row for seed in seeds for row in seed.split(b"\n")[:2]])
    return b"\n".join(rows) if rng.random() < 0.9 else text(rng, data, seeds)


def safetensors(rng: Random, data: bytes, seeds: Sequence[bytes]) -> bytes:
    """A header changed as JSON, its length told rightly or not, the data cut or not; or the bytes of the whole file."""
    if rng.random() < 0.2:
        return mutate_bytes(rng, data)
    size = int.from_bytes(data[:8], "little")
    header = as_json(rng, data[8 : 8 + size], [seed[8 : 8 + int.from_bytes(seed[:8], "little")] for seed in seeds])
    told = len(header) if rng.random() < 0.95 else rng.choice((0, 1, len(header) - 1, 2**32, 10**8, 10**11, 2**63, 2**64 - 1))
    body = data[8 + size :] if rng.random() < 0.8 else rng.choice((b"", data[8 + size :] * 2, data[8 + size : -1]))
    return max(told, 0).to_bytes(8, "little") + header + body


def _tree(
    rng: Random, data: bytes, seeds: Sequence[bytes], load: Callable[[str], Any], dump: Callable[[Random, Any], str]
) -> bytes:
    if rng.random() < 0.2:
        return text(rng, data, seeds)
    try:
        others = [load(rng.choice(seeds).decode())] if seeds else []
        return dump(rng, mutate_tree(rng, load(data.decode()), others)).encode("utf-8", "surrogatepass")
    except ODD:
        return text(rng, data, seeds)


def _json(rng: Random, tree: Any) -> str:
    found = json.dumps(tree, ensure_ascii=rng.random() < 0.5)
    if rng.random() < 0.1 and isinstance(tree, dict) and len(tree) > 1:  # one key under another's name
        old, new = rng.sample(list(map(str, tree)), 2)
        found = found.replace(json.dumps(old), json.dumps(new), 1)
    if rng.random() < 0.02:
        found = found.replace("{", "{" + json.dumps(rng.choice(TEXTS)) + ": 1, ", 1)
    return found


def _yaml(rng: Random, tree: Any) -> str:
    documents = tree if isinstance(tree, list) and rng.random() < 0.95 else [tree]
    return str(yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=rng.random() < 0.5))
