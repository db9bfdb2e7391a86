"""Sums and sparse task vectors against their papers' formulas, written again in numpy and float64."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.merge import kit
from tests.merge.golden import BASE, DELTA, DENSITY, EPSILON, GAMMA, LABELS, THETA, WEIGHT, Array, N, W, child, close
from tests.merge.kit import merge_one, random_parents, recipe, same

NORMALIZE = pytest.mark.parametrize("normalize", [True, False])
RESCALE = pytest.mark.parametrize("rescale", [True, False])
SCALE = pytest.mark.parametrize("scale", [1.0, 0.4, -1.5])
ON_DELTAS = ["task_arithmetic", "ties", "breadcrumbs", "breadcrumbs_ties", "dare_linear", "dare_ties", "della", "della_linear"]


def switches(normalize: bool, rescale: bool, scale: float) -> dict[str, Any]:
    """Values of the methods that thin task vectors out."""
    return {"weight": WEIGHT, "density": DENSITY, "normalize": normalize, "rescale": rescale, "lambda": scale}


def mixed(vectors: Array, normalize: bool) -> Array:
    """Their weighted sum, or mean."""
    total: Array = (W * vectors).sum(0)
    return total / W.sum() if normalize else total


def elected(vectors: Array, normalize: bool) -> Array:
    """TIES, steps 2 and 3: the sign of the larger total, and the mean of those that have it."""
    weighted = W * vectors
    sign = np.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agree = (np.sign(weighted) == sign) & (weighted != 0)
    total: Array = np.where(agree, weighted, 0.0).sum(0)
    share = np.where(agree, W, 0.0).sum(0)
    return total / np.where(np.abs(share) < 1e-8, 1.0, share) if normalize else total


def band(delta: Array, density: float, gamma: float) -> Array:
    """Without the int(gamma n) largest; of the others the largest, so that int(density n) are left."""
    keep = int(density * N)
    drop = min(int(gamma * N), N - keep)
    order = np.argsort(-np.abs(delta).ravel(), kind="stable")
    kept = np.zeros(N, bool)
    kept[order[drop : drop + keep]] = True
    return np.where(kept.reshape(delta.shape), delta, 0.0)


def trimmed(rescale: bool, gamma: dict[str, float] | None = None) -> Array:
    """TIES, step 1, or Model Breadcrumbs; rescaled to the sum of magnitudes that there was."""
    rows = []
    for delta, label in zip(DELTA, LABELS[1:], strict=True):
        kept = band(delta, DENSITY[label], gamma[label] if gamma else 0.0)
        rows.append(kept * np.abs(delta).sum() / np.abs(kept).sum() if rescale else kept)
    return np.stack(rows)


def masked(method: str, **values: Any) -> Array:
    """(P, R, C) the elements that a method keeps by lot, read off children that have one parent's alone."""
    rows = []
    for label in LABELS[1:]:
        only = {other: float(other == label) for other in LABELS[1:]}
        kept = child(method, weight=only, density=DENSITY, rescale=False, normalize=False, **values)
        rows.append(np.abs(kept - BASE) > 0)
    return np.stack(rows)


def dropped(rescale: bool) -> Array:
    """DARE: what is left by lot, over the density."""
    density = np.array(list(DENSITY.values()))[:, None, None]
    return masked("dare_linear") * DELTA / (density if rescale else 1.0)


def pruned(rescale: bool) -> Array:
    """DELLA: what is left by lot, scaled so that the expected sum of magnitudes stays."""
    gains = []
    for delta, density, epsilon in zip(DELTA, DENSITY.values(), EPSILON.values(), strict=True):
        ordered = np.sort(np.abs(delta), axis=1)
        chance = np.linspace(max(density - epsilon, 0), min(density + epsilon, 1), delta.shape[1])
        gains.append(ordered.sum() / (ordered * chance).sum())
    kept = masked("della_linear", epsilon=EPSILON) * DELTA
    return kept * np.array(gains)[:, None, None] if rescale else kept


@NORMALIZE
def test_linear(normalize: bool) -> None:
    close(child("linear", weight=WEIGHT, normalize=normalize), mixed(THETA, normalize))


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, -0.5])
def test_weighted_sum(alpha: float) -> None:
    close(child("weighted_sum", alpha=alpha), (1 - alpha) * THETA[0] + alpha * THETA[1])


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, -0.5])
def test_add_difference(alpha: float) -> None:
    close(child("add_difference", alpha=alpha), THETA[0] + alpha * (THETA[1] - BASE))


