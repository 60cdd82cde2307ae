"""Products by sparse weights."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from .core import (
    TYPE_S8,
    Activation,
    Array,
    QParams,
    aligned,
    array_of,
    check,
    function,
    int32,
    njit,
    out_matrix,
    packed_array,
    scale_array,
    set_last_step,
    set_shapes,
    set_types,
    struct,
    x_matrix,
)

_spmm_pack_size = function("pc_spmm_pack_size")
_spmm_pack = function("pc_spmm_pack")
_spmm_packed_info = function("pc_spmm_packed_info")
_spmm_workspace_size = function("pc_spmm_workspace_size")
_spmm_run = function("pc_spmm_run")
_SPARSE = struct("pc_sparse_matrix")
_SPMM = struct("pc_spmm_desc")
_SPARSE_SIZE, _SPMM_SIZE = _SPARSE.itemsize, _SPMM.itemsize


_blocks = array_of("data", 3, types.float32, types.int8)
_indices = array_of("indices", 1, types.int32)
_indptr = array_of("indptr", 1, types.int32)


@njit
def pack_sparse(data: Array, indices: Array, indptr: Array, scale: Array | None, n: int, k: int) -> Array:
    """Pack a sparse weight [n, k], stored as scipy.sparse.bsr_array is (csr_array: with blocks of 1 x 1), for the
    instruction set in use. data float32 or int8 [blocks, block_n, block_k]; indices int32 [blocks], ascending in a row
    of blocks; indptr int32 [ceil(n / block_n) + 1]; scale float32 [n] of int8 data, or None.

    Returns uint8 [bytes], aligned to 64 bytes. ValueError on indices that are out of range or not ascending, and on
    counts that do not agree.
    """
    data_type = _blocks(data)
    _indices(indices)
    _indptr(indptr)
    matrix = np.zeros(1, _SPARSE)
    w = matrix[0]
    w.size = _SPARSE_SIZE
    w.type = data_type
    w.n, w.k = n, k
    w.blocks, w.block_n, w.block_k = data.shape
    if n < 0 or w.block_n < 1 or w.block_k < 1:
        raise ValueError("n is negative, or data has blocks without a value")
    if len(indices) != w.blocks or len(indptr) != (n + w.block_n - 1) // w.block_n + 1:
        raise ValueError("the lengths of data, indices and indptr do not fit n")
    w.data, w.indices, w.indptr = data.ctypes.data, indices.ctypes.data, indptr.ctypes.data
    if scale is not None:
        scale_array(scale)
        if data_type != TYPE_S8 or len(scale) != n:
            raise ValueError("scale goes with data of int8, and has n values")
        w.scale = scale.ctypes.data
    size = np.empty(1, np.uintp)
    check(_spmm_pack_size(matrix.ctypes, size.ctypes))
    packed = aligned(np.int64(size[0]))
    check(_spmm_pack(matrix.ctypes, packed.ctypes, packed.size))
    return packed


@njit
def _spmm_part(desc: Array, packed: Array, x: Array, out: Array, ith: int, nth: int) -> Any:
    ith32, nth32 = int32(ith), int32(nth)
    size = np.empty(1, np.uintp)
    status = _spmm_workspace_size(desc.ctypes, packed.ctypes, packed.size, nth32, size.ctypes)
    if status != 0:
        return status
    work = aligned(np.int64(size[0]))
    return _spmm_run(
        desc.ctypes, packed.ctypes, packed.size, x.ctypes, out.ctypes, work.ctypes, work.size, ith32, nth32
    )


@njit
def linear_sparse(
    x: Array,
    packed: Array,
    bias: Array | None,
    activation: Activation,
    x_qparams: QParams | None,
    y_qparams: QParams | None,
    out: Array,
    ith: int = 0,
    nth: int = 1,
) -> None:
    """As linear_int8, with packed from pack_sparse: of int8 data in the same types, of float32 data with x and out
    float32."""
    x_type, y_type = x_matrix(x), out_matrix(out)
    packed_array(packed)
    n_k = np.empty(2, np.int64)
    kind = np.empty(1, np.int32)
    name = np.empty(1, np.uintp)
    check(_spmm_packed_info(packed.ctypes, packed.size, n_k[:1].ctypes, n_k[1:].ctypes, kind.ctypes, name.ctypes))
    desc = np.zeros(1, _SPMM)
    set_shapes(desc, _SPMM_SIZE, n_k[0], n_k[1], x, out)
    set_types(desc, x_type, y_type, x_qparams, y_qparams)
    set_last_step(desc, out.shape[1], bias, activation)
    check(_spmm_part(desc, packed, x, out, ith, nth))
