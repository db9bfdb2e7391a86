"""What methods and the engine do to every element: formulas in torch, which any device runs, and for a CPU one loop each.

The loops (`kernels`) compute the same; only the last bit of a sum may differ, as between a CPU and a GPU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import hardshrink

from evomm.merge import kernels

HALVES = frozenset({torch.float16, torch.bfloat16})
LARGEST = float(np.finfo(np.float32).max)  # only what is not finite is above
_NONE = np.empty(0, np.uint16)
Band = tuple[float, float]  # magnitudes above the first, up to the second
Bands = Sequence[Band]  # one for each parent


@dataclass(frozen=True)
class Election:
    """Only what has the sign of the sum is added up; normalized: over the weights of that; times the scale. See `elect`."""

    weights: Sequence[float]
    normalize: bool
    scale: float = 1.0


def difference(out: Tensor, values: Tensor, base: Tensor) -> Tensor:
    """values - base, in float32, into ``out``; all (n,)."""
    if _halves_on_cpu(values, base) and _float32_on_cpu(out):
        kernels.difference(out.numpy(), _bits(values), _bits(base), _ieee(values))
        return out
    return out.copy_(values).sub_(base)


def combination(tensors: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Σ_p c_p x_p, added in the order of the parents; float32, of any one shape."""
    if all(map(_float32_on_cpu, tensors)):
        merged = torch.empty_like(tensors[0])
        kernels.combine(_flat(merged), tuple(map(_flat, tensors)), _singles(coefficients))
        return merged
    total = tensors[0] * coefficients[0]
    for tensor, coefficient in zip(tensors[1:], coefficients[1:], strict=True):
        total.add_(tensor, alpha=single(coefficient))
    return total


def combine_halves(
    out: Tensor, values: Sequence[Tensor], base: Tensor | None, bands: Bands | None, coefficients: Sequence[float]
) -> float:
    """`difference`, `trim`, `combination` and `round_off` in one, for 16-bit floats of one dtype on a CPU; (n,) each."""
    stored = _bits(out), tuple(map(_bits, values)), _NONE if base is None else _bits(base)
    return float(kernels.combine_halves(*stored, *_limits(bands), _singles(coefficients), _ieee(out)))


def elect(
    values: Sequence[Tensor], voices: Sequence[float], factors: Sequence[float], weights: Sequence[float], normalize: bool
) -> Tensor:
    """Elect a sign per element, and merge what agrees with it.

    s = sign(Σ_p voice_p x_p), 0 counting as +; Σ_p f_p x_p [sign(f_p x_p) = s], normalized: over Σ_p w_p [same] unless that
    is 0. TIES, arXiv 2306.01708, section 4.
    """
    least = _least(weights)
    if all(map(_float32_on_cpu, values)):
        merged = torch.empty_like(values[0])
        numbers = _singles(voices), _singles(factors), _singles(weights)
        kernels.elect(_flat(merged), tuple(map(_flat, values)), *numbers, least, normalize)
        return merged
    votes = combination(values, voices)
    sign = torch.copysign(votes.new_ones(()), votes)
    agreeing = [(x * f).mul_(sign).clamp_min_(0) for x, f in zip(values, factors, strict=True)]  # |f_p x_p| or 0
    total = combination(agreeing, [1.0] * len(agreeing)).mul_(sign)
    if not normalize:
        return total
    share = combination([a.sign_() for a in agreeing], weights)
    return total.div_(share.masked_fill_(share.abs() <= float(least), 1.0))


def elect_halves(
    out: Tensor, values: Sequence[Tensor], base: Tensor, bands: Bands | None, factors: Sequence[float], election: Election
) -> float:
    """`difference`, `trim`, `elect` with the factors as voices, scaling and `round_off` in one, as `combine_halves`."""
    lows, highs = _limits(bands)
    return float(
        kernels.elect_halves(
            _bits(out),
            tuple(map(_bits, values)),
            _bits(base),
            lows,
            highs,
            _singles(factors),
            _singles(election.weights) if election.normalize else None,
            _least(election.weights),
            np.float32(single(election.scale)),
            _ieee(out),
        )
    )


def shrink(values: Tensor, threshold: float) -> Tensor:
    """Elements with magnitudes above the threshold, 0 elsewhere; those that are not finite are above every threshold."""
    return hardshrink(values, min(threshold, LARGEST))


