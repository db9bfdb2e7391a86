"""From a document of mergekit's and headers to a recipe that gives the same child."""

from collections.abc import Mapping
from dataclasses import dataclass

from evomm.errors import UsageError
from evomm.merge.mergekit.blocks import Arguments, pack
from evomm.merge.mergekit.document import Document
from evomm.merge.mergekit.layout import Layers, Part, Place, is_identity, parts, places, takers
from evomm.merge.mergekit.notes import Headers, dtype_notes, notes, promoted
from evomm.merge.mergekit.references import Reference
from evomm.merge.mergekit.rules import RULES, converted
from evomm.merge.mergekit.settings import Scalar, Settings, evaluate
from evomm.merge.method import Parameter
from evomm.merge.recipe import Recipe, Slice, Value
from evomm.merge.table import parameters
from evomm.merge.vocabulary import UNION, Vocabulary
from evomm.plain import parse


@dataclass(frozen=True)
class Resolved:
    """A document as a recipe, and what its user should know: what has no effect, and where results can differ."""

    recipe: Recipe
    notes: tuple[str, ...]


def resolve(document: Document, headers: Headers, layers: Layers) -> Resolved:
    """The recipe whose child is the document's.

    Args:
        headers: label (of `Document.labels`) -> the model's tensors.
        layers: label -> tensor name -> number of its layer, None outside of the layers.

    Raises UsageError when a parameter that the method needs is not given for some tensor, or a slice asks for layers that
    are not there; MisfitError when whole models have different numbers of layers.
    """
    labels = document.labels()
    names = tuple(labels.values())
    base = labels[document.base_model] if document.base_model else None
    carrier = base or names[0]
    found = parts(document, labels, layers)
    tensors = tuple(places(found, headers[carrier], carrier, layers))
    if all(part.base is not None for part in found):
        base = base or found[0].base  # every slice names its own
    whole = is_identity(found, names, layers) and all(
        _in_order(part.labels, part, base) == _in_order(names, part, base) for part in found
    )
    sliced = not whole and any(part.length for part in found)
    reader = _Reader(document)
    arguments = []
    for place in tensors:
        parents = _sliced_parents(place, found) if sliced else _whole_parents(place, names, base)
        block_base = place.part.base if place.part.base != base else None
        arguments.append(Arguments(place.name, place.layer, reader.values(place), parents, block_base))
    common, blocks = pack(arguments)
    natural = None if document.out_dtype or document.dtype else promoted(tensors, headers)
    content = {
        "method": document.merge_method,
        "parents": document.sources(),
        "base": base,
        "parameters": common,
        "blocks": blocks,
        "dtype": document.out_dtype or document.dtype or natural,
        "tokenizer": carrier,
        "slices": tuple(_slice(part) for part in found) if sliced else (),
        "vocabulary": _vocabulary(document, labels, carrier),
    }
    told = (*notes(document, found, tensors), *dtype_notes(document, natural, tensors, headers))
    return Resolved(parse(Recipe, content, document.name or "document"), tuple(dict.fromkeys(told)))


class _Reader:
    """A method's arguments for one tensor after the other, from what the document says of them."""

    def __init__(self, document: Document) -> None:
        self._method = document.merge_method
        self._required = RULES[document.merge_method].required
        said = {name for _, settings, _ in document.settings() for name in settings} | {self._required}
        self._specs = [spec for name, spec in parameters(document.merge_method).items() if name in said]

    def values(self, place: Place) -> dict[str, Value]:
        """Every parameter that the document speaks of anywhere."""
        part = place.part
        found: dict[str, Value] = {}
        for spec in self._specs:
            if spec.kind != "per parent":
                found[spec.name] = self._value(spec, part.shared, place.name, place.t, "")
            else:
                found[spec.name] = {
                    label: self._value(spec, (part.own[label], *part.shared), place.inputs[label], place.t, label)
                    for label in takers(self._method, place)
                }
        return found

    def _value(self, spec: Parameter, levels: tuple[Settings, ...], tensor: str, t: float, label: str) -> bool | float:
        def convert(scalar: Scalar) -> bool | float:
            return converted(self._method, spec, scalar)

        for settings in levels:
            if spec.name in settings:
                try:
                    value = evaluate(settings[spec.name], tensor, t, convert)
                except ValueError as error:
                    raise UsageError(f"{tensor}: {error}") from error
                if value is not None:
                    return value
        if spec.name == self._required:
            whose = f"'{label}': " if label else ""
            raise UsageError(
                f"{whose}{self._method} needs '{spec.name}', but nothing gives it for {tensor}; "
                f"write it in parameters{' of the model, or of the document' if label else ''}, with a last value without filter"
            )
        return spec.default


def _in_order(labels: tuple[str, ...], part: Part, base: str | None) -> tuple[str, ...]:
    """As the method gets them, leaving out the base, which has a place of its own."""
    return tuple(label for label in labels if label != (part.base or base))


def _sliced_parents(place: Place, found: tuple[Part, ...]) -> tuple[str, ...] | None:
    """What a block must say in a recipe with slices: who is mixed outside of the layers, where the ends of the child differ."""
    if place.layer is not None or found[0].labels == found[-1].labels:
        return None
    return tuple(place.inputs)


def _whole_parents(place: Place, names: tuple[str, ...], base: str | None) -> tuple[str, ...] | None:
    """What a block must say in a recipe without slices: who is mixed, when not all are, or when the base is another one."""
    mixed = tuple(place.inputs)
    usual = place.part.base in (None, base) and _in_order(mixed, place.part, base) == _in_order(names, place.part, base)
    return None if usual else mixed


def _slice(part: Part) -> Slice:
    return Slice(layers={label: (start, start + part.length) for label, start in part.starts.items()})


def _vocabulary(document: Document, labels: Mapping[Reference, str], carrier: str) -> Vocabulary | None:
    wanted = document.tokenizer.source if document.tokenizer else document.tokenizer_source
    if wanted is None:
        return None
    source = labels[wanted] if isinstance(wanted, Reference) else UNION if wanted == "union" else carrier
    if document.tokenizer is None:
        return Vocabulary(source=source)
    tokens = {
        token: rule.source.recipe(labels[rule.source.model] if rule.source.model else None, rule.force)
        for token, rule in (document.tokenizer.tokens or {}).items()
    }
    return Vocabulary(source=source, tokens=tokens, pad_to_multiple_of=document.tokenizer.pad_to_multiple_of)
