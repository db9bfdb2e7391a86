"""Means on spheres against their definitions, with whole vectors where the code has coefficients."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from evomm.errors import UsageError
from tests.merge import kit
from tests.merge.golden import BASE, DELTA, LABELS, PARENTS, THETA, WEIGHT, Array, child, close
from tests.merge.kit import merge_one, random_parents, recipe, related_parents, same

POSITIVE = {"a": 0.7, "b": 0.4, "c": 1.2}
EITHER = pytest.mark.parametrize("based", [False, True], ids=["weights", "task vectors"])


def arc(a: Array, b: Array, t: float) -> Array:
    """From a to b along the great circle, for two vectors of any shape."""
    omega = np.arccos((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))
    found: Array = np.sin((1 - t) * omega) / np.sin(omega) * a + np.sin(t * omega) / np.sin(omega) * b
    return found


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("apart", [0.001, 0.3, 1.0, -1.0], ids=["near", "some way", "unrelated", "opposed"])
def test_slerp(t: float, apart: float) -> None:
    a, other = (random_parents(40, 50)[label].double().numpy() for label in "ab")
    b = -a + 0.3 * other if apart < 0 else (1 - apart) * a + apart * other
    a, b = a.astype(np.float32).astype(np.float64), b.astype(np.float32).astype(np.float64)
    found = merge_one(recipe("slerp", t=t), {"a": torch.from_numpy(a).float(), "b": torch.from_numpy(b).float()})
    kit.close(found, arc(a, b, t))


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["the same way", "opposite ways"])
def test_slerp_of_parents_on_one_line_is_the_line(sign: float) -> None:
    """Where the circle is not defined."""
    a = random_parents(40, 50)["a"]
    found = merge_one(recipe("slerp", t=0.3), {"a": a, "b": 2 * sign * a})
    kit.close(found, 0.7 * a + 0.3 * 2 * sign * a)


@given(st.floats(0, 1), st.integers(0, 99))
def test_slerp_keeps_the_norm_of_parents_that_share_it(t: float, seed: int) -> None:
    parents = {label: x / x.norm() for label, x in random_parents(257, seed=seed).items()}
    assert merge_one(recipe("slerp", t=t), parents).norm().item() == pytest.approx(1.0, abs=1e-5)


@EITHER
@pytest.mark.parametrize("weight", [(0.7, 0.45), (1.0, 0.0), (2.0, -0.5)])
def test_nuslerp(based: bool, weight: tuple[float, float]) -> None:
    """As one vector; row by row (its default, unflattened); or column by column (what its `row_wise` means)."""
    a, b = (DELTA if based else THETA)[:2]
    start = BASE if based else 0.0
    t = weight[1] / sum(weight)
    values: dict[str, Any] = {"weight": dict(zip("ab", weight, strict=True))}
    flat = child("nuslerp", based=based, **values)
    close(flat, start + arc(a, b, t))
    rows = child("nuslerp", based=based, nuslerp_flatten=False, **values)
    close(rows, start + np.stack([arc(x, y, t) for x, y in zip(a, b, strict=True)]), atol=2e-5)
    columns = child("nuslerp", based=based, nuslerp_flatten=False, nuslerp_row_wise=True, **values)
    close(columns, start + np.stack([arc(x, y, t) for x, y in zip(a.T, b.T, strict=True)], axis=1), atol=2e-5)


def test_nuslerp_of_weights_that_cancel_goes_half_way() -> None:
    close(child("nuslerp", weight={"a": 1.0, "b": -1.0}), arc(THETA[0], THETA[1], 0.5))


@pytest.mark.parametrize("shape", [(50,), (1,), ()], ids=str)
def test_nuslerp_of_vectors_has_one_row(shape: tuple[int, ...]) -> None:
    """Norms and biases: however it is switched, they are compared as they are."""
    parents = random_parents(*shape)
    flat = merge_one(recipe("nuslerp", weight={"a": 0.7, "b": 0.45}), parents)
    for row_wise in (False, True):
        values = {"nuslerp_flatten": False, "nuslerp_row_wise": row_wise}
        found = merge_one(recipe("nuslerp", weight={"a": 0.7, "b": 0.45}, **values), parents)  # type: ignore[arg-type]
        kit.close(found, flat)


@EITHER
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("weight", [POSITIVE, WEIGHT], ids=["positive", "one negative"])
def test_multislerp(based: bool, normalize: bool, weight: dict[str, float]) -> None:
    """Down to the plane that touches the sphere at the mean direction, the weighted mean there, and back up."""
    vectors = DELTA if based else THETA
    w = np.array(list(weight.values()))
    w = w / w.sum() if normalize else w
    norms = np.sqrt((vectors**2).sum((1, 2)))
    units = vectors / norms[:, None, None]
    mean = np.einsum("p,prc->rc", w, units)
    mean /= np.sqrt((mean**2).sum())
    tangents = units - np.einsum("prc,rc->p", units, mean)[:, None, None] * mean
    moved = np.einsum("p,prc->rc", w, tangents)
    step = np.sqrt((moved**2).sum())
    point = mean * np.cos(step) + moved * np.sinc(step / np.pi)
    found = child("multislerp", based=based, weight=weight, normalize_weights=normalize)
    close(found, (BASE if based else 0.0) + point * (w @ norms))


def test_multislerp_keeps_the_mean_norm() -> None:
    """The weighted mean of the norms, at the weighted mean of the directions."""
    found = child("multislerp", weight=POSITIVE)
    w = np.array(list(POSITIVE.values())) / sum(POSITIVE.values())
    assert np.sqrt((found**2).sum()) == pytest.approx(w @ np.sqrt((THETA**2).sum((1, 2))), rel=1e-5)


def test_multislerp_of_directions_that_cancel_is_a_line_for_two_and_refused_for_more() -> None:
    a, b = random_parents(30, 30, labels=("a", "b")).values()
    found = merge_one(recipe("multislerp", weight={"a": 0.5, "b": 0.5}), {"a": a, "b": -a})
    kit.close(found, 0 * a)
    labels = ("a", "b", "c", "d")
    with pytest.raises(UsageError, match="directions of the parents cancel out; choose other weights"):
        merge_one(recipe("multislerp", labels), {"a": a, "b": -a, "c": b, "d": -b})


@pytest.mark.parametrize("method", ["multislerp", "nuslerp"])
@pytest.mark.parametrize("labels", [LABELS[:3], LABELS], ids=len)
def test_tensors_that_no_parent_trained_stay_those_of_the_base(method: str, labels: tuple[str, ...]) -> None:
    """Frozen embeddings, say: all task vectors are zero, and have no direction."""
    tensor = random_parents(30, 30)["a"]
    assert same(merge_one(recipe(method, labels, based=True), dict.fromkeys(labels, tensor)), tensor)


@pytest.mark.parametrize("value", [{"eps": 0.0}, {"weight": 0.0}, {"eps": 0.0, "normalize_weights": False}], ids=str)
def test_multislerp_takes_zeros(value: dict[str, Any]) -> None:
    """A parent that has not moved from the base, weights of 0, no tolerance: nothing is divided by zero."""
    parents = {label: PARENTS[label] for label in ("base", "a", "b")}
    for of in (parents, {**parents, "a": parents["base"]}):
        for based in (False, True):
            assert bool(merge_one(recipe("multislerp", based=based, **value), of).isfinite().all())


def pull(units: Array, mean: Array) -> Array:
    """The mean of the ways from a point on the sphere to the others, in the plane that touches it there."""
    dots = np.einsum("prc,rc->p", units, mean).clip(-1, 1)
    angles = np.arccos(dots)
    ways = (angles / np.sin(angles))[:, None, None] * (units - dots[:, None, None] * mean)
    found: Array = ways.mean(0)
    return found


def walked(vectors: Array, steps: int) -> Array:
    """Karcher's mean: walk along the mean pull, starting from the mean direction; times the mean norm."""
    norms = np.sqrt((vectors**2).sum((1, 2)))
    units = vectors / norms[:, None, None]
    mean = units.mean(0) / np.sqrt((units.mean(0) ** 2).sum())
    for _ in range(steps):
        way = pull(units, mean)
        length = np.sqrt((way**2).sum())
        mean = np.cos(length) * mean + np.sin(length) * way / max(length, 1e-300)
        mean /= np.sqrt((mean**2).sum())
    found: Array = mean * norms.mean()
    return found


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_karcher(steps: int) -> None:
    close(child("karcher", max_iter=steps, tol=0.0), walked(THETA, steps))


