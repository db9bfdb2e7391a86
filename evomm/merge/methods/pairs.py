"""Methods that take a second model in where it is near the first, or where it differs in a telling way."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evomm.merge.method import Fraction, Positive, Whole
from evomm.merge.methods.spheres import cosines

_EPS = 1e-8


def nearswap(parents: Sequence[Tensor], whole: Whole, *, t: Positive = 0.001) -> Tensor:
    """The base moved towards the other by w = min(1, t / |base - other|), element by element.

    huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001.
    """
    base, other = parents
    weight = (base - other).abs_().clamp_min_(1e-6).reciprocal_().mul_(t).clamp_(0, 1)
    return other * weight + base * (1 - weight)


def arcee_fusion(parents: Sequence[Tensor], whole: Whole) -> Tensor:
    """Take from the other the elements of unusual importance: above median + 1.5 interquartile ranges. arcee.ai.

    Importance is |other - base| times the row's KL divergence of the softmaxes. Quantiles are exact here.
    """
    base, other = parents
    n = whole.numel - 1
    low, middle, high = (whole.nth_of("importance", _importance, whole.numel - int(q * n)) for q in (0.25, 0.5, 0.75))
    mask = (_importance(parents, whole) >= middle + 1.5 * (high - low)).to(base.dtype)
    return base + (other - base).mul_(mask)


def cosine_a(parents: Sequence[Tensor], whole: Whole, *, alpha: Fraction = 0.5) -> Tensor:
    """A where the parents' rows point the same way, B where they do not: k = clip(similarity - alpha), k A + (1 - k) B.

    After supermerger's cosineA. There the similarity is stretched to the least and largest of the whole model; here cosines
    are mapped from (-1, 1) to (0, 1), so that a tensor's child depends on that tensor alone.
    """
    a, b = parents
    k = (_similarity(a, b, whole) - alpha).clamp_(0, 1)
    return a * k + b * (1 - k)


def cosine_b(parents: Sequence[Tensor], whole: Whole, *, alpha: Fraction = 0.5) -> Tensor:
    """As cosine_a with the roles of A and B changed: (1 - k) A + k B. After supermerger's cosineB."""
    a, b = parents
    k = (_similarity(a, b, whole) - alpha).clamp_(0, 1)
    return a * (1 - k) + b * k


def _similarity(a: Tensor, b: Tensor, whole: Whole) -> Tensor:
    """(r, 1): mean of each row's cosine and the whole tensors' cosine, from (-1, 1) to (0, 1)."""
    rows = torch.cosine_similarity(a, b, dim=-1).unsqueeze(-1)
    return rows.add(float(cosines(whole.gram())[0, 1])).div_(4).add_(0.5)


def _importance(parents: Sequence[Tensor], whole: Whole) -> Tensor:
    """(r, C), not negative but for rounding."""
    base, other = parents
    p = other.softmax(-1).add_(_EPS)
    q = base.softmax(-1).add_(_EPS)
    divergence = (p * (p / q).log_()).sum(-1, keepdim=True)
    return (other - base).abs_().mul_(divergence)
