"""Loops over the elements of a piece, compiled to machine code by numba: each reads its operands from memory once.

A formula of a dozen torch operations moves every operand through the cache a dozen times; on a CPU that, and not the
arithmetic, is what a merge costs. `elementwise` chooses between these and torch, which says what they compute.

Arrays are one-dimensional and contiguous: float32, or 16-bit floats as their bits in uint16, of float16 where ``ieee`` is
True and of bfloat16 where it is None. What may be None is compiled for each case apart, because a flag that is looked at
in a loop slows it down. Products and sums are rounded one by one, in the order that is written here, so that results do not
depend on the machine; inner products alone may, by a bit.
"""

from collections.abc import Callable, Collection
from typing import Any, Literal, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from evomm.merge.code_cache import keep_code

F = TypeVar("F", bound=Callable[..., Any])
Floats = NDArray[np.float32]
Bits = NDArray[np.uint16]
Numbers = tuple[np.float32, ...]
Ieee = Literal[True] | None

_REBIAS = np.uint32((127 - 15) << 23)  # from float16's exponents to float32's
_SMALLEST = np.float32(2.0**-24)  # number of float16
_NORMAL = np.uint32((127 - 14) << 23)  # the bits of float16's smallest normal number in float32
_BEYOND = np.uint32((127 + 16) << 23)  # the bits of 2^16, which rounds to infinity as does all that is larger
_SIGN = np.uint32(0x80000000)
_INFINITE = np.uint32(0x7F800000)  # the bits of infinity; those of NaN are larger
_MAGNITUDE = np.uint16(0x7FFF)  # the bits of 16 that are not the sign
_KEYS = 1024  # magnitudes that `keep_ranked` tells apart: 128 in each of 8 octaves below the row's largest


def _compiled(function: F, fastmath: Collection[str] = ()) -> F:
    """Compiled when first called; see `code_cache` for where the result is kept."""
    compiled = njit(nogil=True, error_model="numpy", fastmath=set(fastmath))(function)
    keep_code(compiled)
    return cast(F, compiled)


def _summed(function: F) -> F:
    """As `_compiled`, but sums may be added up in the order that suits the machine; the last bit may differ between machines."""
    return _compiled(function, fastmath=("reassoc", "nsz"))


@_compiled
def _wide(bits: Any, ieee: Ieee) -> Any:
    """The float32 number that 16 bits stand for."""
    if ieee is None:
        return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    sign = np.uint32(np.uint32(bits & np.uint16(0x8000)) << np.uint32(16))
    magnitude = np.uint32(bits & np.uint16(0x7FFF))
    wide = np.uint32(np.uint32(magnitude << np.uint32(13)) + _REBIAS)
    if magnitude < np.uint32(0x400):  # zero or subnormal
        wide = np.float32(np.float32(magnitude) * _SMALLEST).view(np.uint32)
    elif magnitude >= np.uint32(0x7C00):  # infinity or NaN
        wide = np.uint32(wide + _REBIAS)
    return np.uint32(wide | sign).view(np.float32)


