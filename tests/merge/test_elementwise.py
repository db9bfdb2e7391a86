"""The compiled loops against the formulas in torch that other devices run, and against exact counts."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from evomm.merge.elementwise import Band, Election, combination, difference, elect, gram_halves, keep_ranked, round_off, tally
from evomm.merge.formula import Formula
from tests.merge.kit import in_torch

SIZES = st.integers(1, 70)  # with and without what is left over after the vector lanes
NUMBERS = st.floats(-4, 4, width=16)
HALVES = pytest.mark.parametrize("half", [torch.float16, torch.bfloat16], ids=str)
WEIGHT = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0, 3.0])
WEIGHTS = st.lists(WEIGHT, min_size=1, max_size=4)
PAIRS = st.lists(WEIGHT, min_size=2, max_size=2)  # of loops that are compiled for many cases


def some(data: st.DataObject, count: int, size: int) -> list[Tensor]:
    return [torch.tensor(data.draw(st.lists(NUMBERS, min_size=size, max_size=size))) for _ in range(count)]


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Also of zeros' signs; NaN is NaN, whichever."""
    bits = torch.int16 if a.dtype.itemsize == 2 else torch.int32
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(*(_zeroed(x).view(bits) for x in (a, b)))


def _zeroed(tensor: Tensor) -> Tensor:
    return torch.where(tensor.isnan(), 0.0, tensor)


def near(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-6, atol=1e-6)


@given(WEIGHTS, SIZES, st.data())
def test_combinations(weights: list[float], size: int, data: st.DataObject) -> None:
    tensors = some(data, len(weights), size)
    with in_torch():
        expected = combination(tensors, weights)
    assert near(combination(tensors, weights), expected)
    assert near(combination([t.view(size, 1) for t in tensors], weights), expected.view(size, 1))


@given(WEIGHTS, SIZES, st.booleans(), st.booleans(), st.data())
def test_elections(weights: list[float], size: int, normalize: bool, alike: bool, data: st.DataObject) -> None:
    tensors = some(data, len(weights), size)
    voices = weights if alike else [1.0] * len(weights)
    with in_torch():
        expected = elect(tensors, voices, weights, weights, normalize)
    assert near(elect(tensors, voices, weights, weights, normalize), expected)


@HALVES
@given(size=SIZES, data=st.data())
def test_differences_and_rounding_of_halves(half: torch.dtype, size: int, data: st.DataObject) -> None:
    values, base = (x.to(half) for x in some(data, 2, size))
    delta = difference(torch.empty(size), values, base)
    assert torch.equal(delta, values.float() - base.float())
    merged = delta * 0.3
    for anchor in (base, None):
        out = torch.empty(size, dtype=half)
        largest = round_off(out, merged.clone(), anchor)
        exact = merged if anchor is None else merged + anchor.float()
        assert torch.equal(out, exact.to(half))
        assert largest == float(out.abs().max())
        with in_torch():
            assert round_off(out, merged.clone(), anchor) == largest
        assert torch.equal(out, exact.to(half))


@HALVES
def test_every_half_there_is_becomes_the_float32_that_it_stands_for(half: torch.dtype) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(half)
    assert same_bits(difference(torch.empty(every.shape), every, torch.zeros_like(every)), every.float())


@HALVES
def test_rounding_is_to_the_nearest_half_and_ties_go_to_the_even_one(half: torch.dtype) -> None:
    """Around every half and every middle between two; float16 ends at 65504, and from 65520 on there is infinity only."""
    every = torch.arange(1 << 16, dtype=torch.int32).to(torch.uint16).view(half).float()
    middles = (every[:-1] + every[1:]) / 2
    around = [near.nextafter(torch.tensor(end)) for near in (every, middles) for end in (-float("inf"), float("inf"))]
    many = torch.cat([every, middles, *around, torch.tensor([65519.99, 65520.0, 1e38, -1e38])])
    many = many[many.isfinite()]
    out = torch.empty(many.shape, dtype=half)
    round_off(out, many, None)
    assert same_bits(out, many.to(half))


