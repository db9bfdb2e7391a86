"""What a merge method is: a pure function from parents' values and coefficients to one tensor, or to the formula of one.

A method sees one piece of a tensor at a time, as float32, in buffers that it may overwrite. What depends on the tensor as
a whole (a magnitude cutoff, an angle, a random mask) it asks of `Whole`, so that the result does not depend on how the
tensor was cut.

Its signature defines its parameters, and recipe, genome, YAML and command line read them from there: ``PerParent`` is
one number per parent, ``float`` a number, ``int`` a count, ``bool`` a switch; `Range` says what is allowed. A parameter
whose name is a keyword of Python ends in an underscore there (``lambda_``), and nowhere else.
"""

import inspect
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Annotated, Any, Literal, Protocol, TypeVar, get_args, get_origin, get_type_hints

from torch import Tensor

from evomm.merge.formula import Formula

T = TypeVar("T")


@dataclass(frozen=True)
class Range:
    """Allowed values of a parameter, both ends included."""

    low: float = -math.inf
    high: float = math.inf


@dataclass(frozen=True)
class Default:
    """What a per-parent parameter is when nobody sets it; a signature cannot know how many parents there are."""

    value: float


Weights = Annotated[Sequence[float], Range(), Default(1.0)]
Densities = Annotated[Sequence[float], Range(0.0, 1.0), Default(1.0)]
Fraction = Annotated[float, Range(0.0, 1.0)]
Positive = Annotated[float, Range(0.0)]


class Whole(Protocol):
    """What a method may ask about the whole tensor while it holds one piece of it."""

    @property
    def numel(self) -> int:
        """Elements of the whole tensor."""
        ...

    def total(self, key: Hashable, of: "Score") -> Tensor:
        """Σ over the whole tensor, in float64, of what ``of(values, whole)`` gives for each piece.

        ``key`` names the quantity, with every coefficient that it depends on: it is computed once for each key.
        """
        ...

    def once(self, key: Hashable, make: Callable[[], "T"]) -> "T":
        """What ``make`` gives, made once for the whole tensor and each key, which names every coefficient it depends on."""
        ...

    def gram(self) -> Tensor:
        """Float64 (P, P): inner products of the whole tensors."""
        ...

    def cutoff(self, parent: int, count: int, some: bool = True) -> float:
        """The ``count`` elements of largest magnitude are those with a magnitude above this.

        Elements equal to the last of them go in or out together, whichever brings their number nearer to ``count``; when
        there shall be ``some``, the largest are in.
        """
        ...

    def nth_of(self, key: Hashable, score: "Score", count: int) -> float:
        """The ``count``-th largest of the elements' ``score(values, whole)``; infinite for count 0. ``key`` as in `total`."""
        ...

    def lottery(self, parent: int, density: float) -> Tensor:
        """The parent's values, all but a share set to 0 by lot, in place; what is kept at density 0.4 is kept at 0.5."""
        ...

    def ranked_lottery(self, parent: int, low: float, high: float) -> Tensor:
        """As `lottery`, at a density that grows from ``low`` for a row's smallest magnitude to ``high`` for its largest."""
        ...

    def ranked_share(self, parent: int) -> float:
        """Σ rank |x| / Σ |x|, ranks within a row from 0 (its smallest) to 1 (its largest); estimated from some of the rows."""
        ...


Score = Callable[[Sequence[Tensor], Whole], Tensor]


@dataclass(frozen=True)
class Method:
    """One entry of METHODS.

    Attributes:
        combine: the pure function ``(values, whole, *, parameters)``.
        on: what it gets as values: "weights" (the parents, the base first when there is one), "deltas" (parent - base,
            the base not among them; the engine adds the base to what it returns), or "either" (deltas when there is a base).
        parents: least and largest number of values.
        needs_base: whether a base must be named ("deltas" always need one).
        rows: whether it works on rows: it then gets pieces (r, C) of whole rows, C the tensor's last dimension.
        formula: whether, with these arguments, ``combine`` gives a `Formula` instead of a tensor; it then looks at no value, but
            for how many there are.
    """

    combine: Callable[..., Tensor | Formula]
    on: Literal["weights", "deltas", "either"]
    parents: tuple[int, float] = (1, math.inf)
    needs_base: bool = False
    rows: bool = False
    formula: Callable[[Mapping[str, Any]], bool] = lambda arguments: False

    def __post_init__(self) -> None:
        if self.on == "deltas" and not self.needs_base:
            object.__setattr__(self, "needs_base", True)

    def takes_deltas(self, base: str | None) -> bool:
        """Whether the values are task vectors, given the base of a recipe."""
        return self.on == "deltas" or (self.on == "either" and base is not None)


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, as its signature declares it."""

    name: str
    kind: Literal["per parent", "number", "count", "switch"]
    range: Range
    default: float | int | bool


def read_parameters(combine: Callable[..., Tensor | Formula]) -> Mapping[str, Parameter]:
    """The parameters of a method by name, in the order of its signature."""
    hints = get_type_hints(combine, include_extras=True)
    found = [
        _parameter(name.rstrip("_"), hints[name], spec.default)
        for name, spec in inspect.signature(combine).parameters.items()
        if spec.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    return {parameter.name: parameter for parameter in found}


def keyword(name: str) -> str:
    """The name that a parameter has in a signature."""
    return f"{name}_" if iskeyword(name) else name


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    kind = get_args(hint)[0] if marks else hint
    span = next((mark for mark in marks if isinstance(mark, Range)), Range())
    shared = next((mark.value for mark in marks if isinstance(mark, Default)), None)
    if shared is not None:
        return Parameter(name, "per parent", span, shared)
    if kind is bool:
        return Parameter(name, "switch", span, default)
    return Parameter(name, "count" if kind is int else "number", span, default)
