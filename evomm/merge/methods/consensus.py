"""Methods that weigh what the parents agree on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from evomm.merge.elementwise import combination, elect, shrink
from evomm.merge.formula import Formula
from evomm.merge.method import Fraction, Positive, Whole
from evomm.merge.methods.sparse import add


def model_stock(deltas: Sequence[Tensor], whole: Whole, *, filter_wise: bool = False) -> Tensor | Formula:
    """The mean task vector times t = P c / (1 + (P - 1) c), c the mean cosine between them. arXiv 2403.19522.

    filter_wise: one t for each row of the tensor.
    """
    if not filter_wise:
        t = whole.once("model stock", lambda: float(_stock(_pair_cosines(whole.gram()), len(deltas))))
        return Formula([t / len(deltas)] * len(deltas))
    wide = [delta.double() for delta in deltas]
    norms = [x.norm(dim=-1, keepdim=True) for x in wide]
    found = [
        (wide[i] * wide[j]).sum(-1, keepdim=True) / (norms[i] * norms[j]).clamp(min=1e-6)
        for i in range(len(wide))
        for j in range(i)
    ]
    return add(deltas).mul_((_stock(found, len(deltas)) / len(deltas)).to(deltas[0].dtype))


def sce(deltas: Sequence[Tensor], whole: Whole, *, select_topk: Fraction = 1.0) -> Tensor:
    """Keep the elements in which task vectors vary most, weigh them by their energy, erase minority signs. arXiv 2408.07990."""
    kept = _selected(deltas, whole, select_topk)
    means = whole.total(("energy", select_topk), lambda values, view: _energy(_selected(values, view, select_topk))) / whole.numel
    total = float(means.sum())
    weights = [1 / len(deltas)] * len(deltas) if total < 1e-6 else (means / total).tolist()
    return elect(kept, [1.0] * len(kept), weights, weights, normalize=True)


def ram(deltas: Sequence[Tensor], whole: Whole, *, epsilon: Positive = 1e-5) -> Tensor:
    """Per element, the mean of the task vectors that have one (|δ| > epsilon). arXiv 2601.13572."""
    kept = [shrink(delta, epsilon) for delta in deltas]
    return add(kept).div_(_counts(kept).clamp_min_(1))


def ramplus_tl(
    deltas: Sequence[Tensor], whole: Whole, *, r: float = 0.1, alpha: Positive = 0.2, epsilon: Positive = 1e-5
) -> Tensor:
    """As ram, elements that one parent alone has scaled up by 1 + r min(shared / unique, alpha). arXiv 2601.13572."""
    shared, unique = whole.total(("ram", epsilon), lambda values, _: _overlap(values, epsilon))  # (P,) each
    scales = (1 + r * (shared / unique.clamp(min=1)).clamp(0, alpha)).tolist()  # who has none alone is not scaled
    kept = [shrink(delta, epsilon) for delta in deltas]
    counts = _counts(kept)
    alone = (counts == 1).to(counts.dtype)
    mean = add(kept).div_(counts.clamp_min(1))
    boost = combination(kept, [scale - 1 for scale in scales]).mul_(alone)
    return mean.add_(boost)


def _pair_cosines(products: Tensor) -> list[Tensor]:
    lengths = products.diagonal().sqrt()
    pairs = [(i, j) for i in range(len(products)) for j in range(i)]
    return [products[i, j] / (lengths[i] * lengths[j]).clamp(min=1e-6) for i, j in pairs]


def _stock(cosines: Sequence[Tensor], count: int) -> Tensor:
    """How far to go from the base to the mean of ``count`` models; 0 where the formula has no finite value."""
    cosine = torch.stack([c.clamp(-1, 1) for c in cosines]).mean(0)
    below = 1 + (count - 1) * cosine
    return torch.where(below.abs() < 1e-6, 0.0, count * cosine / below)


def _selected(deltas: Sequence[Tensor], whole: Whole, share: float) -> Sequence[Tensor]:
    """The elements whose variance over the parents is among the largest share of those that vary at all."""
    if share >= 1:
        return deltas
    varying = int(whole.total("varying", lambda values, _: _variance(values).count_nonzero()))
    least = whole.nth_of("variance", lambda values, _: _variance(values), int(share * varying))
    mask = (_variance(deltas) >= least).to(deltas[0].dtype)
    return [delta * mask for delta in deltas]


def _variance(deltas: Sequence[Tensor]) -> Tensor:
    mean = add(deltas).div_(len(deltas))
    return add([(delta - mean).square_() for delta in deltas]).div_(len(deltas))


def _energy(deltas: Sequence[Tensor]) -> Tensor:
    """(P,) Σ δ_p²."""
    return torch.stack([delta.square().sum() for delta in deltas])


def _counts(kept: Sequence[Tensor]) -> Tensor:
    return add([x.sign().abs_() for x in kept])


def _overlap(deltas: Sequence[Tensor], epsilon: float) -> Tensor:
    """(2, P): elements that a parent shares with another, and those that it has alone."""
    kept = [shrink(delta, epsilon) for delta in deltas]
    counts = _counts(kept)
    rows = [[((x != 0) & (counts > 1)).sum(), ((x != 0) & (counts == 1)).sum()] for x in kept]
    return torch.stack([torch.stack(row) for row in rows], dim=1)
