"""Fronts of several goals: who is beaten by nobody, who stands for the others, and who is the compromise."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Points = Sequence[Sequence[float]]


def front(points: Points) -> list[int]:
    """Places of the points (K goals each, higher is better) that no other dominates; of equals, the first.

    >>> front([(1, 0), (0, 1), (0, 0), (1, 0)])
    [0, 1]
    """
    values = np.array(points, dtype=float).reshape(len(points), -1)
    found: list[int] = []
    for i, mine in enumerate(values):
        beaten = (values >= mine).all(1) & (values > mine).any(1)
        if not beaten.any() and not any((values[j] == mine).all() for j in found):
            found.append(i)
    return found


def compromise(points: Points) -> int:
    """The place of the point of the front that is nearest to the best of every goal, each goal in units of the front's span.

    With one goal that is the best point, the first of equals.
    """
    members = front(points)
    scaled = _scaled([points[i] for i in members])
    return members[int(np.argmin(((1 - scaled) ** 2).sum(1)))]


def spread(points: Points, count: int) -> list[int]:
    """Places of ``count`` points that stand for the others: the best of each goal, then whichever is farthest from all chosen."""
    scaled = _scaled(points)
    chosen = list(dict.fromkeys(scaled.argmax(0).tolist()))[:count]
    while len(chosen) < min(count, len(scaled)):
        distances = ((scaled[:, None] - scaled[chosen]) ** 2).sum(-1).min(1)
        distances[chosen] = -1.0
        chosen.append(int(distances.argmax()))
    return chosen


def _scaled(points: Points) -> NDArray[np.float64]:
    """(N, K) from 0, the worst of each goal, to 1, the best; 1 where all are equal."""
    values = np.array(points, dtype=float)
    low, high = values.min(0), values.max(0)
    return np.where(high > low, (values - low) / np.where(high > low, high - low, 1.0), 1.0)
