"""Quantization: float32 to 8 bits and back.

Idea: one pass, elementwise, in which LLVM makes vectors of everything: round, clamp while still in float32 (so that no
conversion can overflow), convert. The range of a tensor or a row needs a pass of its own before.

Bound: memory for large arrays; in the cache, the division (multiplication by 1 / scale in quantize_rows).

The range is found in integers. Among float32 of one sign, the bits read as an integer have the order of the magnitudes.
So the greatest as int32 is the maximum, if that is positive, and the greatest as uint32 is the minimum, if that is
negative; otherwise the start values stay, +0 and -0, and 0 belongs to the range anyway. Beyond the infinities are only
NaNs, so the same two numbers tell whether all was finite. And LLVM vectorizes integer maxima, but no float maximum that
has to care for NaN.
"""

# Numba, not mypy, infers the types inside kernels.
# mypy: disable-error-code="no-any-return"

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .common import kernel, parallel

Array: TypeAlias = NDArray[Any]
Part: TypeAlias = tuple[int, int, int, int]
f32: TypeAlias = np.float32
i32: TypeAlias = np.int32

ZERO, ONE, LEVELS = f32(0), f32(1), f32(255)
POSITIVE_INFINITY, NEGATIVE_INFINITY = 0x7F800000, 0xFF800000  # as bits
# An element here costs about as much as this many multiply-accumulates.
ELEMENT = 8

FINITE, NOT_FINITE, TOO_WIDE = 0, 1, 2


@kernel
def _level(value: f32, zero_point: f32, low: f32, high: f32) -> i32:
    level = np.rint(value) + zero_point
    level = level if level > low else low
    return i32(level if level < high else high)


@kernel
def _quantize(x: Array, scale: Array, zero_point: Array, low: f32, high: f32, out: Array, part: Part) -> i32:
    """Part [r0:r1, j0:j1] of x[rows, inner]; the scale goes round with the rows. Returns how many values were NaN."""
    r0, r1, j0, j1 = part
    nans = i32(0)
    for r in range(r0, r1):
        s, z = scale[r % scale.size], f32(zero_point[r % scale.size])
        for j in range(j0, j1):
            nans = i32(nans + i32(x[r, j] != x[r, j]))
            out[r, j] = _level(x[r, j] / s, z, low, high)
    return nans


@kernel
def _quantize_columns(x: Array, scale: Array, zero_point: Array, low: f32, high: f32, out: Array, part: Part) -> i32:
    """The same with a scale for each column."""
    r0, r1, j0, j1 = part
    nans = i32(0)
    for r in range(r0, r1):
        for j in range(j0, j1):
            nans = i32(nans + i32(x[r, j] != x[r, j]))
            out[r, j] = _level(x[r, j] / scale[j], f32(zero_point[j]), low, high)
    return nans


@kernel
def _quantize_by(x: Array, inverse: f32, zero_point: f32, out: Array, start: int, stop: int) -> i32:
    """Part [start:stop] of flat x, with the product by 1 / scale in place of the division."""
    nans = i32(0)
    for j in range(start, stop):
        nans = i32(nans + i32(x[j] != x[j]))
        out[j] = _level(x[j] * inverse, zero_point, ZERO, LEVELS)
    return nans


@kernel
def _dequantize(x: Array, scale: Array, zero_point: Array, out: Array, part: Part) -> None:
    r0, r1, j0, j1 = part
    for r in range(r0, r1):
        s, z = scale[r % scale.size], zero_point[r % scale.size]
        for j in range(j0, j1):
            out[r, j] = f32(i32(i32(x[r, j]) - z)) * s


@kernel
def _dequantize_columns(x: Array, scale: Array, zero_point: Array, out: Array, part: Part) -> None:
    r0, r1, j0, j1 = part
    for r in range(r0, r1):
        for j in range(j0, j1):
            out[r, j] = f32(i32(i32(x[r, j]) - zero_point[j])) * scale[j]


@kernel
def _range(x: Array, start: int, stop: int) -> tuple[i32, np.uint32]:
    """The bits of the maximum and of the minimum of flat x[start:stop] and 0."""
    signed, unsigned = x.view(np.int32), x.view(np.uint32)
    high, low = i32(0), np.uint32(0x80000000)
    for j in range(start, stop):
        high, low = max(high, signed[j]), max(low, unsigned[j])
    return high, low


@kernel
def _qparams(low: f32, high: f32) -> tuple[f32, f32]:
    """Scale and zero point of a range that contains 0."""
    scale = (high - low) / LEVELS
    if scale == ZERO:  # all zero, or so small that the quotient is
        return ONE / LEVELS, ZERO
    zero_point = ZERO - low / scale
    zero_point = zero_point if zero_point > ZERO else ZERO
    return scale, np.rint(zero_point if zero_point < LEVELS else LEVELS)


