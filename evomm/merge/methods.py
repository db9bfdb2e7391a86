"""The merge methods: pure functions from parents' tensors and coefficients to one tensor.

A method sees one chunk of a tensor at a time, as float32. What depends on the tensor as a whole (a magnitude threshold,
an angle, a random mask) it asks of `Whole`, so that the result does not depend on how the tensor was cut.

Its signature defines its parameters, and recipe, genome, YAML and command line read them from there:
``PerParent`` is one number per parent, ``float`` one number, ``bool`` a switch; `Range` says what is allowed.

    >>> linear([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], None, weight=[1.0, 1.0])
    tensor([2., 4.])

Products and sums are separate calls: torch fuses ``add(alpha=...)`` in vector lanes only, and results would then
depend on where a chunk ends.
"""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Protocol, get_args, get_origin, get_type_hints

from torch import Tensor
from torch.nn.functional import hardshrink


@dataclass(frozen=True)
class Range:
    """Allowed values of a parameter, both ends included."""

    low: float = -math.inf
    high: float = math.inf


PerParent = Annotated[Sequence[float], "per parent"]
Weights = Annotated[PerParent, Range()]
Densities = Annotated[PerParent, Range(0.0, 1.0)]
Fraction = Annotated[float, Range(0.0, 1.0)]


class Whole(Protocol):
    """What a method may ask about the whole tensor while it holds one chunk of it."""

    def cutoff(self, parent: int, density: float) -> float:
        """The int(density * n) elements of largest magnitude are those with a magnitude above this."""
        ...

    def lottery(self, parent: int, density: float) -> Tensor:
        """A random mask of 0 and 1, chunk-shaped; the mask at density 0.4 is contained in the mask at 0.5."""
        ...

    def gram(self) -> Tensor:
        """Float64 (P, P): inner products of the parents' whole tensors."""
        ...


def linear(parents: Sequence[Tensor], whole: Whole, *, weight: Weights, normalize: bool = True) -> Tensor:
    """Weighted mean (or, not normalized, weighted sum) of the parents. Model soups, arXiv 2203.05482."""
    return _mix(parents, weight, normalize)


def slerp(parents: Sequence[Tensor], whole: Whole, *, t: Fraction = 0.5) -> Tensor:
    """Along the great circle from the first parent (t = 0) to the second (t = 1). Shoemake, SIGGRAPH 1985."""
    a, b = parents
    gram = whole.gram()
    norms = math.sqrt(float(gram[0, 0]) * float(gram[1, 1]))
    cosine = float(gram[0, 1]) / norms if norms > 0 else 1.0
    if abs(cosine) > 0.9995:  # nearly colinear: the circle is a line
        return _weighted_sum([a, b], [1 - t, t])
    angle = math.acos(cosine)
    return _weighted_sum([a, b], [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)])


def task_arithmetic(deltas: Sequence[Tensor], whole: Whole, *, weight: Weights, normalize: bool = False) -> Tensor:
    """Weighted sum of task vectors. arXiv 2212.04089."""
    return _mix(deltas, weight, normalize)


def ties(deltas: Sequence[Tensor], whole: Whole, *, weight: Weights, density: Densities, normalize: bool = True) -> Tensor:
    """Trim each task vector to its largest elements, elect a sign per element, merge those that agree.

    TIES, arXiv 2306.01708.
    """
    kept = [hardshrink(d, whole.cutoff(p, k)) for p, (d, k) in enumerate(zip(deltas, density, strict=True))]
    return _elect(kept, weight, normalize)


def dare_linear(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    normalize: bool = False,
    rescale: bool = True,
) -> Tensor:
    """Drop elements of the task vectors at random, scale up the rest, sum. DARE, arXiv 2311.03099."""
    return _mix(_drop(deltas, whole, density, rescale), weight, normalize)


def dare_ties(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    normalize: bool = True,
    rescale: bool = True,
) -> Tensor:
    """Drop at random and scale up as DARE (arXiv 2311.03099), then elect signs as TIES (arXiv 2306.01708)."""
    return _elect(_drop(deltas, whole, density, rescale), weight, normalize)


