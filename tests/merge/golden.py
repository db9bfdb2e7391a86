"""What the golden tests share: the parents, in float64, and the weights."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.merge.kit import merge_one, recipe, related_parents

Array = NDArray[np.float64]
WEIGHT, DENSITY = {"a": 0.7, "b": -0.45, "c": 1.2}, {"a": 0.3, "b": 0.55, "c": 0.8}
GAMMA, EPSILON = {"a": 0.05, "b": 0.1, "c": 0.3}, {"a": 0.1, "b": 0.5, "c": 0.3}
LABELS = ("base", "a", "b", "c")
ROWS, COLUMNS = 60, 70
N = ROWS * COLUMNS
PARENTS = related_parents(ROWS, COLUMNS)
THETA: Array = np.stack([PARENTS[label].double().numpy() for label in LABELS[1:]])  # (P, R, C)
BASE: Array = PARENTS["base"].double().numpy()
DELTA: Array = np.stack([(PARENTS[label] - PARENTS["base"]).double().numpy() for label in LABELS[1:]])
W: Array = np.array(list(WEIGHT.values()))[:, None, None]  # (P, 1, 1)


def child(method: str, labels: tuple[str, ...] = LABELS, *, based: bool = False, **values: Any) -> Array:
    """The merge of these parents."""
    return merge_one(recipe(method, labels, based=based, **values), PARENTS).double().numpy()


def close(found: Array, expected: Array, atol: float = 1e-5) -> None:
    """Equal to the rounding of float32 sums."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=atol)
