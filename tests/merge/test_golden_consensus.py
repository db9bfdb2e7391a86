"""What parents agree on, and pairs, against their papers' formulas, written again in numpy and float64."""

from itertools import combinations

import numpy as np
import pytest
import torch

from tests.merge import kit
from tests.merge.golden import BASE, DELTA, LABELS, PARENTS, THETA, Array, child, close
from tests.merge.kit import merge_one, random_parents, recipe, same

FIRST = ("base", "a")  # methods for the base and one other


def cosine(a: Array, b: Array) -> float:
    """Of two vectors of any shape."""
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def stock(deltas: Array) -> Array:
    """Model Stock: t times the mean, t = k cos / (1 + (k - 1) cos)."""
    k = len(deltas)
    mean_cosine = float(np.mean([cosine(a, b) for a, b in combinations(deltas, 2)]))
    found: Array = deltas.mean(0) * k * mean_cosine / (1 + (k - 1) * mean_cosine)
    return found


@pytest.mark.parametrize("count", [2, 3])
def test_model_stock(count: int) -> None:
    labels = LABELS[: count + 1]
    close(child("model_stock", labels), BASE + stock(DELTA[:count]))
    rows = np.stack([stock(rows) for rows in DELTA[:count].transpose(1, 0, 2)])
    close(child("model_stock", labels, filter_wise=True), BASE + rows)


def test_model_stock_of_opposite_parents_is_the_base() -> None:
    """Where the formula divides by zero: they agree on nothing."""
    delta, base = random_parents(20, 30, labels=("a", "b")).values()
    parents = {"base": base, "a": base + delta, "b": base - delta}
    for filter_wise in (False, True):
        kit.close(merge_one(recipe("model_stock", filter_wise=filter_wise), parents), base)


@pytest.mark.parametrize("share", [1.0, 0.4, 0.01])
def test_sce(share: float) -> None:
    """Select by variance, calculate weights from energies, erase minority signs."""
    variance = DELTA.var(0)
    least = np.sort(variance.ravel())[::-1][int(share * variance.size) - 1]
    kept = np.where(variance >= least, DELTA, 0.0)
    energy = (kept**2).sum((1, 2))
    weight = (energy / energy.sum())[:, None, None]
    sign = np.where(kept.sum(0) >= 0, 1.0, -1.0)
    agree = (np.sign(kept) == sign) & (kept != 0)
    share_of = np.where(agree, weight, 0.0).sum(0)
    expected = np.where(agree, weight * kept, 0.0).sum(0) / np.where(share_of == 0, 1.0, share_of)
    close(child("sce", select_topk=share), BASE + expected)


def test_sce_selects_among_the_elements_that_vary() -> None:
    """A tenth of a sparse task vector's elements is a tenth of those that it has."""
    delta = torch.zeros(100, 10)
    delta[:50] = torch.randn(50, 10, generator=torch.Generator().manual_seed(0))
    parents = {"base": torch.zeros(100, 10), "a": delta, "b": -2 * delta}
    found = merge_one(recipe("sce", select_topk=0.1), parents)
    assert int((found != 0).sum()) == 50
    assert not merge_one(recipe("sce", select_topk=0.0), parents).any()


def kept(epsilon: float) -> tuple[Array, Array]:
    """(P, R, C) the elements beyond epsilon, and how many parents have one there."""
    found = np.where(np.abs(DELTA) > epsilon, DELTA, 0.0)
    return found, (found != 0).sum(0)


@pytest.mark.parametrize("epsilon", [0.0, 1e-5, 0.5])
def test_ram(epsilon: float) -> None:
    found, count = kept(epsilon)
    close(child("ram", epsilon=epsilon), BASE + found.sum(0) / np.maximum(count, 1))


@pytest.mark.parametrize("epsilon", [1e-5, 0.5, 0.9])
@pytest.mark.parametrize(("r", "alpha"), [(0.1, 0.2), (0.5, 2.0), (1.0, 100.0), (-1.0, 1.0)])
def test_ramplus(epsilon: float, r: float, alpha: float) -> None:
    """Elements of one parent alone are scaled by 1 + r min(shared / unique, alpha), shared and unique counted per parent."""
    found, count = kept(epsilon)
    shared = ((found != 0) & (count > 1)).sum((1, 2))
    unique = ((found != 0) & (count == 1)).sum((1, 2))
    scale = 1 + r * np.minimum(shared / np.maximum(unique, 1), alpha)
    alone = (found * scale[:, None, None]).sum(0)
    close(
        child("ramplus_tl", epsilon=epsilon, r=r, alpha=alpha),
        BASE + np.where(count == 1, alone, found.sum(0) / np.maximum(count, 1)),
    )


def test_ramplus_takes_every_difference_when_epsilon_is_zero() -> None:
    """Also when a parent has none: it is not divided by how many it has."""
    for parents in (PARENTS, {**PARENTS, "a": PARENTS["base"]}, dict.fromkeys(LABELS, PARENTS["a"])):
        found = merge_one(recipe("ramplus_tl", LABELS, epsilon=0), parents)
        assert bool(found.isfinite().all())


@pytest.mark.parametrize("t", [0.0, 1e-3, 0.3, 100.0])
def test_nearswap(t: float) -> None:
    """Near elements are swapped; far ones are left, but for t / distance."""
    weight = np.minimum(1.0, t / np.abs(THETA[0] - BASE))
    close(child("nearswap", FIRST, t=t), weight * THETA[0] + (1 - weight) * BASE)


def softmax(x: Array) -> Array:
    """Along the rows."""
    powers = np.exp(x - x.max(-1, keepdims=True))
    found: Array = powers / powers.sum(-1, keepdims=True)
    return found


def test_arcee_fusion() -> None:
    """The elements of importance |difference| KL(other | base) above median + 1.5 interquartile ranges."""
    p, q = softmax(THETA[0]) + 1e-8, softmax(BASE) + 1e-8
    importance = np.abs(THETA[0] - BASE) * (p * np.log(p / q)).sum(-1, keepdims=True)
    low, middle, high = np.quantile(importance, [0.25, 0.5, 0.75], method="lower")
    taken = importance >= middle + 1.5 * (high - low)
    assert 0.01 < taken.mean() < 0.2
    close(child("arcee_fusion", FIRST), np.where(taken, THETA[0], BASE))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_cosines(alpha: float) -> None:
    """k of each row: the mean of its cosine and the whole tensors', from (-1, 1) to (0, 1), less alpha, within 0 and 1."""
    a, b = THETA[:2]
    rows = np.array([cosine(x, y) for x, y in zip(a, b, strict=True)])[:, None]
    k = ((rows + cosine(a, b)) / 4 + 0.5 - alpha).clip(0, 1)
    close(child("cosine_a", alpha=alpha), k * a + (1 - k) * b)
    close(child("cosine_b", alpha=alpha), (1 - k) * a + k * b)


@pytest.mark.parametrize("method", ["nearswap", "arcee_fusion"])
def test_a_parent_that_is_its_base_changes_nothing(method: str) -> None:
    assert same(merge_one(recipe(method, FIRST), {"base": PARENTS["a"], "a": PARENTS["a"]}), PARENTS["a"])