@pytest.mark.parametrize("scale", [0.0, 0.7, 1.0, -2.0])
def test_passthrough(scale: float) -> None:
    close(child("passthrough", scale=scale), scale * THETA[0])


@NORMALIZE
@SCALE
def test_task_arithmetic(normalize: bool, scale: float) -> None:
    values: dict[str, Any] = {"weight": WEIGHT, "normalize": normalize, "lambda": scale}
    close(child("task_arithmetic", **values), BASE + scale * mixed(DELTA, normalize))


@NORMALIZE
@RESCALE
@SCALE
def test_ties(normalize: bool, rescale: bool, scale: float) -> None:
    values = switches(normalize, rescale, scale)
    close(child("ties", **values), BASE + scale * elected(trimmed(rescale), normalize))


def test_each_task_vector_is_rescaled_by_its_own_sum() -> None:
    """With one density for all, too."""
    kept = np.stack([band(delta, 0.3, 0.0) for delta in DELTA])
    sizes, left = np.abs(DELTA).sum((1, 2), keepdims=True), np.abs(kept).sum((1, 2), keepdims=True)
    close(child("ties", weight=WEIGHT, density=0.3, rescale=True, normalize=False), BASE + elected(kept * sizes / left, False))


@NORMALIZE
@RESCALE
@SCALE
def test_breadcrumbs(normalize: bool, rescale: bool, scale: float) -> None:
    values = switches(normalize, rescale, scale) | {"gamma": GAMMA}
    kept = trimmed(rescale, GAMMA)
    close(child("breadcrumbs", **values), BASE + scale * mixed(kept, normalize))
    close(child("breadcrumbs_ties", **values), BASE + scale * elected(kept, normalize))


@NORMALIZE
@RESCALE
@SCALE
def test_dare(normalize: bool, rescale: bool, scale: float) -> None:
    values = switches(normalize, rescale, scale)
    kept = dropped(rescale)
    close(child("dare_linear", **values), BASE + scale * mixed(kept, normalize), atol=3e-5)
    close(child("dare_ties", **values), BASE + scale * elected(kept, normalize), atol=3e-5)


@NORMALIZE
@RESCALE
@SCALE
def test_della(normalize: bool, rescale: bool, scale: float) -> None:
    values = switches(normalize, rescale, scale) | {"epsilon": EPSILON}
    kept = pruned(rescale)
    close(child("della_linear", **values), BASE + scale * mixed(kept, normalize), atol=3e-5)
    close(child("della", **values), BASE + scale * elected(kept, normalize), atol=3e-5)


@given(st.floats(0, 1), st.floats(0.01, 10))
def test_linear_is_a_convex_combination(share: float, scale: float) -> None:
    """Of weights only their ratio counts, and no element leaves the parents' span."""
    parents = random_parents(257)
    a, b = parents["a"], parents["b"]
    found = merge_one(recipe("linear", weight={"a": share * scale, "b": (1 - share) * scale}), parents)
    kit.close(found, share * a + (1 - share) * b)
    assert bool((found >= torch.minimum(a, b) - 1e-5).all() and (found <= torch.maximum(a, b) + 1e-5).all())


def test_ends_of_a_line_are_the_parents_themselves() -> None:
    parents = random_parents(999)
    for label, t in (("a", 0.0), ("b", 1.0)):
        only = {other: float(other == label) for other in "ab"}
        assert same(merge_one(recipe("slerp", t=t), parents), parents[label])
        assert same(merge_one(recipe("nuslerp", weight=only), parents), parents[label])
        assert same(merge_one(recipe("linear", weight=only), parents), parents[label])
        assert same(merge_one(recipe("weighted_sum", alpha=t), parents), parents[label])


