"""Matrix products with a weight w[n, k], outputs by inputs: exact in int8, and in float32.

gemm_int8
    Idea: dot products, four outputs at a time, so that a piece of x, once widened, meets four rows of w. Both operands
    run along k, as they lie in memory, so packing is little more than a copy; LLVM splits each int32 sum into vectors,
    which is exact in any order. Everything is made uint8 x int8, the pair that CPUs multiply: int8 x and uint8 w are
    shifted by 128 together with their zero points, and zero points fold into the result through the sums of the rows.
    Tile: some rows of x, as many as stay in L2 with their sums, by all of w; then the tile's last step.
    Bound: widening. Each byte of w takes one instruction to become int32 and another to be multiplied.

linear_f32
    Idea: each output is one accumulator and takes the products in the order of k, so its bits do not depend on the
    tile. Vectors therefore run over outputs: a block of w is transposed to [k, n], and one pass over a row of sums adds
    eight of its rows, so that each sum is loaded and stored once in eight steps.
    Tile: 256 x 256 of w (256 KiB, in L2) by all rows of x.
    Bound: multiplications and additions, which Numba does not contract into FMA.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import last_step, quant
from .common import kernel, parallel

Array: TypeAlias = NDArray[Any]
QParams: TypeAlias = tuple[float, int]
Activation: TypeAlias = tuple[int, float, float]
f32: TypeAlias = np.float32
i32: TypeAlias = np.int32

OUTPUTS = 4  # of one pass over k
SHIFT = 128  # from int8 to uint8
TILE = 1 << 16  # elements of x or of the sums in a tile
BLOCK = 256  # rows and columns of a float32 block


class Int8Pack:
    """An 8-bit weight as the kernel reads it: int8 rows, padded with zeros to a multiple of OUTPUTS."""

    __slots__ = ("k", "n", "q", "scale", "sums", "zero_point")

    quantizes = True

    def __init__(self, q: Array, scale: Array) -> None:
        self.n, self.k = q.shape
        self.q = np.zeros((-(-self.n // OUTPUTS) * OUTPUTS, self.k), np.int8)
        self.q[: self.n] = _shifted(q, np.int8)
        self.sums = self.q.sum(axis=1, dtype=np.int32)
        self.scale = np.array(scale, np.float32)
        # Of the stored bytes, when the values themselves have none.
        self.zero_point = -SHIFT if q.dtype == np.uint8 else 0

    def linear(self, *arguments: Any) -> None:
        linear_int8(self, *arguments)

    def tiles(self, *arguments: Any) -> None:
        _tiles_int8(self, *arguments)


class F32Pack:
    """A float32 or float16 weight: as it is."""

    quantizes = False

    def __init__(self, w: Array) -> None:
        self.w = w
        self.n, self.k = w.shape

    def linear(
        self,
        x: Array,
        bias: Array | None,
        activation: Activation,
        x_qparams: QParams | None,
        y_qparams: QParams | None,
        out: Array,
        num_threads: int | None,
    ) -> None:
        linear_f32(x, self.w, bias, activation, out, num_threads)


def pack_f32(w: Array) -> F32Pack:
    return F32Pack(w)


def pack_f16(w: Array) -> F32Pack:
    return F32Pack(w)


def linear(x: Array, w: Any, *arguments: Any) -> None:
    """A layer with a packed weight of any kind."""
    w.linear(x, *arguments)


def pack_int8(q: Array, scale: Array) -> Int8Pack:
    return Int8Pack(q, scale)


def _shifted(q: Array, dtype: type) -> Array:
    """8-bit values as the other kind of byte; int8 -> uint8 adds SHIFT, uint8 -> int8 takes it away."""
    return q if q.dtype == dtype else (q.view(np.uint8) ^ np.uint8(SHIFT)).view(dtype)


@kernel
def _sums_int8(x: Array, x_zero_point: Array, w: Array, w_sums: Array, w_zero_point: Array, out: Array) -> None:
    """out = (x - x_zero_point) * (w - w_zero_point)^T, modulo 2^32. w_zero_point may be empty, for zeros."""
    m, k = x.shape
    for j in range(0, w.shape[0], OUTPUTS):
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        for i in range(m):
            row = x[i]
            sum0, sum1, sum2, sum3 = i32(0), i32(0), i32(0), i32(0)
            for p in range(k):
                # Numba adds in int64; said to be int32 at every step, LLVM narrows all of it.
                v = i32(row[p])
                sum0 = i32(sum0 + v * i32(w0[p]))
                sum1 = i32(sum1 + v * i32(w1[p]))
                sum2 = i32(sum2 + v * i32(w2[p]))
                sum3 = i32(sum3 + v * i32(w3[p]))
            out[i, j], out[i, j + 1], out[i, j + 2], out[i, j + 3] = sum0, sum1, sum2, sum3
    for i in range(m):
        for j in range(w.shape[0]):
            out[i, j] = i32(out[i, j] - x_zero_point[i] * w_sums[j])
    if w_zero_point.size:
        for i in range(m):
            x_sum = i32(0)
            for p in range(k):
                x_sum = i32(x_sum + i32(x[i, p]))
            x_sum = i32(x_sum - k * x_zero_point[i])
            for j in range(w_zero_point.size):
                out[i, j] = i32(out[i, j] - w_zero_point[j] * x_sum)


def _tiles_int8(
    w: Int8Pack,
    x: Array,
    x_zero_point: Array,
    w_zero_point: Array | None,
    finish: Callable[[Array, slice, slice], None],
    num_threads: int | None,
) -> None:
    """Compute the sums tile by tile; finish(sums, rows, columns) uses them. sums may have more columns."""
    if x.dtype == np.int8:
        x, x_zero_point = _shifted(x, np.uint8), x_zero_point + i32(SHIFT)
    if w_zero_point is None:
        w_zero_point = np.full(w.n if w.zero_point else 0, w.zero_point, np.int32)
    elif w.zero_point:
        w_zero_point = w_zero_point + i32(w.zero_point)
    m, blocks = len(x), len(w.q) // OUTPUTS
    height = max(16, TILE // max(w.n, w.k, 1))
    by_row = m >= blocks

    def body(start: int, stop: int) -> None:
        rows, cut = ((start, stop), (0, blocks)) if by_row else ((0, m), (start, stop))
        padded = slice(cut[0] * OUTPUTS, cut[1] * OUTPUTS)
        columns = slice(padded.start, min(padded.stop, w.n))
        sums = np.empty((min(height, rows[1] - rows[0]), padded.stop - padded.start), np.int32)
        for i in range(*rows, height):
            tile = slice(i, min(i + height, rows[1]))
            part = sums[: tile.stop - tile.start]
            _sums_int8(x[tile], x_zero_point[tile], w.q[padded], w.sums[padded], w_zero_point[columns], part)
            finish(part, tile, columns)

    parallel(body, max(m, blocks), m * w.n * w.k, num_threads)


def gemm_int8(
    x: Array, w: Int8Pack, x_zero_point: Array | None, w_zero_point: Array | None, out: Array, num_threads: int | None
) -> None:
    """out = (x - x_zero_point) * (w - w_zero_point)^T in int32."""

    def finish(sums: Array, rows: slice, columns: slice) -> None:
        out[rows, columns] = sums[:, : columns.stop - columns.start]

    if x_zero_point is None:
        x_zero_point = np.zeros(len(x), np.int32)
    _tiles_int8(w, x, x_zero_point, w_zero_point, finish, num_threads)


def quantized(x: Array, x_qparams: QParams | None, num_threads: int | None) -> tuple[Array, Array, Array]:
    """x in 8 bits, with a scale and a zero point for each row."""
    if x_qparams is None:
        q = np.empty(x.shape, np.uint8)
        scale, zero_point = np.empty(len(x), np.float32), np.empty(len(x), np.int32)
        quant.quantize_rows(x, q, scale, zero_point, num_threads)
        return q, scale, zero_point
    if x.dtype == np.float32:
        q = np.empty(x.shape, np.uint8)
        quant.quantize_by(x, *x_qparams, q, num_threads)
        x = q
    return x, np.full(len(x), x_qparams[0], np.float32), np.full(len(x), x_qparams[1], np.int32)


def finisher(
    x_scale: Array,
    w_scale: Array,
    bias: Array | None,
    activation: Activation,
    y_qparams: QParams | None,
    out: Array,
) -> Callable[[Array, slice, slice], None]:
    """finish(sums, rows, columns): int32 sums of a tile become results in out; int32 ones as they are."""
    if out.dtype == np.int32:

        def copy(sums: Array, rows: slice, columns: slice) -> None:
            out[rows, columns] = sums[:, : columns.stop - columns.start]

        return copy
    code, low, high = activation[0], f32(activation[1]), f32(activation[2])
    if bias is None:
        bias = np.empty(0, np.float32)
    if y_qparams is not None and not np.isfinite(bias).all():
        raise ValueError("bias has NaN or infinity, which cannot be quantized")

    if y_qparams is None:

        def finish(sums: Array, rows: slice, columns: slice) -> None:
            last_step.scale_sums(sums, x_scale[rows], w_scale[columns], out, rows.start, columns.start)
            area = rows.start, rows.stop, columns.start, columns.stop
            last_step.finish_f32(out, bias[columns], code, low, high, area)

    else:
        y_scale, y_zero_point = f32(y_qparams[0]), f32(y_qparams[1])
        with np.errstate(over="ignore"):
            scale = np.max(x_scale, initial=0) * w_scale
            if code in (last_step.NONE, last_step.CLAMP):
                scale /= y_scale
        if not np.isfinite(scale).all():
            raise ValueError("x_scale * w_scale / y_scale is not finite: the scales are out of proportion")
        info = np.iinfo(out.dtype)
        lowest, highest = f32(info.min), f32(info.max)
        if code == last_step.CLAMP:
            with np.errstate(over="ignore"):
                clamps = np.rint(np.array([low, high]) / y_scale) + y_zero_point
            lowest, highest = np.clip(clamps, lowest, highest)
        levels = (y_scale, y_zero_point, lowest, highest)

        def finish(sums: Array, rows: slice, columns: slice) -> None:
            scales = x_scale[rows], w_scale[columns]
            if last_step.requantize(sums, *scales, bias[columns], code, levels, out, rows.start, columns.start):
                raise ValueError("an activation gave NaN, which cannot be quantized: the scales are out of proportion")

    return finish


def linear_int8(
    w: Any,
    x: Array,
    bias: Array | None,
    activation: Activation,
    x_qparams: QParams | None,
    y_qparams: QParams | None,
    out: Array,
    num_threads: int | None,
    w_zero_point: Array | None = None,
) -> None:
    """A layer with 8-bit weights; float32 x is quantized first, out is float32 or requantized.

    w has a scale for each output, and tiles(), as that of Int8Pack.
    """
    x, x_scale, x_zero_point = quantized(x, x_qparams, num_threads)
    finish = finisher(x_scale, w.scale, bias, activation, y_qparams, out)
    w.tiles(x, x_zero_point, w_zero_point, finish, num_threads)


@kernel
def _sums_f32(x: Array, w: Array, out: Array, rows: tuple[int, int], j0: int, p0: int) -> None:
    """out[i0:i1, j0:] += x[i0:i1, p0:] * w, for a block w[k, n], in the order of k."""
    i0, i1 = rows
    k, n = w.shape
    whole = k - k % 8
    for i in range(i0, i1):
        sums, row = out[i, j0 : j0 + n], x[i, p0 : p0 + k]
        for p in range(0, whole, 8):
            w0, w1, w2, w3, w4, w5, w6, w7 = w[p], w[p + 1], w[p + 2], w[p + 3], w[p + 4], w[p + 5], w[p + 6], w[p + 7]
            x0, x1, x2, x3, x4, x5, x6, x7 = (
                row[p], row[p + 1], row[p + 2], row[p + 3], row[p + 4], row[p + 5], row[p + 6], row[p + 7]
            )  # fmt: skip
            for j in range(n):
                s = sums[j] + x0 * w0[j] + x1 * w1[j] + x2 * w2[j] + x3 * w3[j]
                sums[j] = s + x4 * w4[j] + x5 * w5[j] + x6 * w6[j] + x7 * w7[j]
        for p in range(whole, k):
            for j in range(n):
                sums[j] = sums[j] + row[p] * w[p, j]


def linear_f32(
    x: Array, w: Array, bias: Array | None, activation: Activation, out: Array, num_threads: int | None
) -> None:
    """A layer with float32 weights, or float16 ones, which become float32 block by block."""
    code, low, high = activation[0], f32(activation[1]), f32(activation[2])
    (m, k), n = x.shape, len(w)
    if bias is None:
        bias = np.empty(0, np.float32)
    by_row = m >= n

    def body(start: int, stop: int) -> None:
        rows, columns = ((start, stop), (0, n)) if by_row else ((0, m), (start, stop))
        for j0 in range(*columns, BLOCK):
            j1 = min(j0 + BLOCK, columns[1])
            out[slice(*rows), j0:j1] = 0
            for p0 in range(0, k, BLOCK):
                block = np.ascontiguousarray(w[j0:j1, p0 : p0 + BLOCK].T, np.float32)
                _sums_f32(x, block, out, rows, j0, p0)
            last_step.finish_f32(out, bias[j0:j1], code, low, high, (*rows, j0, j1))

    parallel(body, max(m, n), m * n * k, num_threads)
