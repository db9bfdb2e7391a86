"""What a mergekit configuration means, in float64: formulas of the simple methods, and where a threshold decides.

For configurations of the `models:` form whose parents have the same tokens. Written from mergekit's documentation and
behaviour; independent of evomm.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]
NEAR = 1e-6  # relative distance at which two float32 magnitudes count as one


@dataclass(frozen=True)
class Plan:
    """A `models:` configuration with its parents' tensors: document is the parsed YAML, parents by model folder."""

    document: Mapping[str, Any]
    parents: Mapping[str, Tensors]
    layers: int

    @property
    def method(self) -> str:
        """The merge method."""
        return str(self.document["merge_method"])

    @property
    def base(self) -> str | None:
        """The base's folder."""
        return self.document.get("base_model")

    @property
    def listed(self) -> list[str]:
        """Folders of the models, in order."""
        return [model["model"] for model in self.document["models"]]

    @property
    def others(self) -> list[str]:
        """Folders of the models without the base."""
        return [model for model in self.listed if model != self.base]

    def value(self, key: str, tensor: str, model: str | None = None, default: float | None = None) -> float:
        """A parameter for one tensor: the model's own, else the file's, else the default."""
        own = [entry.get("parameters") for entry in self.document["models"] if model is not None and entry["model"] == model]
        layer = re.search(r"\.(\d+)\.", tensor)
        t = int(layer.group(1)) / (self.layers - 1) if layer else 0.0
        for level in (*own, self.document.get("parameters")):
            found = _setting(level[key], tensor, t) if level and key in level else None
            if found is not None:
                return found
        if default is None:
            raise KeyError(key)
        return default

    def read(self, model: str, tensor: str) -> Tensor:
        """A parent's tensor in float64."""
        return self.parents[model][tensor].double()

    def deltas(self, tensor: str) -> list[Tensor]:
        """θ_p - θ_base of every parent but the base."""
        assert self.base is not None
        base = self.read(self.base, tensor)
        return [self.read(model, tensor) - base for model in self.others]


def _setting(setting: Any, tensor: str, t: float) -> float | None:
    """A number, a gradient over the layers, or the first of several whose filter is part of the tensor's name."""
    if isinstance(setting, dict):
        setting = [setting]
    if isinstance(setting, list) and setting and isinstance(setting[0], dict):
        hit = next((part for part in setting if part.get("filter", "*") == "*" or part["filter"] in tensor), None)
        return None if hit is None else _setting(hit["value"], tensor, t)
    if isinstance(setting, list):
        at = t * (len(setting) - 1)
        low = int(at)
        high = min(low + 1, len(setting) - 1)
        return (1 - at + low) * float(setting[low]) + (at - low) * float(setting[high])
    return float(setting)


def reference(plan: Plan, tensor: str) -> Tensor | None:
    """The merged tensor in float64, for the methods that have a closed formula here."""
    formula = {"linear": _linear, "slerp": _slerp, "task_arithmetic": _task_arithmetic, "model_stock": _model_stock}
    return formula[plan.method](plan, tensor) if plan.method in formula else None


def _linear(plan: Plan, tensor: str) -> Tensor:
    """Σ w θ / Σ w."""
    weights = [plan.value("weight", tensor, model) for model in plan.listed]
    total = torch.stack([w * plan.read(model, tensor) for w, model in zip(weights, plan.listed, strict=True)]).sum(0)
    return total / sum(weights) if plan.value("normalize", tensor, default=1.0) else total


def _slerp(plan: Plan, tensor: str) -> Tensor:
    """From the base (t = 0) along the great circle to the other (t = 1); a line when nearly colinear."""
    assert plan.base is not None
    a, b = plan.read(plan.base, tensor), plan.read(plan.others[0], tensor)
    t = plan.value("t", tensor)
    cosine = float((a * b).sum() / (a.norm() * b.norm()))
    if abs(cosine) > 0.9995:
        return (1 - t) * a + t * b
    angle = torch.tensor(cosine, dtype=torch.float64).acos()
    return (torch.sin((1 - t) * angle) * a + torch.sin(t * angle) * b) / torch.sin(angle)


def _task_arithmetic(plan: Plan, tensor: str) -> Tensor:
    """θ_base + λ Σ w δ, normalized: over Σ w."""
    assert plan.base is not None
    weights = [plan.value("weight", tensor, model) for model in plan.others]
    mixed = torch.stack([w * delta for w, delta in zip(weights, plan.deltas(tensor), strict=True)]).sum(0)
    total = sum(weights)
    if plan.value("normalize", tensor, default=0.0) and abs(total) >= 1e-8:
        mixed = mixed / total
    return plan.read(plan.base, tensor) + plan.value("lambda", tensor, default=1.0) * mixed


