"""The methods against their papers' formulas, written again in numpy and float64."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.merge.kit import close, merge_one, random_parents, recipe, same

Array = NDArray[np.float64]
WEIGHT, DENSITY = {"a": 0.7, "b": -0.45, "c": 1.2}, {"a": 0.3, "b": 0.55, "c": 0.8}
LABELS = ("base", "a", "b", "c")
N = 5_000
PARENTS = random_parents(N, labels=LABELS)
THETA: Array = np.stack([PARENTS[label].double().numpy() for label in LABELS[1:]])  # (P, n)
BASE: Array = PARENTS["base"].double().numpy()
DELTA: Array = np.stack([(PARENTS[label] - PARENTS["base"]).double().numpy() for label in LABELS[1:]])
W = np.array(list(WEIGHT.values()))[:, None]  # (P, 1)
NORMALIZE = pytest.mark.parametrize("normalize", [True, False])
RESCALE = pytest.mark.parametrize("rescale", [True, False])


def trimmed() -> Array:
    """TIES, step 1: the int(density n) largest of each task vector."""
    rows = []
    for delta, density in zip(DELTA, DENSITY.values(), strict=True):
        kept = np.argsort(-np.abs(delta), kind="stable")[: int(density * N)]
        rows.append(np.where(np.isin(np.arange(N), kept), delta, 0.0))
    return np.stack(rows)


def dropped(rescale: bool, seed: int = 0) -> Array:
    """DARE: the masks are read off children of ones, (P, n); the rest is the paper's."""
    ones = {label: torch.ones(N) if label != "base" else torch.zeros(N) for label in LABELS}
    rows = []
    for label, delta in zip(LABELS[1:], DELTA, strict=True):
        only = {other: float(other == label) for other in LABELS[1:]}
        mask = merge_one(recipe("dare_linear", LABELS, seed=seed, weight=only, density=DENSITY, rescale=False), ones).numpy()
        rows.append(mask * delta / (DENSITY[label] if rescale else 1.0))
    return np.stack(rows)


def elected(kept: Array, normalize: bool) -> Array:
    """TIES, steps 2 and 3: the sign of the larger total, and the mean of those that have it."""
    weighted = W * kept
    sign = np.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agree = (np.sign(weighted) == sign) & (weighted != 0)
    total: Array = np.where(agree, weighted, 0.0).sum(0)
    share = np.where(agree, W, 0.0).sum(0)
    return total / np.where(np.abs(share) < 1e-8, 1.0, share) if normalize else total


@NORMALIZE
def test_linear(normalize: bool) -> None:
    child = merge_one(recipe("linear", LABELS, weight=WEIGHT, normalize=normalize), PARENTS)
    close(child, (W * THETA).sum(0) / (W.sum() if normalize else 1.0))


@NORMALIZE
def test_task_arithmetic(normalize: bool) -> None:
    child = merge_one(recipe("task_arithmetic", LABELS, weight=WEIGHT, normalize=normalize), PARENTS)
    close(child, BASE + (W * DELTA).sum(0) / (W.sum() if normalize else 1.0))


@NORMALIZE
def test_ties(normalize: bool) -> None:
    child = merge_one(recipe("ties", LABELS, weight=WEIGHT, density=DENSITY, normalize=normalize), PARENTS)
    close(child, BASE + elected(trimmed(), normalize))


@NORMALIZE
@RESCALE
def test_dare_linear(normalize: bool, rescale: bool) -> None:
    values = {"weight": WEIGHT, "density": DENSITY, "normalize": normalize, "rescale": rescale}
    child = merge_one(recipe("dare_linear", LABELS, **values), PARENTS)  # type: ignore[arg-type]
    close(child, BASE + (W * dropped(rescale)).sum(0) / (W.sum() if normalize else 1.0))


@NORMALIZE
@RESCALE
def test_dare_ties(normalize: bool, rescale: bool) -> None:
    values = {"weight": WEIGHT, "density": DENSITY, "normalize": normalize, "rescale": rescale}
    child = merge_one(recipe("dare_ties", LABELS, **values), PARENTS)  # type: ignore[arg-type]
    close(child, BASE + elected(dropped(rescale), normalize))


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("apart", [0.001, 0.3, 1.0, -1.0], ids=["near", "some way", "unrelated", "opposed"])
def test_slerp(t: float, apart: float) -> None:
    a = THETA[0]
    b = -a + 0.3 * THETA[1] if apart < 0 else (1 - apart) * a + apart * THETA[1]
    a, b = a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
    omega = np.arccos(a @ b / np.sqrt((a @ a) * (b @ b)))
    child = merge_one(recipe("slerp", t=t), {"a": torch.from_numpy(a).float(), "b": torch.from_numpy(b).float()})
    close(child, np.sin((1 - t) * omega) / np.sin(omega) * a + np.sin(t * omega) / np.sin(omega) * b)


