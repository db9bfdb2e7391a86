"""Sums with fixed coefficients.

>>> linear([torch.tensor([1.0, 2.0]), torch.tensor([3.0, 6.0])], None, weight=[1.0, 1.0]).factors
[0.5, 0.5]
"""

from collections.abc import Sequence

from torch import Tensor

from evomm.merge.elementwise import Bands
from evomm.merge.formula import Formula
from evomm.merge.method import Weights, Whole


def linear(parents: Sequence[Tensor], whole: Whole, *, weight: Weights, normalize: bool = True) -> Formula:
    """Weighted mean (or, not normalized, weighted sum) of the parents. Model soups, arXiv 2203.05482."""
    return mix(weight, normalize)


def weighted_sum(parents: Sequence[Tensor], whole: Whole, *, alpha: float = 0.5) -> Formula:
    """(1 - alpha) A + alpha B, as the checkpoint mergers of the diffusion world name it."""
    return Formula([1 - alpha, alpha])


def add_difference(parents: Sequence[Tensor], whole: Whole, *, alpha: float = 1.0) -> Tensor:
    """A + alpha (B - base), as the checkpoint mergers of the diffusion world name it; parents are base, A, B."""
    base, a, b = parents
    return b.sub_(base).mul_(alpha).add_(a)


def task_arithmetic(
    deltas: Sequence[Tensor], whole: Whole, *, weight: Weights, normalize: bool = False, lambda_: float = 1.0
) -> Formula:
    """λ Σ_p w_p δ_p. arXiv 2212.04089."""
    return mix(weight, normalize, lambda_)


def passthrough(parents: Sequence[Tensor], whole: Whole, *, scale: Weights) -> Formula:
    """The one parent there is, times its scale. Made for stacks of layers, as in SOLAR, arXiv 2312.15166."""
    return Formula(scale)


def mix(
    weight: Sequence[float],
    normalize: bool,
    scale: float = 1.0,
    gains: Sequence[float] | None = None,
    bands: Bands | None = None,
) -> Formula:
    """scale Σ_p w_p g_p x_p; normalized: over Σ_p w_p, unless that is 0."""
    total = sum(weight) if normalize else 1.0
    scale = scale / total if abs(total) > 1e-8 else scale
    return Formula([w * g * scale for w, g in zip(weight, gains or [1.0] * len(weight), strict=True)], bands)
