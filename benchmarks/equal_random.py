"""Methods with random masks: no two draws are equal, so their statistics are compared."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.equal_cases import RANDOM, Case, Run, listed

DENSITY = 0.4
WEIGHTS = {"a": 0.7, "b": 0.5}
SMALLEST = 1e-4  # of task vectors' elements that are looked at: below, float32 hides whether they were kept
LIMIT = 5.0  # standard errors
FULL = (Run("float32", "float32"),)
Tensors = Mapping[str, Tensor]


def random_cases() -> Iterator[Case]:
    """One parent at weight 1, which shows the mask itself, and two parents, for the sum."""
    for method in RANDOM:
        epsilon = ", epsilon: 0.2" if method.startswith("della") else ""
        for rescale in ("true", "false"):
            shared = f"rescale: {rescale}, normalize: false"
            one = listed(method, f"weight: 1.0, density: {DENSITY}{epsilon}", of="a", shared=shared)
            yield Case(f"random/{method}-rescale-{rescale}", one, runs=FULL)
        each = {label: f"weight: {weight}, density: {DENSITY}{epsilon}" for label, weight in WEIGHTS.items()}
        yield Case(f"random/{method}-two", listed(method, each), runs=FULL)
        yield Case(f"random/{method}-defaults", listed(method, "weight: 0.5, density: 0.6"), runs=FULL)


@dataclass(frozen=True)
class Statistic:
    """One number from both tools, and how far apart chance lets them be."""

    name: str
    ours: float
    theirs: float
    error: float

    @property
    def distance(self) -> float:
        """In standard errors of the difference."""
        gap = abs(self.ours - self.theirs)
        return gap / self.error if self.error > 0 else (0.0 if gap == 0 else math.inf)

    @property
    def fine(self) -> bool:
        """Whether chance explains it."""
        return self.distance <= LIMIT


def statistics(case: Case, base: Tensors, parents: Mapping[str, Tensors], ours: Tensors, theirs: Tensors) -> list[Statistic]:
    """What is compared: of one parent the mask and the scale, of two the mean of the sum."""
    names = [name for name, tensor in base.items() if tensor.dim() == 2]
    if "-rescale-" not in case.name:
        return [_sum(names, base, parents, ours, theirs)]
    delta = {name: (parents["a"][name] - base[name]).double() for name in names}
    return _one(names, delta, *({name: (found[name] - base[name]).double() for name in names} for found in (ours, theirs)))


def _one(names: list[str], delta: Tensors, ours: Tensors, theirs: Tensors) -> list[Statistic]:
    seen = {name: delta[name].abs() > SMALLEST for name in names}
    middle = {name: delta[name].abs().median(dim=1, keepdim=True).values for name in names}
    out = []
    for label, part in (("share kept", None), ("share kept, smaller half", False), ("share kept, larger half", True)):
        chosen = {name: seen[name] & _half(delta[name], middle[name], part) for name in names}
        shares, count = [], 0
        for found in (ours, theirs):
            count = sum(int(chosen[name].sum()) for name in names)
            shares.append(sum(int((found[name][chosen[name]] != 0).sum()) for name in names) / count)
        share = sum(shares) / 2
        out.append(Statistic(label, shares[0], shares[1], math.sqrt(2 * share * (1 - share) / count)))
    means, errors, spreads = [], [], []
    for found in (ours, theirs):
        ratios = [(found[name] / delta[name])[seen[name] & (found[name] != 0)] for name in names]
        by_tensor = torch.stack([ratio.mean() for ratio in ratios])
        means.append(float(by_tensor.mean()))
        errors.append(float(by_tensor.std()) / math.sqrt(len(names)))
        spreads.append(float(torch.stack([ratio.var(unbiased=False) for ratio in ratios]).mean()))
    out.append(Statistic("kept / original, mean", means[0], means[1], math.hypot(*errors) + 1e-4))
    # Within a tensor the scale is one number in both tools; what is left is rounding.
    out.append(Statistic("kept / original, variance in a tensor", spreads[0], spreads[1], 1e-4))
    return out


def _half(delta: Tensor, middle: Tensor, upper: bool | None) -> Tensor:
    if upper is None:
        return torch.ones_like(delta, dtype=torch.bool)
    return delta.abs() > middle if upper else delta.abs() <= middle


def _sum(names: list[str], base: Tensors, parents: Mapping[str, Tensors], ours: Tensors, theirs: Tensors) -> Statistic:
    """Mean of child - base over all elements, signs taken from the parents' plain sum so that it is not near 0."""
    totals, squares, count = [0.0, 0.0], 0.0, 0
    for name in names:
        delta = sum(((parents[label][name] - base[name]).double() for label in WEIGHTS), torch.zeros_like(base[name]).double())
        sign = delta.sign()
        both = [(found[name] - base[name]).double() * sign for found in (ours, theirs)]
        for tool, moved in enumerate(both):
            totals[tool] += float(moved.sum())
        squares += sum(float((moved - moved.mean()).square().sum()) for moved in both)
        count += delta.numel()
    return Statistic("mean of the sum", totals[0] / count, totals[1] / count, math.sqrt(squares) / count)
