"""Means on spheres. All of them stay in the span of the parents, so inner products of the whole tensors give coefficients.

With G the (P, P) inner products, norms are √G_pp, cosines G_pq / √(G_pp G_qq), and |Σ c_p x_p|² = cᵀ G c.
"""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomm.errors import UsageError
from evomm.merge.formula import Formula
from evomm.merge.method import Fraction, Positive, Range, Weights, Whole

_EPS = 1e-8


def slerp(parents: Sequence[Tensor], whole: Whole, *, t: Fraction = 0.5) -> Formula:
    """Along the great circle from the first parent (t = 0) to the second (t = 1). Shoemake, SIGGRAPH 1985."""
    return Formula(whole.once(("slerp", t), lambda: _arc(whole.gram(), t)))


def nuslerp(
    parents: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> Tensor | Formula:
    """Slerp at t = w_2 / (w_1 + w_2), of task vectors when there is a base; row by row or column by column when not flattened.

    mergekit's names are kept: its ``nuslerp_row_wise`` compares along the first dimension, the default along the last.
    """
    total = weight[0] + weight[1]
    t = 0.5 if abs(total) < 1e-6 else weight[1] / total
    if nuslerp_flatten:
        key = ("nuslerp", t)
        return Formula(whole.once(key, lambda: [float(c) for c in _turn(whole.gram().reshape(-1)[[0, 1, 3]], t)]))
    a, b = parents
    if nuslerp_row_wise and a.shape[-1] < whole.numel:
        products = whole.total("columns", lambda values, _: _products(values, 0))  # (3, 1, C)
    else:
        products = _products(parents, -1)  # (3, r, 1)
    along, across = _turn(products, t)
    return (a * along.to(a)).add_(b * across.to(b))


def multislerp(
    parents: Sequence[Tensor], whole: Whole, *, weight: Weights, normalize_weights: bool = True, eps: Positive = 1e-8
) -> Formula:
    """Barycentric interpolation on a sphere, in the plane that touches it at the weighted mean; of task vectors with a base.

    goddard.blog/posts/multislerp-wow-what-a-cool-idea. Raises UsageError when the weighted directions cancel out.
    """
    if len(parents) == 1:
        return Formula([1.0])
    key = ("multislerp", tuple(weight), normalize_weights, eps)
    return Formula(whole.once(key, lambda: _barycenter(whole.gram(), weight, normalize_weights, eps)))


def karcher(parents: Sequence[Tensor], whole: Whole, *, max_iter: Annotated[int, Range(0)] = 10, tol: Positive = 1e-5) -> Formula:
    """The mean on the sphere that is nearest to all parents, times their mean norm. arXiv 2603.04972."""
    if len(parents) == 1:
        return Formula([1.0])
    return Formula(whole.once(("karcher", max_iter, tol), lambda: _karcher_mean(whole.gram(), max_iter, tol)))


def cosines(products: Tensor) -> Tensor:
    """(P, P) cosines from inner products; 1 where a tensor is zero."""
    norms = torch.outer(products.diagonal(), products.diagonal()).sqrt()
    return torch.where(norms > 0, products / norms.clamp(min=1e-300), 1.0).clamp(-1, 1)


def _turn(products: Tensor, t: float) -> tuple[Tensor, Tensor]:
    """Coefficients of a and b from (3, ...) products ⟨a, a⟩, ⟨a, b⟩, ⟨b, b⟩, wherever the circle is no line."""
    cosine = (products[1] / (products[0].sqrt().clamp(min=1e-7) * products[2].sqrt().clamp(min=1e-7))).clamp(-1, 1)
    line = 1 - cosine.square() <= _EPS**2
    angle = torch.where(line, 1.0, torch.acos(cosine))
    first = torch.where(line, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle))
    return first, torch.where(line, t, torch.sin(t * angle) / torch.sin(angle))


def _arc(products: Tensor, t: float) -> list[float]:
    """Coefficients of the point at t on the great circle."""
    cosine = float(cosines(products)[0, 1])
    if abs(cosine) > 0.9995:  # nearly colinear: the circle is a line
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def _barycenter(products: Tensor, weight: Sequence[float], normalize: bool, eps: float) -> list[float]:
    """Coefficients of the parents: down to the plane that touches the sphere at the mean direction, and back up."""
    norms = products.diagonal().sqrt()  # (P,)
    weights = torch.tensor(weight, dtype=torch.float64)
    weights = weights / weights.sum() if normalize and abs(weights.sum()) > _EPS else weights
    lengths = torch.where(norms + eps > 0, norms + eps, 1.0)
    units = products / torch.outer(lengths, lengths)  # (P, P) products of the directions u_p
    length = (weights @ units @ weights).clamp(min=0).sqrt()
    if length <= eps:
        if len(weight) == 2 or not norms.any():  # a line; or nothing to mix, as in task vectors of what no parent trained
            return [float(w) for w in weights]
        raise UsageError("multislerp: the weighted directions of the parents cancel out; choose other weights")
    mean = weights / length  # the mean direction is Σ mean_p u_p
    dots = units @ mean  # ⟨u_p, mean⟩
    tangent = weights - (weights @ dots) * mean  # Σ w_p (u_p - ⟨u_p, mean⟩ mean), in terms of u_p
    step = (tangent @ units @ tangent).clamp(min=0).sqrt() + eps
    direction = mean * step.cos() + tangent * torch.sinc(step / math.pi)  # sin(step) / step, 1 at 0
    return [float(c) for c in direction * (norms @ weights) / lengths]


def _karcher_mean(products: Tensor, max_iter: int, tol: float) -> list[float]:
    """Coefficients of the parents: steps along the mean pull of all directions until it is as good as zero."""
    norms = products.diagonal().sqrt()
    valid = (norms > tol).double()
    if not valid.any():
        return [0.0] * len(norms)
    units = products / torch.outer(norms, norms).clamp(min=1e-300)
    alphas = valid / valid.sum()
    mean = _unit(alphas, units, torch.eye(len(norms), dtype=torch.float64)[int(valid.argmax())], tol)
    for _ in range(max_iter):
        dots = (units @ mean).clamp(-1, 1)
        angles = torch.acos(dots)
        pulls = torch.where(angles < tol, 0.0, alphas * angles / torch.sin(angles).clamp(min=1e-300))
        tangent = pulls - (pulls @ dots) * mean
        step = (tangent @ units @ tangent).clamp(min=0).sqrt()
        if step <= tol:
            break
        moved = step.cos() * mean + step.sin() * tangent / step
        mean = _unit(moved, units, moved, tol)
    return [float(c) for c in torch.where(valid > 0, norms.mean() * mean / norms.clamp(min=1e-300), 0.0)]


def _products(values: Sequence[Tensor], dim: int) -> Tensor:
    """Float64 ⟨a, a⟩, ⟨a, b⟩, ⟨b, b⟩ along one dimension, which stays with size 1."""
    a, b = (value.double() for value in values)
    return torch.stack([(x * y).sum(dim, keepdim=True) for x, y in ((a, a), (a, b), (b, b))])


def _unit(coefficients: Tensor, units: Tensor, otherwise: Tensor, tol: float) -> Tensor:
    """Coefficients scaled so that Σ c_p u_p has norm 1; ``otherwise`` when it is about 0."""
    length = (coefficients @ units @ coefficients).clamp(min=0).sqrt()
    return coefficients / length if length > tol else otherwise
