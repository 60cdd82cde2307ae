"""Matrix products with an int4 weight: exact in int32 within a group of inputs, float32 over the groups.

Idea: as gemm_int8, dot products along k, four outputs at a time, over the values as int8. Each group's sum becomes
float32, times its scale, and is added to those before, in order, by two operations that are not contracted.
Tile: some rows of x, or some outputs, for each thread. Bound: widening, as for int8; memory is not saved here.
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
f32: TypeAlias = np.float32
i32: TypeAlias = np.int32

OUTPUTS = 4  # of one pass over k


class Int4Pack:
    """The values as int8 rows, padded with zeros to a multiple of OUTPUTS, and their scales."""

    __slots__ = ("group_size", "k", "n", "q", "scale")

    quantizes = True

    def __init__(self, data: Array, scale: Array, k: int, group_size: int) -> None:
        self.n, self.k, self.group_size = len(data), k, group_size or max(k, 1)
        rows = -(-self.n // OUTPUTS) * OUTPUTS
        both = np.zeros((rows, data.shape[1], 2), np.uint8)
        both[: self.n, :, 0], both[: self.n, :, 1] = data & 15, data >> 4
        values = ((both ^ 8) - np.uint8(8)).view(np.int8)
        self.q = np.ascontiguousarray(values.reshape(rows, 2 * data.shape[1])[:, :k])
        self.scale = np.zeros((rows, scale.shape[1]), np.float32)
        self.scale[: self.n] = scale

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
        """A layer; float32 x is quantized first, out is float32 or that quantized."""
        code, low, high = activation[0], f32(activation[1]), f32(activation[2])
        x, x_scale, x_zero_point = gemm.quantized(x, x_qparams, num_threads)
        y = out if y_qparams is None else np.empty(out.shape, np.float32)
        bias = np.empty(0, np.float32) if bias is None else bias
        m, blocks = len(x), len(self.q) // OUTPUTS
        by_row = m >= blocks

        def body(start: int, stop: int) -> None:
            rows, cut = ((start, stop), (0, blocks)) if by_row else ((0, m), (start, stop))
            padded = slice(cut[0] * OUTPUTS, cut[1] * OUTPUTS)
            columns = slice(padded.start, min(padded.stop, self.n))
            area, part = (*rows, columns.start, columns.stop), slice(*rows)
            _sums(
                x[part], x_zero_point[part], x_scale[part], self.q[padded], self.scale[padded], self.group_size, y, area
            )
            last_step.finish_f32(y, bias[columns], code, low, high, area)

        parallel(body, max(m, blocks), m * self.n * self.k, num_threads)
        if y_qparams is not None:
            scale, zero_point = np.array([y_qparams[0]], np.float32), np.array([y_qparams[1]], np.int32)
            quant.quantize_linear(y.reshape(1, 1, -1), scale, zero_point, out.reshape(1, 1, -1), num_threads)


def pack_int4(data: Array, scale: Array, k: int, group_size: int) -> Int4Pack:
    return Int4Pack(data, scale, k, group_size)


@kernel
def _sums(
    x: Array,
    x_zero_point: Array,
    x_scale: Array,
    w: Array,
    scale: Array,
    group_size: int,
    y: Array,
    area: tuple[int, int, int, int],
) -> None:
    """y[i0:i1, j0:j1] = the sums over the groups, times x_scale; w and scale may have some rows more."""
    i0, _, j0, j1 = area
    m, k = x.shape
    for j in range(0, w.shape[0], OUTPUTS):
        w0, w1, w2, w3 = w[j], w[j + 1], w[j + 2], w[j + 3]
        for i in range(m):
            row, zero_point = x[i], x_zero_point[i]
            y0, y1, y2, y3 = f32(0), f32(0), f32(0), f32(0)
            for g in range(scale.shape[1]):
                sum0, sum1, sum2, sum3 = i32(0), i32(0), i32(0), i32(0)
                for p in range(g * group_size, min(k, (g + 1) * group_size)):
                    # Numba adds in int64; said to be int32 at every step, LLVM narrows all of it.
                    v = i32(i32(row[p]) - zero_point)
                    sum0 = i32(sum0 + v * i32(w0[p]))
                    sum1 = i32(sum1 + v * i32(w1[p]))
                    sum2 = i32(sum2 + v * i32(w2[p]))
                    sum3 = i32(sum3 + v * i32(w3[p]))
                y0 = y0 + f32(sum0) * scale[j, g]
                y1 = y1 + f32(sum1) * scale[j + 1, g]
                y2 = y2 + f32(sum2) * scale[j + 2, g]
                y3 = y3 + f32(sum3) * scale[j + 3, g]
            for r, value in enumerate((y0, y1, y2, y3)):
                if j0 + j + r < j1:
                    y[i0 + i, j0 + j + r] = value * x_scale[i]