@HALVES
@given(weights=WEIGHTS, size=SIZES, with_base=st.booleans(), data=st.data())
def test_the_short_way_of_halves_gives_the_bits_of_the_long_way(
    half: torch.dtype, weights: list[float], size: int, with_base: bool, data: st.DataObject
) -> None:
    base = some(data, 1, size)[0].to(half) if with_base else None
    values = [x.to(half) for x in some(data, len(weights), size)]
    long, short = torch.empty(size, dtype=half), torch.empty(size, dtype=half)
    deltas = [x.float() if base is None else difference(torch.empty(size), x, base) for x in values]
    expected = round_off(long, combination(deltas, weights), base)
    assert Formula(weights).of_halves(short, values, base) == expected
    assert same_bits(short, long)
    with in_torch():
        deltas = [x.float() if base is None else difference(torch.empty(size), x, base) for x in values]
        merged = combination(deltas, weights)
        assert round_off(long, merged, base) == expected
    assert same_bits(short, long)


LOW = st.sampled_from([-1.0, 0.0, 0.5, 1.5])
BANDS = st.tuples(LOW, st.sampled_from([1.5, 2.5, math.inf])) | st.tuples(LOW | st.just(math.inf), st.just(math.inf))


@HALVES
@given(weights=PAIRS, size=SIZES, with_base=st.booleans(), data=st.data())
def test_what_is_trimmed_and_elected_has_the_bits_of_the_long_way_too(
    half: torch.dtype, weights: list[float], size: int, with_base: bool, data: st.DataObject
) -> None:
    base = some(data, 1, size)[0].to(half) if with_base else None
    values = [x.to(half) for x in some(data, len(weights), size)]
    formula = Formula(
        [0.5 * weight for weight in weights],
        [data.draw(BANDS) for _ in weights] if data.draw(st.booleans()) else None,
        Election(weights, data.draw(st.booleans()), data.draw(st.sampled_from([1.0, 0.3]))) if data.draw(st.booleans()) else None,
    )
    long, short = torch.empty(size, dtype=half), torch.empty(size, dtype=half)
    deltas = [x.float() if base is None else difference(torch.empty(size), x, base) for x in values]
    expected = round_off(long, formula.of(deltas), base)
    assert formula.of_halves(short, values, base) == expected
    assert torch.equal(short, long)


@pytest.mark.parametrize(("band", "kept"), [((-1.0, math.inf), [0.0, -1.0, 2.0, -3.0]), ((1.0, 2.0), [0.0, 0.0, 2.0, 0.0])])
@HALVES
def test_a_band_keeps_what_is_above_its_low_end_and_not_above_its_high_end(
    half: torch.dtype, band: Band, kept: list[float]
) -> None:
    values, out = torch.tensor([0.0, -1.0, 2.0, -3.0]), torch.empty(4, dtype=half)
    formula = Formula([1.0], [band])
    assert formula.of([values]).tolist() == kept
    assert formula.of_halves(out, [values.to(half)], None) == max(map(abs, kept))
    assert out.tolist() == kept


@HALVES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("normalize", [False, True])
@given(size=SIZES, data=st.data())
def test_what_is_not_finite_is_not_trimmed_or_outvoted(
    half: torch.dtype, bad: float, normalize: bool, size: int, data: st.DataObject
) -> None:
    """Read off the rounded result, in which NaN must not have become a number."""
    *values, base = (x.to(half) for x in some(data, 3, size))
    at = data.draw(st.integers(0, size - 1))
    data.draw(st.sampled_from([*values, base]))[at] = bad
    for election in (None, Election([0.25, 3.0], normalize)):
        for band in ((0.5, 1.5), (math.inf, math.inf)):
            formula = Formula([0.25, 3.0], [band] * 2, election)
            assert not math.isfinite(formula.of_halves(torch.empty(size, dtype=half), values, base))


@HALVES
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows(half: torch.dtype, bad: float) -> None:
    for at in (0, 1, 66):  # in the vector lanes, and in what is left over
        merged, out = torch.ones(67), torch.empty(67, dtype=half)
        merged[at] = bad
        assert not np.isfinite(round_off(out, merged, None))
        assert not np.isfinite(Formula([1.0]).of_halves(out, [merged.to(half)], None))
        with in_torch():
            assert not np.isfinite(round_off(out, merged, None))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@given(WEIGHTS, SIZES, st.booleans(), st.data())