def trim(values: Tensor, band: Band) -> Tensor:
    """Elements with magnitudes in the band, 0 elsewhere; what is not finite stays so."""
    low, high = band
    kept = values if low < 0 else shrink(values, low)
    return kept if high >= LARGEST else kept - shrink(values, high)


def gram_halves(products: NDArray[np.float64], values: Sequence[Tensor], base: Tensor | None) -> None:
    """Add to (P, P), lower triangle, the inner products of values (n,), or of their differences from a base.

    Of 16-bit floats of one dtype on a CPU.
    """
    kernels.gram(products, tuple(map(_bits, values)), _NONE if base is None else _bits(base), _ieee(values[0]))


def keep(values: Tensor, draws: NDArray[np.uint16], density: float) -> Tensor:
    """Set to 0, in place, the elements whose draws are not below that share of 2^16; (n,) or (r, C)."""
    limit = round(density * (1 << 16))
    if _float32_on_cpu(values):
        kernels.keep(_flat(values), draws, limit)
        return values
    kept = torch.ones(draws.size)
    kernels.keep(kept.numpy(), draws, limit)
    return values.mul_(kept.to(values.device).view(values.shape))


def keep_ranked(values: Tensor, draws: NDArray[np.uint16], low: float, high: float) -> Tensor:
    """Set elements of (r, C) to 0 by lot, in place: the density grows from ``low`` to ``high`` with the rank in the row.

    Ranks are of magnitudes, compared to 8 significant bits; equal ones, and all below 2^-8 of the row's largest, get their
    mean rank.
    """
    here = values if _float32_on_cpu(values) else values.float().cpu()
    kernels.keep_ranked(here.numpy(), draws.reshape(values.shape), low, high)
    return values if here is values else values.copy_(here)


def tally(counts: NDArray[np.uint32], values: Tensor, base: Tensor | None = None) -> None:
    """Count magnitudes, as integers of 15 bits, into tables (4, 2^15) whose sum is the histogram.

    Of 16-bit floats (n,) on a CPU; with a base of the same dtype, of differences from it, rounded to that dtype.
    """
    kernels.tally(counts, _bits(values), _NONE if base is None else _bits(base), _ieee(values))


def round_off(out: Tensor, merged: Tensor, base: Tensor | None) -> float:
    """merged (+ base) into ``out``, rounded to its dtype; gives the largest magnitude there, not finite when one is not."""
    if _float32_on_cpu(merged) and _halves_on_cpu(out, *([] if base is None else [base])):
        return float(kernels.round_off(_bits(out), _flat(merged), _NONE if base is None else _bits(base), _ieee(out)))
    if base is not None:
        merged.add_(base)
    out.copy_(merged)
    return float(out.abs().amax()) if out.numel() else 0.0


def single(number: float) -> float:
    """The number, infinite when float32 has none so large: torch would raise where a sum is to overflow. NaN stays NaN."""
    return math.copysign(math.inf, number) if abs(number) > LARGEST else number


def _singles(numbers: Sequence[float]) -> tuple[np.float32, ...]:
    return tuple(np.float32(single(number)) for number in numbers)


def _limits(bands: Bands | None) -> tuple[tuple[np.float32, ...] | None, tuple[np.float32, ...] | None]:
    """The lower and upper ends of bands; None for those that drop nothing whatever the parent."""
    if bands is None:
        return None, None
    lows, highs = (_singles([min(end, LARGEST) for end in ends]) for ends in zip(*bands, strict=True))
    return lows, highs if min(highs) < LARGEST else None


def _least(weights: Sequence[float]) -> np.float32:
    """Weights that cancel do so to the rounding of float32; those of one sign cancel nowhere."""
    return np.float32(0.0 if min(weights) > 0 else 1e-6 * max(map(abs, weights)))


def _float32_on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.dtype == torch.float32 and tensor.is_contiguous()


def _halves_on_cpu(*tensors: Tensor) -> bool:
    """Whether they are 16-bit floats of one dtype, which compiled loops take as they are stored."""
    dtype = tensors[0].dtype
    return dtype in HALVES and all(t.device.type == "cpu" and t.dtype == dtype and t.is_contiguous() for t in tensors)


def _ieee(tensor: Tensor) -> kernels.Ieee:
    return True if tensor.dtype == torch.float16 else None


def _flat(tensor: Tensor) -> NDArray[np.float32]:
    flat: NDArray[np.float32] = tensor.view(-1).numpy()
    return flat


def _bits(tensor: Tensor) -> NDArray[np.uint16]:
    bits: NDArray[np.uint16] = tensor.view(torch.uint16).numpy()
    return bits
