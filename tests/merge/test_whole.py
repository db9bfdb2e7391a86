"""What methods ask about a whole tensor: exact cutoffs and quantiles, sums, and pieces that round alike."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from evomm.merge import elementwise
from evomm.merge.whole import PIECE, WholeTensor, pieces
from tests.merge.kit import merge_one, recipe

WIDTHS = {torch.float16: torch.int16, torch.bfloat16: torch.int16, torch.float32: torch.int32}
DTYPES = pytest.mark.parametrize("dtype", WIDTHS, ids=str)
HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
PATTERNS = {16: st.integers(-(2**15), 2**15 - 1), 32: st.integers(-(2**31), 2**31 - 1)}


class One:
    """The elements of one parent."""

    def __init__(self, tensor: Tensor, dtype: torch.dtype) -> None:
        self.tensor = tensor
        self.dtype = dtype

    def of_all(self, start: int, stop: int) -> list[Tensor]:
        return [self.tensor[start:stop].float()]

    def of_one(self, parent: int, start: int, stop: int) -> Tensor:
        return self.of_all(start, stop)[parent]

    def tally(self, counts: NDArray[np.uint32], parent: int, start: int, stop: int) -> None:
        elementwise.tally(counts, self.tensor[start:stop].to(self.dtype))

    def gram(self, products: NDArray[np.float64], start: int, stop: int) -> None:
        products[0, 0] += float(self.tensor[start:stop].double().square().sum())


def whole(tensor: Tensor, dtype: torch.dtype | None = None) -> WholeTensor:
    """Facts about one tensor of one parent, that is stored as the dtype."""
    return WholeTensor(tensor.numel(), lambda: One(tensor, dtype or tensor.dtype), dtype or tensor.dtype, ["key"])


def finite(patterns: list[int], dtype: torch.dtype) -> Tensor:
    """Floats from their bits, so that all are as likely: subnormal, huge, zero."""
    tensor = torch.tensor(patterns, dtype=WIDTHS[dtype]).view(dtype)
    return torch.where(tensor.isfinite(), tensor, 1.0)


def largest(magnitudes: NDArray[np.float32], count: int, some: bool = True) -> NDArray[np.bool_]:
    """Which elements are the ``count`` largest, when equal ones must go together."""
    last = np.sort(magnitudes)[::-1][count - 1]
    out, within = np.asarray(magnitudes > last), np.asarray(magnitudes >= last)
    if some and not out.any():
        return within
    found: NDArray[np.bool_] = within if within.sum() - count <= count - out.sum() else out
    return found


@DTYPES
@given(data=st.data())
def test_a_cutoff_divides_the_largest_from_the_rest(dtype: torch.dtype, data: st.DataObject) -> None:
    patterns = data.draw(st.lists(PATTERNS[8 * dtype.itemsize], min_size=1, max_size=60))
    tensor = finite(patterns, dtype)
    count, some = data.draw(st.integers(1, len(patterns))), data.draw(st.booleans())
    magnitudes = np.abs(tensor.float().numpy())
    expected = largest(magnitudes, count, some) if count < len(patterns) else np.full(len(patterns), True)
    assert (magnitudes > np.float32(whole(tensor).cutoff(0, count, some))).tolist() == expected.tolist()
    assert whole(tensor).cutoff(0, 0) == math.inf


@DTYPES
@given(st.lists(st.sampled_from([0.0, -1.0, 1.0, 1.0078125, 2.0]), min_size=1, max_size=40), st.integers(1, 39), st.booleans())
def test_equal_magnitudes_go_in_or_out_together(dtype: torch.dtype, values: list[float], count: int, some: bool) -> None:
    tensor, count = torch.tensor(values, dtype=dtype), min(count, max(1, len(values) - 1))
    magnitudes = np.abs(tensor.float().numpy())
    kept = magnitudes > np.float32(whole(tensor).cutoff(0, count, some))
    assert kept.tolist() == (largest(magnitudes, count, some).tolist() if count < len(values) else [True])


@HALVES
@given(data=st.data())
def test_task_vectors_are_ranked_as_their_parents_dtype_has_them(dtype: torch.dtype, data: st.DataObject) -> None:
    """Float32 differences, rounded to the nearest, ties to even: at, and one step beside, what lies in the middle of two."""
    last = 0x7BFF if dtype == torch.float16 else 0x7F7F  # the largest number, half a step from infinity
    bits = st.integers(0, last) | st.integers(last - 2, last)
    low = finite(data.draw(st.lists(bits, min_size=2, max_size=30)), dtype)
    high = (low.view(torch.int16) + 1).view(dtype).double()
    high = torch.where(high.isinf(), 2 * low.double() - (low.view(torch.int16) - 1).view(dtype).double(), high)
    middle = (low.double() / 2 + high / 2).float()  # has a bit more than the dtype: exact
    shift = torch.tensor(data.draw(st.lists(st.integers(-1, 1), min_size=len(low), max_size=len(low))))
    tensor = (middle.view(torch.int32) + shift.int()).view(torch.float32)
    count = data.draw(st.integers(1, len(low) - 1))
    rounded = tensor.to(dtype).float().numpy()
    kept = tensor.numpy() > np.float32(whole(tensor, dtype).cutoff(0, count))
    assert kept.tolist() == largest(rounded, count).tolist()


@DTYPES
def test_cutoffs_over_several_pieces(dtype: torch.dtype) -> None:
    tensor = torch.randn(2 * PIECE + 1_001, generator=torch.Generator().manual_seed(0)).to(dtype)
    facts, magnitudes = whole(tensor), np.abs(tensor.float().numpy())
    for count in (1, 1_000, PIECE, tensor.numel() - 1):
        assert np.array_equal(magnitudes > np.float32(facts.cutoff(0, count)), largest(magnitudes, count))


@given(st.floats(0, 1, exclude_max=True))
def test_a_density_keeps_as_many_as_it_says(density: float) -> None:
    tensor = torch.randperm(997, generator=torch.Generator().manual_seed(0)).float() + 1  # no two alike
    parents = {"base": torch.zeros(997), "a": tensor}
    kept = merge_one(recipe("ties", ("base", "a"), density=density), parents) != 0
    assert int(kept.sum()) == (max(1, int(density * 997)) if density > 0 else 0)
    assert not kept.any() or tensor[kept].min() > 997 - int(kept.sum())


@given(st.lists(PATTERNS[32], min_size=1, max_size=60), st.data())
def test_the_nth_largest_score_is_exact(patterns: list[int], data: st.DataObject) -> None:
    """For signed scores of any size."""
    scores = finite(patterns, torch.float32)
    count = data.draw(st.integers(1, len(patterns)))
    found = whole(torch.zeros(len(patterns))).nth_of("mine", lambda values, view: scores, count)
    assert found == np.sort(scores.numpy())[::-1][count - 1]
    assert whole(scores).nth_of("mine", lambda values, view: values[0], 0) == math.inf


def test_the_nth_largest_over_several_pieces() -> None:
    tensor = torch.randn(2 * PIECE + 1_001, generator=torch.Generator().manual_seed(0))
    facts, ordered = whole(tensor), np.sort(tensor.numpy())[::-1]
    for count in (1, 1_000, PIECE, tensor.numel()):
        assert facts.nth_of("mine", lambda values, view: values[0], count) == ordered[count - 1]


def test_a_total_adds_up_in_float64_and_is_computed_once() -> None:
    tensor = torch.randn(2 * PIECE + 1_001, generator=torch.Generator().manual_seed(0))
    facts, calls = whole(tensor), []

    def energy(values: object, view: object) -> Tensor:
        calls.append(1)
        return values[0].double().square().sum()  # type: ignore[index, no-any-return]

    for _ in range(2):
        np.testing.assert_allclose(float(facts.total("energy", energy)), float(tensor.double().square().sum()), rtol=1e-12)
    assert len(calls) == 3, "one call for each piece, none the second time"


def test_what_was_forgotten_is_computed_again() -> None:
    """A search asks for new facts with every genome, so only the last ones are kept."""
    tensor = torch.arange(1_000.0)
    facts = whole(tensor)
    for _ in range(2):
        assert [facts.cutoff(0, count) for count in range(1, 100)] == [
            float(np.nextafter(np.float32(1_000 - count), np.float32(0))) for count in range(1, 100)
        ]


def test_a_search_over_densities_counts_the_magnitudes_once() -> None:
    tensor, counted = torch.randn(1_000, generator=torch.Generator().manual_seed(0)).half(), []

    class Counted(One):
        def tally(self, counts: NDArray[np.uint32], parent: int, start: int, stop: int) -> None:
            counted.append(start)
            super().tally(counts, parent, start, stop)

    facts = WholeTensor(1_000, lambda: Counted(tensor, tensor.dtype), tensor.dtype, ["key"])
    assert len({facts.cutoff(0, count) for count in range(1, 400)}) > 200
    assert counted == [0]


@given(st.integers(0, 5_000), st.none() | st.integers(1, 700), st.integers(1, 3_000))
def test_pieces_follow_each_other_and_start_at_multiples_of_the_vector_lanes(numel: int, columns: int | None, size: int) -> None:
    """What starts elsewhere would round otherwise in vector lanes and their tail; rows are never cut."""
    numel = numel if columns is None else numel // columns * columns
    found = list(pieces(numel, columns, size))
    assert [start for start, _ in found] == [0, *(stop for _, stop in found[:-1])][: len(found)]
    assert (found[-1][1] if found else 0) == numel
    assert all(start % 64 == 0 and start % (columns or 1) == 0 for start, _ in found)
    limit = max(64, size) if columns is None else max(size, 64 * columns)
    assert all(0 < stop - start <= limit for start, stop in found)
