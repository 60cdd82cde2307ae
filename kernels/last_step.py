"""The last step of a layer: from sums to results. Scale, bias, activation, requantization.

Idea: a tile of int32 sums that is still in the cache goes, row by row, through short loops over its columns. Each loop
does one thing without branches, so LLVM makes vectors of it; the choice of the activation stays outside.

Bound: the divisions and the polynomials of silu and gelu, some tens of operations for each output. A layer of K inputs
has spent 2 K operations on that output before, so this is small beside it.

Every float32 operation is written out in the order of docs/exactness.md, and none is contracted.
"""

# Numba, not mypy, infers the types inside kernels.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .common import kernel

Array: TypeAlias = NDArray[Any]
f32: TypeAlias = np.float32
i32: TypeAlias = np.int32
Levels: TypeAlias = tuple[f32, f32, f32, f32]  # scale, zero point, lowest, highest

# As in pycompress.h.
NONE, CLAMP, HARDSWISH, SILU, GELU = range(5)

ZERO, HALF, ONE, THREE, FIVE, SIX = f32(0), f32(0.5), f32(1), f32(3), f32(5), f32(6)
SQRT_HALF = f32(0.70710678)
LOWEST, LOG2_E, LN2_HIGH, LN2_LOW = f32(-87), f32(1.44269504), f32(0.693359375), f32(-2.12194440e-4)
E0, E1, E2, E3 = f32(1), f32(1), f32(0.499999911), f32(0.166664213)
E4, E5, E6 = f32(0.0416683592), f32(0.0083747711), f32(0.00138294208)
G0, G1, G2, G3, G4 = f32(1.1283803), f32(0.636573851), f32(0.103085764), f32(-0.0199528635), f32(0.000870852557)
G5, G6, G7 = f32(0.000938040554), f32(-0.00034720049), f32(6.11964715e-05)
G8, G9 = f32(-5.67972938e-06), f32(2.2165041e-07)
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
TWO_31 = f32(2**31)


@kernel
def clamp(y: f32, low: f32, high: f32) -> f32:
    """NaN stays NaN: no comparison with it is true."""
    y = low if y < low else y
    return high if y > high else y


@kernel
def exp(x: f32) -> f32:
    """exp of x <= 0, as E(r) * 2^n with |r| <= log(2) / 2."""
    c = x if x > LOWEST else LOWEST  # keeps the exponent of 2^n in range; NaN, too, ends here
    n = np.rint(c * LOG2_E)
    r = (c - n * LN2_HIGH) - n * LN2_LOW
    p = E6
    p = p * r + E5
    p = p * r + E4
    p = p * r + E3
    p = p * r + E2
    p = p * r + E1
    p = p * r + E0
    power = i32((i32(n) + 127) << 23).view(np.float32)
    return ZERO if x < LOWEST else p * power


@kernel
def hardswish(y: f32) -> f32:
    return (y * clamp(y + THREE, ZERO, SIX)) / SIX


@kernel
def silu(y: f32) -> f32:
    """y * sigmoid(y), with an exponential that cannot overflow."""
    e = exp(-abs(y))
    return y * ((ONE if y >= ZERO else e) / (ONE + e))


@kernel
def gelu(y: f32) -> f32:
    """y * Phi(y), where Phi(-sqrt(2) * z) = erfc(z) / 2 and erfc(z) = exp(-G(z) * z); beyond z = 5, exp(-z^2)."""
    z = abs(y) * SQRT_HALF
    c = z if z < FIVE else FIVE
    g = G9
    g = g * c + G8
    g = g * c + G7
    g = g * c + G6
    g = g * c + G5
    g = g * c + G4
    g = g * c + G3
    g = g * c + G2
    g = g * c + G1
    g = g * c + G0
    g, square = g * c, z * z
    e = HALF * exp(-(g if g > square else square))
    return y - y * e if y >= ZERO else y * e


@kernel
def _activate(y: Array, code: int, low: f32, high: f32) -> None:
    if code == CLAMP:
        for j in range(y.size):
            y[j] = clamp(y[j], low, high)
    elif code == HARDSWISH:
        for j in range(y.size):
            y[j] = hardswish(y[j])
    elif code == SILU:
        for j in range(y.size):
            y[j] = silu(y[j])
    elif code == GELU:
        for j in range(y.size):
            y[j] = gelu(y[j])


@kernel
def finish_f32(y: Array, bias: Array, code: int, low: f32, high: f32, area: tuple[int, int, int, int]) -> None:
    """Float32 sums in y[i0:i1, j0:j1] become results in place. bias of these columns, or empty."""
    i0, i1, j0, j1 = area
    for i in range(i0, i1):
        row = y[i, j0:j1]
        if bias.size:
            for j in range(row.size):
                row[j] = row[j] + bias[j]
        _activate(row, code, low, high)


@kernel
def scale_sums(sums: Array, x_scale: Array, w_scale: Array, y: Array, i0: int, j0: int) -> None:
    """int32 sums of a tile, scaled to float32, go to y from [i0, j0] on."""
    for i in range(x_scale.size):
        row = y[i0 + i, j0 : j0 + w_scale.size]
        for j in range(row.size):
            row[j] = f32(sums[i, j]) * (x_scale[i] * w_scale[j])


@kernel
def _bias_level(bias: f32, scale: f32) -> np.int64:
    level = np.rint(bias / scale)
    level = level if level > -TWO_31 else -TWO_31
    return min(np.int64(level if level < TWO_31 else TWO_31), np.int64(INT32_MAX))


@kernel
def requantize(
    sums: Array, x_scale: Array, w_scale: Array, bias: Array, code: int, levels: Levels, y: Array, i0: int, j0: int
) -> i32:
    """int32 sums of a tile become 8-bit results, in y from [i0, j0] on. Returns how many values were NaN."""
    nans = i32(0)
    y_scale, y_zero_point, low, high = levels
    n = w_scale.size
    scale, value = np.empty(n, np.float32), np.empty(n, np.float32)
    bias_q = np.empty(n, np.int64)
    in_levels = code in (NONE, CLAMP)
    for i in range(x_scale.size):
        if i == 0 or x_scale[i] != x_scale[i - 1]:
            for j in range(n):
                scale[j] = x_scale[i] * w_scale[j]
            for j in range(bias.size):
                bias_q[j] = _bias_level(bias[j], scale[j])
            if in_levels:
                for j in range(n):
                    scale[j] = scale[j] / y_scale
        if bias.size:
            for j in range(n):
                total = min(max(sums[i, j] + bias_q[j], INT32_MIN), INT32_MAX)
                value[j] = f32(i32(total)) * scale[j]
        else:
            for j in range(n):
                value[j] = f32(sums[i, j]) * scale[j]
        if not in_levels:
            _activate(value, code, ZERO, ZERO)
            for j in range(n):
                value[j] = value[j] / y_scale
        row = y[i0 + i, j0 : j0 + n]
        for j in range(n):
            nans = i32(nans + i32(value[j] != value[j]))
            level = np.rint(value[j]) + y_zero_point
            level = level if level > low else low
            row[j] = i32(level if level < high else high)
    return nans
