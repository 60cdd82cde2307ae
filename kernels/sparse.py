"""Matrix products with a sparse weight: float32, and exact int8.

Idea: some rows of x are transposed once, so that one input of all of them is a run in memory. An output then walks
along its stored values in the order of k: each is multiplied by its run and added to the rows' sums, which stay in L1.
Blocks are taken apart when a weight is packed.
Tile: 64 rows of x by all outputs; then the tile's last step.
Bound: loads, of a run and of the sums, for each product; what is not stored costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from . import last_step
from .common import kernel, parallel
from .gemm import linear_int8

Array: TypeAlias = NDArray[Any]
QParams: TypeAlias = tuple[float, int]
Activation: TypeAlias = tuple[int, float, float]
f32: TypeAlias = np.float32
i32: TypeAlias = np.int32

ROWS = 64
SHIFT = 128  # from int8 to uint8


class SparsePack:
    """The stored values of each output, in the order of k."""

    __slots__ = ("columns", "indptr", "k", "n", "values")

    quantizes = False

    def __init__(self, data: Array, indices: Array, indptr: Array, n: int, k: int) -> None:
        self.n, self.k = n, k
        _, block_n, block_k = data.shape
        block_row = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
        row = block_row[:, None, None] * block_n + np.arange(block_n)[None, :, None]
        column = indices.astype(np.int64)[:, None, None] * block_k + np.arange(block_k)
        row, column = (np.broadcast_to(a, data.shape).ravel() for a in (row, column))
        inside = (row < n) & (column < k)
        row, column, values = row[inside], column[inside], data.ravel()[inside]
        order = np.argsort(row, kind="stable")  # within an output the blocks ascend, and so do the inputs of a block
        self.values, self.columns = np.ascontiguousarray(values[order]), column[order].astype(np.int32)
        self.indptr = np.searchsorted(row[order], np.arange(n + 1))

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
        code, low, high = activation[0], f32(activation[1]), f32(activation[2])
        bias = np.empty(0, np.float32) if bias is None else bias

        def body(start: int, stop: int) -> None:
            for i in range(start, stop, ROWS):
                j = min(i + ROWS, stop)
                _sums_f32(np.ascontiguousarray(x[i:j].T), self.values, self.columns, self.indptr, out[i:j])
                last_step.finish_f32(out, bias, code, low, high, (i, j, 0, self.n))

        parallel(body, len(x), len(x) * len(self.values), num_threads)


class SparseInt8Pack(SparsePack):
    """The same in int8, with a scale for each output."""

    __slots__ = ("scale", "sums")

    quantizes = True

    def __init__(self, data: Array, indices: Array, indptr: Array, scale: Array, n: int, k: int) -> None:
        super().__init__(data, indices, indptr, n, k)
        self.scale = np.array(scale, np.float32)
        ends = np.concatenate([[0], np.cumsum(self.values, dtype=np.int64)])[self.indptr]
        self.sums = np.diff(ends).astype(np.int32)

    def linear(self, *arguments: Any) -> None:
        linear_int8(self, *arguments)

    def tiles(
        self,
        x: Array,
        x_zero_point: Array,
        w_zero_point: Array | None,
        finish: Callable[[Array, slice, slice], None],
        num_threads: int | None,
    ) -> None:
        """Compute the sums tile by tile; finish(sums, rows, columns) uses them."""

        def body(start: int, stop: int) -> None:
            sums = np.empty((min(ROWS, stop - start), self.n), np.int32)
            for i in range(start, stop, ROWS):
                rows = slice(i, min(i + ROWS, stop))
                part = sums[: rows.stop - i]
                _sums_int8(
                    np.ascontiguousarray(x[rows].T, np.int32), self.values, self.columns, self.indptr,
                    x_zero_point[rows], self.sums, part,
                )  # fmt: skip
                finish(part, rows, slice(0, self.n))

        parallel(body, len(x), len(x) * len(self.values), num_threads)


def pack_sparse(data: Array, indices: Array, indptr: Array, scale: Array | None, n: int, k: int) -> SparsePack:
    if scale is None:
        return SparsePack(data, indices, indptr, n, k)
    return SparseInt8Pack(data, indices, indptr, scale, n, k)


@kernel
def _sums_f32(x: Array, values: Array, columns: Array, indptr: Array, out: Array) -> None:
    """out[rows, n] = x[k, rows]^T * w^T, in the order of k."""
    rows = x.shape[1]
    sums = np.empty(rows, np.float32)
    for n in range(out.shape[1]):
        for r in range(rows):
            sums[r] = f32(0)
        for e in range(indptr[n], indptr[n + 1]):
            run, value = x[columns[e]], values[e]
            for r in range(rows):
                sums[r] = sums[r] + run[r] * value
        for r in range(rows):
            out[r, n] = sums[r]


@kernel
def _sums_int8(
    x: Array, values: Array, columns: Array, indptr: Array, x_zero_point: Array, w_sums: Array, out: Array
) -> None:
    """out[rows, n] = (x[k, rows] - x_zero_point)^T * w^T, modulo 2^32; x in int32."""
    rows = x.shape[1]
    sums = np.empty(rows, np.int32)
    for n in range(out.shape[1]):
        for r in range(rows):
            sums[r] = i32(-x_zero_point[r] * w_sums[n])
        for e in range(indptr[n], indptr[n + 1]):
            run, value = x[columns[e]], i32(values[e])
            for r in range(rows):
                sums[r] = i32(sums[r] + run[r] * value)
        for r in range(rows):
            out[r, n] = sums[r]
