"""From the coefficients of each tensor to a recipe's: what is common to all, and blocks with short patterns for the rest."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import translate
from glob import escape
from re import compile as compile_pattern

from evomm.merge.recipe import Block, Value

_MAGIC = compile_pattern(r"[*?[]")
_Frozen = bool | float | tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Arguments:
    """What the method gets for one tensor of the child.

    Attributes:
        name: of the tensor.
        layer: its number; None outside of the layers.
        values: every parameter that the recipe speaks of; those that each parent has as label -> number.
        parents: the labels that are mixed, where the block must say so. base: likewise.
    """

    name: str
    layer: int | None
    values: Mapping[str, Value]
    parents: tuple[str, ...] | None = None
    base: str | None = None


def pack(tensors: Sequence[Arguments]) -> tuple[dict[str, Value], tuple[Block, ...]]:
    """The recipe's parameters and its blocks; no block matches a tensor that it is not meant for."""
    common = _common(tensors)
    groups: dict[tuple[tuple[tuple[str, _Frozen], ...], tuple[str, ...] | None, str | None], list[Arguments]] = {}
    for tensor in tensors:
        special = tuple((name, _freeze(v)) for name, v in tensor.values.items() if not _covers(common[name], v))
        groups.setdefault((special, tensor.parents, tensor.base), []).append(tensor)
    plain = groups.pop(((), None, None), [])
    patterns = _Patterns([*plain, *(tensor for group in groups.values() for tensor in group)])
    blocks = []
    for (special, parents, base), members in groups.items():
        globs = patterns.of(members)
        name = globs[0].removesuffix(".*") + (f" and {len(globs) - 1} more" if len(globs) > 1 else "")
        values = {key: _thaw(value) for key, value in special}
        blocks.append(Block(name=name, tensors=globs, parameters=values, parents=parents, base=base))
    return common, tuple(blocks)


def _common(tensors: Sequence[Arguments]) -> dict[str, Value]:
    """The most frequent value of each parameter, for parameters that each parent has the most frequent of each parent."""
    counts: dict[str, Counter[bool | float]] = {}
    each: dict[str, dict[str, Counter[float]]] = {}
    for tensor in tensors:
        for name, value in tensor.values.items():
            if isinstance(value, Mapping):
                for label, number in value.items():
                    each.setdefault(name, {}).setdefault(label, Counter())[number] += 1
            else:
                counts.setdefault(name, Counter())[value] += 1
    found: dict[str, Value] = {name: count.most_common(1)[0][0] for name, count in counts.items()}
    for name, labels in each.items():
        found[name] = {label: count.most_common(1)[0][0] for label, count in labels.items()}
    return found


def _covers(common: Value, value: Value) -> bool:
    if isinstance(common, Mapping) and isinstance(value, Mapping):
        return all(common[label] == number for label, number in value.items())
    return common == value


def _freeze(value: Value) -> _Frozen:
    return tuple(value.items()) if isinstance(value, Mapping) else value


def _thaw(value: _Frozen) -> Value:
    return dict(value) if isinstance(value, tuple) else value


class _Patterns:
    """Short globs for sets of tensors, which match no other tensor."""

    def __init__(self, tensors: Sequence[Arguments]) -> None:
        self._globs = {tensor.name: _candidates(tensor) for tensor in tensors}
        self._sizes = Counter(glob for globs in self._globs.values() for glob in globs)

    def of(self, members: Sequence[Arguments]) -> tuple[str, ...]:
        """Few globs that match these and no others: the widest first, until every one is covered."""
        inside: dict[str, list[str]] = {}
        for tensor in members:
            for glob in self._globs[tensor.name]:
                inside.setdefault(glob, []).append(tensor.name)
        fitting = [glob for glob, names in inside.items() if len(names) == self._sizes[glob]]
        left = {tensor.name for tensor in members}
        mine, chosen = frozenset(left), []
        for glob in sorted(fitting, key=lambda glob: (-len(inside[glob]), glob.count("*"), len(glob))):
            if left.isdisjoint(inside[glob]) or ("*" in glob[:-1] and not self._exact(glob, mine)):
                continue
            chosen.append(glob)
            left.difference_update(inside[glob])
        return tuple(chosen)

    def _exact(self, glob: str, mine: frozenset[str]) -> bool:
        """Whether an inner star, which also crosses dots, matches only what is meant."""
        match = compile_pattern(translate(glob)).fullmatch
        return all(name in mine for name in self._globs if match(name))


def _candidates(tensor: Arguments) -> tuple[str, ...]:
    """Globs for a tensor: its name, or its beginning; with a star for its layer, for numbers inside of it, or for both."""
    words = tensor.name.split(".")
    layer = {words.index(str(tensor.layer))} if tensor.layer is not None and str(tensor.layer) in words else set()
    numbers = {index for index, word in enumerate(words) if word.isdigit()} - layer
    plain = [escape(word) for word in words] if _MAGIC.search(tensor.name) else words
    found: dict[str, None] = {}
    for starred in {frozenset(), frozenset(layer), frozenset(numbers), frozenset(numbers | layer)}:
        shown = ["*" if index in starred else word for index, word in enumerate(plain)] if starred else plain
        found |= dict.fromkeys([".".join(shown), *(".".join([*shown[:end], "*"]) for end in range(len(shown)))])
    return tuple(found)