@pytest.mark.parametrize("method", [*ON_DELTAS, "sce", "nuslerp", "multislerp"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_the_whole_task_vector_of_one_parent_gives_that_parent_back_bit_for_bit(method: str, dtype: torch.dtype) -> None:
    """base + 1 (parent - base) at density 1, for a parent as far from its base as fine-tuning goes."""
    generator = torch.Generator().manual_seed(0)
    base = 0.02 * torch.randn(200, 100, generator=generator)
    parents = {"base": base.to(dtype), "a": (base * (1 + 0.3 * torch.rand(200, 100, generator=generator))).to(dtype)}
    labels = ("base", "a", "a2") if method == "nuslerp" else ("base", "a")  # which takes two
    values: dict[str, Any] = {"weight": {"a": 1.0, "a2": 0.0}} if method == "nuslerp" else {}
    what = recipe(method, labels, based=method in {"nuslerp", "multislerp"}, **values)
    assert same(merge_one(what, {**parents, "a2": parents["base"] * 2}), parents["a"])


@given(st.floats(-60, 60, width=16), st.floats(-60, 60, width=16))
def test_one_task_vector_is_exact_in_half_precision(base: float, parent: float) -> None:
    """For any two float16 numbers less than 2^13 apart in scale, far though they be from each other."""
    assume(all(x == 0 or abs(x) >= 2**-7 for x in (base, parent)))
    pair = {"base": torch.tensor([base], dtype=torch.float16), "a": torch.tensor([parent], dtype=torch.float16)}
    assert same(merge_one(recipe("task_arithmetic", ("base", "a"), weight=1.0), pair), pair["a"])


def test_one_parent_is_never_off_by_more_than_float32s_rounding() -> None:
    """Also when parent and base have nothing to do with one another."""
    parents = random_parents(20_000, labels=("base", "a"))
    found = merge_one(recipe("task_arithmetic", ("base", "a"), weight=1.0), parents)
    larger = torch.maximum(parents["a"].abs(), parents["base"].abs())
    assert bool(((found - parents["a"]).abs() <= 2**-23 * larger).all())


@pytest.mark.parametrize("method", [name for name in ON_DELTAS if name != "task_arithmetic"])
@given(st.floats(-3, 3))
def test_one_whole_task_vector_is_task_arithmetic(method: str, weight: float) -> None:
    """With all of its elements, nothing is trimmed, dropped or outvoted."""
    parents = random_parents(257)
    labels = ("base", "a")
    found = merge_one(recipe(method, labels, weight=weight, density=1.0, normalize=False), parents)
    assert same(found, merge_one(recipe("task_arithmetic", labels, weight=weight), parents))


@pytest.mark.parametrize("method", [name for name in ON_DELTAS if name != "task_arithmetic"])
def test_density_zero_leaves_the_base(method: str) -> None:
    parents = random_parents(257)
    assert same(merge_one(recipe(method, density=0.0), parents), parents["base"])


@pytest.mark.parametrize("method", ["linear", *ON_DELTAS])
@pytest.mark.parametrize("weights", [(1.0, -1.0, 0.0), (0.7, -0.4, -0.3), (0.6, -0.5, -0.1), (0.1, 0.2, -0.3), (0.0, 0.0, 0.0)])
def test_weights_that_cancel_do_not_blow_up(method: str, weights: tuple[float, float, float]) -> None:
    """Normalized is divided by their sum, unless that is 0 but for rounding (0.7 - 0.4 - 0.3 is 3e-8 in float32)."""
    found = child(method, weight=dict(zip("abc", weights, strict=True)), normalize=True)
    assert np.abs(found).max() < 100


@pytest.mark.parametrize("method", ["ties", "breadcrumbs", "breadcrumbs_ties"])
@pytest.mark.parametrize("density", [0.3, 0.5, 0.9])
def test_a_task_vector_of_equally_large_elements_is_not_lost(method: str, density: float) -> None:
    """Short trainings move norms in bfloat16 by one step or none; then none of these is an outlier, or too small."""
    base = torch.ones(4_096, dtype=torch.bfloat16)
    moved = base.clone()
    moved[:500] += 2**-7
    assert same(merge_one(recipe(method, ("base", "a"), density=density), {"base": base, "a": moved}), moved)


def test_fewer_outliers_are_dropped_when_much_is_kept() -> None:
    """Density and gamma of more than 1 together: density counts."""
    for density, gamma in ((0.9, 0.3), (0.999, 1.0)):
        found = child("breadcrumbs", ("base", "a"), density=density, gamma=gamma)
        close(found, BASE + band(DELTA[0], density, gamma))
        assert (np.abs(found - BASE) > 0).sum() == int(density * N)