@dataclass(frozen=True)
class Method:
    """One entry of METHODS.

    Attributes:
        combine: the pure function.
        on: "weights" (gets the parents) or "deltas" (gets parent - base; the engine adds the base to what it returns).
        parents: least and largest number of parents, the base not counted.
    """

    combine: Callable[..., Tensor]
    on: Literal["weights", "deltas"]
    parents: tuple[int, float] = (1, math.inf)


METHODS: Mapping[str, Method] = {
    "linear": Method(linear, on="weights"),
    "slerp": Method(slerp, on="weights", parents=(2, 2)),
    "task_arithmetic": Method(task_arithmetic, on="deltas"),
    "ties": Method(ties, on="deltas"),
    "dare_linear": Method(dare_linear, on="deltas"),
    "dare_ties": Method(dare_ties, on="deltas"),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a method, as its signature declares it."""

    name: str
    kind: Literal["per parent", "scalar", "switch"]
    range: Range
    default: float | bool


# What a per-parent parameter is when nobody sets it; a signature cannot know how many parents there are.
_PER_PARENT_DEFAULTS = {"weight": 1.0, "density": 1.0}


@cache
def parameters(method: str) -> Mapping[str, Parameter]:
    """The parameters of a method by name, in the order of its signature."""
    combine = METHODS[method].combine
    hints = get_type_hints(combine, include_extras=True)
    signature = inspect.signature(combine)
    return {
        name: _parameter(name, hints[name], spec.default)
        for name, spec in signature.parameters.items()
        if spec.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _parameter(name: str, hint: Any, default: Any) -> Parameter:
    marks = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    span = next((mark for mark in marks if isinstance(mark, Range)), Range())
    if "per parent" in marks:
        return Parameter(name, "per parent", span, _PER_PARENT_DEFAULTS[name])
    if hint is bool:
        return Parameter(name, "switch", span, default)
    return Parameter(name, "scalar", span, default)


def _weighted_sum(tensors: Iterable[Tensor], weights: Iterable[float]) -> Tensor:
    """Σ_p w_p x_p, added in the order of the parents."""
    total: Tensor | None = None
    for tensor, weight in zip(tensors, weights, strict=True):
        term = tensor * weight
        total = term if total is None else total.add_(term)
    if total is None:
        raise ValueError("a weighted sum needs at least one tensor")
    return total


def _mix(deltas: Sequence[Tensor], weight: Sequence[float], normalize: bool) -> Tensor:
    """Σ_p w_p x_p; normalized: over Σ_p w_p, unless that is 0."""
    total = sum(weight) if normalize else 1.0
    scale = 1.0 / total if abs(total) > 1e-8 else 1.0
    return _weighted_sum(deltas, [w * scale for w in weight])


def _drop(deltas: Sequence[Tensor], whole: Whole, density: Sequence[float], rescale: bool) -> list[Tensor]:
    """m_p ⊙ δ_p, m_p ~ Bernoulli(density_p); divided by density_p so that the expectation stays δ_p."""
    scales = [1.0 / k if rescale and k > 0 else 1.0 for k in density]
    return [whole.lottery(p, k).mul_(d).mul_(scale) for p, (d, k, scale) in enumerate(zip(deltas, density, scales, strict=True))]


def _elect(deltas: Sequence[Tensor], weight: Sequence[float], normalize: bool) -> Tensor:
    """Keep the weighted elements whose sign is that of their sum (0 counts as +); normalized: over their weights' sum."""
    weighted = [d * w for d, w in zip(deltas, weight, strict=True)]
    sign = (_sum(weighted) >= 0).to(weighted[0].dtype).mul_(2).sub_(1)  # s = ±1, elected
    agreeing = [(x * sign).clamp_min_(0) for x in weighted]  # |x_p| where x_p has the sign s, 0 elsewhere
    total = _sum(agreeing).mul_(sign)
    if not normalize:
        return total
    share = _weighted_sum([a.sign() for a in agreeing], weight)  # Σ_p w_p [p agrees]
    return total.div_(share.masked_fill_(share.abs() < 1e-8, 1.0))


def _sum(tensors: Sequence[Tensor]) -> Tensor:
    """Σ_p x_p, added in the order of the parents."""
    total = tensors[0].clone()
    for tensor in tensors[1:]:
        total.add_(tensor)
    return total