def test_elections_do_not_outvote_what_is_not_finite(
    bad: float, weights: list[float], size: int, normalize: bool, data: st.DataObject
) -> None:
    tensors = some(data, len(weights), size)
    at = data.draw(st.integers(0, size - 1))
    data.draw(st.sampled_from(tensors))[at] = bad
    assert not elect(tensors, weights, weights, weights, normalize)[at].isfinite()
    with in_torch():
        assert not elect(tensors, weights, weights, weights, normalize)[at].isfinite()


@given(WEIGHTS, SIZES, st.booleans(), st.data())
def test_a_coefficient_that_is_no_number_makes_none(
    weights: list[float], size: int, normalize: bool, data: st.DataObject
) -> None:
    tensors = [x + 10 for x in some(data, len(weights), size)]
    weights[data.draw(st.integers(0, len(weights) - 1))] = float("nan")
    assert combination(tensors, weights).isnan().all()
    assert elect(tensors, [1.0] * len(weights), weights, weights, normalize).isnan().all()
    with in_torch():
        assert combination(tensors, weights).isnan().all()
        assert elect(tensors, [1.0] * len(weights), weights, weights, normalize).isnan().all()


@HALVES
@given(size=st.integers(1, 2_100), count=st.integers(1, 3), with_base=st.booleans())
def test_inner_products_of_halves(half: torch.dtype, size: int, count: int, with_base: bool) -> None:
    generator = torch.Generator().manual_seed(size)
    *values, base = (torch.randn(size, generator=generator).to(half) for _ in range(count + 1))
    products = np.zeros((count, count))
    gram_halves(products, values, base if with_base else None)
    rows = torch.stack([x.float() - base.float() if with_base else x.float() for x in values]).double()
    assert np.allclose(products, np.tril((rows @ rows.T).numpy()), rtol=1e-5, atol=1e-4)


@HALVES
@given(size=st.integers(0, 2_100), with_base=st.booleans(), scale=st.sampled_from([0.01, 1e-5, 1e4]))
def test_tallies_count_every_magnitude(half: torch.dtype, size: int, with_base: bool, scale: float) -> None:
    generator = torch.Generator().manual_seed(size)
    values, base = (torch.randn(size, generator=generator).mul_(scale).to(half) for _ in range(2))
    counts = np.zeros((4, 1 << 15), np.uint32)
    tally(counts, values, base if with_base else None)
    seen = (values.float() - base.float()).to(half) if with_base else values
    expected = np.bincount(seen.abs().view(torch.int16).numpy(), minlength=1 << 15)
    assert np.array_equal(counts.sum(0), expected)


@given(st.lists(st.sampled_from([0.0, 1e-30, 1.0, -1.0, 1.0078125, -2.0, 3.0, 100.0]), min_size=1, max_size=40))
def test_equal_magnitudes_of_a_row_get_their_mean_rank(row: list[float]) -> None:
    """With draws of one value, what is kept tells where the limit of each element lies."""
    values = torch.tensor([row], dtype=torch.float32)
    magnitudes = values.abs()[0]
    magnitudes = magnitudes.where(magnitudes >= 1e-6 * magnitudes.max(), 0.0)  # those far below the largest are equal
    low, high = 0.25, 0.75
    ranks = [(float((magnitudes < m).sum()) + float((magnitudes <= m).sum()) - 1) / 2 for m in magnitudes]
    shares = [r / (len(row) - 1) if len(row) > 1 else 0.5 for r in ranks]
    for level in (0.3, 0.5, 0.6):
        draws = np.full(len(row), round(level * 65536), np.uint16)
        kept = keep_ranked(values.clone(), draws, low, high)[0]
        for share, value, got in zip(shares, values[0].tolist(), kept.tolist(), strict=True):
            limit = low + (high - low) * share
            if abs(limit - level) > 1e-4:
                assert got == (value if level < limit else 0.0)


def test_coefficients_beyond_float32_give_infinity_and_no_exception() -> None:
    assert combination([torch.tensor([1.0, -2.0])], [1e39]).tolist() == [float("inf"), -float("inf")]