@given(st.floats(0, 1), st.integers(0, 99))
def test_slerp_keeps_the_norm_of_parents_that_share_it(t: float, seed: int) -> None:
    parents = {label: x / x.norm() for label, x in random_parents(257, seed=seed).items()}
    assert merge_one(recipe("slerp", t=t), parents).norm().item() == pytest.approx(1.0, abs=1e-5)


@given(st.floats(0, 1), st.floats(0.01, 10))
def test_linear_is_a_convex_combination(share: float, scale: float) -> None:
    """Of weights only their ratio counts, and no element leaves the parents' span."""
    parents = random_parents(257)
    a, b = parents["a"], parents["b"]
    child = merge_one(recipe("linear", weight={"a": share * scale, "b": (1 - share) * scale}), parents)
    close(child, share * a + (1 - share) * b)
    assert bool((child >= torch.minimum(a, b) - 1e-5).all() and (child <= torch.maximum(a, b) + 1e-5).all())


def test_ends_of_a_line_are_the_parents_themselves() -> None:
    parents = random_parents(999)
    for label, t in (("a", 0.0), ("b", 1.0)):
        only = {other: float(other == label) for other in "ab"}
        assert same(merge_one(recipe("slerp", t=t), parents), parents[label])
        assert same(merge_one(recipe("linear", weight=only), parents), parents[label])


@pytest.mark.parametrize("method", ["task_arithmetic", "ties", "dare_linear", "dare_ties"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_whole_task_vector_of_one_parent_gives_that_parent_back_bit_for_bit(method: str, dtype: torch.dtype) -> None:
    """base + 1 (parent - base) at density 1, for a parent as far from its base as fine-tuning goes."""
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(20_000, generator=generator)
    parents = {"base": base.to(dtype), "a": (base * (1 + 0.3 * torch.rand(20_000, generator=generator))).to(dtype)}
    assert same(merge_one(recipe(method, ("base", "a"), weight=1.0), parents), parents["a"])


@given(st.floats(-60, 60, width=16), st.floats(-60, 60, width=16))
def test_one_task_vector_is_exact_in_half_precision(base: float, parent: float) -> None:
    """For any two float16 numbers less than 2^13 apart in scale, far though they be from each other."""
    assume(all(x == 0 or abs(x) >= 2**-7 for x in (base, parent)))
    pair = {"base": torch.tensor([base], dtype=torch.float16), "a": torch.tensor([parent], dtype=torch.float16)}
    assert same(merge_one(recipe("task_arithmetic", ("base", "a"), weight=1.0), pair), pair["a"])


def test_one_parent_is_never_off_by_more_than_float32s_rounding() -> None:
    """Also when parent and base have nothing to do with one another."""
    parents = random_parents(20_000, labels=("base", "a"))
    child = merge_one(recipe("task_arithmetic", ("base", "a"), weight=1.0), parents)
    larger = torch.maximum(parents["a"].abs(), parents["base"].abs())
    assert bool(((child - parents["a"]).abs() <= 2**-23 * larger).all())


@given(st.floats(-3, 3))
def test_ties_of_one_whole_task_vector_is_task_arithmetic(weight: float) -> None:
    parents = random_parents(257)
    labels = ("base", "a")
    ties = merge_one(recipe("ties", labels, weight=weight, density=1.0, normalize=False), parents)
    assert same(ties, merge_one(recipe("task_arithmetic", labels, weight=weight), parents))


@pytest.mark.parametrize("method", ["ties", "dare_linear", "dare_ties"])
def test_density_zero_leaves_the_base(method: str) -> None:
    parents = random_parents(257)
    assert same(merge_one(recipe(method, density=0.0), parents), parents["base"])


def test_weights_that_cancel_do_not_divide_by_zero() -> None:
    parents = random_parents(257)
    for method in ("linear", "task_arithmetic", "ties", "dare_linear", "dare_ties"):
        child = merge_one(recipe(method, weight={"a": 1.0, "b": -1.0}, normalize=True), parents)
        assert bool(child.isfinite().all()), method