def _model_stock(plan: Plan, tensor: str) -> Tensor:
    """t θ_mean + (1 - t) θ_base, t = N cos / (1 + (N - 1) cos), cos the mean over pairs of task vectors."""
    assert plan.base is not None
    base = plan.read(plan.base, tensor)
    rows = plan.value("filter_wise", tensor, default=0.0) != 0
    shape = (1, -1) if not rows or base.dim() == 1 else (-1, base.shape[-1])
    deltas = [delta.reshape(shape) for delta in plan.deltas(tensor)]
    n = len(deltas)
    cosines = []
    for i, one in enumerate(deltas):
        for two in deltas[i + 1 :]:
            cosines.append((one * two).sum(-1) / (one.norm(dim=-1) * two.norm(dim=-1)).clamp(min=1e-6))
    cosine = torch.stack(cosines).mean(0).unsqueeze(-1)
    t = n * cosine / (1 + (n - 1) * cosine)
    mean = torch.stack(deltas).mean(0)
    return base + (t * mean).reshape(base.shape)


def undecided(plan: Plan, tensor: str, storage: torch.dtype, gap: Tensor) -> Tensor | None:
    """Elements that a threshold or a sign decides by less than rounding; None for methods without thresholds.

    Args:
        storage: dtype of the parents' files: magnitudes may be ranked after rounding to it.
        gap: how far the two results are apart, for what follows from a choice elsewhere in the tensor.
    """
    deltas = plan.deltas(tensor) if plan.base is not None else []
    if plan.method in {"ties", "breadcrumbs", "breadcrumbs_ties"}:
        densities = [plan.value("density", tensor, model, 1.0) for model in plan.others]
        gammas = [plan.value("gamma", tensor, model, 0.01) for model in plan.others]
        weights = [plan.value("weight", tensor, model) for model in plan.others]
        masks = []
        kept = []
        for delta, density, gamma in zip(deltas, densities, gammas, strict=True):
            ranks = _ties_ranks(delta, density) if plan.method == "ties" else _breadcrumbs_ranks(delta, density, gamma)
            masks.append(_beside(delta.abs(), ranks, storage))
            kept.append(delta * _chosen(delta.abs(), ranks))
        if plan.method != "breadcrumbs":
            terms = torch.stack([w * k for w, k in zip(weights, kept, strict=True)])
            masks.append(terms.sum(0).abs() <= NEAR * terms.abs().sum(0))
        return torch.stack(masks).any(0)
    if plan.method == "sce":
        stacked = torch.stack(deltas)
        variance = stacked.var(0, unbiased=False)
        topk = plan.value("select_topk", tensor, default=1.0)
        count = int(int(variance.count_nonzero()) * topk)
        chosen = _beside(variance, [count - 1] if topk < 1 else [], torch.float32)
        # Which of the equal ones are kept also moves the parents' weights, by about their share of all that are kept.
        moved = gap <= (int(chosen.sum()) - 1) / max(count, 1) * stacked.abs().amax(0)
        return chosen | moved | (stacked.sum(0).abs() <= NEAR * stacked.abs().sum(0))
    if plan.method == "arcee_fusion":
        assert plan.base is not None
        importance = _importance(plan.read(plan.others[0], tensor), plan.read(plan.base, tensor))
        ordered = importance.reshape(-1).sort().values
        low, middle, high = (ordered[int(q * (ordered.numel() - 1))] for q in (0.25, 0.5, 0.75))
        threshold = middle + 1.5 * (high - low)
        return (importance - threshold).abs() <= 1e-3 * threshold.abs() + 1e-15
    if plan.method in {"ram", "ramplus_tl"}:
        epsilon = plan.value("epsilon", tensor, default=1e-5)
        return torch.stack([(delta.abs() - epsilon).abs() <= NEAR * epsilon for delta in deltas]).any(0)
    return None


def _ties_ranks(delta: Tensor, density: float) -> list[int]:
    """Ranks (0 the largest magnitude) of the first and last element that is kept; none when all or nothing is."""
    if density >= 1 or density <= 0:
        return []
    return [0, max(1, int(density * delta.numel())) - 1]


def _breadcrumbs_ranks(delta: Tensor, density: float, gamma: float) -> list[int]:
    n = delta.numel()
    if density >= 1:
        return []
    keep = int(density * n)
    low = max(0, n - keep - int(gamma * n))  # so many of the smallest are dropped
    return [n - low - keep, n - low - 1]


def _chosen(magnitude: Tensor, ranks: Sequence[int]) -> Tensor:
    if not ranks:
        return torch.ones_like(magnitude)
    ordered = magnitude.reshape(-1).sort(descending=True).values
    return ((magnitude <= ordered[ranks[0]]) & (magnitude >= ordered[ranks[1]])).to(magnitude.dtype)


def _beside(magnitude: Tensor, ranks: Sequence[int], storage: torch.dtype) -> Tensor:
    """Elements whose magnitude is that of one of the ranks, up to rounding."""
    ordered = magnitude.reshape(-1).sort(descending=True).values
    found = torch.zeros_like(magnitude, dtype=torch.bool)
    for rank in ranks:
        if 0 <= rank < ordered.numel():
            edge = ordered[rank]
            found |= ((magnitude - edge).abs() <= NEAR * edge) | (magnitude.to(storage) == edge.to(storage))
    return found


def _importance(parent: Tensor, base: Tensor) -> Tensor:
    """|θ - θ_base| times each row's KL divergence between the softmaxes."""
    p, q = parent.softmax(-1) + 1e-8, base.softmax(-1) + 1e-8
    return (parent - base).abs() * (p * (p / q).log()).sum(-1, keepdim=True)