@kernel
def _quantize_rows(x: Array, out: Array, scale: Array, zero_point: Array, start: int, stop: int) -> int:
    """Rows [start:stop], each by its own range. Stops at a row that cannot be quantized, and says why."""
    for i in range(start, stop):
        high_bits, low_bits = _range(x[i], 0, x.shape[1])
        if high_bits >= POSITIVE_INFINITY or low_bits >= NEGATIVE_INFINITY:
            return NOT_FINITE
        high, low = np.int32(high_bits).view(np.float32), np.uint32(low_bits).view(np.float32)
        if not np.isfinite(high - low):
            return TOO_WIDE
        s, z = _qparams(low, high)
        if not np.isfinite(ONE / s):  # the row counts as zero
            s, z = ONE / LEVELS, ZERO
        scale[i], zero_point[i] = s, i32(z)
        inverse = ONE / s
        for j in range(x.shape[1]):
            out[i, j] = _level(x[i, j] * inverse, z, ZERO, LEVELS)
    return FINITE


def _no_nan(nans: list[int]) -> None:
    if any(nans):
        raise ValueError("x has NaN, which cannot be quantized")


def _no_fault(faults: list[int]) -> None:
    if NOT_FINITE in faults:
        raise ValueError("x has NaN or infinity: its range cannot be quantized")
    if TOO_WIDE in faults:
        raise ValueError("x has a range, maximum - minimum, beyond float32: it cannot be quantized")


def _elementwise(
    by_row: Any, by_column: Any, x: Array, args: tuple[Any, ...], out: Array, num_threads: int | None
) -> list[Any]:
    """Run over x[outer, channels, inner], split along the longer side; with inner = 1 the vectors run over channels."""
    if x.size == 0:
        return []
    outer, channels, inner = x.shape
    run, shape = (by_column, (outer, channels)) if inner == 1 < channels else (by_row, (outer * channels, inner))
    x, out = x.reshape(shape), out.reshape(shape)
    rows, columns = shape

    def body(start: int, stop: int) -> Any:
        part = (start, stop, 0, columns) if rows >= columns else (0, rows, start, stop)
        return run(x, *args, out, part)

    return parallel(body, max(shape), x.size * ELEMENT, num_threads)


def quantize_linear(x: Array, scale: Array, zero_point: Array, out: Array, num_threads: int | None) -> None:
    """out = clip(rint(x / scale) + zero_point)."""
    info = np.iinfo(out.dtype)
    args = (scale, zero_point, f32(info.min), f32(info.max))
    _no_nan(_elementwise(_quantize, _quantize_columns, x, args, out, num_threads))


def dequantize_linear(x: Array, scale: Array, zero_point: Array, out: Array, num_threads: int | None) -> None:
    """out = (x - zero_point) * scale."""
    _elementwise(_dequantize, _dequantize_columns, x, (scale, zero_point), out, num_threads)


def dynamic_quantize_linear(x: Array, out: Array, num_threads: int | None) -> tuple[float, int]:
    """Quantize flat x by its own range; returns scale and zero point."""
    work = x.size * ELEMENT
    ranges = parallel(lambda start, stop: _range(x, start, stop), x.size, work, num_threads)
    high_bits, low_bits = (max(bits) for bits in zip(*ranges, strict=True))
    if high_bits >= POSITIVE_INFINITY or low_bits >= NEGATIVE_INFINITY:
        _no_fault([NOT_FINITE])
    high, low = np.int32(high_bits).view(f32), np.uint32(low_bits).view(f32)
    with np.errstate(over="ignore"):
        if not np.isfinite(high - low):
            _no_fault([TOO_WIDE])
    scale, zero_point = _qparams(low, high)
    one_channel = (1, 1, x.size)
    scales, zero_points = np.array([scale], np.float32), np.array([zero_point], np.int32)
    quantize_linear(x.reshape(one_channel), scales, zero_points, out.reshape(one_channel), num_threads)
    return float(scale), int(zero_point)


def quantize_rows(x: Array, out: Array, scale: Array, zero_point: Array, num_threads: int | None) -> None:
    """Quantize each row of x by its own range; fills scale and zero_point."""

    def body(start: int, stop: int) -> Any:
        return _quantize_rows(x, out, scale, zero_point, start, stop)

    _no_fault(parallel(body, x.shape[0], x.size * ELEMENT, num_threads))


def quantize_by(x: Array, scale: float, zero_point: int, out: Array, num_threads: int | None) -> None:
    """out = clip(rint(x * (1 / scale)) + zero_point), as linear does with given parameters."""
    with np.errstate(over="ignore"):
        inverse = ONE / f32(scale)
    x, out = x.reshape(-1), out.reshape(-1)

    def body(start: int, stop: int) -> Any:
        return _quantize_by(x, inverse, f32(zero_point), out, start, stop)

    _no_nan(parallel(body, x.size, x.size * ELEMENT, num_threads))
