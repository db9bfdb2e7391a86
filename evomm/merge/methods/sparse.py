"""Task vectors that keep some of their elements: the largest, the middle, or some by lot; summed, or with elected signs."""

import math
from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor

from evomm.merge.elementwise import Band, Bands, Election, trim
from evomm.merge.formula import Formula
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
) -> Formula:
    """Trim each task vector to its largest elements, elect a sign per element, merge those that agree.

    TIES, arXiv 2306.01708.
    """
    bands, gains = _trim(whole, density, [0.0] * len(deltas), rescale)
    return vote(weight, normalize, lambda_, gains, bands)


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
) -> Formula:
    """Drop the ``gamma`` largest elements and so many of the smallest that ``density`` are left, sum. arXiv 2312.06795."""
    bands, gains = _trim(whole, density, gamma, rescale)
    return mix(weight, normalize, lambda_, gains, bands)


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
) -> Formula:
    """Trim as Model Breadcrumbs (arXiv 2312.06795), then elect signs as TIES (arXiv 2306.01708)."""
    bands, gains = _trim(whole, density, gamma, rescale)
    return vote(weight, normalize, lambda_, gains, bands)


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
    kept, gains = _drop(deltas, whole, density, rescale)
    return mix(weight, normalize, lambda_, gains).of(kept)


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
    kept, gains = _drop(deltas, whole, density, rescale)
    return vote(weight, normalize, lambda_, gains).of(kept)


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
    kept, gains = _prune(deltas, whole, density, epsilon, rescale)
    return vote(weight, normalize, lambda_, gains).of(kept)


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
    kept, gains = _prune(deltas, whole, density, epsilon, rescale)
    return mix(weight, normalize, lambda_, gains).of(kept)


def vote(
    weight: Sequence[float],
    normalize: bool,
    scale: float = 1.0,
    gains: Sequence[float] | None = None,
    bands: Bands | None = None,
) -> Formula:
    """scale Σ_p w_p g_p δ_p of those whose sign is that of the whole sum; normalized: over Σ_p w_p of those."""
    factors = [w * g for w, g in zip(weight, gains or [1.0] * len(weight), strict=True)]
    return Formula(factors, bands, Election(weight, normalize, scale))


def add(tensors: Sequence[Tensor]) -> Tensor:
    """Σ_p x_p, added in the order of the parents, as a new tensor."""
    if len(tensors) == 1:
        return tensors[0].clone()
    total = tensors[0] + tensors[1]
    for tensor in tensors[2:]:
        total.add_(tensor)
    return total


Kept = tuple[list[Tensor], list[float]]  # what is left of each task vector, and what it is to be multiplied with


def _trim(whole: Whole, density: Sequence[float], gamma: Sequence[float], rescale: bool) -> tuple[Bands, list[float]]:
    """What to leave out: the gamma largest and the smallest elements; and, rescaled, the gains that keep the whole's Σ|δ_p|."""
    bands = [_band(p, whole, k, g) for p, (k, g) in enumerate(zip(density, gamma, strict=True))]
    gains = [1.0] * len(bands)
    for p, (k, g) in enumerate(zip(density, gamma, strict=True)):
        if rescale and k < 1:
            before, after = whole.total(("trimmed norms", p, k, g), _Norms(p, bands[p])).tolist()
            gains[p] = before / after if min(before, after) >= 1e-7 else 1.0
    return bands, gains


class _Norms:
    """(Σ|δ_p|, Σ|δ_p in the band|) of a piece."""

    def __init__(self, parent: int, band: Band) -> None:
        self.parent, self.band = parent, band

    def __call__(self, values: Sequence[Tensor], whole: Whole) -> Tensor:
        delta = values[self.parent]
        return torch.stack([delta.abs().sum(), trim(delta, self.band).abs().sum()])


def _band(parent: int, whole: Whole, density: float, gamma: float) -> Band:
    """The magnitudes in the middle."""
    if density >= 1:
        return -1.0, math.inf
    keep = int(density * whole.numel)
    if gamma == 0:
        keep = max(1, keep) if density > 0 else 0
    smallest = max(0, whole.numel - keep - int(gamma * whole.numel))
    # Where many are equally large, none is an outlier.
    highest = whole.cutoff(parent, whole.numel - smallest - keep, some=False)
    return whole.cutoff(parent, whole.numel - smallest), highest


def _drop(deltas: Sequence[Tensor], whole: Whole, density: Sequence[float], rescale: bool) -> Kept:
    """m_p ⊙ δ_p, m_p ~ Bernoulli(density_p); to be divided by density_p so that the expectation stays δ_p."""
    kept = [whole.lottery(p, k) for p, k in enumerate(density)]
    return kept, [1 / k if rescale and k > 0 else 1.0 for k in density]


def _prune(deltas: Sequence[Tensor], whole: Whole, density: Sequence[float], epsilon: Sequence[float], rescale: bool) -> Kept:
    """m_p ⊙ δ_p, m_p ~ Bernoulli(k_p), k_p from density - ε (a row's smallest) to density + ε (its largest), within 0 and 1.

    Rescaled by Σ|δ| / Σ k|δ|: the expected norm stays.
    """
    kept, gains = list(deltas), [1.0] * len(deltas)
    for p, (k, e) in enumerate(zip(density, epsilon, strict=True)):
        low, high = max(0.0, k - e), min(1.0, k + e)
        if k < 1:
            kept[p] = whole.ranked_lottery(p, low, high) if k > 0 else deltas[p].mul_(0)  # NaN and infinity are to show
        if rescale and 0 < k < 1:
            gains[p] = 1 / (low + (high - low) * whole.ranked_share(p))
    return kept, gains