def test_karcher_ends_where_the_pulls_cancel() -> None:
    close(child("karcher"), walked(THETA, 200), atol=1e-4)
    exact = child("karcher", max_iter=200, tol=1e-9)
    close(exact, walked(THETA, 200))
    units = THETA / np.sqrt((THETA**2).sum((1, 2)))[:, None, None]
    assert np.abs(pull(units, exact / np.sqrt((exact**2).sum()))).max() < 1e-6


def test_karcher_stops_within_its_tolerance() -> None:
    units = THETA / np.sqrt((THETA**2).sum((1, 2)))[:, None, None]
    lengths = [np.sqrt((pull(units, at / np.sqrt((at**2).sum())) ** 2).sum()) for at in (walked(THETA, n) for n in range(6))]
    assert lengths == sorted(lengths, reverse=True)
    for steps in (0, 1, 2):
        between = np.sqrt(lengths[steps] * lengths[steps + 1])
        close(child("karcher", max_iter=50, tol=float(between)), walked(THETA, steps + 1))


def test_karcher_leaves_parents_of_zeros_out_of_the_direction_but_not_of_the_norm() -> None:
    parents = {**related_parents(20, 30), "c": torch.zeros(20, 30)}
    two = merge_one(recipe("karcher"), parents)
    kit.close(merge_one(recipe("karcher", LABELS), parents), two * 2 / 3)
    nothing = merge_one(recipe("karcher"), dict.fromkeys("ab", torch.zeros(20, 30)))
    assert not nothing.any()


@pytest.mark.parametrize("tol", [0.0, 1e-5])
def test_karcher_of_opposite_parents_is_finite(tol: float) -> None:
    """No point is nearest to both."""
    a = random_parents(30, 30)["a"]
    found = merge_one(recipe("karcher", tol=tol), {"a": a, "b": -a})
    assert bool(found.isfinite().all()) and found.norm() <= 1.001 * a.norm()