@_compiled
def _narrow(value: Any, ieee: Ieee) -> Any:
    """The 16 bits of a finite number: to the nearest, ties to even, infinity where float16 has none so large."""
    bits = np.float32(value).view(np.uint32)
    if ieee is None:
        odd = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
        return np.uint16(np.uint32(bits + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    sign = np.uint16(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000))
    bits = np.uint32(min(_magnitude(value), _BEYOND))
    odd = np.uint32(bits >> np.uint32(13)) & np.uint32(1)
    rounded = np.uint32(np.uint32(bits - _REBIAS + np.uint32(0xFFF) + odd) >> np.uint32(13))
    if bits < _NORMAL:  # subnormal: next to 0.5 the last bit of float32 is that of the smallest float16
        rounded = np.uint32(np.float32(bits.view(np.float32) + np.float32(0.5)).view(np.uint32) - np.float32(0.5).view(np.uint32))
    return np.uint16(rounded) | sign


@_compiled
def _magnitude(value: Any) -> Any:
    """The bits without the sign: they order as magnitudes do; infinity and NaN are the largest."""
    return np.uint32(np.float32(value).view(np.uint32) & np.uint32(0x7FFFFFFF))


@_compiled
def _turned(value: Any, sign: Any) -> Any:
    """The number times -1 where the sign bit is set."""
    return np.uint32(np.float32(value).view(np.uint32) ^ sign).view(np.float32)


@_compiled
def difference(out: Floats, values: Bits, base: Bits, ieee: Ieee) -> None:
    """out = values - base."""
    for i in range(out.size):
        out[i] = _wide(values[i], ieee) - _wide(base[i], ieee)


@_compiled
def combine(merged: Floats, values: tuple[Floats, ...], coefficients: Numbers) -> None:
    """Σ_p c_p x_p, added in the order of p."""
    for i in range(merged.size):
        total = values[0][i] * coefficients[0]
        for p in range(1, len(values)):
            total += values[p][i] * coefficients[p]
        merged[i] = total


@_compiled
def elect(
    merged: Floats,
    values: tuple[Floats, ...],
    voices: Numbers,
    factors: Numbers,
    weights: Numbers,
    least: np.float32,
    normalize: bool,
) -> None:
    """What `elementwise.elect` gives; the tuples hold float32 numbers, so that nothing is computed wider."""
    zero, one = np.float32(0), np.float32(1)
    for i in range(merged.size):
        vote = zero
        for p in range(len(values)):
            vote += values[p][i] * voices[p]
        sign = np.copysign(one, vote)
        total = share = zero
        for p in range(len(values)):
            agreeing = values[p][i] * factors[p] * sign
            agreeing = zero if agreeing < zero else agreeing  # not max(): NaN is to stay
            total += agreeing
            share += weights[p] if agreeing > zero else zero
        total *= sign
        if normalize:
            total /= share if abs(share) > least else one
        merged[i] = total


@_summed
def _dot(a: Floats, b: Floats) -> Any:
    total = np.float32(0)
    for i in range(a.size):
        total += a[i] * b[i]
    return total


@_compiled
def gram(products: NDArray[np.float64], values: tuple[Bits, ...], base: Bits, ieee: Ieee) -> None:
    """Add to (P, P), lower triangle, the inner products of the values, or of values - base where there is a base.

    In float32 over 1,024 elements, in float64 beyond.
    """
    deltas = np.empty((len(values), 1024), np.float32)
    for low in range(0, values[0].size, 1024):
        count = min(1024, values[0].size - low)
        for p in range(len(values)):
            x, delta = values[p][low : low + count], deltas[p, :count]
            if base.size:
                anchor = base[low : low + count]
                for i in range(delta.size):
                    delta[i] = _wide(x[i], ieee) - _wide(anchor[i], ieee)
            else:
                for i in range(delta.size):
                    delta[i] = _wide(x[i], ieee)
        for p in range(len(values)):
            for q in range(p + 1):
                products[p, q] += np.float64(_dot(deltas[p, :count], deltas[q, :count]))


@_compiled
def tally(counts: NDArray[np.uint32], values: Bits, base: Bits, ieee: Ieee) -> None:
    """Count the magnitudes (15 bits) of values, or of rounded values - base where there is a base, into tables (4, 2^15).

    Four by turns: neighbours are often equal, and one would have to wait for the other.
    """
    first, second, third, fourth = counts[0], counts[1], counts[2], counts[3]
    one = np.uint32(1)
    block = np.empty(1024, np.uint16)
    for low in range(0, values.size, block.size):
        x = values[low : low + block.size]
        bits = block[: x.size]
        if base.size:
            anchor = base[low : low + block.size]
            for i in range(bits.size):
                bits[i] = _narrow(_wide(x[i], ieee) - _wide(anchor[i], ieee), ieee) & _MAGNITUDE
        else:
            for i in range(bits.size):
                bits[i] = x[i] & _MAGNITUDE
        for i in range(0, bits.size // 4 * 4, 4):
            first[bits[i]] += one
            second[bits[i + 1]] += one
            third[bits[i + 2]] += one
            fourth[bits[i + 3]] += one
        for i in range(bits.size // 4 * 4, bits.size):
            first[bits[i]] += one


@_compiled
def random_words(out: NDArray[np.uint64], seed: np.uint64, first: int) -> None:
    """Words ``first``, ``first`` + 1, ... of the stream that the seed (64 bits) names.

    SplitMix64 (Steele, Lea and Flood, OOPSLA 2014): word n is a hash of seed + n γ, so any of them can be had alone.
    """
    state = seed + np.uint64(first) * np.uint64(0x9E3779B97F4A7C15)
    for i in range(out.size):
        z = state + np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        out[i] = z ^ (z >> np.uint64(31))


@_compiled
def keep(values: Floats, draws: Bits, limit: int) -> None:
    """Set to 0 what has a draw of ``limit`` or more."""
    below = np.uint32(limit)
    for i in range(values.size):
        values[i] *= np.float32(np.uint32(draws[i]) < below)


@_compiled
def keep_ranked(values: Floats, draws: Bits, low: float, high: float) -> None:
    """Set elements of the rows (r, C) to 0 by lot; see `elementwise.keep_ranked`."""
    rows, columns = values.shape
    keys = np.empty(columns, np.uint16)
    counts = np.empty(_KEYS, np.int32)
    ranks = np.empty(_KEYS, np.int32)
    limits = np.empty(_KEYS, np.int32)  # of draws that are kept, by key
    limit = np.empty(columns, np.int32)  # and by element
    zero, one = np.int32(0), np.int32(1)
    start = np.float32(65536 * (low if columns > 1 else (low + high) / 2) + 0.5)
    slope = np.float32(65536 * (high - low) / max(columns - 1, 1) / 2)
    for row in range(rows):
        x, d = values[row], draws[row]
        for i in range(columns):
            keys[i] = np.uint16(_magnitude(x[i]) >> np.uint32(16))
        top = np.uint16(0)
        for i in range(columns):
            top = max(top, keys[i])
        least = np.uint16(max(np.int32(top) - np.int32(_KEYS - 1), zero))
        for i in range(columns):
            keys[i] = np.uint16(max(keys[i], least) - least)
        counts[:] = zero
        for i in range(columns):
            counts[keys[i]] += one
        below = zero
        for key in range(_KEYS):
            ranks[key] = np.int32(2 * below + counts[key] - one)  # twice the mean rank
            below = np.int32(below + counts[key])
        for key in range(_KEYS):
            limits[key] = np.int32(start + slope * np.float32(ranks[key]))
        for i in range(columns):
            limit[i] = limits[keys[i]]
        for i in range(columns):
            x[i] *= np.float32(np.int32(d[i]) < limit[i])


@_compiled
def round_off(out: Bits, merged: Floats, base: Bits, ieee: Ieee) -> np.float32:
    """out = merged + base, rounded, without a base when that is empty; gives the largest magnitude of the result.

    Infinity or NaN when there is one.
    """
    largest = np.uint32(0)
    if base.size:
        for i in range(out.size):
            value = merged[i] + _wide(base[i], ieee)
            largest = max(largest, _magnitude(value))
            out[i] = _narrow(value, ieee)
    else:
        for i in range(out.size):
            largest = max(largest, _magnitude(merged[i]))
            out[i] = _narrow(merged[i], ieee)
    value = np.uint32(largest).view(np.float32)
    return _wide(_narrow(value, ieee), ieee) if largest < _INFINITE else value


@_compiled
def _kept(bits: Any, anchor: Any, lows: Numbers | None, highs: Numbers | None, parent: int, ieee: Ieee) -> Any:
    """The difference from the anchor; 0 where its magnitude is not in the parent's band, but for NaN and infinity."""
    zero = np.float32(0)
    x = _wide(bits, ieee) - anchor
    if lows is not None:
        x = zero if abs(x) <= lows[parent] else x
    if highs is not None:
        x -= x if abs(x) > highs[parent] else zero
    return x


@_compiled
def combine_halves(
    out: Bits,
    values: tuple[Bits, ...],
    base: Bits,
    lows: Numbers | None,
    highs: Numbers | None,
    coefficients: Numbers,
    ieee: Ieee,
) -> np.float32:
    """`difference`, trimming, `combine` and `round_off` in one: out = base + Σ_p c_p (x_p - base).

    Gives what `round_off` gives, read off the result: NaN that comes of 16-bit floats has no bits that rounding could turn over.
    """
    zero, largest = np.float32(0), np.uint16(0)
    if base.size:
        for i in range(out.size):
            anchor = _wide(base[i], ieee)
            total = _kept(values[0][i], anchor, lows, highs, 0, ieee) * coefficients[0]
            for p in range(1, len(values)):
                total += _kept(values[p][i], anchor, lows, highs, p, ieee) * coefficients[p]
            total += anchor
            bits = np.uint16(_narrow(total, ieee))
            largest = max(largest, np.uint16(bits & _MAGNITUDE))
            out[i] = bits
    else:
        for i in range(out.size):
            total = _kept(values[0][i], zero, lows, highs, 0, ieee) * coefficients[0]
            for p in range(1, len(values)):
                total += _kept(values[p][i], zero, lows, highs, p, ieee) * coefficients[p]
            bits = np.uint16(_narrow(total, ieee))
            largest = max(largest, np.uint16(bits & _MAGNITUDE))
            out[i] = bits
    return np.float32(_wide(largest, ieee))


@_compiled
def elect_halves(
    out: Bits,
    values: tuple[Bits, ...],
    base: Bits,
    lows: Numbers | None,
    highs: Numbers | None,
    factors: Numbers,
    weights: Numbers | None,
    least: np.float32,
    scale: np.float32,
    ieee: Ieee,
) -> np.float32:
    """`difference`, trimming, `elect` with the factors as voices, scaling and `round_off` in one, as `combine_halves`.

    Normalized where there are weights. The kept x_p are written down twice and computed once, so that they stay in registers; an
    array or a function for them is slower.
    """
    zero, one, largest = np.float32(0), np.float32(1), np.uint16(0)
    for i in range(out.size):
        anchor = _wide(base[i], ieee)
        vote = total = share = zero
        for p in range(len(values)):
            x = _wide(values[p][i], ieee) - anchor
            if lows is not None:
                x = zero if abs(x) <= lows[p] else x
            if highs is not None:
                x -= x if abs(x) > highs[p] else zero
            vote += x * factors[p]
        sign = np.uint32(np.float32(vote).view(np.uint32) & _SIGN)
        for p in range(len(values)):
            x = _wide(values[p][i], ieee) - anchor
            if lows is not None:
                x = zero if abs(x) <= lows[p] else x
            if highs is not None:
                x -= x if abs(x) > highs[p] else zero
            agreeing = _turned(x * factors[p], sign)
            agreeing = zero if agreeing < zero else agreeing
            total += agreeing
            if weights is not None:
                share += weights[p] if agreeing > zero else zero
        total = _turned(total, sign)
        if weights is not None:
            total /= share if abs(share) > least else one
        total = total * scale + anchor
        bits = np.uint16(_narrow(total, ieee))
        largest = max(largest, np.uint16(bits & _MAGNITUDE))
        out[i] = bits
    return np.float32(_wide(largest, ieee))
