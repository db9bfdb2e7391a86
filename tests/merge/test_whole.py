"""Exact thresholds and common random numbers: what makes candidates comparable and chunks invisible."""

import hashlib
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from evomm.merge.whole import PIECE, WholeTensor
from tests.merge.kit import LABELS, merge_one, merged, readers, recipe

WIDTHS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}
DTYPES = pytest.mark.parametrize("dtype", WIDTHS)
N = 200_003


def whole(tensor: Tensor) -> WholeTensor:
    """Facts about one tensor of one parent."""
    return WholeTensor(tensor.numel(), lambda parent, start, stop: tensor[start:stop].float(), tensor.dtype, ["key"])


def largest(tensor: Tensor) -> NDArray[np.float32]:
    """Magnitudes, largest first."""
    return np.sort(np.abs(tensor.float().numpy()))[::-1]


def mask(density: float, label: str = "a", name: str = "w", seed: int = 0, numel: int = N, piece: int = PIECE) -> Tensor:
    """The elements that DARE keeps, read off a child of ones."""
    only = {other: float(other == label) for other in LABELS[1:]}
    ones = {other: torch.ones(numel) if other != "base" else torch.zeros(numel) for other in LABELS}
    parents = readers({other: {name: tensor} for other, tensor in ones.items()})
    return merged(recipe("dare_linear", weight=only, density=density, rescale=False, seed=seed), parents, chunk)[name] > 0


@DTYPES
@given(data=st.data())
def test_a_threshold_is_the_kth_largest_magnitude(dtype: torch.dtype, data: st.DataObject) -> None:
    """Any finite numbers: subnormal, equal, zero; by bit patterns, so that all are as likely."""
    bits = 8 * dtype.itemsize
    patterns = data.draw(st.lists(st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1), min_size=1, max_size=60))
    tensor = torch.tensor(patterns, dtype=WIDTHS[dtype]).view(dtype)
    tensor = torch.where(tensor.isfinite(), tensor, 1.0)
    keep = data.draw(st.integers(1, len(patterns)))
    assert whole(tensor).threshold(0, keep) == largest(tensor)[keep - 1]
    assert whole(tensor).threshold(0, 0) == float("inf")


@DTYPES
@given(st.lists(st.sampled_from([0.0, -1.0, 1.0, 1.0078125, 2.0]), min_size=1, max_size=40), st.integers(1, 40))
def test_ties_and_neighbours_of_a_bucket(dtype: torch.dtype, values: list[float], keep: int) -> None:
    tensor, keep = torch.tensor(values, dtype=dtype), min(keep, len(values))
    assert whole(tensor).threshold(0, keep) == largest(tensor)[keep - 1]


@DTYPES
def test_thresholds_over_several_chunks(dtype: torch.dtype) -> None:
    tensor = torch.randn(PIECE + 1_001, generator=torch.Generator().manual_seed(0)).to(dtype)
    facts = whole(tensor)
    for keep in (1, 1_000, PIECE, tensor.numel()):
        assert facts.threshold(0, keep) == largest(tensor)[keep - 1]


@given(st.floats(0, 1, exclude_max=True))
def test_a_density_keeps_as_many_as_it_says(density: float) -> None:
    tensor = torch.randperm(997, generator=torch.Generator().manual_seed(0)).float() + 1  # no two alike
    parents = {"base": torch.zeros(997), "a": tensor}
    kept = merge_one(recipe("ties", ("base", "a"), density=density), parents) != 0
    assert int(kept.sum()) == int(density * 997)
    assert not kept.any() or tensor[kept].min() > 997 - int(kept.sum())


def test_a_mask_is_contained_in_every_denser_mask() -> None:
    masks = [mask(density) for density in (0.0, 0.1, 0.4, 0.5, 0.99, 1.0)]
    for sparse, dense in pairwise(masks):
        assert bool((sparse <= dense).all())
    assert not masks[0].any()
    assert masks[-1].all()


@pytest.mark.parametrize("density", [0.02, 0.4, 0.5, 0.9])
def test_a_mask_has_its_density_everywhere(density: float) -> None:
    """Five standard deviations, over the whole and over its parts, as by the position modulo 8."""
    found = mask(density).double()
    for part in (found, found[: N // 10], found[-N // 10 :], *(found[offset::8] for offset in range(8))):
        assert abs(part.mean().item() - density) < 5 * (density * (1 - density) / part.numel()) ** 0.5


@pytest.mark.parametrize("other", [{"label": "b"}, {"name": "v"}, {"seed": 1}], ids=str)
def test_masks_of_other_parents_tensors_and_seeds_are_independent(other: dict[str, str | int]) -> None:
    both = (mask(0.5) & mask(0.5, **other)).double().mean().item()  # type: ignore[arg-type]
    assert abs(both - 0.25) < 5 * (0.25 * 0.75 / N) ** 0.5


def test_a_mask_does_not_know_how_it_was_cut() -> None:
    expected = mask(0.4, numel=1_000)
    assert all(torch.equal(mask(0.4, numel=1_000, piece=chunk), expected) for chunk in (1, 3, 8, 997))


def test_a_mask_does_not_know_who_else_is_merged() -> None:
    """Adding a parent leaves the masks of the others alone."""
    one = {"base": torch.zeros(1_000), "a": torch.ones(1_000)}
    alone = merge_one(recipe("dare_linear", ("base", "a"), density=0.4, rescale=False), one) > 0
    assert torch.equal(alone, mask(0.4, numel=1_000))


def test_the_mask_of_a_seed_is_fixed_for_good() -> None:
    """Recipes re-make models bit for bit, also next year: these elements are Philox's for sha256("7\\nw\\na")."""
    key = np.frombuffer(hashlib.sha256(b"7\nw\na").digest()[:16], dtype=np.uint64)
    draws = np.random.Philox(key=key).random_raw(32).astype("<u8").view("<u4")
    assert mask(0.4, seed=7, numel=64).tolist() == (draws / 2**32 < 0.4).tolist()
