"""Convolutions of NHWC images: depthwise, and dense through any packed weight.

depthwise
    Idea: channels lie side by side, so the innermost loop runs over them: for each output pixel the taps in order, each
    a row of channels times a row of weights. Exact in int32 for 8-bit x, in the order of the taps for float32.
    Bound: loads and widening.

conv
    Idea: some rows of the im2col matrix at a time, the pixels under the kernel of some outputs, go through the product
    of the packed weight while they are in the cache. The whole matrix is never made.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import gemm, last_step, quant
from .common import kernel, parallel

Array: TypeAlias = NDArray[Any]
QParams: TypeAlias = tuple[float, int]
Activation: TypeAlias = tuple[int, float, float]
Shape: TypeAlias = tuple[int, int, int, int, int, int, int, int]  # stride, dilation, top, left, bottom, right
f32: TypeAlias = np.float32
i32: TypeAlias = np.int32

TILE = 1 << 15  # sums, or values of im2col rows, in a tile


class DepthwisePack:
    """Taps [kh * kw, outputs], so that the weights of a tap lie as the channels of a pixel do."""

    __slots__ = ("kh", "kw", "outputs", "scale", "taps")

    def __init__(self, w: Array, scale: Array | None) -> None:
        self.outputs, self.kh, self.kw = w.shape
        self.taps = np.ascontiguousarray(w.reshape(self.outputs, self.kh * self.kw).T)
        self.scale = None if scale is None else np.array(scale, np.float32)


class ConvPack:
    """A packed matrix for each group."""

    __slots__ = ("groups", "kh", "kw")

    def __init__(self, groups: list[Any], kh: int, kw: int) -> None:
        self.groups, self.kh, self.kw = groups, kh, kw


def pack_depthwise(w: Array, scale: Array | None) -> DepthwisePack:
    return DepthwisePack(w, scale)


def pack_conv(groups: list[Any], kh: int, kw: int, stored: list[Array]) -> ConvPack:
    return ConvPack(groups, kh, kw)


def transpose(x: Array, batch: int, rows: int, columns: int, out: Array, num_threads: int | None) -> None:
    out.reshape(batch, columns, rows)[...] = x.reshape(batch, rows, columns).transpose(0, 2, 1)


@kernel
def _sums_int8(
    x: Array,
    zero_point: i32,
    taps: Array,
    kw: int,
    shape: Shape,
    size: tuple[int, int],
    times: int,
    start: int,
    out: Array,
) -> None:
    """out[i] = the int32 sums of output pixel start + i."""
    sh, sw, dh, dw, top, left, _, _ = shape
    oh, ow = size
    _, height, width, channels = x.shape
    for i in range(out.shape[0]):
        pixel = start + i
        image, row, column = pixel // ow // oh, pixel // ow % oh, pixel % ow
        sums = out[i]
        sums[:] = i32(0)
        for t in range(taps.shape[0]):
            h, v = row * sh - top + t // kw * dh, column * sw - left + t % kw * dw
            if h < 0 or h >= height or v < 0 or v >= width:
                continue
            values, weights = x[image, h, v], taps[t]
            if times == 1:
                for c in range(channels):
                    sums[c] = i32(sums[c] + i32(i32(values[c]) - zero_point) * i32(weights[c]))
            else:
                for c in range(sums.size):
                    sums[c] = i32(sums[c] + i32(i32(values[c // times]) - zero_point) * i32(weights[c]))


@kernel
def _sums_f32(
    x: Array, taps: Array, kw: int, shape: Shape, size: tuple[int, int], times: int, start: int, out: Array
) -> None:
    """The same in float32, in the order of the taps; pixels beyond the image are zeros that are multiplied, too."""
    sh, sw, dh, dw, top, left, _, _ = shape
    oh, ow = size
    _, height, width, channels = x.shape
    zeros = np.zeros(channels, np.float32)
    for i in range(out.shape[0]):
        pixel = start + i
        image, row, column = pixel // ow // oh, pixel // ow % oh, pixel % ow
        sums = out[i]
        sums[:] = f32(0)
        for t in range(taps.shape[0]):
            h, v = row * sh - top + t // kw * dh, column * sw - left + t % kw * dw
            values, weights = zeros, taps[t]
            if h >= 0 and h < height and v >= 0 and v < width:
                values = x[image, h, v]
            for c in range(sums.size):
                sums[c] = sums[c] + values[c // times] * weights[c]


@kernel
def _gather(
    x: Array, zero_point: Any, kernel: tuple[int, int], shape: Shape, size: tuple[int, int], start: int, out: Array
) -> None:
    """out[i]: what lies under the kernel of output pixel start + i, (kh, kw, channels)."""
    sh, sw, dh, dw, top, left, _, _ = shape
    oh, ow = size
    kh, kw = kernel
    _, height, width, channels = x.shape
    for i in range(out.shape[0]):
        pixel = start + i
        image, row, column = pixel // ow // oh, pixel // ow % oh, pixel % ow
        for t in range(kh * kw):
            h, v = row * sh - top + t // kw * dh, column * sw - left + t % kw * dw
            to = out[i, t * channels : (t + 1) * channels]
            if h < 0 or h >= height or v < 0 or v >= width:
                to[:] = zero_point
            else:
                to[:] = x[image, h, v]


def _quantized(x: Array, x_qparams: QParams | None, num_threads: int | None) -> tuple[Array, float, int]:
    """x in 8 bits with its scale and zero point: float32 by the range of the whole tensor, or by what is given."""
    if x_qparams is None:
        low, high = min(f32(0), x.min(initial=0)), max(f32(0), x.max(initial=0))
        with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
            width = f32(high - low)
            if not np.isfinite(width) or not np.isfinite(x).all():
                raise ValueError(
                    "x holds NaN or infinity, or a range whose width is not finite, and cannot be quantized"
                )
            scale = width / f32(255)
            if not np.isfinite(f32(1) / scale):
                x_qparams = float(f32(1) / f32(255)), 0
            else:
                x_qparams = float(scale), int(np.rint(np.clip(f32(0) - f32(low / scale), f32(0), f32(255))))
    if x.dtype == np.float32:
        q = np.empty(x.shape, np.uint8)
        rows = x.reshape(1, -1) if x.size else x.reshape(0, 1)
        quant.quantize_by(rows, *x_qparams, q.reshape(rows.shape), num_threads)
        x = q
    return x, *x_qparams


def depthwise(
    x: Array,
    w: DepthwisePack,
    bias: Array | None,
    activation: Activation,
    x_qparams: QParams | None,
    y_qparams: QParams | None,
    shape: Shape,
    out: Array,
    num_threads: int | None,
) -> None:
    size = out.shape[1:3]
    pixels, outputs = out.shape[0] * size[0] * size[1], w.outputs
    flat = out.reshape(pixels, outputs)
    times = outputs // max(x.shape[3], 1)
    height = max(1, TILE // max(outputs, 1))
    work = pixels * outputs * w.kh * w.kw
    if w.scale is None:
        code, low, high = activation[0], f32(activation[1]), f32(activation[2])
        given = np.empty(0, np.float32) if bias is None else bias

        def body(start: int, stop: int) -> None:
            for i in range(start, stop, height):
                part = flat[i : min(i + height, stop)]
                _sums_f32(x, w.taps, w.kw, shape, size, times, i, part)
                last_step.finish_f32(part, given, code, low, high, (0, len(part), 0, outputs))

    else:
        x, x_scale, x_zero_point = _quantized(x, x_qparams, num_threads)
        scales = np.full(pixels, x_scale, np.float32)
        finish = gemm.finisher(scales, w.scale, bias, activation, y_qparams, flat)

        def body(start: int, stop: int) -> None:
            sums = np.empty((min(height, stop - start), outputs), np.int32)
            for i in range(start, stop, height):
                part = sums[: min(height, stop - i)]
                _sums_int8(x, i32(x_zero_point), w.taps, w.kw, shape, size, times, i, part)
                finish(part, slice(i, i + len(part)), slice(0, outputs))

    if pixels and outputs:
        parallel(body, pixels, work, num_threads)


def conv(
    x: Array,
    w: ConvPack,
    bias: Array | None,
    activation: Activation,
    x_qparams: QParams | None,
    y_qparams: QParams | None,
    shape: Shape,
    out: Array,
    num_threads: int | None,
    w_zero_point: Array | None = None,
) -> None:
    size = out.shape[1:3]
    pixels = out.shape[0] * size[0] * size[1]
    groups, n, k = len(w.groups), w.groups[0].n, w.groups[0].k
    flat = out.reshape(pixels, groups * n)
    zero_point = 0
    if w.groups[0].quantizes:
        x, scale, zero_point = _quantized(x, x_qparams, num_threads)
        x_qparams = scale, zero_point
    channels = x.shape[3] // groups
    height = max(16, TILE // max(k, 1))

    def body(start: int, stop: int) -> None:
        rows = np.empty((min(height, stop - start), k), x.dtype)
        for i in range(start, stop, height):
            part = rows[: min(height, stop - i)]
            for g, weight in enumerate(w.groups):
                image, columns = x[..., g * channels : (g + 1) * channels], slice(g * n, (g + 1) * n)
                _gather(image, x.dtype.type(zero_point), (w.kh, w.kw), shape, size, i, part)
                y = np.empty((len(part), n), out.dtype)
                given = None if bias is None else bias[columns]
                if out.dtype == np.int32:
                    zeros = np.full(len(part), zero_point, np.int32)
                    of_group = None if w_zero_point is None else w_zero_point[columns]
                    gemm.gemm_int8(part, weight, zeros, of_group, y, 1)
                elif w_zero_point is not None:
                    weight.linear(part, given, activation, x_qparams, y_qparams, y, 1, w_zero_point[columns])
                else:
                    weight.linear(part, given, activation, x_qparams, y_qparams, y, 1)
                flat[i : i + len(part), columns] = y

    if pixels and groups * n:
        parallel(body, pixels, pixels * groups * n * k, num_threads)
