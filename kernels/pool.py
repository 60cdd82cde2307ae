"""Pooling of NHWC images, and the sum of two.

Idea: channels lie side by side, so the innermost loop runs over them, and each pixel under a window is read once.
Bound: loads.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .common import kernel, parallel

Array: TypeAlias = NDArray[Any]
QParams: TypeAlias = tuple[float, int]
Activation: TypeAlias = tuple[int, float, float]
Geometry: TypeAlias = tuple[int, int, int, int, int, int, int, int]
f32: TypeAlias = np.float32
i32: TypeAlias = np.int32

MAX, AVERAGE, AVERAGE_PADDED = range(3)


@kernel
def _max(x: Array, out: Array, geometry: Geometry, lowest: Any, start: int, stop: int) -> None:
    kh, kw, sh, sw, dh, dw, top, left = geometry
    _, height, width, channels = x.shape
    _, rows, columns, _ = out.shape
    for pixel in range(start, stop):
        image, i, j = pixel // columns // rows, pixel // columns % rows, pixel % columns
        y = out[image, i, j]
        y[:] = lowest
        for p in range(kh):
            h = i * sh - top + p * dh
            if h < 0 or h >= height:
                continue
            for q in range(kw):
                v = j * sw - left + q * dw
                if v < 0 or v >= width:
                    continue
                for c in range(channels):
                    value = x[image, h, v, c]
                    if value > y[c] or value != value:
                        y[c] = value


@kernel
def _sums(
    x: Array, sums: Array, counts: Array, geometry: Geometry, shape: tuple[int, int], start: int, stop: int
) -> None:
    """sums[pixel - start] over the pixels in the image, counts how many these are."""
    kh, kw, sh, sw, _, _, top, left = geometry
    _, height, width, channels = x.shape
    rows, columns = shape
    for pixel in range(start, stop):
        image, i, j = pixel // columns // rows, pixel // columns % rows, pixel % columns
        h0, v0 = i * sh - top, j * sw - left
        first_h, end_h = max(h0, 0), min(h0 + kh, height)
        first_v, end_v = max(v0, 0), min(v0 + kw, width)
        y = sums[pixel - start]
        y[:] = 0
        counts[pixel - start] = max(end_h - first_h, 0) * max(end_v - first_v, 0)
        for h in range(first_h, end_h):
            for v in range(first_v, end_v):
                for c in range(channels):
                    y[c] += x[image, h, v, c]


@kernel
def _divide(sums: Array, counts: Array, out: Array) -> None:
    for i in range(len(sums)):
        for c in range(sums.shape[1]):
            out[i, c] = sums[i, c] / f32(counts[i])


@kernel
def _requantize(sums: Array, offsets: Array, scale: Array, low: f32, high: f32, zero_point: i32, out: Array) -> None:
    for i in range(len(sums)):
        for c in range(sums.shape[1]):
            level = np.rint(f32(sums[i, c] + offsets[i]) * scale[i])
            out[i, c] = i32(min(max(level, low), high)) + zero_point


@kernel
def _scale(sums: Array, offsets: Array, scale: Array, out: Array) -> None:
    for i in range(len(sums)):
        for c in range(sums.shape[1]):
            out[i, c] = f32(sums[i, c] + offsets[i]) * scale[i]


def _bounds(dtype: Any, zero_point: int) -> tuple[f32, f32]:
    info = np.iinfo(dtype)
    return f32(info.min - zero_point), f32(info.max - zero_point)


def pool(
    x: Array,
    out: Array,
    mode: int,
    geometry: Geometry,
    x_qparams: QParams | None,
    y_qparams: QParams | None,
    num_threads: int | None,
) -> None:
    batch, rows, columns, channels = out.shape
    pixels, taps = batch * rows * columns, geometry[0] * geometry[1]
    if pixels * channels == 0:
        return
    integers = x.dtype != np.float32
    if integers:
        x_scale, x_zero_point = x_qparams or (0.0, 0)
        y_scale, y_zero_point = y_qparams or (0.0, x_zero_point)
        ratio = f32(1)
        if x_scale:
            with np.errstate(over="ignore", under="ignore"):
                ratio = f32(x_scale) if out.dtype == np.float32 else f32(x_scale) / f32(y_scale)
            if not (ratio > 0 and np.isfinite(ratio)):
                raise ValueError(f"x_scale / y_scale is {ratio}, wanted positive and finite")

    def body(start: int, stop: int) -> None:
        if mode == MAX:
            lowest = np.iinfo(x.dtype).min if integers else -np.inf
            _max(x, out, geometry, x.dtype.type(lowest), start, stop)
            return
        sums = np.empty((stop - start, channels), np.int32 if integers else np.float32)
        counts = np.empty(stop - start, np.int64)
        _sums(x, sums, counts, geometry, (rows, columns), start, stop)
        y = out.reshape(pixels, channels)[start:stop]
        divisors = counts if mode == AVERAGE else np.full_like(counts, taps)
        if not integers:
            _divide(sums, divisors, y)
            return
        offsets, scale = (-counts * x_zero_point).astype(np.int32), ratio / divisors.astype(np.float32)
        if out.dtype == np.float32:
            _scale(sums, offsets, scale, y)
        else:
            _requantize(sums, offsets, scale, *_bounds(out.dtype, y_zero_point), i32(y_zero_point), y)

    parallel(body, pixels, out.size * taps, num_threads)


@kernel
def _add_f32(a: Array, b: Array, out: Array, low: f32, high: f32, start: int, stop: int) -> None:
    for i in range(start, stop):
        value = a[i] + b[i]
        value = low if value < low else value
        out[i] = high if value > high else value


@kernel
def _add_8(
    a: Array, b: Array, out: Array, zeros: tuple[i32, i32], ratios: tuple[f32, f32], start: int, stop: int
) -> None:
    for i in range(start, stop):
        out[i] = f32(i32(a[i]) - zeros[0]) * ratios[0] + f32(i32(b[i]) - zeros[1]) * ratios[1]


@kernel
def _round(values: Array, out: Array, low: f32, high: f32, zero_point: i32, start: int, stop: int) -> None:
    for i in range(start, stop):
        out[i] = i32(min(max(np.rint(values[i]), low), high)) + zero_point


def add(
    a: Array,
    b: Array,
    out: Array,
    a_qparams: QParams | None,
    b_qparams: QParams | None,
    y_qparams: QParams | None,
    activation: Activation,
    num_threads: int | None,
) -> None:
    a, b, y = a.reshape(-1), b.reshape(-1), out.reshape(-1)
    low, high = (f32(activation[1]), f32(activation[2])) if activation[0] else (f32(-np.inf), f32(np.inf))
    if a_qparams is None or b_qparams is None:
        parallel(lambda i, j: _add_f32(a, b, y, low, high, i, j), len(y), len(y), num_threads)
        return
    y_scale, y_zero_point = y_qparams or (1.0, 0)
    with np.errstate(over="ignore"):
        ratios = f32(a_qparams[0]) / f32(y_scale), f32(b_qparams[0]) / f32(y_scale)
    if not np.isfinite(np.array(ratios) * f32(512)).all():
        raise ValueError("a_scale or b_scale / y_scale is not finite")
    zeros = i32(a_qparams[1]), i32(b_qparams[1])
    values = y if y_qparams is None else np.empty(len(y), np.float32)
    parallel(lambda i, j: _add_8(a, b, values, zeros, ratios, i, j), len(y), len(y), num_threads)
    if y_qparams is None:
        return
    lowest, highest = _bounds(out.dtype, y_zero_point)
    with np.errstate(over="ignore"):
        bounds = np.rint(np.clip(np.array([low, high]) / f32(y_scale), -1024, 1024))
    lowest, highest = np.clip(bounds, lowest, highest)
    parallel(lambda i, j: _round(values, y, lowest, highest, i32(y_zero_point), i, j), len(y), len(y), num_threads)
