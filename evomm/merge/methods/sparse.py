"""Task vectors that keep some of their elements: the largest, the middle, or some by lot; summed, or with elected signs."""

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from evomm.merge.method import Default, Densities, Range, Weights, Whole
from evomm.merge.methods.sums import mix

Outliers = Annotated[Sequence[float], Range(0.0, 1.0), Default(0.01)]
Spreads = Annotated[Sequence[float], Range(0.0, 0.5), Default(0.15)]


def ties(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    normalize: bool = True,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Tensor:
    """Trim each task vector to its largest elements, elect a sign per element, merge those that agree.

    TIES, arXiv 2306.01708.
    """
    return elect(_trim(deltas, whole, density, [0.0] * len(deltas), rescale), weight, normalize, lambda_)


def breadcrumbs(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    gamma: Outliers,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Tensor:
    """Drop the ``gamma`` largest elements and so many of the smallest that ``density`` are left, sum. arXiv 2312.06795."""
    return mix(_trim(deltas, whole, density, gamma, rescale), weight, normalize, lambda_)


def breadcrumbs_ties(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    gamma: Outliers,
    normalize: bool = False,
    rescale: bool = False,
    lambda_: float = 1.0,
) -> Tensor:
    """Trim as Model Breadcrumbs (arXiv 2312.06795), then elect signs as TIES (arXiv 2306.01708)."""
    return elect(_trim(deltas, whole, density, gamma, rescale), weight, normalize, lambda_)


def dare_linear(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Tensor:
    """Drop elements of the task vectors by lot, scale up the rest, sum. DARE, arXiv 2311.03099."""
    return mix(_drop(deltas, whole, density, rescale), weight, normalize, lambda_)


def dare_ties(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Tensor:
    """Drop by lot and scale up as DARE (arXiv 2311.03099), then elect signs as TIES (arXiv 2306.01708)."""
    return elect(_drop(deltas, whole, density, rescale), weight, normalize, lambda_)


def della(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    epsilon: Spreads,
    normalize: bool = True,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Tensor:
    """Drop by lot, the smaller of a row more often than the larger, then elect signs. DELLA, arXiv 2406.11617."""
    return elect(_prune(deltas, whole, density, epsilon, rescale), weight, normalize, lambda_)


def della_linear(
    deltas: Sequence[Tensor],
    whole: Whole,
    *,
    weight: Weights,
    density: Densities,
    epsilon: Spreads,
    normalize: bool = False,
    rescale: bool = True,
    lambda_: float = 1.0,
) -> Tensor:
    """Drop by lot, the smaller of a row more often than the larger, and sum. DELLA, arXiv 2406.11617."""
    return mix(_prune(deltas, whole, density, epsilon, rescale), weight, normalize, lambda_)


def elect(deltas: Sequence[Tensor], weight: Sequence[float], normalize: bool, scale: float = 1.0) -> Tensor:
    """Keep the weighted elements whose sign is that of their sum (0 counts as +); normalized: over their weights' sum."""
    weighted = [d * w for d, w in zip(deltas, weight, strict=True)]
    return agree([w * scale for w in weighted] if scale != 1 else weighted, add(weighted), weight, normalize)


def agree(weighted: Sequence[Tensor], votes: Tensor, weight: Sequence[float], normalize: bool) -> Tensor:
    """Σ_p of the weighted elements whose sign is that of the vote; normalized: over Σ_p w_p of those that agree.

    No comparison is made: on a CPU a tensor of booleans costs ten times a product.
    """
    sign = torch.copysign(votes.new_ones(()), votes)  # s = ±1
    agreeing = [(x * sign).clamp_min_(0) for x in weighted]  # |x_p| where x_p has the sign s, 0 elsewhere
    total = add(agreeing).mul_(sign)
    if not normalize:
        return total
    share = agreeing[0].sign_().mul_(weight[0])  # Σ_p w_p [p agrees]
    for a, w in zip(agreeing[1:], weight[1:], strict=True):
        share.add_(a.sign_(), alpha=w)
    if min(weight) > 0:
        return total.div_(share.add_(1e-30))  # where nobody agrees, 0 / 1e-30
    return total.div_(share.masked_fill_(share == 0, 1.0))


def add(tensors: Sequence[Tensor]) -> Tensor:
    """Σ_p x_p, added in the order of the parents, as a new tensor."""
    if len(tensors) == 1:
        return tensors[0].clone()
    total = tensors[0] + tensors[1]
    for tensor in tensors[2:]:
        total.add_(tensor)
    return total


def _trim(
    deltas: Sequence[Tensor], whole: Whole, density: Sequence[float], gamma: Sequence[float], rescale: bool
) -> list[Tensor]:
    """What is left without the gamma largest and the smallest elements; rescaled: to the whole's Σ|δ_p|."""
    kept = [_band(d, p, whole, k, g) for p, (d, k, g) in enumerate(zip(deltas, density, gamma, strict=True))]
    if not rescale:
        return kept
    for p, (k, g) in enumerate(zip(density, gamma, strict=True)):
        before, after = whole.total(("trimmed norms", p, k, g), _Norms(p, k, g)).tolist()
        if k < 1 and min(before, after) >= 1e-7:
            kept[p] = kept[p] * (before / after)
    return kept


class _Norms:
    """(Σ|δ_p|, Σ|δ_p kept|) of a piece."""

    def __init__(self, parent: int, density: float, gamma: float) -> None:
        self.parent, self.density, self.gamma = parent, density, gamma

    def __call__(self, values: Sequence[Tensor], whole: Whole) -> Tensor:
        delta = values[self.parent]
        kept = _band(delta, self.parent, whole, self.density, self.gamma)
        return torch.stack([delta.abs().sum(), kept.abs().sum()])


def _band(delta: Tensor, parent: int, whole: Whole, density: float, gamma: float) -> Tensor:
    """The elements of middle magnitude, 0 elsewhere."""
    if density >= 1:
        return delta
    keep = int(density * whole.numel)
    if gamma == 0:
        keep = max(1, keep) if density > 0 else 0
    smallest = max(0, whole.numel - keep - int(gamma * whole.numel))
    kept = hardshrink(delta, whole.cutoff(parent, whole.numel - smallest))
    largest = whole.numel - smallest - keep
    return kept if largest == 0 else kept.sub_(hardshrink(delta, whole.cutoff(parent, largest)))


def _drop(deltas: Sequence[Tensor], whole: Whole, density: Sequence[float], rescale: bool) -> list[Tensor]:
    """m_p ⊙ δ_p, m_p ~ Bernoulli(density_p); divided by density_p so that the expectation stays δ_p."""
    kept = []
    for p, (delta, k) in enumerate(zip(deltas, density, strict=True)):
        if k < 1:
            delta = whole.lottery(p, k).mul_(delta)
            delta = delta.mul_(1 / k) if rescale and k > 0 else delta
        kept.append(delta)
    return kept


def _prune(
    deltas: Sequence[Tensor], whole: Whole, density: Sequence[float], epsilon: Sequence[float], rescale: bool
) -> list[Tensor]:
    """m_p ⊙ δ_p, m_p ~ Bernoulli(k_p), k_p from density - ε (a row's smallest) to density + ε (its largest), within 0 and 1.

    Rescaled by Σ|δ| / Σ k|δ|: the expected norm stays.
    """
    kept = []
    for p, (delta, k, e) in enumerate(zip(deltas, density, epsilon, strict=True)):
        if k <= 0:
            delta = torch.zeros_like(delta)
        elif k < 1:
            low, high = max(0.0, k - e), min(1.0, k + e)
            delta = whole.ranked_lottery(p, low, high).mul_(delta)
            delta = delta.mul_(1 / (low + (high - low) * whole.ranked_share(p))) if rescale else delta
        kept.append(delta)
    return kept
