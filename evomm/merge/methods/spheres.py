"""Means on spheres. All of them stay in the span of the parents, so inner products of the whole tensors give coefficients.

With G the (P, P) inner products, norms are √G_pp, cosines G_pq / √(G_pp G_qq), and |Σ c_p x_p|² = cᵀ G c.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from evomm.errors import UsageError
from evomm.merge.method import Fraction, Positive, Weights, Whole
from evomm.merge.methods.sums import combination

_EPS = 1e-8


def slerp(parents: Sequence[Tensor], whole: Whole, *, t: Fraction = 0.5) -> Tensor:
    """Along the great circle from the first parent (t = 0) to the second (t = 1). Shoemake, SIGGRAPH 1985."""
    cosine = float(cosines(gram(whole))[0, 1])
    if abs(cosine) > 0.9995:  # nearly colinear: the circle is a line
        return combination(parents, [1 - t, t])
    angle = math.acos(cosine)
    return combination(parents, [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)])


def nuslerp(
    parents: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    nuslerp_flatten: bool = True,
    nuslerp_row_wise: bool = False,
) -> Tensor:
    """Slerp at t = w_2 / (w_1 + w_2), of task vectors when there is a base; row by row or column by column when not flattened.

    mergekit's names are kept: its ``nuslerp_row_wise`` compares along the first dimension, the default along the last.
    """
    total = weight[0] + weight[1]
    t = 0.5 if abs(total) < 1e-6 else weight[1] / total
    a, b = parents
    if nuslerp_flatten:
        products = gram(whole).reshape(-1)[[0, 1, 3]]
    elif nuslerp_row_wise and a.shape[-1] < whole.numel:
        products = whole.total("columns", lambda values, _: _products(values, 0))  # (3, 1, C)
    else:
        products = _products(parents, -1)  # (3, r, 1)
    cosine = (products[1] / (products[0].sqrt().clamp(min=1e-7) * products[2].sqrt().clamp(min=1e-7))).clamp(-1, 1)
    line = 1 - cosine.square() <= _EPS**2
    angle = torch.where(line, 1.0, torch.acos(cosine))
    first = torch.where(line, 1 - t, torch.sin((1 - t) * angle) / torch.sin(angle)).to(a.dtype)
    second = torch.where(line, t, torch.sin(t * angle) / torch.sin(angle)).to(a.dtype)
    return (a * first).add_(b * second)


def multislerp(
    parents: Sequence[Tensor], whole: Whole, *, weight: Weights, normalize_weights: bool = True, eps: Positive = 1e-8
) -> Tensor:
    """Barycentric interpolation on a sphere, in the plane that touches it at the weighted mean; of task vectors with a base.

    goddard.blog/posts/multislerp-wow-what-a-cool-idea. Raises UsageError when the weighted directions cancel out.
    """
    if len(parents) == 1:
        return parents[0]
    products = gram(whole)
    norms = products.diagonal().sqrt()  # (P,)
    weights = torch.tensor(weight, dtype=torch.float64)
    weights = weights / weights.sum() if normalize_weights else weights
    units = products / torch.outer(norms + eps, norms + eps)  # (P, P) products of the directions u_p
    length = (weights @ units @ weights).clamp(min=0).sqrt()
    if length < eps:
        if len(parents) == 2:
            return combination(parents, weights.tolist())
        raise UsageError("multislerp: the weighted directions of the parents cancel out; choose other weights")
    mean = weights / length  # the mean direction is Σ mean_p u_p
    dots = units @ mean  # ⟨u_p, mean⟩
    tangent = weights - (weights @ dots) * mean  # Σ w_p (u_p - ⟨u_p, mean⟩ mean), in terms of u_p
    step = (tangent @ units @ tangent).clamp(min=0).sqrt() + eps
    direction = mean * step.cos() + tangent * (step.sin() / step)
    return combination(parents, (direction * (norms @ weights) / (norms + eps)).tolist())


def karcher(parents: Sequence[Tensor], whole: Whole, *, max_iter: int = 10, tol: Positive = 1e-5) -> Tensor:
    """The mean on the sphere that is nearest to all parents, times their mean norm. arXiv 2603.04972."""
    if len(parents) == 1:
        return parents[0]
    products = gram(whole)
    norms = products.diagonal().sqrt()
    valid = (norms > tol).double()
    if not valid.any():
        return torch.zeros_like(parents[0])
    units = products / torch.outer(norms, norms).clamp(min=1e-300)
    alphas = valid / valid.sum()
    mean = _unit(alphas, units, torch.eye(len(parents), dtype=torch.float64)[int(valid.argmax())], tol)
    for _ in range(max_iter):
        dots = (units @ mean).clamp(-1, 1)
        angles = torch.acos(dots)
        pulls = torch.where(angles < tol, 0.0, alphas * angles / torch.sin(angles).clamp(min=1e-300))
        tangent = pulls - (pulls @ dots) * mean
        step = (tangent @ units @ tangent).clamp(min=0).sqrt()
        if step < tol:
            break
        moved = step.cos() * mean + step.sin() * tangent / step
        mean = _unit(moved, units, moved, tol)
    scale = norms.mean()
    return combination(parents, torch.where(valid > 0, scale * mean / norms.clamp(min=1e-300), 0.0).tolist())


def gram(whole: Whole) -> Tensor:
    """Float64 (P, P): inner products of the whole tensors."""
    return whole.total("gram", lambda values, _: inner_products(values))


def inner_products(values: Sequence[Tensor]) -> Tensor:
    """(P, P) inner products of the pieces."""
    flats = [value.reshape(-1) for value in values]
    products = torch.zeros(len(flats), len(flats), dtype=torch.float64)
    for i, a in enumerate(flats):
        for j, b in enumerate(flats[: i + 1]):
            products[i, j] = products[j, i] = torch.dot(a, b).double()
    return products


def cosines(products: Tensor) -> Tensor:
    """(P, P) cosines from inner products; 1 where a tensor is zero."""
    norms = torch.outer(products.diagonal(), products.diagonal()).sqrt()
    return torch.where(norms > 0, products / norms.clamp(min=1e-300), 1.0).clamp(-1, 1)


def _products(values: Sequence[Tensor], dim: int) -> Tensor:
    """Float64 ⟨a, a⟩, ⟨a, b⟩, ⟨b, b⟩ along one dimension, which stays with size 1."""
    a, b = (value.double() for value in values)
    return torch.stack([(x * y).sum(dim, keepdim=True) for x, y in ((a, a), (a, b), (b, b))])


def _unit(coefficients: Tensor, units: Tensor, otherwise: Tensor, tol: float) -> Tensor:
    """Coefficients scaled so that Σ c_p u_p has norm 1; ``otherwise`` when it is about 0."""
    length = (coefficients @ units @ coefficients).clamp(min=0).sqrt()
    return coefficients / length if length > tol else otherwise
