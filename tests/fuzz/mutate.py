"""Mutations, each a function of a random generator: bytes, texts, and trees of JSON or YAML."""

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 3, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**12, 10**30),
    *(16**5000, 0.0, -0.0, 0.5, 1.5, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")),
)
TEXTS = (
    *("", " ", "\0", "a\0b", ".", "..", "../x", "/", "/etc/passwd", "~", "~nobody/x", "zoo:..", "zoo:../../etc", "a\\b", "\n"),
    *(
        "x" * 300,
        "x" * 5000,
        "1" * 5000,
        "١٢",
        "\ud800",
        "*",
        "[",
        "[!",
        "(a+)+$",
        "(a|aa)*b",
        ".*" * 20,
        "{question}",
        "{",
        "%s",
    ),
    *("true", "null", "1e400", "owner/name", "a/b@c", "a/../b", "a--b/c", "a/b/c.safetensors", "hub:a/b", "hub:..", "stage:x"),
    *("model.bin", "x.ckpt", "base", "union", "intersection", "auto", "chatml", "+", "@", "a+b", "a@b", "<|x|>", "𠮷", "name"),
)
SYNTAX = (
    *("---\n", "...\n", "&a ", "*a", "&a [*a]", "<<: ", "? ", "!!python/object:os.system ", "!!binary ", "!!set ", "!!omap "),
    *("!!timestamp ", "!!int ", "!!float ", "!!null ", "!x ", "%YAML 9.9\n", "%TAG ! x\n", "0x" + "f" * 5000, "0b1", "1:59:59"),
    *("2024-13-45", "2024-01-01", ".nan", "-.inf", "\t", "|\n", ">\n", "# ", '"\\ud800"', '"\\0"', "\ufeff", "\x85", "\u2028"),
    *("{", "}", "[", "]", ",", ":", '"', "'", "[" * 500, "{a: " * 300, "\\u0000", "\r\n", "\r", "null", "NaN", "1E999", "-"),
)
Path = tuple[Any, ...]


def mutate_bytes(rng: Random, data: bytes) -> bytes:
    """Flips, extremes, cuts, repeats, at a few places."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 2, 4, 8, 64, 1024)))
        match rng.randrange(7):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1 if at < len(out):
                out[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 2:
                out[at:end] = rng.randbytes(end - at)
            case 3:
                del out[at:end]
            case 4:
                out[at:at] = out[at:end]
            case 5:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), len(out), len(out) + 1, 10**8, 10**11))
                out[at : at + size] = (number % 2 ** (8 * size)).to_bytes(size, rng.choice(("little", "big")))
            case _:
                del out[at:]
    return bytes(out)


def mutate_text(rng: Random, text: str) -> str:
    """Pieces of syntax, repeated and swapped lines, cuts."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.randrange(len(text) + 1)
        end = min(len(text), at + rng.choice((0, 1, 2, 5, 20)))
        lines = text.split("\n")
        first, second = (rng.randrange(len(lines)) for _ in range(2))
        match rng.randrange(6):
            case 0 | 1:
                text = text[:at] + rng.choice(SYNTAX) + text[end:]
            case 2:
                lines[first], lines[second] = lines[second], lines[first]
                text = "\n".join(lines)
            case 3:
                text = "\n".join(lines[:first] + [lines[second]] * rng.choice((1, 2, 50)) + lines[first:])
            case 4:
                text = text[:at] + text[end:]
            case _:
                text = text[:at] + text[at:end] * rng.choice((2, 3, 100)) + text[end:]
    return text


def mutate_tree(rng: Random, tree: Any, others: Sequence[Any] = ()) -> Any:
    """Nodes replaced by extremes, taken from elsewhere, wrapped, left out, repeated; keys renamed."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        path = rng.choice(list(_paths(tree)))
        tree = _changed(rng, tree, path, others)
    return tree


def _changed(rng: Random, tree: Any, path: Path, others: Sequence[Any]) -> Any:
    here = _at(tree, path)
    match rng.randrange(9):
        case 0:
            return _put(tree, path, rng.choice(NUMBERS))
        case 1:
            return _put(tree, path, rng.choice(TEXTS))
        case 2:
            return _put(
                tree, path, rng.choice((None, True, False, [], {}, [None], {"": None}, [here], {"a": here}, _deep(rng, here)))
            )
        case 3:
            source = rng.choice([tree, *others])
            return _put(tree, path, _at(source, rng.choice(list(_paths(source)))))
        case 4:
            return _put(tree, path, None, drop=True)
        case 5 if isinstance(here, list) and here:
            return _put(tree, path, here + [rng.choice(here)] * rng.choice((1, 2, 1000)))
        case 6 if isinstance(here, dict) and here:
            old, new = rng.choice(list(here)), rng.choice([*here, *TEXTS, *_keys(tree), 1, None, 1.5])
            return _put(tree, path, {new if key == old else key: value for key, value in here.items()})
        case 7 if isinstance(here, dict):
            source = rng.choice([tree, *others])
            return _put(tree, path, {**here, rng.choice([*TEXTS, *_keys(source)]): rng.choice((*NUMBERS, *TEXTS, here, [], {}))})
        case _ if isinstance(here, str):
            return _put(tree, path, mutate_text(rng, here))
        case _ if isinstance(here, int | float):
            return _put(tree, path, rng.choice((-here, here + 1, here - 1, here * 2, str(here), [here], bool(here))))
        case _:
            return _put(tree, path, rng.choice(NUMBERS))


def _deep(rng: Random, node: Any) -> Any:
    for _ in range(rng.choice((2, 30, 900))):
        node = [node]
    return node


def _paths(tree: Any, path: Path = ()) -> Iterator[Path]:
    """Where nodes are, not deeper than mutations are worth; large lists only at their start."""
    yield path
    if len(path) > 12:
        return
    items = tree.items() if isinstance(tree, dict) else enumerate(tree[:50]) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _paths(value, (*path, key))


def _keys(tree: Any) -> list[Any]:
    return [path[-1] for path in _paths(tree) if path and isinstance(path[-1], str)]


def _at(tree: Any, path: Path) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _put(tree: Any, path: Path, value: Any, drop: bool = False) -> Any:
    """A copy of the tree along the path; what is beside it is shared."""
    if not path:
        return value
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    if drop and len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = _put(tree[path[0]], path[1:], value, drop)
    return copy
